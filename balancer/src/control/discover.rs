//! What names stand for, over time: when to ask again, and what holds while nobody can say.
//!
//! [`Names`] is told what name servers answered and says when to ask next; it has no socket and no clock. The control
//! task owns one, carries out the questions by a [`Resolver`], and makes what [`Names`] decides the backends of its
//! services. Endpoints that are addresses never come here.
//!
//! A good answer replaces the one before it within a moment of its time to live. A name server that fails, denies, falls
//! silent or answers without addresses changes nothing until the last good answer is older than the `hold`.

pub mod lookup;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::plan::{Backend, Endpoint, WEIGHT_MAX};

/// A good answer counts for at least this long, whatever its time to live.
pub const FLOOR: Duration = Duration::from_millis(500);
/// A good answer is asked for again after at most this long.
pub const CEILING: Duration = Duration::from_secs(60);
/// Pauses after questions that failed: the first, and the longest.
pub const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// One address that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// True for all but the most preferred tier of a service record.
    pub backup: bool,
    /// Its share among its tier, if a service record gives one.
    pub weight: Option<u16>,
    /// What a service record calls it.
    #[serde(default)]
    pub host: Option<Arc<str>>,
}

impl Target {
    /// An address without more said about it.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            backup: false,
            weight: None,
            host: None,
        }
    }

    /// The backend that it makes of the one that was written. A weight of 0 that was written stays: it says "nobody".
    #[must_use]
    pub fn backend(&self, written: &Backend) -> Backend {
        let weight = u32::from(written.weight) * u32::from(self.weight.unwrap_or(1));
        Backend {
            weight: u16::try_from(weight).unwrap_or(WEIGHT_MAX),
            backup: written.backup || self.backup,
            host: self.host.clone(),
            ..written.clone()
        }
    }
}

/// What a name stands for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The addresses, sorted, none twice, at least one.
    pub targets: Vec<Target>,
    /// How long that holds.
    pub time_to_live: Duration,
    /// What could not be found out.
    pub missing: Missing,
}

/// The part of an answer that name servers failed to give. What was known of it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing.
    Nothing,
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
    /// The addresses of some targets of a service record.
    Some,
}

impl Missing {
    fn holds(self, target: &Target) -> bool {
        match self {
            Self::Nothing => false,
            Self::V4 => target.address.is_ipv4(),
            Self::V6 => target.address.is_ipv6(),
            Self::Some => true,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name server says that there is no such name.
    #[error("there is no such name")]
    NoSuchName,
    /// There is such a name, and it has no address or no service record.
    #[error("the name has {0}")]
    Empty(&'static str),
    /// The name server could not say.
    #[error("the name server failed: {0}")]
    Failed(String),
    /// Nobody answered in time.
    #[error("no name server answered in time")]
    Silent,
}

impl LookupError {
    /// True if the name server knows that the name stands for nothing: more likely a mistake than an outage.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::NoSuchName | Self::Empty(_))
    }
}

/// What a name stands for, or why that is not known.
pub type Outcome = Result<Answer, LookupError>;

/// Asks name servers.
pub trait Resolver: Send + Sync + fmt::Debug {
    /// Asks once, within a time limit of its own.
    fn ask(&self, endpoint: &Endpoint) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;
}

/// Something to be done about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask, and tell [`Names::answered`].
    Ask(Endpoint),
    /// What it stood for is too old to be believed: it stands for nothing now.
    Expired(Endpoint),
}

/// How a name is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Questions that were answered well.
    pub good: u64,
    /// Questions that were not.
    pub failed: u64,
    /// Why the last one was not, if it was not.
    pub why: Option<LookupError>,
    /// Since when none was.
    pub failing_since: Option<Instant>,
}

/// All names that backends are configured by.
#[derive(Debug)]
pub struct Names {
    hold: Duration,
    entries: HashMap<Endpoint, Entry>,
}

#[derive(Debug)]
struct Entry {
    targets: Vec<Target>,
    /// When `targets` were last known to be true.
    confirmed: Instant,
    ask_at: Instant,
    is_asking: bool,
    failures_in_a_row: u32,
    standing: Standing,
}

impl Names {
    /// None yet. The last good answer of each will hold for `hold` while nobody can say more.
    #[must_use]
    pub fn new(hold: Duration) -> Self {
        Self {
            hold,
            entries: HashMap::new(),
        }
    }

    /// Changes how long the last good answer holds.
    pub fn set_hold(&mut self, hold: Duration) {
        self.hold = hold;
    }

    /// Makes these the names that count, and what is `known` of them what they stand for. One that is new is asked for
    /// at once.
    pub fn watch(
        &mut self,
        wanted: impl IntoIterator<Item = Endpoint>,
        known: &HashMap<Endpoint, Vec<Target>>,
        now: Instant,
    ) {
        let wanted: HashSet<Endpoint> = wanted.into_iter().collect();
        self.entries.retain(|endpoint, _| wanted.contains(endpoint));
        for endpoint in wanted {
            let targets = known.get(&endpoint).cloned().unwrap_or_default();
            let entry = self.entries.entry(endpoint).or_insert_with(|| Entry {
                targets: Vec::new(),
                confirmed: now,
                ask_at: now,
                is_asking: false,
                failures_in_a_row: 0,
                standing: Standing::default(),
            });
            // What counts may have come by another way than an answer to a question of this machine's.
            entry.targets = targets;
        }
    }

    /// True if it is one of the names that count.
    #[must_use]
    pub fn has(&self, endpoint: &Endpoint) -> bool {
        self.entries.contains_key(endpoint)
    }

    /// How a name is doing.
    #[must_use]
    pub fn standing(&self, endpoint: &Endpoint) -> Option<&Standing> {
        self.entries.get(endpoint).map(|entry| &entry.standing)
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        for (endpoint, entry) in &mut self.entries {
            if !entry.is_asking && entry.ask_at <= now {
                entry.is_asking = true;
                due.push(Due::Ask(endpoint.clone()));
            }
            if entry.expires(self.hold).is_some_and(|at| at <= now) {
                entry.targets.clear();
                due.push(Due::Expired(endpoint.clone()));
            }
        }
        due
    }

    /// When [`Names::poll`] should be called next, if nothing happens before.
    #[must_use]
    pub fn next_poll(&self) -> Option<Instant> {
        let moments = self.entries.values().flat_map(|entry| {
            let ask = (!entry.is_asking).then_some(entry.ask_at);
            ask.into_iter().chain(entry.expires(self.hold))
        });
        moments.min()
    }

    /// Takes what a question came to. Returns what the name stands for from now on, if that has changed.
    pub fn answered(&mut self, endpoint: &Endpoint, outcome: Outcome, now: Instant) -> Option<Vec<Target>> {
        let entry = self.entries.get_mut(endpoint)?;
        entry.is_asking = false;
        match outcome {
            Ok(answer) => entry.learned(answer, now),
            Err(error) => {
                entry.failed(error, now);
                None
            }
        }
    }
}

impl Entry {
    /// When what it stands for is not believed any more; `None` while it is true, or stands for nothing anyway.
    fn expires(&self, hold: Duration) -> Option<Instant> {
        let is_in_doubt = self.failures_in_a_row > 0 && !self.targets.is_empty();
        is_in_doubt.then(|| self.confirmed + hold)
    }

    fn learned(&mut self, answer: Answer, now: Instant) -> Option<Vec<Target>> {
        let Answer {
            mut targets,
            time_to_live,
            missing,
        } = answer;
        for old in self.targets.iter().filter(|old| missing.holds(old)) {
            if targets.iter().all(|it| it.address != old.address) {
                targets.push(old.clone());
            }
        }
        targets.sort_unstable();
        self.standing.good += 1;
        (self.standing.why, self.standing.failing_since) = (None, None);
        self.failures_in_a_row = 0;
        self.confirmed = now;
        self.ask_at = now + time_to_live.clamp(FLOOR, CEILING);
        (targets != self.targets).then(|| {
            self.targets.clone_from(&targets);
            targets
        })
    }

    fn failed(&mut self, error: LookupError, now: Instant) {
        self.standing.failed += 1;
        self.standing.why = Some(error);
        self.standing.failing_since.get_or_insert(now);
        let pause = RETRY.0 * 2_u32.saturating_pow(self.failures_in_a_row.min(8));
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.ask_at = now + pause.min(RETRY.1);
    }
}
