//! A node of the test's own: real process, free ports, a store in a folder that goes with it.

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use openhim_node::testing::Backend;
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::plain_http::{self, Answer, Tls};
use super::program::{Running, program};
use super::{eventually, free_port};

/// The login of every fresh node.
pub(crate) const ROOT: (&str, &str) = ("root@openhim.org", "openhim-password");

/// A node that is put together.
#[derive(Debug)]
pub(crate) struct Builder {
    folder: tempfile::TempDir,
    settings: Vec<(String, String)>,
    cluster: Option<String>,
}

/// Starts from the defaults: one instance, an embedded store, free ports on 127.0.0.1.
pub(crate) fn node() -> Builder {
    Builder {
        folder: tempfile::tempdir().unwrap(),
        settings: Vec::new(),
        cluster: None,
    }
}

impl Builder {
    /// Sets a key, in dots.
    #[must_use]
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub(crate) fn cluster(mut self, instances: &str) -> Self {
        self.cluster = Some(instances.to_owned());
        self
    }

    /// The connection string of the store that it keeps its documents in if nothing else is set.
    pub(crate) fn store_url(&self) -> String {
        format!("sqlite://{}/openhim-data/openhim.db", self.folder.path().display())
    }

    /// Starts it and waits until it serves.
    pub(crate) fn start(self) -> Node {
        let ports = Ports::free();
        let running = Running::start(&mut self.command(&ports));
        let mut node = Node {
            running,
            ports,
            builder: self,
        };
        node.wait_until_up();
        node
    }

    /// The command line, for a start that is to fail.
    pub(crate) fn command(&self, ports: &Ports) -> Command {
        let mut command = program(["node"]);
        command
            .current_dir(self.folder.path())
            .env("NODE_ENV", "production")
            .env("logger_level", "info");
        if let Some(cluster) = &self.cluster {
            command.arg(format!("--cluster={cluster}"));
        }
        for (key, value) in ports.settings().iter().chain(&self.settings) {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command
    }
}

/// The ports of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) api: u16,
    internal: [u16; 3],
}

impl Ports {
    pub(crate) fn free() -> Self {
        let [http, https, api] = [(); 3].map(|()| free_port());
        Self {
            http,
            https,
            api,
            internal: [(); 3].map(|()| free_port()),
        }
    }

    fn settings(&self) -> Vec<(String, String)> {
        let named = [
            ("router.httpPort", self.http),
            ("router.httpsPort", self.https),
            ("api.port", self.api),
            ("rerun.httpPort", self.internal[0]),
            ("tcpAdapter.httpReceiver.httpPort", self.internal[1]),
            ("polling.pollingPort", self.internal[2]),
        ];
        let address = [("bindAddress".to_owned(), "127.0.0.1".to_owned())];
        let ports = named.map(|(key, port)| (key.to_owned(), port.to_string()));
        address.into_iter().chain(ports).collect()
    }
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) running: Running,
    pub(crate) ports: Ports,
    builder: Builder,
}

impl Node {
    pub(crate) fn http(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.http))
    }

    pub(crate) fn https(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.https))
    }

    pub(crate) fn api(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.api))
    }

    fn wait_until_up(&mut self) {
        eventually("the node serves", || {
            let said = self.running.stdout.all();
            let ended = self.running.ended();
            assert_eq!(ended, None, "the node has ended: {}{said}", self.running.stderr.all());
            said.contains("OpenHIM server started").then_some(())
        });
    }

    /// What the kernel knows of the process' memory, KiB: `VmRSS` now, `VmHWM` at most since [`Self::forget_peak`].
    pub(crate) fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.id())).expect("it runs");
        let found = status
            .lines()
            .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        let number = found.and_then(|text| text.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {line} in {status}"))
    }

    /// Lets the highest mark of its memory start anew.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.running.id()), "5").expect("it runs");
    }

    /// Starts the same node again, on the same ports and the same store.
    pub(crate) fn start_again(&mut self) {
        self.running = Running::start(&mut self.builder.command(&self.ports));
        self.wait_until_up();
    }

    /// Asks the API as root.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        plain_http::request(self.api(), Some(&Tls::anonymous()), method, path, Some(ROOT), body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.running.stdout.all()))
    }

    /// Sends a message to the HTTP router.
    ///
    /// # Errors
    /// No connection, or no whole answer.
    pub(crate) fn send(&self, path: &str, login: Option<(&str, &str)>, body: &str) -> io::Result<Answer> {
        send(self.http(), path, login, body)
    }

    /// Creates a document through the API.
    pub(crate) fn create(&self, path: &str, document: &Value) {
        let answer = self.ask("POST", path, &document.to_string());
        assert_eq!(answer.status, 201, "POST {path}: {}", answer.body);
    }

    /// Creates a client of this role with a password.
    pub(crate) fn create_client(&self, id: &str, password: &str, role: &str) {
        let hash = Sha512::digest(format!("{password}salt"))
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        let client = json!({ "clientID": id, "name": id, "roles": [role],
                             "passwordAlgorithm": "sha512", "passwordSalt": "salt", "passwordHash": hash });
        self.create("/clients", &client);
    }

    /// Creates a channel for a role that sends everything below `path` to the backend, and waits until it is in force.
    pub(crate) fn create_channel(&self, path: &str, role: &str, backend: &Backend) {
        let route = json!({ "name": "primary", "host": backend.address().ip().to_string(),
                            "port": backend.address().port(), "primary": true });
        let channel = json!({ "name": format!("channel {path}"), "urlPattern": format!("^{path}.*$"),
                              "methods": ["GET", "POST", "PUT"], "allow": [role], "routes": [route] });
        self.create("/channels", &channel);
        eventually("the channel is in force", || {
            (self.send(path, None, "").unwrap().status != 404).then_some(())
        });
    }

    /// Every recorded transaction, the newest first.
    pub(crate) fn transactions(&self) -> Vec<Value> {
        let answer = self.ask(
            "GET",
            "/transactions?filterPage=0&filterLimit=10000&filterRepresentation=full",
            "",
        );
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("a list")
    }

    /// Waits for exactly this many transactions with a final status.
    pub(crate) fn recorded(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} transactions are recorded"), || {
            let all = self.transactions();
            assert!(all.len() <= count, "{} transactions instead of {count}", all.len());
            let is_final = |transaction: &Value| transaction["status"] != "Processing";
            (all.len() == count && all.iter().all(is_final)).then_some(all)
        })
    }
}

/// Sends a message to a router: a POST if it has a body, else a GET.
///
/// # Errors
/// No connection, or no whole answer.
pub(crate) fn send(router: SocketAddr, path: &str, login: Option<(&str, &str)>, body: &str) -> io::Result<Answer> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    plain_http::request(router, None, method, path, login, body)
}
