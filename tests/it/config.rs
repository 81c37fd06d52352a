//! Settings as an operator meets them: files, environment, `check-config`, and a start that is refused.

use std::fs;
use std::path::PathBuf;

use crate::support::program::{Outcome, outcome, program, run};

/// A settings file in a folder of its own.
struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(name: &str, text: &str) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    File { _folder: folder, path }
}

impl File {
    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn checked(&self, program: &str) -> Outcome {
        run(["check-config", program, self.name()])
    }
}

/// Value and origin of a key in the table that `check-config` prints.
fn row<'a>(table: &'a str, key: &str) -> (&'a str, &'a str) {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(key));
    let rest = line.unwrap_or_else(|| panic!("no {key} in\n{table}"))[key.len()..].trim_start();
    let (value, origin) = rest.split_once("  ").unwrap();
    (value.trim(), origin.trim())
}

#[test]
fn openhims_own_file_is_accepted_as_it_is() {
    let openhims = file("default.json", include_str!("../../config/default.json"));
    let checked = openhims.checked("node");
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    assert!(!checked.stdout.contains("warning"), "{}", checked.stdout);
}

#[test]
fn effective_values_are_printed_with_their_origins() {
    let settings = file(
        "openhim.yaml",
        "router:\n  httpPort: 6001\napi:\n  sessionKey: hunter2\n",
    );
    let mut command = program(["check-config", "node", settings.name()]);
    let checked = outcome(command.env("router_httpsPort", "6000").env("NODE_ENV", "production"));

    assert_eq!(checked.code, 0, "{}", checked.stderr);
    assert_eq!(
        row(&checked.stdout, "router.httpPort"),
        ("6001", format!("{}:2:13", settings.name()).as_str())
    );
    assert_eq!(
        row(&checked.stdout, "router.httpsPort"),
        ("6000", "environment router_httpsPort")
    );
    assert_eq!(
        row(&checked.stdout, "logger.level"),
        ("\"warn\"", "default of NODE_ENV=production")
    );
    assert_eq!(row(&checked.stdout, "rerun.httpPort"), ("7786", "default"));
    assert!(!checked.stdout.contains("hunter2"), "a secret was printed");
}

#[test]
fn every_problem_of_a_file_is_printed_with_its_place_and_the_code_is_one() {
    let settings = file(
        "openhim.json",
        "{\n  \"router\": {\"httpPort\": \"x\"},\n  \"rutor\": 1,\n  \"api\": {\"port\": -1}\n}",
    );
    let checked = settings.checked("node");

    assert_eq!(checked.code, 1);
    for told in [
        ":2:26: `router.httpPort` (environment `router_httpPort`)",
        ":4:19: `api.port`",
        "2 problems",
    ] {
        assert!(checked.stderr.contains(told), "no {told} in\n{}", checked.stderr);
    }
    assert!(
        checked.stderr.contains("warning") && checked.stderr.contains("did you mean `router`?"),
        "{}",
        checked.stderr
    );
}

#[test]
fn a_balancers_file_is_checked_too() {
    let good = file(
        "balancer.yaml",
        "services:\n  - name: https\n    listen: 0.0.0.0:5000\n    backends: [10.0.0.2:5000]\n",
    );
    let checked = good.checked("balancer");
    assert_eq!((checked.code, checked.stderr.as_str()), (0, ""));
    assert!(
        checked
            .stdout
            .contains("https: listens on 0.0.0.0:5000, sends to 10.0.0.2:5000"),
        "{}",
        checked.stdout
    );

    let bad = file(
        "balancer.yaml",
        "services:\n  - listen: nowhere\n    backends: [10.0.0.2]\n",
    );
    let checked = bad.checked("balancer");
    assert_eq!(checked.code, 1);
    assert!(
        checked.stderr.contains(":2:13: ") && checked.stderr.contains(":3:16: "),
        "{}",
        checked.stderr
    );
}

#[test]
fn a_start_with_bad_settings_is_refused_whole() {
    let broken = file("openhim.json", "{\"router\": {\"httpPort\": 5001,}}");
    let folder = tempfile::tempdir().unwrap();
    for (arguments, told) in [
        (
            vec!["node", "--conf", broken.name()],
            "openhim.json:1:30: not valid JSON: trailing comma",
        ),
        (
            vec!["node", "--conf", "/nowhere/openhim.json"],
            "/nowhere/openhim.json: cannot read the settings file",
        ),
        (
            vec!["--set", "store.url=redis://x"],
            "flag --set store.url: `store.url`",
        ),
        (vec!["--store:url=redis://x"], "flag --set store.url: `store.url`"),
        (
            vec!["node", "--set", "router.httpPort=8080"],
            "port 8080 is already taken by `api.port`",
        ),
    ] {
        let refused = outcome(program(&arguments).current_dir(&folder));
        assert_eq!(refused.code, 64, "{arguments:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(told), "{arguments:?}: {}", refused.stderr);
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "something was written");
}

#[test]
fn a_wrong_variable_is_named_as_it_was_written() {
    let refused = outcome(program(["node"]).env("api_port", "eighty").env("cluster", "0"));
    assert_eq!(refused.code, 64);
    for told in [
        "environment api_port: `api.port` (environment `api_port`): expected a port from 0 to 65535, found \"eighty\"",
        "environment cluster: invalid --cluster argument entered: 0.",
    ] {
        assert!(refused.stderr.contains(told), "no {told} in\n{}", refused.stderr);
    }
}

#[test]
fn a_balancer_with_a_bad_file_is_refused_whole() {
    let bad = file("balancer.yaml", "listen: 127.0.0.1:0\nbackends: [10.0.0.2]\n");
    let refused = run(["balancer", "--config", bad.name()]);
    assert_eq!(refused.code, 64, "{}", refused.stderr);
    assert!(refused.stderr.contains("balancer.yaml:2:12: "), "{}", refused.stderr);

    let missing = run(["balancer", "--config", "/nowhere/balancer.yaml"]);
    assert_eq!(missing.code, 64, "{}", missing.stderr);
    assert!(missing.stderr.contains("/nowhere/balancer.yaml"), "{}", missing.stderr);
}
