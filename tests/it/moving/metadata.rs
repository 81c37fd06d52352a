//! `export` and `import` between two installations.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::node::node;
use crate::support::program::{Outcome, run};

fn import(file: &Path, store: &str, more: &[&str]) -> Outcome {
    let file = file.display().to_string();
    let mut arguments = vec!["import", &file, "--store", store];
    arguments.extend(more);
    run(arguments)
}

fn exported(store: &str) -> Value {
    let exported = run(["export", "--store", store]);
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    serde_json::from_str(&exported.stdout).unwrap()
}

#[test]
fn an_installation_is_carried_to_a_running_node_and_a_second_time_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export.json");
    let (first, second) = (node(), node().set("caching.refreshMillis", "200"));
    let (from, to) = (first.store_url(), second.store_url());
    let first = first.start();
    first.create_client("clinic", "secret", "clinics");
    let channel = json!({"name": "Patients", "urlPattern": "^/patients$", "methods": ["GET", "POST"], "allow": ["clinics"],
        "routes": [{"name": "Registry", "host": "localhost", "port": 9, "primary": true}]});
    assert_eq!(first.ask("POST", "/channels", &channel.to_string()).status, 201);
    let mediator = json!({"urn": "urn:mediator:lab", "version": "1.0.0", "name": "Lab",
        "endpoints": [{"name": "Lab", "host": "localhost", "port": 9}],
        "configDefs": [{"param": "login", "displayName": "Login", "type": "password"}], "config": {"login": "s3cret"}});
    assert_eq!(first.ask("POST", "/mediators", &mediator.to_string()).status, 201);
    let api: Value = serde_json::from_str(&first.ask("GET", "/metadata", "").body).unwrap();
    let second = second.start();

    let written = run(["export", &file.display().to_string(), "--store", &from]);
    assert_eq!(written.code, 0, "{}", written.stderr);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), api);

    let looked = import(&file, &to, &["--dry-run"]);
    assert_eq!(looked.code, 0, "{}{}", looked.stdout, looked.stderr);
    assert!(looked.stdout.contains("+  \"name\": \"Patients\""), "{}", looked.stdout);
    assert!(looked.stdout.contains("3 would be added"), "{}", looked.stdout);
    assert!(looked.stdout.contains("\"login\": \"(secret "), "{}", looked.stdout);
    for secret in ["PRIVATE KEY", "s3cret"] {
        assert!(!looked.stdout.contains(secret), "{}", looked.stdout);
    }
    assert_eq!(exported(&to)[0]["Channels"], json!([]));

    let done = import(&file, &to, &[]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("3 added"), "{}", done.stdout);
    let again = import(&file, &to, &[]);
    assert!(again.stdout.starts_with("0 added, 0 changed"), "{}", again.stdout);
    eventually("the running node has the channel", || {
        (second.send("/patients", Some(("clinic", "secret")), "").ok()?.status != 404).then_some(())
    });
}

#[test]
fn what_cannot_be_imported_is_named_and_the_rest_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export.json");
    let builder = node();
    let store = builder.store_url();
    let _node = builder.start();
    let documents =
        json!({"Clients": [{"clientID": "good", "name": "Good", "roles": ["a"]}, {"clientID": "bad"}], "Bogus": [{}]});
    std::fs::write(&file, documents.to_string()).unwrap();

    let done = import(&file, &store, &[]);

    assert_eq!(done.code, 1, "{}", done.stdout);
    assert!(
        done.stderr.contains("Clients \"bad\" cannot be imported"),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr.contains("Bogus cannot be imported: there is no such kind"),
        "{}",
        done.stderr
    );
    assert_eq!(exported(&store)[0]["Clients"][0]["clientID"], "good");

    std::fs::write(&file, "[1, 2]").unwrap();
    let refused = import(&file, &store, &[]);
    assert_eq!(refused.code, 64);
    assert!(refused.stderr.contains("is no export"), "{}", refused.stderr);
}
