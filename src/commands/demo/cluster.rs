//! Two nodes and a balancer as child processes, each node on a loopback address of its own.
//!
//! Addresses of their own let every node have OpenHIM's usual ports, as on machines of their own. The nodes share one
//! embedded store.

use std::fmt::Write;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::mediator::client::{self, Target};
use crate::lifecycle::PARENT_VARIABLE;

const BALANCER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 11), Ipv4Addr::new(127, 0, 0, 12)];
/// Longest that all may take to come up.
const START: Duration = Duration::from_secs(60);
/// Longest that all may take to go.
const STOP: Duration = Duration::from_secs(20);

/// The ports, the same on every address.
#[derive(Clone, Copy, Debug)]
struct Ports {
    https: u16,
    http: u16,
    api: u16,
    metrics: u16,
}

/// One child.
#[derive(Debug)]
struct Member {
    name: String,
    child: Child,
    told: bool,
}

/// The cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    folder: PathBuf,
    ports: Ports,
    members: Vec<Member>,
}

impl Cluster {
    /// Chooses ports: OpenHIM's own where they are free, else any that are.
    pub(super) fn plan(folder: &Path) -> anyhow::Result<Self> {
        let usual = Ports {
            https: 5000,
            http: 5001,
            api: 8080,
            metrics: 9101,
        };
        let ports = if usual.are_free() { usual } else { Ports::any()? };
        Ok(Self {
            folder: folder.to_owned(),
            ports,
            members: Vec::new(),
        })
    }

    /// Starts everything and waits until the balancer carries requests to both nodes.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        // One after the other: the first makes the store.
        for (index, address) in NODES.into_iter().enumerate() {
            let name = format!("node {}", index + 1);
            let arguments = self.node_arguments(address);
            self.spawn(&name, &arguments)?;
            self.wait_for(&name, &format!("https://{address}:{}", self.ports.api))
                .await?;
        }
        let config = self.folder.join("balancer.yaml");
        fs::write(&config, self.balancer_config()).context("cannot write the balancer's configuration")?;
        self.spawn(
            "balancer",
            &[
                "balancer".to_owned(),
                "--config".to_owned(),
                config.display().to_string(),
            ],
        )?;
        self.wait_for("balancer", &self.api_url()).await
    }

    fn node_arguments(&self, address: Ipv4Addr) -> Vec<String> {
        let Ports { https, http, api, .. } = self.ports;
        let store = self.folder.join("openhim.db");
        let settings = [
            format!("bindAddress={address}"),
            format!("router.httpsPort={https}"),
            format!("router.httpPort={http}"),
            format!("api.port={api}"),
            format!("rerun.host={address}"),
            format!("tcpAdapter.httpReceiver.host={address}"),
            format!("polling.host={address}"),
            format!("store.url=sqlite://{}", store.display()),
            "trustedProxies=127.0.0.0/8".to_owned(),
        ];
        let mut arguments = vec!["node".to_owned()];
        arguments.extend(settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]));
        arguments
    }

    fn balancer_config(&self) -> String {
        let Ports {
            https,
            http,
            api,
            metrics,
        } = self.ports;
        let admin = self.folder.join("balancer.sock");
        let mut text = format!(
            "threads: 1\nadmin: {}\nmetrics: 127.0.0.1:{metrics}\nservices:\n",
            admin.display()
        );
        for (name, port, client_ip) in [
            ("https", https, "proxy-v2"),
            ("http", http, "proxy-v2"),
            ("api", api, "none"),
        ] {
            let backends = NODES.map(|node| format!("{node}:{port}")).join(", ");
            let _ = writeln!(
                text,
                "  - name: {name}\n    listen: {BALANCER}:{port}\n    client_ip: {client_ip}"
            );
            let _ = writeln!(
                text,
                "    check: {{ type: https, port: {api}, path: /heartbeat, insecure: true }}"
            );
            let _ = writeln!(text, "    backends: [{backends}]");
        }
        text
    }

    fn spawn(&mut self, name: &str, arguments: &[String]) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let log = self.log_of(name);
        let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(program)
            .args(arguments)
            .env(PARENT_VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stderr(log.try_clone().context("cannot share a log")?)
            .stdout(log)
            // Ctrl-C is for the demo, which then stops them in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        self.members.push(Member {
            name: name.to_owned(),
            child,
            told: false,
        });
        Ok(())
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.log", name.replace(' ', "-")))
    }

    /// Waits until `/heartbeat` answers, or the member has ended.
    async fn wait_for(&mut self, name: &str, url: &str) -> anyhow::Result<()> {
        let target = Target::parse(url).map_err(anyhow::Error::msg)?;
        let deadline = Instant::now() + START;
        loop {
            let answer = client::send(&target, Method::GET, "/heartbeat", None).await;
            if answer.is_ok_and(|answer| answer.status.is_success()) {
                return Ok(());
            }
            let log = self.log_of(name);
            let member = self.members.iter_mut().find(|member| member.name == name);
            if let Some(status) = member.and_then(|member| member.child.try_wait().ok().flatten()) {
                bail!(
                    "{name} did not start ({status}):\n{}",
                    fs::read_to_string(&log).unwrap_or_default()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{name} is not up after {} s:\n{}",
                    START.as_secs(),
                    fs::read_to_string(&log).unwrap_or_default()
                );
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for a member to end, and names it.
    pub(super) async fn ended(&mut self) -> String {
        loop {
            for member in self.members.iter_mut().filter(|member| !member.told) {
                if let Ok(Some(status)) = member.child.try_wait() {
                    member.told = true;
                    return format!("{} ({status})", member.name);
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops the balancer, then the nodes, and waits for them.
    pub(super) async fn stop(&mut self) {
        for member in self.members.iter_mut().rev() {
            if let Some(id) = member.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
                // One that has ended already needs no signal.
                let _ = kill_process(id, Signal::TERM);
            }
            if timeout(STOP, member.child.wait()).await.is_err() {
                let _ = member.child.kill().await;
            }
        }
    }

    /// What runs where.
    pub(super) fn described(&self) -> String {
        let Ports { https, http, api, .. } = self.ports;
        let ports = format!("ports {https} (HTTPS), {http} (HTTP), {api} (API)");
        let mut text = String::from("A cluster on this machine:\n");
        for (index, node) in NODES.iter().enumerate() {
            let _ = writeln!(text, "  node {}    {node}, {ports}", index + 1);
        }
        let _ = writeln!(text, "  balancer  {BALANCER}, {ports}");
        text
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn api_url(&self) -> String {
        format!("https://{BALANCER}:{}", self.ports.api)
    }

    pub(super) fn https_url(&self) -> String {
        format!("https://{BALANCER}:{}", self.ports.https)
    }

    pub(super) fn status_url(&self) -> String {
        format!("http://{BALANCER}:{}/", self.ports.metrics)
    }

    /// The HTTPS router of each node, past the balancer.
    pub(super) fn node_https_urls(&self) -> Vec<String> {
        NODES
            .iter()
            .map(|node| format!("https://{node}:{}", self.ports.https))
            .collect()
    }

    /// Process ids of the nodes that run.
    pub(super) fn node_ids(&self) -> Vec<String> {
        let nodes = self.members.iter().filter(|member| member.name.starts_with("node"));
        nodes
            .filter_map(|member| member.child.id())
            .map(|id| id.to_string())
            .collect()
    }
}

impl Ports {
    fn all(self) -> [u16; 4] {
        [self.https, self.http, self.api, self.metrics]
    }

    /// Free on every address of the cluster, as far as one can tell before binding.
    fn are_free(self) -> bool {
        let is_free = |port: u16| {
            [BALANCER, NODES[0], NODES[1]]
                .iter()
                .all(|&host| TcpListener::bind((host, port)).is_ok())
        };
        self.all().into_iter().all(is_free)
    }

    fn any() -> anyhow::Result<Self> {
        const TRIES: usize = 20;
        for _ in 0..TRIES {
            // Held together, so that all four differ.
            let held = [(); 4].map(|()| TcpListener::bind((BALANCER, 0)));
            let mut ports = Vec::new();
            for listener in &held {
                let listener = listener
                    .as_ref()
                    .map_err(|error| anyhow::anyhow!("no port is free: {error}"))?;
                ports.push(listener.local_addr().context("a listener without an address")?.port());
            }
            drop(held);
            let ports = Self {
                https: ports[0],
                http: ports[1],
                api: ports[2],
                metrics: ports[3],
            };
            if ports.are_free() {
                return Ok(ports);
            }
        }
        bail!("no four ports are free on {BALANCER}, {} and {}", NODES[0], NODES[1])
    }
}
