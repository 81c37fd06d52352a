//! Mediators written with the library that nearly all of them use, in its old and its new form.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::eventually;
use crate::support::node::{ROOT, node};
use crate::support::parts;
use crate::support::program::Running;

fn library(version: &str) -> Option<PathBuf> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.parts/npm/node_modules");
    let library = modules.join(format!("mediator-utils-{version}"));
    if !library.is_dir() {
        parts::skip("mediator libraries (run tests/parts/install)");
        return None;
    }
    Some(library)
}

fn mediator(library: &Path, api: std::net::SocketAddr, login: (&str, &str)) -> Command {
    let mut command = Command::new("node");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients/mediator.js"))
        .arg(library)
        .arg(format!("https://{api}"))
        .args([login.0, login.1])
        .env("NODE_NO_WARNINGS", "1");
    command
}

fn registers_beats_and_hears_of_new_settings(version: &str) {
    let Some(library) = library(version) else { return };
    let node = node().start();
    let mut mediator = Running::start(&mut mediator(&library, node.api(), ROOT));

    mediator.says("registered");
    assert_eq!(mediator.says("fetched"), "fetched {\"limit\":1}");
    let path = "/mediators/urn:mediator:real-client";
    let shown = |path: &str| serde_json::from_str::<Value>(&node.ask("GET", path, "").body).unwrap();
    eventually("a sign of life is stored", || {
        shown(path)["_uptime"].as_f64().filter(|uptime| *uptime > 0.0)
    });
    assert_eq!(shown(path)["version"], "1.0.0");

    let set = node.ask("PUT", &format!("{path}/config"), "{\"limit\":7}");
    assert_eq!(set.status, 200, "{}", set.body);
    assert_eq!(mediator.says("config"), "config {\"limit\":7}");

    let made = node.ask("POST", &format!("{path}/channels"), "[\"Real client\"]");
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(shown("/channels")[0]["name"], "Real client");
}

#[test]
fn a_mediator_with_the_old_library_and_its_tokens_works_unchanged() {
    registers_beats_and_hears_of_new_settings("0.2");
}

#[test]
fn a_mediator_with_the_new_library_works_unchanged() {
    registers_beats_and_hears_of_new_settings("0.4");
}

#[test]
fn a_mediator_with_a_wrong_password_is_told_so() {
    for version in ["0.2", "0.4"] {
        let Some(library) = library(version) else { return };
        let node = node().start();
        let mut mediator = Running::start(&mut mediator(&library, node.api(), (ROOT.0, "wrong")));
        assert_eq!(mediator.exit().code(), Some(1));
        assert!(mediator.stdout.all().starts_with("error"), "{}", mediator.stdout.all());
    }
}
