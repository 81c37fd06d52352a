//! The copy of the log in the store, as the console sees it.

use serde_json::Value;

use crate::support::eventually;
use crate::support::node::node;

#[test]
fn what_a_node_says_is_there_for_the_console() {
    let node = node().start();

    let entry = eventually("the start is in the log", || {
        let answer = node.ask("GET", "/logs?level=info", "");
        assert_eq!(answer.status, 200, "{}", answer.body);
        let entries: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
        let started = |entry: &Value| entry["message"].as_str().unwrap().starts_with("OpenHIM server started");
        entries.into_iter().find(started)
    });

    assert_eq!((&entry["level"], &entry["label"]), (&"info".into(), &"master".into()));
    assert!(entry["timestamp"].is_string(), "{entry}");
    assert_eq!(entry.get("_id"), None);
}

#[test]
fn nothing_is_kept_where_the_settings_say_so() {
    let node = node().set("logger.logToDB", "false").start();
    assert_eq!(node.ask("GET", "/logs", "").status, 500);
}
