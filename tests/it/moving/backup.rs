//! `backup` and `restore` beside a node at work.

use openhim_node::testing::backend;
use rustix::process::Signal;

use crate::support::backend::host;
use crate::support::node::node;
use crate::support::program::run;

const CLINIC: Option<(&str, &str)> = Some(("clinic", "secret"));

#[test]
fn a_node_that_lost_its_store_goes_on_with_the_backup_made_while_it_served() {
    let registry = host(backend());
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup.db").display().to_string();
    let builder = node();
    let store = builder.store_url();
    let mut node = builder.start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/patients", "clinics", &registry);
    node.send("/patients", CLINIC, "one").unwrap();
    let before = node.recorded(1);

    let made = run(["backup", &backup, "--store", &store]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(made.stdout.contains("every page was checked"), "{}", made.stdout);
    assert!(made.stderr.contains("copying:"), "{}", made.stderr);
    let again = run(["backup", &backup, "--store", &store]);
    assert_eq!(again.code, 64);
    assert!(again.stderr.contains("--force"), "{}", again.stderr);
    assert_eq!(run(["backup", &backup, "--store", &store, "--force"]).code, 0);

    let refused = run(["restore", &backup, "--store", &store, "--force"]);
    assert_eq!(refused.code, 64);
    assert!(
        refused.stderr.contains("is in use: stop the node"),
        "{}",
        refused.stderr
    );
    node.send("/patients", CLINIC, "two").unwrap();
    node.recorded(2);
    node.running.signal(Signal::TERM);
    assert_eq!(node.running.exit().code(), Some(0));
    assert_eq!(run(["restore", &backup, "--store", &store]).code, 64);

    let restored = run(["restore", &backup, "--store", &store, "--force"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    node.start_again();
    assert_eq!(node.recorded(1), before);
    assert_eq!(node.send("/patients", CLINIC, "three").unwrap().status, 200);
}

#[test]
fn a_store_that_is_no_file_is_left_to_its_own_tools() {
    let refused = run(["backup", "x.db", "--store", "mongodb://him:s3cret@localhost/openhim"]);
    assert_eq!(refused.code, 64);
    assert!(
        refused.stderr.contains("mongodb://localhost/openhim"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("mongodump"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("s3cret"));
}
