//! A public fuzzer of APIs, which reads the API's own description and tries what it says and what it does not say.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::node::{ROOT, node};
use crate::support::parts;

/// Longest run of the fuzzer.
const PATIENCE: Duration = Duration::from_secs(180);

fn fuzzer() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.parts/venv/bin/schemathesis");
    if !program.is_file() {
        parts::skip("schemathesis (run tests/parts/install)");
        return None;
    }
    Some(program)
}

/// Every answer that says the node is at fault would be a failure, also to input that breaks the description. Without
/// `Prefer: handling=strict` some of the caller's mistakes are 500, because clients of OpenHIM know them so.
#[test]
fn a_fuzzer_finds_no_500() {
    let Some(fuzzer) = fuzzer() else { return };
    let mut node = node()
        .set("api.protocol", "http")
        .set("api.secureCookie", "false")
        .start();
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.txt");
    let mut run = Command::new(fuzzer)
        .current_dir(folder.path())
        .arg("run")
        .arg(format!("http://{}/openapi.json", node.api()))
        .args(["--auth", &format!("{}:{}", ROOT.0, ROOT.1)])
        .args(["--header", "Prefer: handling=strict"])
        .args(["--checks", "not_a_server_error"])
        .args(["--phases", "examples,coverage,fuzzing"])
        // Several workers at once would now and then meet an error of Python's own parser, not one of the API.
        .args(["--max-examples", "15", "--max-time", "75", "--workers", "1"])
        .args([
            "--continue-on-failure",
            "--no-shrink",
            "--no-color",
            "--warnings",
            "off",
        ])
        .args(["--generation-database", "none", "--request-timeout", "10"])
        .stdout(std::fs::File::create(&report).unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = run.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            let _ = run.kill();
            panic!("the fuzzer took longer than {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let said = std::fs::read_to_string(report).unwrap();

    assert!(status.success(), "{said}");
    let cases = said.lines().find(|line| line.contains(" generated, "));
    let cases: u32 = cases
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("how much was tried? {said}"));
    assert!(cases > 1000, "only {cases} cases: {said}");
    assert_eq!(node.running.ended(), None, "the node has ended");
    let complaints = node.running.stderr.all();
    assert!(!complaints.contains("panicked"), "{complaints}");
}
