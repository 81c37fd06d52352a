//! Addresses in answers: the rules of a message's channel, made ready.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use tracing::warn;

use super::Carrier;
use super::outlet::Way;
use crate::pipeline::Pipeline;
use crate::pipeline::rewrite::{Rewriter, Rule};
use crate::tables::{ChannelEntry, ChannelTable};

/// Where answers lead clients to, and the rules that all channels have in common.
#[derive(Debug)]
pub struct RuleBook {
    /// `router.externalHostname`, `router.httpPort`, `router.httpsPort`.
    pub host: String,
    pub http_port: u16,
    pub https_port: u16,
    pub pattern_steps: usize,
    /// One for each primary route of the channels they were made of.
    common: Mutex<(Weak<ChannelTable>, Arc<[Rule]>)>,
}

impl RuleBook {
    /// No rules yet.
    pub fn new(host: String, http_port: u16, https_port: u16, pattern_steps: usize) -> Self {
        Self {
            host,
            http_port,
            https_port,
            pattern_steps,
            common: Mutex::new((Weak::new(), Arc::from(Vec::new()))),
        }
    }

    /// The rules of a channel: its own, then those of every channel's primary routes.
    fn rules(&self, channels: &Arc<ChannelTable>, channel: &ChannelEntry) -> Vec<Rule> {
        let own = channel
            .channel
            .rewrite_rules
            .iter()
            .map(|rule| Rule::configured(rule, self.pattern_steps));
        let mut rules: Vec<_> = own
            .filter_map(|rule| rule.inspect_err(|error| complain(&channel.channel.name, error)).ok())
            .collect();
        if channel.channel.add_auto_rewrite_rules {
            rules.extend(self.common(channels).iter().cloned());
        }
        rules
    }

    fn common(&self, channels: &Arc<ChannelTable>) -> Arc<[Rule]> {
        let mut common = self.common.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(common.0.as_ptr(), Arc::as_ptr(channels)) {
            *common = (Arc::downgrade(channels), self.of_routes(channels));
        }
        Arc::clone(&common.1)
    }

    fn of_routes(&self, channels: &ChannelTable) -> Arc<[Rule]> {
        let mut rules = Vec::new();
        for entry in channels.in_order() {
            for route in entry.channel.routes.iter().filter(|route| route.is_primary) {
                match Rule::of_route(route, &self.host, self.http_port, self.pattern_steps) {
                    Ok(rule) => rules.extend(rule),
                    Err(error) => complain(&entry.channel.name, &error),
                }
            }
        }
        rules.into()
    }
}

fn complain(channel: &str, error: &dyn std::error::Error) {
    warn!(%error, channel.name = channel, "A rewrite rule of channel {channel} makes no sense and is left out");
}

impl Pipeline {
    fn rules_of(&self, channel: &ChannelEntry) -> Vec<Rule> {
        self.rules.rules(&self.tables.load().channels, channel)
    }
}

impl Carrier {
    /// The rules for this message's answer; `None` if its channel rewrites nothing.
    pub(super) fn rewriter(&self) -> Option<Vec<Rule>> {
        (self.entrance.is_public() && self.channel.channel.rewrite_urls).then(|| self.pipeline.rules_of(&self.channel))
    }

    /// The body with its addresses rewritten; `None` if it stays as it is.
    pub(super) fn rewritten(&self, way: &Way, body: &Bytes) -> Option<Bytes> {
        let rules = self.rewriter().filter(|_| way.is_readable())?;
        let text = std::str::from_utf8(body).ok().filter(|text| !text.is_empty())?;
        let home = self.channel.routes.iter().find(|route| route.route.is_primary);
        let home = home.and_then(|route| route.target.as_ref());
        let rewriter = Rewriter {
            rules: &rules,
            home: home.map(|target| (&*target.host, target.port)),
            https_port: self.pipeline.rules.https_port,
        };
        match rewriter.rewrite(text) {
            std::borrow::Cow::Borrowed(_) => None,
            std::borrow::Cow::Owned(text) => Some(Bytes::from(text)),
        }
    }
}
