//! CPU per transaction of a node beside nginx as a plain reverse proxy, in one run: `cargo bench --bench node`.
//!
//! One instance, pinned to a processor of its own; backend and load share the other. All candidates of a case take turns
//! within each round; shown is the median of the rounds. The node identifies the client, finds the channel and records
//! every transaction; nginx does nothing of the kind, so the figure says what the whole of the mediator costs in units
//! of the plainest proxy. `cargo bench --bench node -- --help` lists the cases.
//! MongoDB takes part where `tests/.parts/mongod` or `OPENHIM_TEST_MONGOD` names a server.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot set up its parts has nothing to say; its table is its output"
)]

#[path = "../../tests/it/support/plain_http.rs"]
#[expect(dead_code, reason = "the benchmark needs only a part of what the tests need")]
mod plain_http;
#[path = "../support.rs"]
mod support;

mod backend;
mod case;
mod load;
mod proxies;

use std::path::PathBuf;
use std::time::Duration;

use case::Case;
use load::Round;
use proxies::Candidate;
use support::Process;

/// The processors of load and backend, and of who is measured.
const LOAD_CPU: usize = 0;
const PROXY_CPU: usize = 1;

const HELP: &str = "\
cargo bench --bench node -- [options]

  --case LIST      cases to measure, comma separated; all of them if not said
  --only TEXT      candidates whose name contains this, beside nginx
  --rounds N       rounds a case, besides one that warms up (5)
  --requests N     requests a round, instead of each case's own number
  --binary PATH    the program to measure, instead of the one just built
  --profile        after each case, the functions in which the first node spends its time (needs `perf`)
  --help           this

cases
";

/// What can be said on the command line.
struct Options {
    cases: Vec<&'static Case>,
    only: String,
    rounds: usize,
    requests: Option<usize>,
    binary: PathBuf,
    profile: bool,
}

fn main() {
    let Some(options) = options() else {
        print!("{HELP}");
        for case in case::ALL {
            println!("  {:<12} {}", case.name, case.title);
        }
        return;
    };
    support::pin(0, LOAD_CPU);
    for case in &options.cases {
        measure(case, &options);
    }
}

/// `None`: help was asked for.
fn options() -> Option<Options> {
    let mut options = Options {
        cases: case::ALL.iter().collect(),
        only: String::new(),
        rounds: 5,
        requests: None,
        binary: env!("CARGO_BIN_EXE_openhim-core").into(),
        profile: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--case" => options.cases = value().split(',').map(case::named).collect(),
            "--only" => options.only = value(),
            "--rounds" => options.rounds = value().parse().expect("a number of rounds"),
            "--requests" => options.requests = Some(value().parse().expect("a number of requests")),
            "--binary" => options.binary = value().into(),
            "--profile" => options.profile = true,
            "--help" | "-h" => return None,
            // What cargo says of itself.
            "--bench" => {}
            other => panic!("{other} is no option; see --help"),
        }
    }
    Some(options)
}

fn measure(case: &Case, options: &Options) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let backend = backend::start(case.answer());
    let mut candidates = proxies::start(case, &options.only, &options.binary, folder.path(), backend);
    let total = options.requests.unwrap_or(case.requests);
    for round in 0..=options.rounds {
        let count = candidates.len();
        for turn in 0..count {
            // Whoever comes first in one round comes last in the next.
            let candidate = &mut candidates[(turn + round) % count];
            let result = load::run(candidate, case, total);
            // The first round warms caches and connections.
            if round > 0 {
                candidate.rounds.push(result);
            }
        }
    }
    print_table(case, total, options.rounds, &candidates);
    if let (true, Some(node)) = (options.profile, candidates.get(1)) {
        print_profile(node, case, total);
    }
}

fn print_table(case: &Case, total: usize, rounds: usize, candidates: &[Candidate]) {
    let cpu = |candidate: &Candidate| median(candidate, |round| round.cpu.as_secs_f64());
    let nginx = cpu(&candidates[0]);
    println!("\n{}: {}", case.name, case.title);
    println!(
        "{total} requests a round over {} connections, median of {rounds} rounds, interleaved",
        case.connections
    );
    println!(
        "{:<28} {:>12} {:>9} {:>12} {:>9}",
        "", "CPU/request", "x nginx", "requests/s", "RSS"
    );
    for candidate in candidates {
        println!(
            "{:<28} {:>9.1} µs {:>9.2} {:>12.0} {:>5.1} MiB",
            candidate.name,
            cpu(candidate) * 1e6,
            cpu(candidate) / nginx,
            median(candidate, |round| round.rate),
            median(candidate, |round| round.rss_kib as f64) / 1024.0,
        );
    }
    if case.name == "channels"
        && let [_, few, others @ ..] = candidates
    {
        for many in others {
            println!("{} / {}: {:.2}", many.name, few.name, cpu(many) / cpu(few));
        }
    }
}

fn median(candidate: &Candidate, figure: impl Fn(&Round) -> f64) -> f64 {
    let mut sorted: Vec<f64> = candidate.rounds.iter().map(figure).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs one more round of the case while `perf` looks on.
fn print_profile(candidate: &Candidate, case: &Case, total: usize) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut record = std::process::Command::new("perf");
    record
        .args([
            "record",
            "-F",
            "1999",
            "-g",
            "-p",
            &candidate.process.id().to_string(),
            "-o",
        ])
        .arg(file.path());
    let recorder = Process::start(record, LOAD_CPU);
    std::thread::sleep(Duration::from_millis(500));
    load::run(candidate, case, total);
    recorder.interrupt();
    let report = std::process::Command::new("perf")
        .args([
            "report",
            "--stdio",
            "--no-children",
            "-g",
            "none",
            "--percent-limit",
            "0.7",
            "-i",
        ])
        .arg(file.path())
        .output()
        .expect("perf is installed");
    println!("where {} spends its time", candidate.name);
    for line in String::from_utf8_lossy(&report.stdout).lines() {
        if !line.starts_with('#') && !line.trim().is_empty() {
            println!("{line}");
        }
    }
}
