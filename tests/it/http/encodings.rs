//! Content codings: passed on to clients that take them, undone for others, made for those who ask.

use bytes::Bytes;
use openhim_node::route::encoding::{Coding, Encoder, decode};
use openhim_node::testing::{BackendBuilder, backend, node, path};

fn coded(coding: Coding, text: &[u8]) -> Bytes {
    let mut encoder = Encoder::new(coding).unwrap();
    let first = encoder.push(text).unwrap();
    [first, encoder.finish().unwrap()].concat().into()
}

fn gzipped(text: &[u8]) -> BackendBuilder {
    backend()
        .answers(200, coded(Coding::Gzip, text))
        .header("content-encoding", "gzip")
        .header("content-type", "text/plain")
}

#[tokio::test]
async fn an_encoded_answer_is_undone_for_a_client_that_takes_none() {
    let backend = gzipped(b"hello hello").start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    let answer = node.get("/x").await;

    assert_eq!(
        (answer.text(), answer.header("content-encoding")),
        ("hello hello", None)
    );
    assert_eq!(answer.header("content-length"), Some("11"));
    let tx = node.recorded().only().await;
    assert_eq!(tx.text("response.body"), Some("hello hello"));
    assert_eq!(tx.text("orchestrations.0.response.body"), Some("hello hello"));
    assert_eq!(
        tx.text("orchestrations.0.response.headers.content-encoding"),
        Some("gzip")
    );
}

#[tokio::test]
async fn an_encoded_answer_is_passed_on_to_a_client_that_takes_it_and_stored_in_plain() {
    let backend = gzipped(b"hello hello").start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    let answer = node.caller().header("accept-encoding", "gzip").get("/x").await;

    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(answer.body(), &coded(Coding::Gzip, b"hello hello"));
    assert_eq!(node.recorded().only().await.text("response.body"), Some("hello hello"));
}

#[tokio::test]
async fn a_damaged_encoding_is_a_failed_route() {
    let backend = backend()
        .answers(200, "no gzip")
        .header("content-encoding", "gzip")
        .start()
        .await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    assert_eq!(node.get("/x").await.status(), 500);
    assert_eq!(node.recorded().only().await.status(), "Failed");
}

#[tokio::test]
async fn an_empty_body_may_be_labelled_as_it_likes() {
    let backend = backend()
        .answers(200, "")
        .header("content-encoding", "gzip")
        .start()
        .await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    assert_eq!((node.get("/x").await.status(), node.get("/x").await.text()), (200, ""));
}

#[tokio::test]
async fn a_plain_answer_is_encoded_for_a_client_that_asks() {
    let backend = backend()
        .answers(200, "hello hello")
        .header("content-type", "text/plain")
        .start()
        .await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;
    let ask = async |wish: &str| node.caller().header("accept-encoding", wish).get("/x").await;

    for (wish, coding) in [
        ("gzip", Coding::Gzip),
        ("gzip, br", Coding::Brotli),
        ("deflate", Coding::Deflate),
    ] {
        let answer = ask(wish).await;
        assert_eq!(answer.header("content-encoding"), Some(coding.name()));
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
        assert_eq!(decode(coding, answer.body(), 100).unwrap(), "hello hello");
    }
    let tx = node.recorded().closed(3).await.remove(0);
    assert_eq!(tx.text("response.body"), Some("hello hello"));
    assert_eq!(tx.text("response.headers.content-length"), Some("11"));
}

#[tokio::test]
async fn what_gains_nothing_by_an_encoding_is_sent_plain() {
    for backend in [
        backend().answers(200, "1234567").header("content-type", "text/plain"),
        backend()
            .answers(200, "long enough")
            .header("content-type", "image/png"),
        backend()
            .answers(200, "long enough")
            .header("content-type", "text/plain")
            .header("cache-control", "no-transform"),
    ] {
        let backend = backend.start().await;
        let node = node().channel(path("^/x").primary(&backend)).start().await;

        let answer = node.caller().header("accept-encoding", "gzip, br").get("/x").await;

        assert_eq!(answer.header("content-encoding"), None);
    }
}

#[tokio::test]
async fn a_large_encoded_answer_flows_through_the_decoder() {
    let text: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| n.to_string().into_bytes())
        .take(3 << 20)
        .collect();
    let backend = gzipped(&text).start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    let plain = node.get("/x").await;
    let passed = node.caller().header("accept-encoding", "gzip").get("/x").await;

    assert!(plain.body()[..] == text[..]);
    assert!(decode(Coding::Gzip, passed.body(), 4 << 20).unwrap()[..] == text[..]);
    for tx in node.recorded().closed(2).await {
        assert!(tx.text("response.body").unwrap().as_bytes() == &text[..]);
    }
}
