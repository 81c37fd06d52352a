//! A message on its whole way: in through the router, out to a backend, and into the record, on both stores.

use openhim_node::testing::backend;
use openhim_node::testing::mongod::Mongod;
use serde_json::json;

use crate::support::backend::host;
use crate::support::node::{Builder, node};
use crate::support::plain_http::{self, Tls};

/// The client that tests create.
const CLINIC: Option<(&str, &str)> = Some(("clinic", "secret"));

fn carries_and_records(builder: Builder) {
    let registry = host(backend().answers(201, "{\"number\":1}").header("x-registry", "one"));
    let mut node = builder.start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/patients", "clinics", &registry);

    let message = json!({ "name": "Amina" });
    let answer = node.send("/patients?urgent=1", CLINIC, &message.to_string()).unwrap();

    assert_eq!((answer.status, answer.body.as_str()), (201, "{\"number\":1}"));
    assert!(
        answer.head.to_lowercase().contains("x-registry: one"),
        "{}",
        answer.head
    );
    let received = registry.only();
    assert_eq!(
        (received.method.as_str(), received.target.as_str()),
        ("POST", "/patients?urgent=1")
    );
    assert_eq!(received.body, message.to_string().as_bytes());
    assert_eq!(
        received.header("authorization"),
        None,
        "the client's password went to the backend"
    );

    let check = |transaction: &serde_json::Value| {
        assert_eq!(transaction["status"], "Successful");
        assert_eq!(transaction["request"]["path"], "/patients");
        assert_eq!(transaction["request"]["body"], message.to_string());
        assert_eq!(transaction["clientIP"], "127.0.0.1");
        assert_eq!(transaction["response"]["status"], 201);
        assert_eq!(transaction["_id"], received.header("x-openhim-transactionid").unwrap());
    };
    check(&node.recorded(1)[0]);
    node.running.signal(rustix::process::Signal::KILL);
    node.running.exit();
    node.start_again();
    check(&node.recorded(1)[0]);
}

#[test]
fn a_message_is_delivered_and_recorded_once_in_the_embedded_store() {
    carries_and_records(node());
}

#[test]
fn a_message_is_delivered_and_recorded_once_in_mongodb() {
    let Some(mongo) = Mongod::start() else { return };
    carries_and_records(node().set("mongo.url", &mongo.url("openhim")));
}

#[test]
fn whoever_may_not_send_is_told_so_and_leaves_no_record() {
    let registry = host(backend());
    let node = node().start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/patients", "clinics", &registry);

    let status = |path, login| node.send(path, login, "").unwrap().status;
    assert_eq!(status("/patients", None), 401);
    assert_eq!(status("/patients", Some(("clinic", "wrong"))), 401);
    assert_eq!(status("/elsewhere", CLINIC), 404);

    assert!(registry.seen().is_empty());
    assert!(node.transactions().is_empty());
}

#[test]
fn a_certificate_that_nobody_trusts_leaves_the_other_ways_open() {
    let registry = host(backend().answers(200, "ok"));
    let node = node().start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/patients", "clinics", &registry);
    let stranger = Tls::with_fresh_certificate("stranger");

    let status = |login| {
        plain_http::request(node.https(), Some(&stranger), "GET", "/patients", login, "")
            .unwrap()
            .status
    };

    assert_eq!((status(CLINIC), status(None)), (200, 401));
}
