//! Backends that are killed, stopped and cut off, on a network that loses and delays packets; and all of them at once.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::messages::{Load, Sent, Taker, failures, send, thread};
use super::process::{Process, backends, count};
use crate::support::netns::Net;
use crate::support::{eventually, free_port, parts};

const CLIENTS: usize = 6;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HOSTS: [&str; 4] = ["one", "two", "three", "four"];
const PORT: u16 = 5000;

/// Four backends and a balancer, each on a host of its own, and clients on another.
struct Site {
    // Before the network: what runs there ends first.
    balancer: Process,
    takers: Vec<Taker>,
    folder: tempfile::TempDir,
    net: Net,
}

impl Site {
    fn start() -> Self {
        let addresses: Vec<Ipv4Addr> = (2..).map(|last| Ipv4Addr::new(10, 0, 0, last)).take(4).collect();
        let mut hosts: Vec<(&str, &[Ipv4Addr])> = vec![("balancer", &[BALANCER]), ("clients", &[CLIENT])];
        let backends = HOSTS.iter().zip(&addresses);
        hosts.extend(backends.map(|(host, address)| (*host, std::slice::from_ref(address))));
        let net = Net::build(&hosts);
        let folder = tempfile::tempdir().expect("a folder");
        let takers: Vec<Taker> = (0..HOSTS.len()).map(|index| taker(&net, index, &folder)).collect();
        let list: Vec<String> = takers.iter().map(|it| it.address.to_string()).collect();
        let services = format!(
            "  - {{ name: s, listen: '{BALANCER}:{PORT}', backends: [{}], connect_timeout: 400ms, on_down: close,\n      \
             check: {{ type: http, interval: 400ms, fast_interval: 100ms, rise: 2, fall: 4, timeout: 500ms }} }}\n",
            list.join(", ")
        );
        let balancer = Process::start_by(
            |program| {
                let mut command = net.command("balancer", program.get_program());
                command.args(program.get_args());
                command
            },
            &services,
        );
        let site = Self {
            balancer,
            takers,
            folder,
            net,
        };
        site.all_up();
        site.net.make_lossy("balancer");
        site
    }

    fn all_up(&self) {
        for taker in &self.takers {
            self.balancer.until_state(taker.address, "up");
        }
    }

    fn load(&self, name: &str) -> Load {
        let to = SocketAddr::from((BALANCER, PORT));
        Load::start(|work| self.net.run_on("clients", work), CLIENTS, to, name)
    }

    /// Takes a backend away under load by `how`: what was in its hands may fail, and nothing after it is found out.
    fn lose(&mut self, index: usize, name: &str, how: impl Fn(&mut Self)) {
        let address = self.takers[index].address;
        let load = self.load(name);
        load.run_on(60);
        how(self);
        self.balancer.until_state(address, "down");
        let timeouts = |site: &Self| count(&backend(&site.balancer.report(), address), "connect_timeouts");
        // Who has chosen it before it was down may still be on the way there.
        std::thread::sleep(Duration::from_millis(500));
        let before = timeouts(self);
        load.run_on(120);
        assert_eq!(timeouts(self), before, "{name}: clients still run into it");
        let sent = load.finish();
        let failed = failures(&sent, &self.takers);
        assert!(failed.len() <= CLIENTS, "{name}: {failed:#?}");
        let later = sent.iter().rev().take_while(|it| it.by.is_ok()).count();
        assert!(later > 0, "{name}: {sent:#?}");
    }

    /// Every message passes, every backend has its share, and the counters are what the clients saw.
    fn all_is_well(&self, name: &str) {
        self.all_up();
        self.balancer
            .until("no connection is under way", |it| count(it, "active") == 0);
        let before = Totals::of(&self.balancer.report());
        let load = self.load(name);
        load.run_on(120);
        let sent = load.finish();
        let failed = failures(&sent, &self.takers);
        assert!(failed.is_empty(), "{name}: {failed:#?}");
        let by: BTreeSet<SocketAddr> = sent.iter().flat_map(|it| it.by.clone()).collect();
        assert_eq!(by.len(), HOSTS.len(), "{name}: {by:?}");
        let report = self
            .balancer
            .until("no connection is under way", |it| count(it, "active") == 0);
        Totals::of(&report).assert_grew(&before, &sent);
    }
}

fn taker(net: &Net, index: usize, folder: &tempfile::TempDir) -> Taker {
    let last = 2 + u8::try_from(index).expect("few");
    let address = SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), PORT));
    Taker::start(|program| net.command(HOSTS[index], program), address, folder.path())
}

fn backend(report: &Value, address: SocketAddr) -> Value {
    let mut all = backends(report);
    let found = all.find(|it| it["address"] == *address.to_string());
    found.expect("listed").clone()
}

/// What the balancer counted: of the service, and summed over its backends.
#[derive(Debug, PartialEq, Eq)]
struct Totals {
    service: [u64; 3],
    backends: [u64; 3],
}

impl Totals {
    fn of(report: &Value) -> Self {
        let service = &report["services"][0];
        let sum = |name: &str| backends(report).map(|it| count(it, name)).sum();
        Self {
            service: ["accepted", "bytes_in", "bytes_out"].map(|name| count(service, name)),
            backends: ["connections", "bytes_in", "bytes_out"].map(sum),
        }
    }

    fn assert_grew(&self, before: &Self, sent: &[Sent]) {
        let saw = [
            sent.len() as u64,
            sent.iter().map(|it| it.bytes.0).sum(),
            sent.iter().map(|it| it.bytes.1).sum(),
        ];
        let grown = |now: [u64; 3], before: [u64; 3]| [0, 1, 2].map(|index| now[index] - before[index]);
        assert_eq!(grown(self.service, before.service), saw, "the service's counters");
        assert_eq!(grown(self.backends, before.backends), saw, "the sum over its backends");
    }
}

#[test]
fn backends_that_are_killed_stopped_or_cut_off_cost_only_what_they_had_in_their_hands() {
    if !Net::is_possible() {
        return parts::skip("network namespaces (root and the commands `ip`, `tc`, `nft`)");
    }
    let mut site = Site::start();
    site.all_is_well("begin");

    site.lose(0, "killed", |site| site.takers[0].kill());
    site.takers[0] = taker(&site.net, 0, &site.folder);
    site.all_is_well("after-the-kill");

    site.lose(1, "stopped", |site| site.takers[1].signal(Signal::STOP));
    site.takers[1].signal(Signal::CONT);
    site.all_is_well("after-the-stop");

    site.lose(2, "cut-off", |site| site.net.cut_off(HOSTS[2]));
    site.net.let_in(HOSTS[2]);
    site.all_is_well("after-the-cut");
}

/// Backends on this host, and a balancer in front of them whose checks are quick.
fn here(folder: &tempfile::TempDir, options: &str) -> (Vec<Taker>, Process, SocketAddr) {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let takers: Vec<Taker> = (0..3)
        .map(|_| Taker::start(std::process::Command::new, local(free_port()), folder.path()))
        .collect();
    for taker in &takers {
        eventually("a backend listens", || std::net::TcpStream::connect(taker.address).ok());
    }
    let listen = local(free_port());
    let list: Vec<String> = takers.iter().map(|it| it.address.to_string()).collect();
    let balancer = Process::start(&format!(
        "  - {{ name: s, listen: '{listen}', backends: [{}], {options} }}\n",
        list.join(", ")
    ));
    for taker in &takers {
        balancer.until_state(taker.address, "up");
    }
    (takers, balancer, listen)
}

#[test]
fn with_all_backends_gone_clients_hear_it_at_once_nothing_spins_and_the_first_back_is_used_within_a_rise() {
    let folder = tempfile::tempdir().expect("a folder");
    let (interval, rise) = (Duration::from_millis(500), 2);
    let options = "check: { type: tcp, interval: 500ms, fast_interval: 500ms, rise: 2, fall: 2 }";
    let (mut takers, balancer, listen) = here(&folder, options);
    let load = Load::start(thread, CLIENTS, listen, "before");
    load.run_on(100);

    takers.iter_mut().for_each(Taker::kill);
    load.run_on(200);
    let sent = load.finish();
    // Those that were being carried may have moved some bytes; all others hear it as soon as two connects were refused.
    let slow: Vec<&Sent> = sent
        .iter()
        .filter(|it| it.by.is_err() && it.took > Duration::from_secs(1))
        .collect();
    assert!(slow.is_empty(), "{slow:#?}");
    for taker in &takers {
        balancer.until_state(taker.address, "down");
    }

    let (begun, used) = (Instant::now(), processor_time(balancer.running.id()));
    std::thread::sleep(Duration::from_secs(1));
    let spent = processor_time(balancer.running.id()) - used;
    assert!(
        spent < begun.elapsed() / 10,
        "{spent:?} of a processor in an idle second"
    );

    takers[1] = Taker::start(std::process::Command::new, takers[1].address, folder.path());
    while std::net::TcpStream::connect(takers[1].address).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let back = Instant::now();
    let mut number = 0;
    let by = loop {
        let sent = send(listen, format!("return-{number}"), 100);
        if let Ok(by) = sent.by {
            break by;
        }
        number += 1;
        std::thread::sleep(Duration::from_millis(5));
    };
    // Intervals have a jitter of a tenth either way; the rest is for a busy machine.
    let limit = interval * rise * 11 / 10 + Duration::from_millis(500);
    assert!(back.elapsed() < limit, "{:?}", back.elapsed());
    assert_eq!(by, takers[1].address);
}

fn processor_time(pid: i32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let times = tasks.map(|task| {
        let path = task.expect("a thread").path().join("schedstat");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0)
    });
    Duration::from_nanos(times.sum())
}

#[test]
fn counters_are_what_the_clients_saw_also_when_connects_are_refused_on_the_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut takers, balancer, listen) = here(&folder, "interval: 1h, schedule: rr");
    let load = Load::start(thread, CLIENTS, listen, "counted");
    load.run_on(100);
    let sent = load.finish();
    takers[0].kill();
    let load = Load::start(thread, CLIENTS, listen, "refused");
    load.run_on(100);
    let sent: Vec<Sent> = sent.into_iter().chain(load.finish()).collect();

    let failed = failures(&sent, &takers);
    assert!(failed.is_empty(), "{failed:#?}");
    let report = balancer.until("no connection is under way", |it| count(it, "active") == 0);
    let nothing = Totals {
        service: [0; 3],
        backends: [0; 3],
    };
    Totals::of(&report).assert_grew(&nothing, &sent);
    let refused = backend(&report, takers[0].address);
    assert!(count(&refused, "connect_errors") > 0, "{refused}");
    assert_eq!(
        count(&refused, "redispatched"),
        count(&report["services"][0], "redispatched")
    );
}
