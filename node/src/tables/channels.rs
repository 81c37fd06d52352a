//! Channels, ready to be matched and used.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf};
use http::HeaderValue;
use ipnet::IpNet;
use tracing::warn;

use super::ClientEntry;
use super::urls::Urls;
use crate::model::channel::{AuthType, Channel, Route, RouteKind};
use crate::pattern::xpath::XPath;
use crate::pattern::{Pattern, Substitution};

/// A channel with everything compiled that a message needs of it.
#[derive(Debug)]
pub struct ChannelEntry {
    pub channel: Channel,
    /// `None`: the stored pattern makes no sense, so that the channel matches nothing.
    url: Option<Pattern>,
    pub content: Content,
    allow: HashSet<String>,
    whitelist: Whitelist,
    /// The enabled routes, in list order.
    pub routes: Vec<Arc<RouteEntry>>,
    stored: RawDocumentBuf,
}

/// What a channel asks of a message's body.
#[derive(Debug)]
pub enum Content {
    Anything,
    /// Found in the body as text.
    Regex(Pattern),
    /// XPath 1.0 and the text it has to yield.
    Xpath {
        expression: XPath,
        value: String,
    },
    /// A path such as `a.b[0].c` and the text it has to yield.
    Json {
        path: String,
        value: String,
    },
    /// The stored condition makes no sense.
    Never,
}

/// A route with everything computed that does not depend on the message.
#[derive(Debug)]
pub struct RouteEntry {
    pub route: Route,
    /// Where it leads; `None` for a route that names no host, or that needs none.
    pub target: Option<Target>,
    /// `Host`, as the backend sees it.
    pub host_header: HeaderValue,
    /// The route's own credentials.
    pub authorization: Option<HeaderValue>,
    /// `Err` if the stored expression makes no sense.
    pub transform: Option<Result<Substitution, String>>,
    codes: StatusCheck,
}

/// A backend's address and how it is spoken to: what connections are pooled by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub host: Box<str>,
    pub port: u16,
    /// TLS.
    pub is_secured: bool,
    /// The only trusted certificate, by its id in the keystore.
    pub pinned: Option<ObjectId>,
}

/// All channels of one moment.
#[derive(Debug, Default)]
pub struct ChannelTable {
    /// What takes messages over HTTP, strongest first.
    matchable: Vec<Arc<ChannelEntry>>,
    urls: Urls,
    /// All of them, strongest first.
    ordered: Vec<Arc<ChannelEntry>>,
    by_id: HashMap<ObjectId, Arc<ChannelEntry>>,
}

impl ChannelTable {
    /// Takes what is stored, in the order of creation; a channel that is as it was in `before` keeps its entry.
    pub(super) fn build(stored: Vec<RawDocumentBuf>, before: &Self, pattern_steps: usize) -> Self {
        let mut entries: Vec<_> = stored
            .into_iter()
            .filter_map(|raw| ChannelEntry::build(raw, before, pattern_steps))
            .collect();
        let by_id = entries
            .iter()
            .map(|entry| (entry.channel.id, Arc::clone(entry)))
            .collect();
        // Stable: channels of one priority stay in the order of creation.
        entries.sort_by(|a, b| {
            let rank = |entry: &ChannelEntry| entry.channel.priority.unwrap_or(f64::INFINITY);
            rank(a).total_cmp(&rank(b))
        });
        let ordered = entries.clone();
        entries.retain(|entry| entry.channel.is_enabled() && !entry.channel.methods.is_empty());
        let urls = Urls::new(entries.iter().map(|entry| entry.channel.url_pattern.as_str()));
        Self {
            matchable: entries,
            urls,
            ordered,
            by_id,
        }
    }

    /// Channels that accept a message by everything but its content, strongest first.
    pub fn matching<'a>(
        &'a self,
        path: &'a str,
        method: &'a str,
        content_type: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<ChannelEntry>> {
        self.urls
            .candidates(path)
            .filter_map(|at| self.matchable.get(at as usize))
            .filter(move |entry| entry.takes_method(method) && entry.takes_type(content_type) && entry.takes_path(path))
    }

    /// The channel of this id, whatever its status.
    pub fn by_id(&self, id: ObjectId) -> Option<&Arc<ChannelEntry>> {
        self.by_id.get(&id)
    }

    /// Every stored channel, strongest first, whatever its kind and status.
    pub fn in_order(&self) -> &[Arc<ChannelEntry>] {
        &self.ordered
    }
}

impl ChannelEntry {
    fn build(stored: RawDocumentBuf, before: &ChannelTable, pattern_steps: usize) -> Option<Arc<Self>> {
        let id = stored.get_object_id("_id").ok();
        if let Some(entry) = id.and_then(|id| before.by_id(id))
            && entry.stored == stored
        {
            return Some(Arc::clone(entry));
        }
        let document = match Document::try_from(stored.as_ref()) {
            Ok(document) => document,
            Err(error) => {
                warn!(%error, "A stored channel cannot be read; it is left out");
                return None;
            }
        };
        match Channel::from_document(&document) {
            Ok(channel) => Some(Arc::new(Self::new(channel, stored, pattern_steps))),
            Err(error) => {
                let name = document.get_str("name").unwrap_or_default();
                warn!(%error, channel.name = name, "Channel {name} cannot be used; it is left out");
                None
            }
        }
    }

    fn new(channel: Channel, stored: RawDocumentBuf, pattern_steps: usize) -> Self {
        let compile = |source: &str| match Pattern::compile(source, pattern_steps) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let name = &channel.name;
                warn!(%error, channel.name = %name, "A pattern of channel {name} makes no sense; the channel matches nothing");
                None
            }
        };
        Self {
            url: compile(&channel.url_pattern),
            content: content(&channel, compile, pattern_steps),
            allow: channel.allow.iter().cloned().collect(),
            whitelist: Whitelist::new(&channel.whitelist),
            routes: channel
                .enabled_routes()
                .map(|route| Arc::new(RouteEntry::new(route.clone(), pattern_steps)))
                .collect(),
            channel,
            stored,
        }
    }

    fn takes_path(&self, path: &str) -> bool {
        self.url.as_ref().is_some_and(|pattern| pattern.is_match(path))
    }

    /// True if the method is one of the channel's; a channel without methods takes none.
    pub fn takes_method(&self, method: &str) -> bool {
        self.channel.methods.iter().any(|own| own == method)
    }

    fn takes_type(&self, content_type: Option<&str>) -> bool {
        let types = &self.channel.match_content_types;
        types.is_empty()
            || content_type.is_some_and(|header| {
                let media_type = header.split(';').next().unwrap_or_default().trim();
                types.iter().any(|own| own == media_type)
            })
    }

    /// True if anyone may use the channel.
    pub fn is_public(&self) -> bool {
        self.channel.auth_type == AuthType::Public
    }

    /// True if the client, or one of its roles, is allowed.
    pub fn allows(&self, client: &ClientEntry) -> bool {
        let client = &client.client;
        client.roles.iter().any(|role| self.allow.contains(role)) || self.allow.contains(&client.client_id)
    }

    /// True if the address may use the channel.
    pub fn admits(&self, address: IpAddr) -> bool {
        self.whitelist.admits(address)
    }
}

fn content(channel: &Channel, compile: impl Fn(&str) -> Option<Pattern>, steps: usize) -> Content {
    if let Some(source) = &channel.match_content_regex {
        return compile(source).map_or(Content::Never, Content::Regex);
    }
    let value = channel.match_content_value.clone();
    if let Some(source) = &channel.match_content_xpath {
        let expression = XPath::compile(source, steps)
            .inspect_err(|error| {
                let name = &channel.name;
                warn!(%error, channel.name = %name, "The XPath of channel {name} makes no sense; the channel matches nothing");
            })
            .ok();
        return match (expression, value) {
            (Some(expression), Some(value)) => Content::Xpath { expression, value },
            _ => Content::Never,
        };
    }
    if let Some(path) = channel.match_content_json.clone() {
        return value.map_or(Content::Never, |value| Content::Json { path, value });
    }
    Content::Anything
}

impl RouteEntry {
    fn new(route: Route, pattern_steps: usize) -> Self {
        let target = match (&route.host, route.kind) {
            (Some(host), RouteKind::Http) => {
                let implied = if route.is_secured { 443 } else { 80 };
                Some((host, route.port.unwrap_or(implied)))
            }
            (Some(host), RouteKind::Tcp | RouteKind::Mllp) => route.port.map(|port| (host, port)),
            _ => None,
        };
        let target = target.map(|(host, port)| Target {
            host: host.as_str().into(),
            port,
            is_secured: route.is_secured,
            pinned: route.cert.filter(|_| route.is_secured),
        });
        let authorization = route
            .username
            .as_ref()
            .zip(route.password.as_ref())
            .and_then(|(user, password)| {
                let credentials = STANDARD.encode(format!("{user}:{}", password.expose()));
                HeaderValue::from_str(&format!("Basic {credentials}")).ok()
            });
        Self {
            host_header: target
                .as_ref()
                .and_then(host_header)
                .unwrap_or(HeaderValue::from_static("")),
            target,
            authorization,
            transform: route
                .path_transform
                .as_deref()
                .map(|expression| Substitution::parse(expression, pattern_steps).map_err(|error| error.to_string())),
            codes: StatusCheck::parse(route.status_codes_check.as_deref()),
            route,
        }
    }

    /// True if the route runs after a primary that answered `status`.
    pub fn runs_after(&self, status: u16) -> bool {
        self.codes.accepts(status)
    }
}

/// Host and port, without the port that the scheme implies.
fn host_header(target: &Target) -> Option<HeaderValue> {
    let implied = if target.is_secured { 443 } else { 80 };
    let host = match target.host.parse() {
        Ok(IpAddr::V6(_)) => format!("[{}]", target.host),
        _ => target.host.to_string(),
    };
    let text = if target.port == implied {
        host
    } else {
        format!("{host}:{}", target.port)
    };
    HeaderValue::from_str(&text).ok()
}

/// After which answers of the primary a waiting route runs.
#[derive(Debug, Default)]
struct StatusCheck {
    codes: Vec<u16>,
    /// First digits.
    classes: Vec<u16>,
    is_any: bool,
}

impl StatusCheck {
    /// Codes and classes, comma separated: `404, 2**, 5xx*`; an item with a `*` names a class by its first digit.
    fn parse(text: Option<&str>) -> Self {
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
            return Self {
                is_any: true,
                ..Self::default()
            };
        };
        let mut check = Self::default();
        for item in text.split(',').map(str::trim) {
            if item.contains('*') {
                let class = item.chars().next().and_then(|digit| digit.to_digit(10));
                check.classes.extend(class.map(|digit| digit as u16));
            } else {
                check.codes.extend(item.parse::<u16>());
            }
        }
        check
    }

    fn accepts(&self, status: u16) -> bool {
        self.is_any || self.codes.contains(&status) || self.classes.contains(&(status / 100))
    }
}

/// Addresses that may use a channel; an empty one admits everybody.
#[derive(Debug, Default)]
pub struct Whitelist {
    networks: Vec<IpNet>,
    is_everybody: bool,
}

impl Whitelist {
    /// Addresses and CIDR blocks. What is neither admits nobody.
    pub fn new(entries: &[String]) -> Self {
        let networks = entries.iter().filter_map(|entry| network(entry.trim())).collect();
        Self {
            networks,
            is_everybody: entries.is_empty(),
        }
    }

    /// True if the address is listed, or nothing is.
    pub fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.is_everybody || self.networks.iter().any(|network| network.contains(&address))
    }
}

fn network(entry: &str) -> Option<IpNet> {
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some(IpNet::from(address.to_canonical()));
    }
    entry.parse::<IpNet>().ok()
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn table(channels: Vec<Document>) -> ChannelTable {
        let stored = channels
            .iter()
            .enumerate()
            .map(|(n, channel)| {
                let mut document = doc! {"_id": ObjectId::from_bytes([n as u8 + 1; 12])};
                document.extend(channel.clone());
                RawDocumentBuf::try_from(&document).unwrap()
            })
            .collect();
        ChannelTable::build(stored, &ChannelTable::default(), 10_000)
    }

    fn names(table: &ChannelTable, path: &str, method: &str, kind: Option<&str>) -> Vec<String> {
        table
            .matching(path, method, kind)
            .map(|entry| entry.channel.name.clone())
            .collect()
    }

    #[test]
    fn priority_wins_over_creation_and_the_unprioritised_come_last() {
        let channel = |name: &str| doc! {"name": name, "urlPattern": "^/x", "methods": ["GET"]};
        let with = |name: &str, priority: i32| {
            let mut document = channel(name);
            document.insert("priority", priority);
            document
        };
        let table = table(vec![
            channel("a"),
            with("b", 2),
            with("c", 1),
            with("d", 2),
            channel("e"),
        ]);

        assert_eq!(names(&table, "/x", "GET", None), ["c", "b", "d", "a", "e"]);
    }

    #[test]
    fn disabled_channels_and_channels_without_methods_match_nothing() {
        let table = table(vec![
            doc! {"name": "off", "urlPattern": "/", "methods": ["GET"], "status": "disabled"},
            doc! {"name": "none", "urlPattern": "/", "methods": []},
            doc! {"name": "post", "urlPattern": "/", "methods": ["POST"]},
            doc! {"name": "broken", "urlPattern": "(", "methods": ["GET"]},
        ]);

        assert_eq!(names(&table, "/", "GET", None), Vec::<String>::new());
        assert!(table.by_id(ObjectId::from_bytes([1; 12])).is_some());
    }

    #[test]
    fn a_media_type_is_compared_to_the_letter_and_without_its_parameters() {
        let table = table(vec![
            doc! {"name": "xml", "urlPattern": "/", "methods": ["POST"], "matchContentTypes": ["text/xml"]},
        ]);

        assert_eq!(names(&table, "/", "POST", Some("text/xml ; charset=utf-8")), ["xml"]);
        assert_eq!(names(&table, "/", "POST", Some("TEXT/XML")), Vec::<String>::new());
        assert_eq!(names(&table, "/", "POST", None), Vec::<String>::new());
    }

    #[test]
    fn an_unchanged_channel_keeps_what_was_compiled() {
        let raw = |name: &str| {
            RawDocumentBuf::try_from(
                &doc! {"_id": ObjectId::from_bytes([1; 12]), "name": name, "urlPattern": "/", "methods": ["GET"]},
            )
            .unwrap()
        };
        let before = ChannelTable::build(vec![raw("a")], &ChannelTable::default(), 1000);

        let same = ChannelTable::build(vec![raw("a")], &before, 1000);
        let changed = ChannelTable::build(vec![raw("b")], &before, 1000);

        assert!(Arc::ptr_eq(&same.matchable[0], &before.matchable[0]));
        assert_eq!(changed.matchable[0].channel.name, "b");
    }

    #[test]
    fn a_whitelist_takes_addresses_and_blocks() {
        let whitelist = Whitelist::new(&["10.0.0.0/8".into(), "::ffff:192.168.1.1".into(), "nonsense".into()]);

        assert!(whitelist.admits("10.9.8.7".parse().unwrap()));
        assert!(whitelist.admits("192.168.1.1".parse().unwrap()));
        assert!(whitelist.admits("::ffff:10.1.1.1".parse().unwrap()));
        assert!(!whitelist.admits("11.0.0.1".parse().unwrap()));
        assert!(Whitelist::new(&[]).admits("11.0.0.1".parse().unwrap()));
        assert!(!Whitelist::new(&["nonsense".into()]).admits("11.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_waiting_route_runs_after_any_listed_code_or_class() {
        let check = |text| StatusCheck::parse(text);

        assert!(check(None).accepts(500));
        assert!(check(Some("")).accepts(500));
        let listed = check(Some("2**, 404,3xx*"));
        assert!(listed.accepts(204) && listed.accepts(404) && listed.accepts(302));
        assert!(!listed.accepts(400) && !listed.accepts(500));
    }
}
