//! What every handler gets: the node's shared parts ([`Api`]) and one request ([`Call`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method};
use tokio::sync::{Notify, Semaphore};

use super::auth::limit::LoginLimit;
use super::body::{Body, Room};
use super::error::Fault;
use super::router::Params;
use crate::audit::Auditor;
use crate::clock::Clock;
use crate::cluster::Presence;
use crate::config;
use crate::crypto::password::Remembered;
use crate::keystore::{self, LiveKeystore};
use crate::metrics::prometheus::Prometheus;
use crate::notify;
use crate::pipeline::Errands;
use crate::store::{Collection, SharedStore, Store};
use crate::tables::Keeper;

/// The settings that the API reads.
#[derive(Clone, Debug)]
pub struct Settings {
    pub api: config::Api,
    pub authentication: config::Authentication,
    pub certificate_management: config::CertificateManagement,
    pub events: config::Events,
    pub rerun: config::Rerun,
    /// What mails say of this installation.
    pub alerts: config::Alerts,
    pub logger: config::Logger,
    pub new_user_expiry: config::Expiry,
    pub password_reset_expiry: config::Expiry,
    /// Where the parts of the console are.
    pub console_base_url: String,
    /// The name under which the world knows the node.
    pub external_hostname: String,
    /// Longest header section of a request, bytes.
    pub header_bytes: usize,
}

/// The parts of the node that the API works with.
#[derive(Clone, Debug)]
pub struct Parts {
    pub store: SharedStore,
    pub clock: Arc<dyn Clock>,
    pub settings: Settings,
    pub auditor: Auditor,
    pub prometheus: Arc<Prometheus>,
    pub notifier: Arc<dyn notify::Notify>,
    /// When the process began.
    pub started: Instant,
    /// Told when a user wants the instances renewed.
    pub restart: Arc<Notify>,
    /// Told when somebody asks whether the node is up.
    pub presence: Arc<Presence>,
    /// Told when channels or clients have changed.
    pub tables: Arc<Keeper>,
    /// Told when the keystore has changed.
    pub keystore: Arc<LiveKeystore>,
    /// Where polls are asked for.
    pub errands: Errands,
}

/// What all requests share.
#[derive(Debug)]
pub struct Api {
    pub(super) store: SharedStore,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    pub(super) auditor: Auditor,
    pub(super) prometheus: Arc<Prometheus>,
    pub(super) notifier: Arc<dyn notify::Notify>,
    pub(super) started: Instant,
    pub(super) restart: Arc<Notify>,
    pub(super) presence: Arc<Presence>,
    tables: Arc<Keeper>,
    pub(super) keystore: Arc<LiveKeystore>,
    pub(super) errands: Errands,
    pub(super) logins: LoginLimit,
    /// Passwords that were verified against slow hashes.
    pub(super) remembered: Remembered,
    /// Memory for request bodies.
    pub(super) bodies: Room,
    /// Places for slow hashes: a flood of logins must not take every thread.
    hashers: Semaphore,
}

impl Api {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            store: parts.store,
            clock: parts.clock,
            settings: parts.settings,
            auditor: parts.auditor,
            prometheus: parts.prometheus,
            notifier: parts.notifier,
            started: parts.started,
            restart: parts.restart,
            presence: parts.presence,
            tables: parts.tables,
            keystore: parts.keystore,
            errands: parts.errands,
            logins: LoginLimit::default(),
            remembered: Remembered::new(),
            bodies: Room::default(),
            hashers: Semaphore::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
        })
    }

    /// Runs a slow hash where it blocks nobody, a few at a time; `None` if it died.
    pub(super) async fn hashing<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _place = self.hashers.acquire().await.ok()?;
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// Has a change of these documents count at once on this node.
    pub(super) async fn changed(&self, what: Collection) {
        let refreshed: Result<(), Box<dyn std::error::Error + Send + Sync>> = match what {
            Collection::Channels | Collection::Clients => self.tables.refresh().await.map_err(Into::into),
            Collection::Keystores => keystore::refresh(&self.keystore, &self.store).await.map_err(Into::into),
            // Users and roles are read at each request.
            _ => Ok(()),
        };
        if let Err(error) = refreshed {
            tracing::warn!(
                error = &*error,
                "A change is in force only when the store answers: {error}"
            );
        }
    }

    /// The store, as its callers use it.
    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }
}

/// One request on its way to a handler.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) api: Arc<Api>,
    pub(super) method: Method,
    /// The path as it was sent.
    pub(super) path: String,
    pub(super) params: Params,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    pub(super) origin: Origin,
    pub(super) session: super::auth::session::Session,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// The client's address; a trusted proxy's word for it if `api.trustProxy`.
    pub(super) address: IpAddr,
    /// True over TLS, or if a trusted proxy says so.
    pub(super) secure: bool,
}

impl Call {
    /// Header `name` as text; `None` if it is absent, empty or no text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .filter(|value| !value.is_empty())
    }
}

/// The query string, decoded; a key that comes twice has two values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads at most a thousand pairs.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).take(1000);
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (super::body::decode(key), super::body::decode(value))
                })
                .collect(),
        )
    }

    /// The value of `key`; several values are joined by commas, as JavaScript prints an array.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        let values = self.all(key);
        (!values.is_empty()).then(|| values.join(","))
    }

    /// Like [`Query::get`], but an empty value counts as absent.
    pub(super) fn filled(&self, key: &str) -> Option<String> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// Every value of `key`.
    pub(super) fn all(&self, key: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The keys in order, each once.
    pub(super) fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = Vec::new();
        for (key, _) in &self.0 {
            if !keys.contains(&key.as_str()) {
                keys.push(key);
            }
        }
        keys
    }

    /// The value of `key` read as JSON; `None` if it is absent or empty.
    ///
    /// # Errors
    /// The value is not JSON.
    pub(super) fn json(&self, key: &str) -> Result<Option<serde_json::Value>, Fault> {
        self.filled(key)
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(Fault::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_decoded_and_repeated_keys_are_kept() {
        let query = Query::parse("a=1+2&b=%7B%22x%22%3A1%7D&a=3&c");
        assert_eq!(query.get("a").as_deref(), Some("1 2,3"));
        assert_eq!(query.all("a"), ["1 2", "3"]);
        assert_eq!(query.json("b").unwrap(), Some(serde_json::json!({"x": 1})));
        assert_eq!(query.get("c").as_deref(), Some(""));
        assert_eq!(query.filled("c"), None);
        assert_eq!(query.keys(), ["a", "b", "c"]);
        assert!(query.json("a").is_err());
    }
}
