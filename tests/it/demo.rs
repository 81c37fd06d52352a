//! `demo`: a stranger's first look. It has to work anywhere, and to leave nothing behind.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::eventually;
use crate::support::program::{Running, outcome, program};

/// A demo takes the usual ports if they are free: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The turn of a test, and a place for the demo's folder that the test can look into.
fn turn() -> (MutexGuard<'static, ()>, tempfile::TempDir) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    (turn, tempfile::tempdir().unwrap())
}

fn children(of: i32) -> Vec<Pid> {
    let path = format!("/proc/{of}/task/{of}/children");
    let list = std::fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|id| Pid::from_raw(id.parse().ok()?))
        .collect()
}

fn are_gone(processes: &[Pid]) -> Option<()> {
    processes.iter().all(|id| test_kill_process(*id).is_err()).then_some(())
}

fn left_in(folder: &tempfile::TempDir) -> Vec<PathBuf> {
    std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn one_round_is_delivered_and_recorded_and_nothing_is_left_behind() {
    let (_turn, place) = turn();
    let round = outcome(program(["demo", "--exit"]).env("TMPDIR", place.path()));

    assert_eq!(round.code, 0, "{}{}", round.stdout, round.stderr);
    assert!(round.stdout.contains("200 messages"), "{}", round.stdout);
    assert!(
        round.stdout.contains("200 transactions, one a message"),
        "{}",
        round.stdout
    );
    assert_eq!(left_in(&place), Vec::<PathBuf>::new());
}

#[test]
fn it_goes_on_with_a_node_killed_and_ends_on_request() {
    let (_turn, place) = turn();
    let mut demo = Running::start(program(["demo"]).env("TMPDIR", place.path()));
    demo.says("Look around");
    let all = children(demo.id());
    assert_eq!(all.len(), 3, "two nodes and a balancer");

    kill_process(all[0], Signal::KILL).unwrap();
    demo.says("node 1 (signal: 9 (SIGKILL)) has ended; the others go on");
    demo.signal(Signal::INT);

    assert_eq!(demo.exit().code(), Some(0), "{}", demo.stderr.all());
    eventually("every process is gone", || are_gone(&all));
    assert_eq!(left_in(&place), Vec::<PathBuf>::new());
}

#[test]
fn its_processes_do_not_outlive_it() {
    let (_turn, place) = turn();
    let mut demo = Running::start(program(["demo"]).env("TMPDIR", place.path()));
    demo.says("Look around");
    let all = children(demo.id());

    demo.signal(Signal::KILL);
    demo.exit();

    eventually("every process is gone", || are_gone(&all));
}
