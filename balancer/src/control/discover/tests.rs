//! The machine by itself, over any course of answers; then real questions to a scripted name server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::lookup::NameServers;
use super::*;
use crate::testing::name_server::{Data, Kind, NameServer, Reply};

const HOLD: Duration = Duration::from_secs(300);

fn endpoint() -> Endpoint {
    "node.example:80".parse().expect("valid")
}

fn address(index: u8) -> Target {
    Target::new(SocketAddr::from(([10, 0, 0, index], 80)))
}

fn good(indexes: &[u8], seconds: u64) -> Outcome {
    Ok(Answer {
        targets: indexes.iter().map(|it| address(*it)).collect(),
        time_to_live: Duration::from_secs(seconds),
        missing: Missing::Nothing,
    })
}

fn failed() -> Outcome {
    Err(LookupError::Failed("Server Failure".into()))
}

/// One watched name.
struct Bench {
    names: Names,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let (mut names, now) = (Names::new(HOLD), Instant::now());
        names.watch([endpoint()], &HashMap::new(), now);
        Self { names, now }
    }

    /// Lets time pass until something is due.
    fn wait(&mut self) -> (Duration, Vec<Due>) {
        let next = self.names.next_poll().expect("something will be due");
        let waited = next.saturating_duration_since(self.now);
        self.now += waited;
        (waited, self.names.poll(self.now))
    }

    fn answered(&mut self, outcome: Outcome) -> Option<Vec<Target>> {
        self.names.answered(&endpoint(), outcome, self.now)
    }
}

#[test]
fn a_new_name_is_asked_for_at_once_and_then_by_its_time_to_live() {
    let mut bench = Bench::new();
    assert_eq!(bench.wait(), (Duration::ZERO, vec![Due::Ask(endpoint())]));
    for (seconds, pause) in [
        (0, FLOOR),
        (1, Duration::from_secs(1)),
        (30, Duration::from_secs(30)),
        (86400, CEILING),
    ] {
        bench.answered(good(&[1], seconds));
        assert_eq!(bench.wait(), (pause, vec![Due::Ask(endpoint())]), "{seconds}");
    }
}

#[test]
fn a_failure_keeps_what_was_known_and_is_tried_again_soon_then_less_often() {
    let mut bench = Bench::new();
    bench.wait();
    assert_eq!(bench.answered(good(&[1, 2], 60)), Some(vec![address(1), address(2)]));
    bench.wait();
    let mut pauses = Vec::new();
    for error in [
        LookupError::NoSuchName,
        LookupError::Empty("no address"),
        LookupError::Silent,
        LookupError::Failed("Refused".into()),
        LookupError::Silent,
        LookupError::Silent,
    ] {
        assert_eq!(bench.answered(Err(error)), None);
        pauses.push(bench.wait().0.as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
    assert_eq!(bench.answered(good(&[1, 2], 60)), None, "nothing has changed");
    assert_eq!(
        bench
            .names
            .standing(&endpoint())
            .map(|it| (it.good, it.failed, it.why.clone())),
        Some((2, 6, None))
    );
}

#[test]
fn what_was_known_is_given_up_when_the_hold_is_over_and_not_before() {
    let mut bench = Bench::new();
    bench.wait();
    bench.answered(good(&[1], 60));
    let confirmed = bench.now;
    loop {
        let (_, due) = bench.wait();
        if due.contains(&Due::Expired(endpoint())) {
            break;
        }
        bench.answered(failed());
    }
    assert_eq!(bench.now - confirmed, HOLD);
    // It is asked for all the same, and comes back.
    bench.answered(failed());
    while bench.wait().1.is_empty() {}
    assert_eq!(bench.answered(good(&[1], 60)), Some(vec![address(1)]));
}

#[test]
fn a_family_that_could_not_be_asked_for_keeps_its_addresses() {
    let v6 = Target::new(SocketAddr::from((Ipv6Addr::LOCALHOST, 80)));
    let mut bench = Bench::new();
    bench.wait();
    let mut both = good(&[1], 1).expect("good");
    both.targets.push(v6.clone());
    bench.answered(Ok(both));
    bench.wait();
    let mut half = good(&[2], 1).expect("good");
    half.missing = Missing::V6;

    assert_eq!(bench.answered(Ok(half)), Some(vec![address(2), v6]));

    bench.wait();
    assert_eq!(
        bench.answered(good(&[2], 1)),
        Some(vec![address(2)]),
        "now it is known to be gone"
    );
}

#[test]
fn names_that_count_no_more_are_forgotten_and_late_answers_ignored() {
    let mut bench = Bench::new();
    bench.wait();
    bench.names.watch([], &HashMap::new(), bench.now);

    assert_eq!(bench.answered(good(&[1], 1)), None);
    assert_eq!(bench.names.next_poll(), None);
}

#[test]
fn what_a_reload_found_is_what_later_answers_are_compared_with() {
    let mut bench = Bench::new();
    bench.wait();
    bench.answered(good(&[2], 1));
    let known = HashMap::from([(endpoint(), vec![address(1)])]);
    bench.names.watch([endpoint()], &known, bench.now);
    bench.wait();

    assert_eq!(bench.answered(good(&[2], 1)), Some(vec![address(2)]));
}

#[test]
fn a_service_record_gives_share_and_tier_to_what_was_written() {
    let mut written = Backend::new(endpoint());
    let target = Target {
        weight: Some(20),
        backup: true,
        ..address(1)
    };
    let made = target.backend(&written);
    assert_eq!((made.weight, made.backup), (20, true));
    written.weight = 0;
    assert_eq!(target.backend(&written).weight, 0, "an operator said nobody");
}

#[derive(Clone, Debug)]
enum Event {
    Answer(Vec<u8>, u64),
    Failure,
    Time(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (proptest::collection::vec(1..6_u8, 1..4), 0..200_u64).prop_map(|(mut list, seconds)| {
            list.sort_unstable();
            list.dedup();
            Event::Answer(list, seconds)
        }),
        Just(Event::Failure),
        Just(Event::Failure),
        (1..90_000_u64).prop_map(Event::Time),
    ]
}

proptest! {
    #[test]
    fn over_any_course_of_answers_the_last_good_one_holds_for_its_time_and_no_question_is_doubled(
        events in proptest::collection::vec(event(), 1..200)
    ) {
        let mut bench = Bench::new();
        let (mut stands_for, mut confirmed) = (Vec::new(), bench.now);
        let (mut is_asked, mut good_until) = (false, None::<Instant>);
        for event in events {
            match event {
                Event::Time(millis) => bench.now += Duration::from_millis(millis),
                Event::Answer(list, seconds) if is_asked => {
                    is_asked = false;
                    let expected: Vec<Target> = list.iter().map(|it| address(*it)).collect();
                    let changed = bench.answered(good(&list, seconds));
                    prop_assert_eq!(changed.is_some(), expected != stands_for);
                    (stands_for, confirmed) = (expected, bench.now);
                    good_until = Some(bench.now + Duration::from_secs(seconds).clamp(FLOOR, CEILING));
                }
                Event::Failure if is_asked => {
                    is_asked = false;
                    prop_assert_eq!(bench.answered(failed()), None);
                    good_until = None;
                }
                Event::Answer(..) | Event::Failure => {}
            }
            for due in bench.names.poll(bench.now) {
                match due {
                    Due::Ask(_) => {
                        prop_assert!(!is_asked, "asked twice");
                        prop_assert!(good_until.is_none_or(|it| it <= bench.now), "asked too early");
                        is_asked = true;
                    }
                    Due::Expired(_) => {
                        prop_assert!(bench.now >= confirmed + HOLD && good_until.is_none());
                        stands_for.clear();
                    }
                }
            }
            if good_until.is_some_and(|it| it <= bench.now) {
                prop_assert!(is_asked, "a name is asked for when its time to live is over");
            }
            let is_in_doubt = bench.names.standing(&endpoint()).is_some_and(|it| it.why.is_some());
            if is_in_doubt && bench.now >= confirmed + HOLD {
                prop_assert!(stands_for.is_empty(), "given up in time");
            }
        }
    }
}

/// A name server and someone who asks it.
async fn asked(script: impl FnOnce(&NameServer), name: &str) -> (Outcome, NameServer) {
    let server = NameServer::start().await.expect("a free port");
    script(&server);
    let resolver = NameServers::new(vec![server.address]);
    let outcome = resolver.ask(&name.parse().expect("valid")).await;
    (outcome, server)
}

fn ip(index: u8) -> IpAddr {
    IpAddr::from(Ipv4Addr::new(10, 0, 0, index))
}

#[tokio::test]
async fn a_name_stands_for_all_its_addresses_of_both_families() {
    let (outcome, _) = asked(
        |server| {
            server.set_addresses("node.example", 7, &[ip(2), ip(1)]);
            let v6 = Data::Address(IpAddr::from(Ipv6Addr::LOCALHOST));
            server.set("node.example", Kind::Aaaa, Reply::Records(5, vec![v6]));
        },
        "node.example:5000",
    )
    .await;

    let answer = outcome.expect("an answer");
    let shown: Vec<String> = answer.targets.iter().map(|it| it.address.to_string()).collect();
    assert_eq!(shown, ["10.0.0.1:5000", "10.0.0.2:5000", "[::1]:5000"]);
    assert_eq!(
        (answer.time_to_live, answer.missing),
        (Duration::from_secs(5), Missing::Nothing)
    );
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let whole = Reply::Records(60, vec![Data::Address(ip(1))]);
    let (outcome, server) = asked(
        |server| server.set("node.example", Kind::A, Reply::Truncated(Box::new(whole))),
        "node.example:80",
    )
    .await;

    assert_eq!(outcome.expect("an answer").targets, [address(1)]);
    assert!(server.asked_by_tcp() > 0);
}

#[tokio::test]
async fn many_records_all_arrive() {
    let many: Vec<IpAddr> = (0..800_u32)
        .map(|index| IpAddr::from(Ipv4Addr::from(0x0A00_0000 + index)))
        .collect();
    let (outcome, _) = asked(
        |server| server.set_addresses("node.example", 60, &many),
        "node.example:80",
    )
    .await;

    assert_eq!(outcome.expect("an answer").targets.len(), 800);
}

#[tokio::test]
async fn a_service_record_gives_ports_tiers_and_shares() {
    let (outcome, _) = asked(
        |server| {
            let record = |priority, weight, port, target: &str| Data::Service(priority, weight, port, target.into());
            let records = vec![
                record(10, 60, 5000, "one.example"),
                record(10, 0, 5001, "two.example"),
                record(20, 5, 5000, "three.example"),
                record(20, 5, 0, "nowhere.example"),
            ];
            server.set("_openhim._tcp.example", Kind::Srv, Reply::Records(9, records));
            server.set_addresses("one.example", 3, &[ip(1)]);
            server.set_addresses("two.example", 60, &[ip(2)]);
            server.set_addresses("three.example", 60, &[ip(3), ip(1)]);
        },
        "srv:_openhim._tcp.example",
    )
    .await;

    let answer = outcome.expect("an answer");
    let shown: Vec<_> = answer
        .targets
        .iter()
        .map(|it| (it.address.to_string(), it.backup, it.weight))
        .collect();
    let expected = [
        ("10.0.0.1:5000".to_owned(), false, Some(60)),
        ("10.0.0.2:5001".to_owned(), false, Some(1)),
        ("10.0.0.3:5000".to_owned(), true, Some(5)),
    ];
    assert_eq!(shown, expected);
    assert_eq!(answer.time_to_live, Duration::from_secs(3));
}

#[tokio::test]
async fn what_goes_wrong_has_a_name() {
    for (reply, expected) in [
        (Reply::Code(3), LookupError::NoSuchName),
        (Reply::Records(60, Vec::new()), LookupError::Empty("no address")),
    ] {
        let (outcome, _) = asked(|server| server.set("node.example", Kind::A, reply), "node.example:80").await;
        assert_eq!(outcome, Err(expected));
    }
    for reply in [Reply::Code(2), Reply::Code(5), Reply::Garbage] {
        let shown = format!("{reply:?}");
        let (outcome, _) = asked(|server| server.set("node.example", Kind::A, reply), "node.example:80").await;
        let error = outcome.expect_err("no answer");
        assert!(!error.is_denial(), "{shown}: {error}");
    }
}

#[tokio::test]
async fn a_silent_name_server_is_waited_for_for_a_limited_time() {
    let begun = Instant::now();
    let (outcome, _) = asked(
        |server| server.set("node.example", Kind::A, Reply::Silence),
        "node.example:80",
    )
    .await;

    assert_eq!(outcome, Err(LookupError::Silent));
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_family_that_fails_does_not_hide_the_other() {
    let (outcome, _) = asked(
        |server| {
            server.set_addresses("node.example", 60, &[ip(1)]);
            server.set("node.example", Kind::Aaaa, Reply::Code(2));
        },
        "node.example:80",
    )
    .await;

    let answer = outcome.expect("an answer");
    assert_eq!((answer.targets, answer.missing), (vec![address(1)], Missing::V6));
}

#[tokio::test]
async fn names_of_the_hosts_file_need_no_name_server() {
    let resolver = NameServers::new(vec![SocketAddr::from(([127, 0, 0, 1], 1))]);

    let answer = resolver
        .ask(&"localhost:80".parse().expect("valid"))
        .await
        .expect("an answer");

    assert!(
        answer
            .targets
            .contains(&Target::new(SocketAddr::from(([127, 0, 0, 1], 80))))
    );
}
