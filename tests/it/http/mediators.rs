//! Mediators: the answer is inside an envelope.

use openhim_node::store::Collection;
use openhim_node::testing::{Backend, backend, node, path};
use serde_json::json;

async fn mediator(envelope: serde_json::Value) -> Backend {
    backend()
        .answers(200, envelope.to_string())
        .header("content-type", "application/json+openhim; charset=utf-8")
        .start()
        .await
}

#[tokio::test]
async fn the_client_gets_what_is_in_the_envelope_and_the_rest_is_recorded() {
    let mediator = mediator(json!({
        "x-mediator-urn": "urn:mediator:m",
        "status": "Completed",
        "response": {
            "status": 201, "headers": {"content-type": "application/json", "x-made": "yes"},
            "body": "{\"id\":1}", "timestamp": "2026-01-01T00:00:00.000Z",
        },
        "orchestrations": [{
            "name": "lookup",
            "request": {"method": "GET", "path": "/p", "timestamp": 1_767_225_600_000_i64},
            "response": {"status": 200, "body": "found", "timestamp": 1_767_225_600_100_i64},
        }],
        "properties": {"patient": "7"},
    }))
    .await;
    let node = node().channel(path("^/x").primary(&mediator)).start().await;

    let answer = node.post("/x", "{}").await;

    assert_eq!((answer.status(), answer.text()), (201, "{\"id\":1}"));
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.header("x-made"), Some("yes"));
    assert!(answer.header("x-openhim-transactionid").is_some());
    let tx = node.recorded().only().await;
    assert_eq!(tx.status(), "Completed");
    assert_eq!(tx.text("response.body"), Some("{\"id\":1}"));
    assert_eq!(tx.text("orchestrations.0.name"), Some("lookup"));
    assert_eq!(tx.text("orchestrations.0.response.body"), Some("found"));
    assert_eq!(tx.text("orchestrations.1.name"), Some("primary"));
    assert!(
        tx.text("orchestrations.1.response.body")
            .unwrap()
            .contains("x-mediator-urn")
    );
    assert_eq!(tx.text("properties.patient"), Some("7"));
    let events = node.recorded().documents(Collection::Events, 6).await;
    let named = |kind: &str| {
        events
            .iter()
            .filter(|event| event.get_str("type").unwrap() == kind)
            .count()
    };
    assert_eq!((named("orchestration"), named("primary"), named("channel")), (2, 2, 2));
}

#[tokio::test]
async fn a_mediators_error_is_recorded_and_tried_again_while_the_client_gets_its_answer() {
    let mediator = mediator(json!({
        "response": {"status": 200, "headers": {}, "body": "partly"},
        "error": {"message": "no luck", "stack": "at x"},
    }))
    .await;
    let node = node().channel(path("^/x").primary(&mediator)).start().await;

    assert_eq!(node.get("/x").await.text(), "partly");

    let tx = node.recorded().only().await;
    assert_eq!(
        (tx.text("error.message"), tx.flag("autoRetry")),
        (Some("no luck"), Some(true))
    );
    assert_eq!(tx.at("response.timestamp"), None);
    assert_eq!(
        node.store()
            .count(Collection::Metrics, Default::default())
            .await
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn an_envelope_that_cannot_be_read_is_a_failed_route() {
    let mediator = backend()
        .answers(200, "{not json")
        .header("content-type", "application/json+openhim")
        .start()
        .await;
    let node = node().channel(path("^/x").primary(&mediator)).start().await;

    let answer = node.get("/x").await;

    assert_eq!(
        (answer.status(), answer.text()),
        (500, "An internal server error occurred")
    );
    let tx = node.recorded().only().await;
    assert_eq!((tx.status(), tx.flag("autoRetry")), ("Failed", Some(true)));
    assert_eq!(tx.text("orchestrations.0.response.body"), Some("{not json"));
}

#[tokio::test]
async fn an_envelope_without_a_body_is_204_only_if_it_succeeded() {
    for (told, given) in [(200, 204), (404, 404)] {
        let mediator = mediator(json!({"response": {"status": told, "headers": {}}})).await;
        let node = node().channel(path("^/x").primary(&mediator)).start().await;

        assert_eq!(node.get("/x").await.status(), given);
    }
}

#[tokio::test]
async fn a_secondary_mediators_envelope_is_kept_with_its_route() {
    let primary = backend().start().await;
    let mediator = mediator(json!({
        "x-mediator-urn": "urn:mediator:m", "status": "Failed",
        "response": {"status": 202, "headers": {"x": "y"}, "body": "later", "timestamp": 1_767_225_600_000_i64},
        "orchestrations": [{"name": "step"}], "properties": {"a": "b"}, "error": {"message": "ignored"},
    }))
    .await;
    let node = node()
        .channel(path("^/x").primary(&primary).secondary(&mediator))
        .start()
        .await;

    node.get("/x").await;

    let tx = node.recorded().only().await;
    assert_eq!((tx.status(), tx.flag("autoRetry")), ("Successful", Some(false)));
    assert_eq!(
        (tx.number("routes.0.response.status"), tx.text("routes.0.response.body")),
        (Some(202), Some("later"))
    );
    assert_eq!(tx.text("routes.0.orchestrations.0.name"), Some("step"));
    assert_eq!(tx.text("routes.0.properties.a"), Some("b"));
    assert_eq!(tx.at("routes.0.error"), None);
}

#[tokio::test]
async fn addresses_of_backends_are_rewritten_to_lead_back_here() {
    let probe = backend().start().await;
    let port = probe.address().port();
    let body = format!("{{\"href\": \"http://127.0.0.1:{port}/p/1\", \"src\": \"http://elsewhere/q\"}}");
    let backend = backend()
        .answers(200, body)
        .header("content-type", "application/json")
        .start()
        .await;
    let node = node()
        .set(|config| {
            config.router.external_hostname = "him.example".into();
            config.router.http_port = 5001;
        })
        .channel(path("^/x").with("rewriteUrls", true).primary(&backend))
        .channel(path("^/other").primary(&probe))
        .start()
        .await;

    let answer = node.get("/x").await;

    let expected = "{\"href\": \"http://him.example:5001/p/1\", \"src\": \"http://elsewhere/q\"}";
    assert_eq!(answer.text(), expected);
    let tx = node.recorded().only().await;
    assert_eq!(tx.text("response.body"), Some(expected));
    assert!(tx.text("orchestrations.0.response.body").unwrap().contains("127.0.0.1"));
}
