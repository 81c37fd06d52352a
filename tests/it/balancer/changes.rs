//! Changes by everyone at once, on a balancer that runs as a process: files however they are written, signals, operators.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;

use super::messages::{Load, Taker, failures, thread};
use super::process::{Process, count};
use crate::support::{eventually, free_port};

const CLIENTS: usize = 4;
const CHANGES: usize = 150;

/// Someone who changes things, and what is there to be changed.
struct Meddler<'a> {
    balancer: &'a Process,
    takers: &'a [Taker],
    listen: SocketAddr,
    chance: StdRng,
}

impl Meddler<'_> {
    /// The first backend is always there; the others come and go.
    fn list(&mut self) -> String {
        let present = |it: &&Taker| it.address == self.takers[0].address || self.chance.random_bool(0.6);
        let chosen: Vec<&Taker> = self.takers.iter().filter(present).collect();
        let weight = self.chance.random_range(1..5);
        chosen
            .iter()
            .map(|it| format!("{} weight={weight}\n", it.address))
            .collect()
    }

    fn services(&mut self, schedule: &str) -> String {
        format!(
            "  - {{ name: s, listen: '{}', backends_file: {}, schedule: {schedule}, interval: 300ms }}\n",
            self.listen,
            self.balancer.path("nodes").display()
        )
    }

    fn change(&mut self) {
        let nodes = self.balancer.path("nodes");
        let other = self.balancer.path("other");
        let text = self.list();
        match self.chance.random_range(0..11) {
            0 => {
                fs::write(&other, text).expect("written");
                fs::rename(&other, &nodes).expect("renamed");
            }
            1 => fs::write(&nodes, text).expect("rewritten in place"),
            2 => {
                let target = format!("list-{}", self.chance.random_range(0..1000));
                fs::write(self.balancer.path(&target), text).expect("written");
                let _ = fs::remove_file(&other);
                symlink(target, &other).expect("linked");
                fs::rename(&other, &nodes).expect("swapped");
            }
            3 => {
                fs::remove_file(&nodes).expect("deleted");
                std::thread::sleep(Duration::from_millis(5));
                fs::write(&nodes, text).expect("made anew");
            }
            4 => {
                fs::write(&nodes, "").expect("emptied");
                std::thread::sleep(Duration::from_millis(20));
                fs::write(&nodes, text).expect("filled");
            }
            5 => fs::write(&nodes, "10.0.0.1:80\nnonsense\n").expect("spoilt"),
            6 => self.balancer.signal(Signal::HUP),
            7 => {
                let schedule = ["rr", "wrr", "lc", "p2c", "mh"][self.chance.random_range(0..5)];
                let services = self.services(schedule);
                self.balancer.configure(&services);
            }
            8 => self.balancer.configure("  - { name: s, listen: nowhere }\n"),
            9 => {
                // Fails for one that is not listed at the moment.
                let address = self.takers[self.chance.random_range(1..self.takers.len())].address;
                let word = ["drain", "ready", "maint"][self.chance.random_range(0..3)];
                self.balancer.say(&format!("{word} {address}"));
            }
            _ => {
                let weight = self.chance.random_range(1..9);
                let address = self.takers[0].address;
                self.balancer
                    .say(&format!("-e -t {} -r {address} -w {weight}", self.listen));
                self.balancer.say("reload");
            }
        }
    }
}

#[test]
fn changes_in_any_mix_refuse_no_connection_break_no_flow_and_reset_no_counter() {
    let seed = rand::random();
    let folder = tempfile::tempdir().expect("a folder");
    let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let takers: Vec<Taker> = (0..4)
        .map(|_| Taker::start(Command::new, local(), folder.path()))
        .collect();
    for taker in &takers {
        eventually("a backend listens", || std::net::TcpStream::connect(taker.address).ok());
    }
    let listen = local();
    let balancer = Process::start(&format!(
        "  - {{ name: s, listen: '{listen}', backends: ['{}'] }}\n",
        takers[0].address
    ));
    let mut meddler = Meddler {
        balancer: &balancer,
        takers: &takers,
        listen,
        chance: StdRng::seed_from_u64(seed),
    };
    fs::write(balancer.path("nodes"), meddler.list()).expect("written");
    let services = meddler.services("rr");
    balancer.configure(&services);
    let load = Load::start(thread, CLIENTS, listen, "changed");
    load.run_on(20);

    let mut accepted = 0;
    for _ in 0..CHANGES {
        meddler.change();
        std::thread::sleep(Duration::from_millis(meddler.chance.random_range(0..40)));
        let now = count(&balancer.report()["services"][0], "accepted");
        assert!(now >= accepted, "seed {seed}: {now} after {accepted}");
        accepted = now;
    }
    load.run_on(20);
    let sent = load.finish();

    let failed = failures(&sent, &takers);
    assert!(failed.is_empty(), "seed {seed}: {failed:#?}");
    assert_eq!(
        count(&balancer.report()["services"][0], "accepted"),
        sent.len() as u64,
        "seed {seed}"
    );
}

#[test]
fn a_bad_file_is_told_with_line_and_column_to_operator_log_and_metrics() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let (taker, listen) = (Taker::start(Command::new, local(), folder.path()), local());
    let good = format!(
        "  - {{ name: s, listen: '{listen}', backends: ['{}'] }}\n",
        taker.address
    );
    let balancer = Process::start(&good);

    balancer.configure(&good.replace("name: s", "name: s, interval: soon"));
    let answer = balancer.say("reload");

    let problem = "balancer.yaml:5:26: services[0].interval: `soon` is not a time";
    assert!(!answer.is_ok && answer.text.contains(problem), "{}", answer.text);
    let said = || balancer.running.stdout.all() + &balancer.running.stderr.all();
    eventually("the log has it", || said().contains(problem).then_some(()));
    let is_told = |flag| format!("openhim_balancer_config_last_reload_successful {flag}\n");
    assert!(balancer.metrics().contains(&is_told(0)), "{}", balancer.metrics());

    balancer.configure(&good);
    assert!(balancer.say("reload").is_ok);
    assert!(balancer.metrics().contains(&is_told(1)));
}
