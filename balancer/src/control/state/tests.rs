use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

use super::*;
use crate::backend::Pick;
use crate::config::Config;
use crate::plan::Endpoint;
use crate::snapshot::Candidate;

const HEALED: Duration = Duration::from_secs(180);

fn service(options: &[(&str, &str)]) -> Arc<Service> {
    let base = [("name", "s"), ("backends", "10.0.0.1:80")];
    let given = |name: &str| options.iter().any(|(it, _)| *it == name);
    let all = base
        .into_iter()
        .filter(|(name, _)| !given(name))
        .chain(options.iter().copied());
    Arc::new(
        Config::from_options(all)
            .check()
            .expect("good options")
            .plan
            .services
            .remove(0),
    )
}

fn address(index: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index], 80))
}

fn backend(index: u8) -> (SocketAddr, Backend) {
    (address(index), Backend::new(Endpoint::Address(address(index))))
}

/// A state with one service `s`, and the moment it was made.
struct Bench {
    state: State,
    now: Instant,
}

impl Bench {
    fn new(options: &[(&str, &str)], backends: u8) -> Self {
        let (reports, _) = mpsc::channel(1);
        let (mut state, now) = (State::new(reports), Instant::now());
        state.apply(
            vec![Wish {
                service: service(options),
                backends: (1..=backends).map(backend).collect(),
                names: Vec::new(),
                tls: Default::default(),
            }],
            now,
        );
        Self { state, now }
    }

    fn entry(&self) -> &Entry {
        self.state.service("s").expect("there")
    }

    /// Carries out all that is due, with these backends reachable.
    fn round(&mut self, alive: &[u8]) -> Vec<Effect> {
        let mut ends = Vec::new();
        let alive = |address: SocketAddr| alive.iter().any(|it| self::address(*it) == address);
        for effect in self.state.poll(self.now) {
            match effect {
                Effect::Probe { target, .. } => {
                    let result = if alive(target.address) {
                        Ok(())
                    } else {
                        Err(Failure::unreachable("refused"))
                    };
                    ends.extend(self.state.probed(&target, result, self.now, 0.5));
                }
                Effect::Try { target, .. } => {
                    let result = if alive(target.address) {
                        Ok(())
                    } else {
                        Err(Failure::unreachable("refused"))
                    };
                    self.state.tried(&target, result, self.now);
                }
                end @ Effect::End { .. } => ends.push(end),
            }
        }
        ends
    }

    fn run(&mut self, time: Duration, alive: &[u8]) {
        let end = self.now + time;
        loop {
            self.round(alive);
            match self.state.next_poll(self.now) {
                Some(next) if next <= end => self.now = next,
                _ => break,
            }
        }
        self.now = end;
    }

    fn refuse(&mut self, index: u8) {
        let report = Report {
            service: "s".into(),
            address: address(index),
            reason: "refused".into(),
        };
        self.state.connect_failed(report, self.now);
    }

    /// Who may be chosen first, and with which weight.
    fn shares(&self) -> Vec<(SocketAddr, u32)> {
        self.entry()
            .shared
            .live
            .load()
            .primary
            .candidates
            .iter()
            .map(|it| (it.state.address, it.weight))
            .collect()
    }

    fn chosen(&self) -> Vec<SocketAddr> {
        self.shares().into_iter().map(|(address, _)| address).collect()
    }
}

#[test]
fn nobody_is_chosen_before_the_first_good_probe() {
    let mut bench = Bench::new(&[], 2);
    assert!(bench.chosen().is_empty());
    assert!(!bench.state.is_first_round_over());

    bench.round(&[2]);

    assert_eq!(bench.chosen(), [address(2)]);
    assert!(bench.state.is_first_round_over());
}

#[test]
fn a_refused_connect_puts_a_backend_out_at_once_and_half_of_them_at_most() {
    let mut bench = Bench::new(&[], 4);
    bench.round(&[1, 2, 3, 4]);

    for index in 1..=4 {
        bench.refuse(index);
    }

    assert_eq!(bench.chosen(), [address(3), address(4)]);
}

#[test]
fn a_probe_that_began_before_the_connect_failed_does_not_bring_it_back() {
    let mut bench = Bench::new(&[], 2);
    bench.round(&[1, 2]);
    bench.now += Duration::from_secs(3);
    let probes = bench.state.poll(bench.now);
    bench.now += Duration::from_millis(1);

    bench.refuse(1);
    for effect in probes {
        let Effect::Probe { target, .. } = effect else {
            panic!("only probes are due")
        };
        bench.state.probed(&target, Ok(()), bench.now, 0.5);
    }
    assert_eq!(bench.chosen(), [address(2)]);

    bench.run(Duration::from_secs(3), &[1, 2]);
    assert_eq!(bench.chosen(), [address(1), address(2)]);
}

#[test]
fn one_that_is_checked_elsewhere_comes_back_when_its_own_port_answers() {
    let mut bench = Bench::new(&[("check-port", "8080")], 2);
    bench.round(&[1, 2]);
    bench.refuse(1);
    // Its check passes all the time; a connect to its own port is vain until now.
    for effect in bench.state.poll(bench.now + Duration::from_secs(1)) {
        match effect {
            Effect::Try { target, .. } => {
                bench.state.tried(
                    &target,
                    Err(Failure::unreachable("refused")),
                    bench.now + Duration::from_secs(1),
                );
            }
            Effect::Probe { target, .. } => {
                bench
                    .state
                    .probed(&target, Ok(()), bench.now + Duration::from_secs(1), 0.5);
            }
            Effect::End { .. } => {}
        }
    }
    assert_eq!(bench.chosen(), [address(2)]);

    bench.now += Duration::from_secs(1);
    bench.run(Duration::from_secs(5), &[1, 2]);

    assert_eq!(bench.chosen(), [address(1), address(2)]);
}

#[test]
fn all_unreachable_means_nobody_and_the_first_to_answer_is_back_within_a_rise() {
    let mut bench = Bench::new(&[("rise", "1"), ("interval", "2s")], 3);
    bench.run(Duration::from_secs(10), &[1, 2, 3]);
    bench.run(Duration::from_secs(20), &[]);
    assert!(bench.chosen().is_empty());
    assert!(!bench.entry().is_panicking, "nobody who could be used is left");

    bench.run(Duration::from_millis(2300), &[2]);

    assert_eq!(bench.chosen(), [address(2)]);
}

#[test]
fn weight_0_and_an_operator_keep_new_clients_away_and_give_them_back() {
    let mut bench = Bench::new(&[], 3);
    bench.round(&[1, 2, 3]);

    assert!(bench.state.set_duty("s", address(1), Duty::Drain, bench.now));
    assert_eq!(bench.chosen(), [address(2), address(3)]);
    assert!(!bench.state.set_duty("s", address(9), Duty::Drain, bench.now));
    assert!(bench.state.set_duty("s", address(1), Duty::Ready, bench.now));
    assert_eq!(bench.chosen().len(), 3);

    let mut quiet = backend(2);
    quiet.1.weight = 0;
    let wish = Wish {
        service: service(&[]),
        backends: vec![backend(1), quiet, backend(3)],
        names: Vec::new(),
        tls: Default::default(),
    };
    bench.state.apply(vec![wish], bench.now);
    assert_eq!(bench.chosen(), [address(1), address(3)]);
}

#[test]
fn a_drain_ends_what_is_left_at_its_deadline_unless_it_was_taken_back() {
    let mut bench = Bench::new(&[("check", "none")], 2);
    let deadline = bench.now + Duration::from_secs(30);
    for index in [1, 2] {
        assert!(bench.state.drain_by("s", address(index), deadline, bench.now));
    }
    assert_eq!(bench.chosen(), []);
    assert!(bench.state.set_duty("s", address(2), Duty::Ready, bench.now));

    let is_end =
        |effect: &Effect| matches!(effect, Effect::End { address: it, why: Why::Drained, .. } if *it == address(1));
    assert!(!bench.state.poll(deadline - Duration::from_millis(1)).iter().any(is_end));
    assert_eq!(bench.state.next_poll(bench.now), Some(deadline));
    assert!(matches!(bench.state.poll(deadline).as_slice(), [it] if is_end(it)));
    assert!(bench.state.poll(deadline + Duration::from_secs(1)).is_empty());
}

#[test]
fn after_maintenance_a_backend_has_to_pass_a_probe_first() {
    let mut bench = Bench::new(&[], 2);
    bench.round(&[1, 2]);
    bench.state.set_duty("s", address(1), Duty::Maint, bench.now);
    bench.run(Duration::from_secs(10), &[2]);
    assert_eq!(bench.entry().members[0].probes, (1, 0), "not checked meanwhile");

    bench.state.set_duty("s", address(1), Duty::Ready, bench.now);
    assert_eq!(bench.chosen(), [address(2)]);
    bench.round(&[1, 2]);
    assert_eq!(bench.chosen(), [address(1), address(2)]);
}

#[test]
fn one_that_came_up_again_gets_its_share_little_by_little() {
    let mut bench = Bench::new(&[("slow-start", "10s"), ("rise", "1"), ("interval", "1s")], 2);
    bench.run(Duration::from_secs(1), &[1, 2]);
    assert_eq!(
        bench.shares(),
        [(address(1), 1), (address(2), 1)],
        "at the start all are equally cold"
    );
    bench.run(Duration::from_secs(5), &[2]);
    assert_eq!(bench.chosen(), [address(2)]);

    bench.run(Duration::from_millis(1200), &[1, 2]);
    let mut last = bench.shares()[0].1;
    assert_eq!(last, 10);
    bench.run(Duration::from_secs(1), &[1, 2]);
    for _ in 0..5 {
        bench.run(Duration::from_secs(1), &[1, 2]);
        let [(_, now), (_, full)] = bench.shares()[..] else {
            panic!("two")
        };
        assert!(now > last && now < full, "{now} after {last}, of {full}");
        last = now;
    }
    bench.run(Duration::from_secs(6), &[1, 2]);
    assert_eq!(bench.shares(), [(address(1), 1), (address(2), 1)]);
}

#[test]
fn a_removed_backend_is_ended_at_its_deadline_and_forgotten() {
    let mut bench = Bench::new(&[("drain-timeout", "30s")], 2);
    bench.round(&[1, 2]);
    let pick = Pick::try_new(&bench.entry().members[0].state, u32::MAX).expect("no limit");
    bench.state.apply(
        vec![Wish {
            service: service(&[]),
            backends: vec![backend(2)],
            names: Vec::new(),
            tls: Default::default(),
        }],
        bench.now,
    );
    assert_eq!(bench.chosen(), [address(2)]);

    bench.now += Duration::from_secs(29);
    assert!(bench.round(&[1, 2]).is_empty());
    bench.now += Duration::from_secs(1);
    let ends = bench.round(&[1, 2]);
    assert!(matches!(ends[..], [Effect::End { why: Why::Drained, .. }]), "{ends:?}");
    drop(pick);
    bench.round(&[1, 2]);

    assert_eq!(bench.entry().members.len(), 1);
}

#[test]
fn a_removed_service_goes_when_its_last_connection_has_ended() {
    let mut bench = Bench::new(&[], 1);
    bench.round(&[1]);
    let pick = Pick::try_new(&bench.entry().members[0].state, u32::MAX).expect("no limit");

    bench.state.apply(Vec::new(), bench.now);
    assert!(bench.state.service("s").is_none());
    bench.round(&[1]);
    assert_eq!(bench.state.services().len(), 1);
    drop(pick);
    bench.round(&[1]);

    assert!(bench.state.services().is_empty());
}

#[test]
fn nothing_is_published_when_nothing_has_changed() {
    let mut bench = Bench::new(&[], 3);
    bench.run(Duration::from_secs(1), &[1, 2, 3]);
    let version = bench.entry().shared.live.load().version;

    bench.run(Duration::from_secs(60), &[1, 2, 3]);
    bench.state.apply(
        vec![Wish {
            service: service(&[]),
            backends: (1..=3).map(backend).collect(),
            names: Vec::new(),
            tls: Default::default(),
        }],
        bench.now,
    );

    assert_eq!(bench.entry().shared.live.load().version, version);
}

#[test]
fn what_another_process_knew_holds_until_a_probe_says_otherwise() {
    let mut bench = Bench::new(&[], 2);
    bench.state.inherit("s", address(1), Health::Up, Duty::Ready, bench.now);
    bench.state.inherit("s", address(2), Health::Up, Duty::Drain, bench.now);

    assert_eq!(bench.chosen(), [address(1)]);
}

/// A world in which backends live and die, against which the state is run at random.
struct World {
    bench: Bench,
    random: StdRng,
    /// Whether connects work, whether checks pass.
    truth: HashMap<SocketAddr, (bool, bool)>,
    /// Questions under way, and when they are answered.
    questions: Vec<(Instant, Target, bool)>,
    picks: Vec<Pick>,
    wish: Wish,
    last: (u64, Vec<SocketAddr>),
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let kinds: [&[(&str, &str)]; 4] = [
            &[],
            &[("check", "none")],
            &[("check", "http"), ("check-port", "8080"), ("slow-start", "5s")],
            &[
                ("check", "http"),
                ("on-down", "close"),
                ("panic-threshold", "30"),
                ("drain-timeout", "3s"),
            ],
        ];
        let kind = kinds[random.random_range(0..kinds.len())];
        let bench = Bench::new(kind, 4);
        let wish = Wish {
            service: service(kind),
            backends: (1..=4).map(backend).collect(),
            names: Vec::new(),
            tls: Default::default(),
        };
        let truth = (1..=9).map(|index| (address(index), (true, true))).collect();
        Self {
            bench,
            random,
            truth,
            questions: Vec::new(),
            picks: Vec::new(),
            wish,
            last: (0, Vec::new()),
        }
    }

    fn step(&mut self) {
        let index = self.random.random_range(1..=9);
        match self.random.random_range(0..10) {
            0 | 1 => {
                let fate = (self.random.random_bool(0.6), self.random.random_bool(0.6));
                self.truth.insert(address(index), fate);
            }
            2 => self.change_backends(),
            3 => {
                let duty = [Duty::Ready, Duty::Ready, Duty::Drain, Duty::Maint][self.random.random_range(0..4)];
                self.bench.state.set_duty("s", address(index), duty, self.bench.now);
            }
            4 | 5 => self.connect(),
            6 if !self.picks.is_empty() => {
                let index = self.random.random_range(0..self.picks.len());
                self.picks.swap_remove(index);
            }
            _ => {
                let time = self.random.random_range(1..1500);
                self.pass(Duration::from_millis(time));
            }
        }
        self.check();
    }

    fn change_backends(&mut self) {
        let mut backends = Vec::new();
        for index in 1..=9 {
            if self.random.random_bool(0.5) {
                let (address, mut backend) = backend(index);
                backend.weight = self.random.random_range(0..4);
                backend.backup = self.random.random_bool(0.2);
                backends.push((address, backend));
            }
        }
        self.wish.backends = backends;
        self.bench.state.apply(vec![self.wish.clone()], self.bench.now);
    }

    /// A client comes and is sent to the first of the candidates.
    fn connect(&mut self) {
        let snapshot = self.bench.entry().shared.live.load();
        let Some(candidate) = snapshot.candidates().next() else {
            return;
        };
        let pick = Pick::try_new(&candidate.state, candidate.limit).expect("no limit");
        if self.truth[&candidate.state.address].0 {
            self.picks.push(pick);
        } else {
            let report = Report {
                service: "s".into(),
                address: candidate.state.address,
                reason: "refused".into(),
            };
            self.bench.state.connect_failed(report, self.bench.now);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.bench.now + time;
        loop {
            self.act();
            let answers = self.questions.iter().map(|(at, ..)| *at);
            let next = answers.chain(self.bench.state.next_poll(self.bench.now)).min();
            match next {
                Some(next) if next <= end => self.bench.now = next.max(self.bench.now),
                _ => break,
            }
            let now = self.bench.now;
            let (due, waiting) = std::mem::take(&mut self.questions)
                .into_iter()
                .partition(|(at, ..)| *at <= now);
            self.questions = waiting;
            for answer in due {
                self.answer(answer);
            }
        }
        self.bench.now = end;
    }

    fn act(&mut self) {
        for effect in self.bench.state.poll(self.bench.now) {
            let (target, is_probe) = match effect {
                Effect::Probe { target, .. } => (target, true),
                Effect::Try { target, .. } => (target, false),
                Effect::End { address, why, .. } => {
                    assert_eq!(why, Why::Drained);
                    self.picks.retain(|pick| pick.state().address != address);
                    continue;
                }
            };
            let is_asked = self
                .questions
                .iter()
                .any(|(_, other, kind)| *other == target && *kind == is_probe);
            assert!(!is_asked, "asked twice at the same time");
            let at = self.bench.now + Duration::from_millis(self.random.random_range(1..1000));
            self.questions.push((at, target, is_probe));
        }
        let next = self.bench.state.next_poll(self.bench.now);
        assert!(next.is_none_or(|at| at > self.bench.now), "it would spin");
    }

    fn answer(&mut self, (_, target, is_probe): (Instant, Target, bool)) {
        let (reachable, healthy) = self.truth[&target.address];
        let result = match (reachable, healthy) {
            (false, _) => Err(Failure::unreachable("refused")),
            (true, false) if is_probe => Err(Failure::answered("500")),
            (true, _) => Ok(()),
        };
        if is_probe {
            let effect = self
                .bench
                .state
                .probed(&target, result, self.bench.now, self.random.random());
            if let Some(Effect::End { address, why, .. }) = effect {
                assert_eq!((why, self.wish.service.on_down), (Why::BackendDown, OnDown::Close));
                self.picks.retain(|pick| pick.state().address != address);
            }
        } else {
            self.bench.state.tried(&target, result, self.bench.now);
        }
    }

    /// What holds after every step.
    fn check(&mut self) {
        let entry = self.bench.entry();
        let snapshot = entry.shared.live.load();
        let all: Vec<&Candidate> = snapshot.candidates().collect();
        let member = |address: SocketAddr| {
            entry
                .members
                .iter()
                .find(|it| it.address() == address)
                .expect("a candidate is a member")
        };
        for candidate in &all {
            let it = member(candidate.state.address);
            assert!(candidate.weight > 0 && it.spec.weight > 0, "weight 0 gets nothing");
            assert!(it.leaves_by.is_none() && it.duty == Duty::Ready && it.ejection.reason().is_none());
            assert!(it.has_been_up, "nothing before the first success");
            assert!(
                entry.is_panicking || *it.machine.health() == Health::Up,
                "only the healthy without panic"
            );
        }
        for it in &entry.members {
            let is_good = *it.machine.health() == Health::Up && it.ejection.reason().is_none();
            if is_good && it.is_wanted() {
                assert!(
                    all.iter().any(|candidate| Arc::ptr_eq(&candidate.state, &it.state)),
                    "a healthy one is missing"
                );
            }
            let held = self
                .picks
                .iter()
                .filter(|pick| Arc::ptr_eq(pick.state(), &it.state))
                .count();
            assert_eq!(it.state.active() as usize, held, "connections are counted");
            assert_eq!(
                it.leaves_by.is_some(),
                !self.wish.backends.iter().any(|(address, _)| *address == it.address())
            );
        }
        let addresses: Vec<SocketAddr> = all.iter().map(|it| it.state.address).collect();
        assert!(snapshot.version >= self.last.0);
        assert!(
            snapshot.version > self.last.0 || addresses == self.last.1,
            "a change has a new version"
        );
        self.last = (snapshot.version, addresses);
    }

    /// In the end everything works again, and everybody gets traffic.
    fn heal(&mut self) {
        self.truth.values_mut().for_each(|it| *it = (true, true));
        for index in 1..=9 {
            self.bench
                .state
                .set_duty("s", address(index), Duty::Ready, self.bench.now);
        }
        self.pass(HEALED);
        self.check();
        let entry = self.bench.entry();
        assert!(!entry.is_panicking);
        assert_eq!(entry.members.len(), self.wish.backends.len(), "who left is forgotten");
        let wanted = self.wish.backends.iter().filter(|(_, it)| it.weight > 0).count();
        assert_eq!(self.last.1.len(), wanted, "everybody is back");
    }
}

#[test]
fn whatever_happens_the_invariants_hold_and_all_heals() {
    for seed in 0..300 {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut world = World::new(seed);
            (0..200).for_each(|_| world.step());
            world.heal();
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("failed with seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_certificate_is_for_the_name_that_was_written_and_for_a_service_records_only_as_far_as_it_can_be_believed() {
    let named = |record: &str, target: Option<&str>, options: &[(&str, &str)]| {
        let mut spec = Backend::new(record.parse().expect("valid"));
        spec.host = target.map(Arc::from);
        let name = name_of(&spec, service(options).backend_tls.as_ref());
        name.map(|it| it.to_string())
    };
    let (public, ours) = (
        &[("backend-tls", "true")][..],
        &[("backend-tls", "true"), ("backend-ca", "ca.pem")][..],
    );

    assert_eq!(named("10.0.0.1:80", None, ours), None);
    assert_eq!(named("node.example:80", None, public).as_deref(), Some("node.example"));
    for (target, by_public, by_ours) in [
        ("node1.example.org", "node1.example.org", "node1.example.org"),
        ("example.org", "example.org", "example.org"),
        ("evil.test", "example.org", "evil.test"),
        ("badexample.org", "example.org", "badexample.org"),
    ] {
        let record = "srv:_openhim._tcp.Example.org";
        assert_eq!(named(record, Some(target), public).as_deref(), Some(by_public));
        assert_eq!(named(record, Some(target), ours).as_deref(), Some(by_ours));
    }
}
