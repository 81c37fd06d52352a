//! Several hosts on one machine: network namespaces on one bridge, with the addresses a guide names.
//!
//! The bridge lives in a namespace of its own, so nothing of the machine's network is touched, and everything goes when
//! the [`Net`] is dropped.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A small network of hosts, all in 10.0.0.0/24.
#[derive(Debug)]
pub(crate) struct Net {
    prefix: String,
    hosts: Vec<String>,
}

impl Net {
    /// True where namespaces can be made: root, and `ip` installed.
    pub(crate) fn is_possible() -> bool {
        let has = |program: &str| Command::new(program).arg("-V").output().is_ok();
        rustix::process::geteuid().is_root() && has("ip") && has("tc") && has("nft")
    }

    /// Builds the hosts, each with its addresses.
    pub(crate) fn build(hosts: &[(&str, &[Ipv4Addr])]) -> Self {
        let prefix = format!("oh{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut net = Self {
            prefix,
            hosts: Vec::new(),
        };
        net.add_namespace("switch");
        net.ip("switch", "link add br0 type bridge");
        net.ip("switch", "link set br0 up");
        for (index, (host, addresses)) in hosts.iter().enumerate() {
            net.add_namespace(host);
            let switch = net.namespace("switch");
            net.ip(
                host,
                &format!("link add eth0 type veth peer name port{index} netns {switch}"),
            );
            net.ip("switch", &format!("link set port{index} master br0 up"));
            for address in *addresses {
                net.ip(host, &format!("addr add {address}/24 dev eth0"));
            }
            net.ip(host, "link set lo up");
            net.ip(host, "link set eth0 up");
        }
        net
    }

    /// A command that will run on `host`.
    pub(crate) fn command(&self, host: &str, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(host)])
            .arg(program.into());
        command
    }

    /// Runs a command on `host` that has to work.
    pub(crate) fn set_up(&self, host: &str, command: &str) {
        let (program, arguments) = command.split_once(' ').expect("a program and its arguments");
        run(self.command(host, program).args(arguments.split(' ')));
    }

    /// Runs `work` in a thread whose sockets are `host`'s.
    pub(crate) fn run_on<T: Send + 'static>(
        &self,
        host: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.namespace(host));
        std::thread::Builder::new()
            .name(host.to_owned())
            .spawn(move || {
                let namespace = std::fs::File::open(&path).expect("the namespace exists");
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a namespace");
                work()
            })
            .expect("a thread starts")
    }

    /// Makes the way to and from `host` a bad one: a packet in a hundred is lost, and the others take their time.
    pub(crate) fn make_lossy(&self, host: &str) {
        let namespace = self.namespace(host);
        let netem = "qdisc add dev eth0 root netem delay 5ms 2ms loss 1%";
        let slow = "qdisc add dev eth0 root tbf rate 100mbit burst 32kb latency 50ms";
        let tc = |arguments: &str| {
            let mut command = Command::new("tc");
            command.args(["-n", &namespace]).args(arguments.split(' '));
            command.output().is_ok_and(|it| it.status.success())
        };
        if !tc(netem) {
            // A kernel without that can still lose packets, and queue them before a slow link.
            assert!(tc(slow), "tc can do neither netem nor tbf");
            self.filter(host, "loss", "output", "oifname eth0 numgen random mod 100 < 1 drop");
        }
        self.filter(host, "loss", "input", "iifname eth0 numgen random mod 100 < 1 drop");
    }

    /// Drops everything that comes to `host` from now on, without a word.
    pub(crate) fn cut_off(&self, host: &str) {
        self.filter(host, "hole", "input", "iifname eth0 drop");
    }

    /// Ends [`cut_off`](Self::cut_off).
    pub(crate) fn let_in(&self, host: &str) {
        run(self.command(host, "nft").args(["delete", "table", "inet", "hole"]));
    }

    fn filter(&self, host: &str, table: &str, hook: &str, rule: &str) {
        let script =
            format!("table inet {table} {{ chain {hook} {{ type filter hook {hook} priority 0; {rule}; }}; }}");
        run(self.command(host, "nft").arg(script));
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn add_namespace(&mut self, host: &str) {
        let namespace = self.namespace(host);
        run(Command::new("ip").args(["netns", "add", &namespace]));
        self.hosts.push(host.to_owned());
    }

    fn ip(&self, host: &str, arguments: &str) {
        run(Command::new("ip")
            .args(["-n", &self.namespace(host)])
            .args(arguments.split(' ')));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            let namespace = self.namespace(host);
            if let Ok(pids) = Command::new("ip").args(["netns", "pids", &namespace]).output() {
                for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
                    // This very process shows up while one of its threads is still inside.
                    if pid != std::process::id().to_string() {
                        let _ = Command::new("kill").args(["-9", pid]).status();
                    }
                }
            }
            let _ = Command::new("ip").args(["netns", "del", &namespace]).status();
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
