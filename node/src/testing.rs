//! What tests need of a node: builders and fakes (feature `testing`).
//!
//! ```ignore
//! let backend = backend().answers(201, "made").start().await;
//! let node = node().channel(path("^/fhir$").primary(&backend)).start().await;
//! let answer = node.post("/fhir", "{}").await;
//! let tx = node.recorded().only().await;
//! ```
//! A node keeps its documents in a folder of its own and listens where the kernel lets it; everything is gone with it.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod backend;
mod channel;
mod client;
pub mod mongod;
mod post_office;
mod recorded;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, doc};
use tempfile::TempDir;

pub use self::backend::{Backend, BackendBuilder, Seen, backend};
pub use self::channel::{ChannelBuilder, path};
pub use self::client::{Caller, Reply};
pub use self::post_office::{Letter, Manner, PostOffice};
pub use self::recorded::{Recorded, Transaction};
use crate::app::{Node, Ports, Shutdown};
use crate::config::{Cluster, Config, Durability};
use crate::crypto::digest::Digest;
use crate::store::{Collection, SharedStore};

/// How long a test waits for what must come.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A node to be started.
#[derive(Debug)]
#[must_use]
pub struct NodeBuilder {
    config: Config,
    folder: Arc<TempDir>,
    channels: Vec<Document>,
    clients: Vec<Document>,
    with_https: bool,
    with_api: bool,
    with_audits: bool,
}

/// A node with OpenHIM's defaults, the embedded store in a folder of its own, and an HTTP router on a free port.
pub fn node() -> NodeBuilder {
    let folder = tempfile::tempdir().expect("a folder for the node");
    let mut config = Config::defaults();
    config.bind_address = IpAddr::from([127, 0, 0, 1]);
    config.store.url = Some(format!("sqlite://{}/openhim.db", folder.path().display()));
    // Passwords of tests are no secrets.
    config.api.salt = 4;
    config.agenda.startup_delay = 0;
    NodeBuilder {
        config,
        folder: Arc::new(folder),
        channels: Vec::new(),
        clients: Vec::new(),
        with_https: false,
        with_api: false,
        with_audits: false,
    }
}

impl NodeBuilder {
    /// Adds a channel; the first one is the oldest.
    pub fn channel(mut self, channel: ChannelBuilder) -> Self {
        self.channels.push(channel.into_document());
        self
    }

    /// Adds a client with a SHA-512 password and roles.
    pub fn client(self, name: &str, password: &str, roles: &[&str]) -> Self {
        let salt = "salt";
        let hash = Digest::Sha512.hex(&[password.as_bytes(), salt.as_bytes()]);
        self.client_document(doc! {
            "clientID": name, "name": name, "roles": roles.iter().copied().map(String::from).collect::<Vec<_>>(),
            "passwordAlgorithm": "sha512", "passwordHash": hash, "passwordSalt": salt,
        })
    }

    /// Adds a client as it is stored.
    pub fn client_document(mut self, mut client: Document) -> Self {
        if !client.contains_key("_id") {
            client.insert("_id", ObjectId::new());
        }
        self.clients.push(client);
        self
    }

    /// Changes a setting.
    pub fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts this many instances.
    pub fn instances(self, count: usize) -> Self {
        self.set(|config| config.cluster = Some(Cluster::Count(count)))
    }

    /// Answers wait until they are stored.
    pub fn strict(self) -> Self {
        self.set(|config| config.store.durability = Durability::Strict)
    }

    /// Serves the router over TLS too.
    pub fn https(mut self) -> Self {
        self.with_https = true;
        self
    }

    /// Serves the management API too, without TLS.
    pub fn api(mut self) -> Self {
        self.with_api = true;
        self.set(|config| config.api.protocol = crate::config::Protocol::Http)
    }

    /// Serves the audit repository too, over all transports.
    pub fn audits(mut self) -> Self {
        self.with_audits = true;
        self
    }

    /// Keeps documents in this store.
    pub fn store(self, url: &str) -> Self {
        self.set(|config| config.store.url = Some(url.to_owned()))
    }

    /// Keeps documents where another node keeps them.
    pub fn sharing(mut self, other: &TestNode) -> Self {
        self.folder = Arc::clone(&other.folder);
        self.config.store.url.clone_from(&other.config.store.url);
        self
    }

    /// Starts it and adds channels and clients.
    pub async fn start(self) -> TestNode {
        let any = Some(SocketAddr::new(self.config.bind_address, 0));
        let ports = Ports {
            http: any,
            https: any.filter(|_| self.with_https),
            api: any.filter(|_| self.with_api),
            rerun: any.filter(|_| self.config.rerun.processor.enabled),
            polling: any,
            audit_udp: any.filter(|_| self.with_audits),
            audit_tls: any.filter(|_| self.with_audits),
            audit_tcp: any.filter(|_| self.with_audits),
        };
        let shutdown = Shutdown::default();
        let node = Node::start_on(ports, Arc::new(self.config.clone()), shutdown.clone())
            .await
            .expect("the node starts");
        let store = node.store();
        for client in self.clients {
            store.insert(Collection::Clients, client).await.unwrap();
        }
        for channel in self.channels {
            store.insert(Collection::Channels, channel).await.unwrap();
        }
        node.tables().refresh().await.unwrap();
        TestNode {
            node,
            shutdown,
            config: self.config,
            folder: self.folder,
        }
    }
}

/// A running node.
#[derive(Debug)]
pub struct TestNode {
    pub node: Node,
    pub shutdown: Shutdown,
    config: Config,
    folder: Arc<TempDir>,
}

impl TestNode {
    /// Where the HTTP router listens.
    pub fn http(&self) -> SocketAddr {
        self.node.addresses().http.expect("the node serves HTTP")
    }

    /// Where the HTTPS router listens.
    pub fn https_address(&self) -> SocketAddr {
        self.node.addresses().https.expect("the node serves HTTPS")
    }

    /// Where the management API listens.
    pub fn api_address(&self) -> SocketAddr {
        self.node.addresses().api.expect("the node serves the API")
    }

    pub fn store(&self) -> SharedStore {
        self.node.store()
    }

    /// What the node has recorded.
    pub fn recorded(&self) -> Recorded {
        Recorded::of(self.store())
    }

    /// Somebody who calls the HTTP router; each request on a connection of its own.
    pub fn caller(&self) -> Caller {
        Caller::new(self.http())
    }

    /// Somebody who calls as this client.
    pub fn as_client(&self, name: &str, password: &str) -> Caller {
        self.caller().basic(name, password)
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.caller().get(path).await
    }

    pub async fn post(&self, path: &str, body: impl Into<bytes::Bytes>) -> Reply {
        self.caller().post(path, body).await
    }

    /// Stops the node as a signal would, and waits for it.
    pub async fn stop(self) -> Stopped {
        self.shutdown.soft.cancel();
        self.node.stopped().await;
        Stopped {
            config: self.config,
            folder: self.folder,
        }
    }
}

/// A node that was stopped; its documents are still there.
#[derive(Debug)]
pub struct Stopped {
    config: Config,
    folder: Arc<TempDir>,
}

impl Stopped {
    /// The same node, to be started again.
    pub fn again(self) -> NodeBuilder {
        NodeBuilder {
            config: self.config,
            folder: self.folder,
            channels: Vec::new(),
            clients: Vec::new(),
            with_https: false,
            with_api: false,
            with_audits: false,
        }
    }
}

/// Runs a test in a time zone, in a process of its own; `name` is the test's, as the harness knows it.
///
/// # Panics
/// The test failed there.
pub fn in_zone(zone: &str, name: &str, test: impl FnOnce()) {
    const HERE: &str = "OPENHIM_TEST_ZONE";
    if std::env::var(HERE).is_ok_and(|here| here == zone) {
        return test();
    }
    let itself = std::env::current_exe().expect("a test is a program");
    let outcome = std::process::Command::new(itself)
        .args(["--exact", name, "--nocapture"])
        .envs([("TZ", zone), (HERE, zone)])
        .output()
        .expect("a test can be run");
    let text = String::from_utf8_lossy(&outcome.stdout);
    let has_passed = outcome.status.success() && text.contains("1 passed");
    assert!(
        has_passed,
        "in {zone}: {text}{}",
        String::from_utf8_lossy(&outcome.stderr)
    );
}

/// Waits until `look` finds something.
///
/// # Panics
/// It did not within the deadline.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what}: not within {DEADLINE:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
