//! The balancer as its operators run it: a process with a configuration file and a control socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use openhim_balancer::{Answer, call};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::program::{Running, program};
use crate::support::{eventually, free_port, plain_http};

/// A balancer process; it ends with the test.
pub(crate) struct Process {
    pub(crate) running: Running,
    metrics: SocketAddr,
    folder: tempfile::TempDir,
}

impl Process {
    /// Starts it with these services, and waits until every backend was checked.
    pub(crate) fn start(services: &str) -> Self {
        Self::start_by(|program| program, services)
    }

    /// The same, by a command that may have options of its own, or be another one than the program itself.
    pub(crate) fn start_by(command: impl FnOnce(Command) -> Command, services: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let text = text(folder.path(), metrics, services);
        std::fs::write(folder.path().join("balancer.yaml"), text).expect("written");
        let mut command = command(program(["balancer"]));
        let running = Running::start(command.arg("--config").arg(folder.path().join("balancer.yaml")));
        let process = Self {
            running,
            metrics,
            folder,
        };
        process.until("the first checks are over", |report| {
            backends(report).all(|it| it["state"] != "unknown")
        });
        process
    }

    /// A file beside its configuration.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts other services into its configuration file, at once.
    pub(crate) fn configure(&self, services: &str) {
        let new = self.path("balancer.yaml.new");
        std::fs::write(&new, text(self.folder.path(), self.metrics, services)).expect("written");
        std::fs::rename(new, self.path("balancer.yaml")).expect("renamed");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Says something over the control socket.
    pub(crate) fn say(&self, words: &str) -> Answer {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let socket = self.path("ctl");
        eventually("the control socket answers", || call(Some(&socket), &words, "").ok())
    }

    /// How things are.
    pub(crate) fn report(&self) -> Value {
        let answer = self.say("state --json");
        assert!(answer.is_ok, "{}", answer.text);
        serde_json::from_str(&answer.text).expect("JSON")
    }

    /// Prometheus' text.
    pub(crate) fn metrics(&self) -> String {
        plain_http::get(self.metrics, "/metrics").expect("it answers").body
    }

    /// Waits until the report is as it should be.
    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        eventually(what, || {
            let report = self.report();
            is_so(&report).then_some(report)
        })
    }

    /// Waits until a backend of the first service is in this state.
    pub(crate) fn until_state(&self, backend: impl ToString, state: &str) {
        let address = backend.to_string();
        self.until(&format!("{address} is {state}"), |report| {
            backends(report).any(|it| it["address"] == *address && it["state"] == state)
        });
    }
}

fn text(folder: &Path, metrics: SocketAddr, services: &str) -> String {
    format!(
        "metrics: {metrics}\nlog: off\nadmin: {}\nservices:\n{services}",
        folder.join("ctl").display()
    )
}

/// All backends of all services in a report.
pub(crate) fn backends(report: &Value) -> impl Iterator<Item = &Value> {
    let services = report["services"].as_array().expect("services");
    services
        .iter()
        .flat_map(|it| it["backends"].as_array().expect("backends"))
}

/// A counter of a service or a backend.
pub(crate) fn count(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("no {name} in {of}"))
}
