//! Bodies: bytes end to end, and what is kept of them.

use bytes::Bytes;
use http::Method;
use openhim_node::testing::{backend, node, path};

const MIB: usize = 1 << 20;
const MARKER: &str = "\n[truncated ...]";

#[tokio::test]
async fn a_binary_answer_arrives_to_the_byte() {
    let png: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let backend = backend()
        .answers(200, png.clone())
        .header("content-type", "image/png")
        .start()
        .await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    let answer = node.get("/x").await;

    assert_eq!(answer.body(), &Bytes::from(png));
    assert_eq!(answer.header("content-type"), Some("image/png"));
}

#[tokio::test]
async fn a_binary_request_arrives_to_the_byte() {
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let backend = backend().echoes().start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    let answer = node.post("/x", bytes.clone()).await;

    assert_eq!(answer.body(), &Bytes::from(bytes));
}

#[tokio::test]
async fn a_channel_that_keeps_no_request_bodies_keeps_none_anywhere() {
    let backend = backend().start().await;
    let node = node()
        .channel(path("^/x").with("requestBody", false).primary(&backend))
        .start()
        .await;

    node.post("/x", "private").await;

    assert_eq!(backend.only().body, "private");
    let tx = node.recorded().only().await;
    assert_eq!((tx.text("request.body"), tx.flag("canRerun")), (Some(""), Some(false)));
    assert!(!format!("{:?}", tx.0).contains("private"));
}

#[tokio::test]
async fn a_channel_that_keeps_no_response_bodies_keeps_none_anywhere() {
    let [primary, secondary] = [
        backend().answers(200, "private").start().await,
        backend().answers(200, "private").start().await,
    ];
    let node = node()
        .channel(
            path("^/x")
                .with("responseBody", false)
                .primary(&primary)
                .secondary(&secondary),
        )
        .start()
        .await;

    assert_eq!(node.get("/x").await.text(), "private");

    assert!(!format!("{:?}", node.recorded().only().await.0).contains("private"));
}

#[tokio::test]
async fn an_empty_post_cannot_be_rerun() {
    let backend = backend().start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    node.post("/x", "").await;
    node.get("/x").await;

    let all = node.recorded().closed(2).await;
    assert_eq!(
        (all[0].flag("canRerun"), all[1].flag("canRerun")),
        (Some(false), Some(true))
    );
}

#[tokio::test]
async fn what_exceeds_the_budget_is_cut_in_the_record_and_nowhere_else() {
    let backend = backend().start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;
    let body = Bytes::from(vec![b'a'; 16 * MIB]);

    assert_eq!(node.post("/x", body.clone()).await.text(), "ok");

    assert_eq!(backend.only().body.len(), 16 * MIB);
    assert!(backend.only().body == body);
    let tx = node.recorded().only().await;
    let kept = tx.text("request.body").unwrap();
    assert_eq!(kept.len(), 15_728_640);
    assert!(kept.ends_with(MARKER));
    assert_eq!(tx.flag("canRerun"), Some(false));
    assert_eq!(tx.text("response.body"), Some(MARKER));
}

#[tokio::test]
async fn a_large_body_reaches_every_route_whole() {
    let [primary, secondary, waiting] = [
        backend().start().await,
        backend().after(std::time::Duration::from_millis(200)).start().await,
        backend().start().await,
    ];
    let waits = bson::doc! {"waitPrimaryResponse": true};
    let node = node()
        .set(|config| config.api.max_bodies_size_mb = 1.0)
        .channel(
            path("^/x")
                .primary(&primary)
                .secondary(&secondary)
                .route("waiting", waiting.address().port(), waits),
        )
        .start()
        .await;
    let body: Bytes = (0..9 * MIB).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();

    assert_eq!(node.post("/x", body.clone()).await.status(), 200);

    let tx = node.recorded().only().await;
    assert_eq!(tx.status(), "Successful");
    for backend in [primary, secondary, waiting] {
        assert!(backend.only().body == body, "a backend got another body");
    }
}

#[tokio::test]
async fn a_large_answer_flows_and_its_beginning_is_kept() {
    let body = Bytes::from(vec![b'b'; 3 * MIB]);
    let backend = backend()
        .answers(200, body.clone())
        .header("content-type", "text/plain")
        .start()
        .await;
    let node = node()
        .set(|config| config.api.max_bodies_size_mb = 1.0)
        .channel(path("^/x").primary(&backend))
        .start()
        .await;

    let answer = node.get("/x").await;

    assert!(answer.body() == &body);
    assert_eq!(answer.header("content-length"), Some((3 * MIB).to_string().as_str()));
    let tx = node.recorded().only().await;
    let kept = tx.text("response.body").unwrap();
    assert_eq!(kept.len(), MIB);
    assert!(kept.ends_with(MARKER));
    assert_eq!(tx.text("orchestrations.0.response.body"), Some(MARKER));
}

#[tokio::test]
async fn a_body_larger_than_the_ceiling_is_refused() {
    let backend = backend().start().await;
    let node = node()
        .set(|config| config.limits.request_body_mb = 1)
        .channel(path("^/x").primary(&backend))
        .start()
        .await;

    let answer = node.caller().send(Method::POST, "/x", vec![0; 2 * MIB]).await;

    assert_eq!(answer.status(), 413);
    assert!(backend.seen().is_empty());
}

#[tokio::test]
async fn a_head_request_is_answered_without_a_body() {
    let backend = backend().answers(200, "0123456789").start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    let answer = node.caller().send(Method::HEAD, "/x", "").await;

    assert_eq!((answer.status(), answer.text()), (200, ""));
    assert_eq!(node.recorded().only().await.status(), "Successful");
}
