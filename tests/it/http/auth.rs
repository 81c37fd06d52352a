//! Who may use a channel.

use bson::doc;
use openhim_node::store::Collection;
use openhim_node::testing::{TestNode, backend, node, path};

#[tokio::test]
async fn an_unknown_path_is_answered_404_and_leaves_no_trace() {
    let node = node().start().await;

    let answer = node.get("/nowhere").await;

    assert_eq!((answer.status(), answer.text()), (404, ""));
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    assert_eq!(answer.header("content-length"), Some("0"));
    assert_eq!(node.recorded().count().await, 0);
}

#[tokio::test]
async fn a_private_channel_turns_strangers_away_and_says_how_to_authenticate() {
    let backend = backend().start().await;
    let node = node()
        .channel(path("^/x").private(&["role"]).primary(&backend))
        .start()
        .await;

    let answer = node.post("/x", "secret body").await;

    assert_eq!((answer.status(), answer.text()), (401, ""));
    assert_eq!(answer.header("www-authenticate"), Some("Basic"));
    assert_eq!(node.recorded().count().await, 0);
    assert!(backend.seen().is_empty());
    let audits = node.recorded().documents(Collection::Audits, 2).await;
    let rejected = audits
        .iter()
        .find(|audit| {
            let event = audit.get_document("eventIdentification").unwrap();
            event.get_document("eventID").unwrap().get_str("code").unwrap() == "110113"
        })
        .expect("an audit of the refusal");
    let event = rejected.get_document("eventIdentification").unwrap();
    assert_eq!(
        event.get_document("eventTypeCode").unwrap().get_str("code").unwrap(),
        "110126"
    );
    assert_eq!(event.get_str("eventOutcomeIndicator").unwrap(), "4");
}

#[tokio::test]
async fn a_client_with_an_allowed_role_is_let_through_and_named() {
    let backend = backend().start().await;
    let node = node()
        .client("clinic", "right", &["fhir"])
        .channel(path("^/x").private(&["fhir"]).primary(&backend))
        .start()
        .await;

    assert_eq!(node.as_client("clinic", "wrong").get("/x").await.status(), 401);
    assert_eq!(node.as_client("clinic", "right").get("/x").await.status(), 200);

    assert_eq!(backend.only().header("x-openhim-clientid"), Some("clinic"));
    assert_eq!(backend.only().header("authorization"), None);
    let tx = node.recorded().only().await;
    let client = node
        .store()
        .one(Collection::Clients, doc! {"clientID": "clinic"})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(tx.at("clientID"), client.get("_id"));
}

#[tokio::test]
async fn a_slow_hash_is_paid_once() {
    let backend = backend().start().await;
    let hash = openhim_node::crypto::password::hash_bcrypt("pw", 10).unwrap();
    let node = node()
        .client_document(
            doc! {"clientID": "c", "name": "c", "roles": ["r"], "passwordAlgorithm": "bcrypt", "passwordHash": hash},
        )
        .channel(path("^/x").private(&["r"]).primary(&backend))
        .start()
        .await;
    let caller = node.as_client("c", "pw");
    let started = std::time::Instant::now();
    assert_eq!(caller.get("/x").await.status(), 200);
    let first = started.elapsed();

    let started = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(caller.get("/x").await.status(), 200);
    }

    assert!(
        started.elapsed() < first * 5,
        "ten requests took {:?}, the first {first:?}",
        started.elapsed()
    );
    assert_eq!(node.as_client("c", "px").get("/x").await.status(), 401);
}

#[tokio::test]
async fn a_changed_password_is_in_force_at_once() {
    let backend = backend().start().await;
    let node = node()
        .client("c", "old", &["r"])
        .channel(path("^/x").private(&["r"]).primary(&backend))
        .start()
        .await;
    assert_eq!(node.as_client("c", "old").get("/x").await.status(), 200);

    let hash = openhim_node::crypto::digest::Digest::Sha512.hex(&[b"newsalt"]);
    let update = doc! {"$set": {"passwordHash": hash}};
    node.store()
        .update(Collection::Clients, doc! {"clientID": "c"}, update)
        .await
        .unwrap();
    node.node.tables().refresh().await.unwrap();

    assert_eq!(node.as_client("c", "old").get("/x").await.status(), 401);
    assert_eq!(node.as_client("c", "new").get("/x").await.status(), 200);
}

#[tokio::test]
async fn a_custom_token_identifies_its_client_where_tokens_are_on() {
    let backend = backend().start().await;
    let client = doc! {"clientID": "c", "name": "c", "roles": ["r"], "customTokenID": "tok-1"};
    let with = |is_on| {
        node()
            .client_document(client.clone())
            .channel(path("^/x").private(&["c"]).primary(&backend))
            .set(move |config| config.authentication.enable_custom_token = is_on)
            .start()
    };
    let on = with(true).await;
    let off = with(false).await;
    async fn ask(node: &TestNode, token: &str) -> u16 {
        node.caller().header("authorization", token).get("/x").await.status()
    }

    assert_eq!(ask(&on, "Custom tok-1").await, 200);
    assert_eq!(ask(&on, "cUSTOM tok-1").await, 200);
    assert_eq!(ask(&on, "Custom tok-2").await, 401);
    assert_eq!(ask(&off, "Custom tok-1").await, 401);
}

#[tokio::test]
async fn a_whitelist_is_an_extra_condition_and_takes_networks() {
    let backend = backend().start().await;
    let with = |whitelist: &str| {
        path("^/x")
            .with("whitelist", vec![whitelist.to_owned()])
            .primary(&backend)
    };
    let inside = node().channel(with("127.0.0.0/8")).start().await;
    let outside = node().channel(with("10.0.0.0/8")).start().await;
    let private = node().channel(with("127.0.0.1").private(&["r"])).start().await;

    assert_eq!(inside.get("/x").await.status(), 200);
    assert_eq!(outside.get("/x").await.status(), 401);
    assert_eq!(private.get("/x").await.status(), 401);
}

#[tokio::test]
async fn only_a_trusted_proxy_says_who_the_client_is() {
    let backend = backend().start().await;
    let channel = || path("^/x").primary(&backend);
    let trusting = node()
        .set(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()])
        .channel(channel())
        .start()
        .await;
    let wary = node().channel(channel()).start().await;

    trusting.caller().header("x-forwarded-for", "41.1.2.3").get("/x").await;
    wary.caller().header("x-forwarded-for", "41.1.2.3").get("/x").await;

    assert_eq!(trusting.recorded().only().await.text("clientIP"), Some("41.1.2.3"));
    assert_eq!(wary.recorded().only().await.text("clientIP"), Some("127.0.0.1"));
    for seen in backend.seen() {
        assert!(seen.header("x-forwarded-for").unwrap().starts_with("41.1.2.3, "));
    }
}
