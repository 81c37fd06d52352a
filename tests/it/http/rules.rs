//! What a backend is sent.

use bson::doc;
use openhim_node::testing::{backend, node, path};

#[tokio::test]
async fn a_path_transform_changes_every_match_and_keeps_the_query() {
    let backend = backend().start().await;
    let route = doc! {"primary": true, "pathTransform": "s/pt/target/g"};
    let node = node()
        .channel(path("^/pt").route("r", backend.address().port(), route))
        .start()
        .await;

    node.get("/pt/pt/x?z=1").await;

    assert_eq!(backend.only().target, "/target/target/x?z=1");
}

#[tokio::test]
async fn a_routes_own_path_may_have_a_query_of_its_own() {
    let backend = backend().start().await;
    let route = doc! {"primary": true, "path": "/fixed?q=1"};
    let node = node()
        .channel(path("^/x").route("r", backend.address().port(), route))
        .start()
        .await;

    node.get("/x?z=1").await;

    assert_eq!(backend.only().target, "/fixed?q=1&z=1");
    assert_eq!(
        node.recorded().only().await.text("orchestrations.0.request.path"),
        Some("/fixed?q=1&z=1")
    );
}

#[tokio::test]
async fn a_routes_credentials_take_the_place_of_the_clients() {
    let [plain, own, forwarded] = [
        backend().start().await,
        backend().start().await,
        backend().start().await,
    ];
    let credentials = |more: bson::Document| {
        let mut route = doc! {"username": "u", "password": "p"};
        route.extend(more);
        route
    };
    let node = node()
        .client("clinic", "secret", &["r"])
        .channel(
            path("^/x")
                .private(&["r"])
                .primary(&plain)
                .route("own", own.address().port(), credentials(doc! {}))
                .route(
                    "forwarded",
                    forwarded.address().port(),
                    credentials(doc! {"forwardAuthHeader": true}),
                ),
        )
        .start()
        .await;

    node.as_client("clinic", "secret").get("/x").await;
    node.recorded().only().await;

    assert_eq!(plain.only().header("authorization"), None);
    assert_eq!(own.only().header("authorization"), Some("Basic dTpw"));
    assert_eq!(
        forwarded.only().header("authorization"),
        Some("Basic Y2xpbmljOnNlY3JldA==")
    );
}

#[tokio::test]
async fn the_strongest_channel_that_matches_takes_the_message() {
    let [weak, strong] = [backend().start().await, backend().start().await];
    let node = node()
        .channel(path("^/x").primary(&weak))
        .channel(path("^/x").with("priority", 2).primary(&strong))
        .start()
        .await;

    node.get("/x").await;

    assert_eq!((weak.seen().len(), strong.seen().len()), (0, 1));
}

#[tokio::test]
async fn a_media_type_in_other_letters_does_not_match() {
    let backend = backend().start().await;
    let channel = path("^/x")
        .with("matchContentTypes", vec!["text/xml".to_owned()])
        .primary(&backend);
    let node = node().channel(channel).start().await;

    let post = async |kind: &str| {
        node.caller()
            .header("content-type", kind)
            .post("/x", "<a/>")
            .await
            .status()
    };

    assert_eq!(post("TEXT/XML").await, 404);
    assert_eq!(post("text/xml; charset=utf-8").await, 200);
}

#[tokio::test]
async fn a_method_that_the_channel_does_not_list_is_not_found() {
    let backend = backend().start().await;
    let node = node()
        .channel(path("^/x").with("methods", vec!["POST".to_owned()]).primary(&backend))
        .start()
        .await;

    assert_eq!(node.get("/x").await.status(), 404);
    assert_eq!(node.post("/x", "").await.status(), 200);
}

#[tokio::test]
async fn content_decides_between_channels_and_bad_content_never_fails_a_request() {
    let [json, text, rest] = [
        backend().start().await,
        backend().start().await,
        backend().start().await,
    ];
    let node = node()
        .channel(
            path("^/x")
                .with("priority", 1)
                .with("matchContentJson", "a.b[0]")
                .with("matchContentValue", "7")
                .primary(&json),
        )
        .channel(
            path("^/x")
                .with("priority", 2)
                .with("matchContentRegex", "he(l+)o")
                .primary(&text),
        )
        .channel(path("^/x").primary(&rest))
        .start()
        .await;

    for body in ["{\"a\":{\"b\":[7]}}", "say hello", "{", ""] {
        assert_eq!(node.post("/x", body).await.status(), 200);
    }

    assert_eq!((json.seen().len(), text.seen().len(), rest.seen().len()), (1, 1, 2));
    assert_eq!(text.only().body, "say hello");
}

#[tokio::test]
async fn headers_with_dots_and_dollars_are_stored_readably_and_sent_unchanged() {
    let backend = backend().start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    node.caller().header("x.dot$", "v").get("/x").await;

    assert_eq!(backend.only().header("x.dot$"), Some("v"));
    let tx = node.recorded().only().await;
    let headers = tx.at("request.headers").unwrap().as_document().unwrap();
    assert_eq!(headers.get_str("x\u{FF0E}dot\u{FF04}").unwrap(), "v");
}

#[tokio::test]
async fn nobody_can_pretend_to_be_a_client_or_a_transaction() {
    let backend = backend().start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    node.caller()
        .header("x-openhim-clientid", "admin")
        .header("x-openhim-transactionid", "1")
        .header("connection", "x-secret-hop")
        .header("x-secret-hop", "1")
        .header("te", "trailers")
        .get("/x")
        .await;

    let seen = backend.only();
    assert_eq!(seen.header("x-openhim-clientid"), None);
    assert_ne!(seen.header("x-openhim-transactionid"), Some("1"));
    assert_eq!(
        (
            seen.header("x-secret-hop"),
            seen.header("te"),
            seen.header("connection")
        ),
        (None, None, None)
    );
    assert_eq!(seen.header("host"), Some(backend.address().to_string().as_str()));
}

#[tokio::test]
async fn connections_to_a_backend_are_used_again() {
    let backend = backend().start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    for _ in 0..20 {
        assert_eq!(node.post("/x", "body").await.status(), 200);
    }

    assert_eq!((backend.seen().len(), backend.connections()), (20, 1));
}

#[tokio::test]
async fn a_body_goes_along_whatever_the_method() {
    let backend = backend().echoes().start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    for method in [http::Method::DELETE, http::Method::GET, http::Method::PATCH] {
        let answer = node.caller().send(method, "/x", "payload").await;
        assert_eq!(answer.text(), "payload");
    }
}
