//! What kills or wedges OpenHIM, and what would starve others: fed on purpose.

use std::time::{Duration, Instant};

use bson::doc;
use openhim_node::config::Durability;
use openhim_node::testing::{backend, node, path};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest time that somebody else's request may take meanwhile. Generous: test machines are shared.
const UNMOVED: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_route_that_trusts_a_certificate_which_is_gone_fails() {
    let backend = backend().start().await;
    let gone = bson::oid::ObjectId::new();
    let node = node()
        .channel(path("^/x").route(
            "primary",
            backend.address().port(),
            doc! {"primary": true, "secured": true, "cert": gone},
        ))
        .start()
        .await;

    assert_eq!(node.post("/x", "{}").await.status(), 500);

    let tx = node.recorded().only().await;
    assert_eq!((tx.status(), tx.flag("autoRetry")), ("Failed", Some(true)));
    assert!(tx.text("error.message").is_some());
}

#[tokio::test]
async fn a_client_without_a_salt_is_checked_without_one() {
    use openhim_node::crypto::digest::Digest;
    let backend = backend().start().await;
    let node = node()
        .client_document(doc! {
            "clientID": "bare", "name": "bare", "roles": ["r"], "passwordAlgorithm": "sha256",
            "passwordHash": Digest::Sha256.hex(&[b"secret"]),
        })
        .channel(path("^/x").private(&["r"]).primary(&backend))
        .start()
        .await;

    assert_eq!(node.as_client("bare", "secret").get("/x").await.status(), 200);
    assert_eq!(node.as_client("bare", "wrong").get("/x").await.status(), 401);
}

#[tokio::test]
async fn tokens_that_are_on_without_a_key_or_a_server_of_keys_let_nobody_in() {
    let backend = backend().start().await;
    let node = node()
        .set(|config| {
            config.authentication.enable_jwt = true;
            config.authentication.jwt.algorithms = "HS256 RS256".into();
        })
        .channel(path("^/x").private(&["r"]).primary(&backend))
        .channel(path("^/open").primary(&backend))
        .start()
        .await;
    let token = "Bearer eyJhbGciOiJIUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJhIn0.c2ln";

    assert_eq!(
        node.caller().header("authorization", token).get("/x").await.status(),
        401
    );
    assert_eq!(
        node.caller().header("authorization", token).get("/open").await.status(),
        200
    );
}

#[tokio::test]
async fn an_answer_in_a_charset_that_nobody_knows_arrives_to_the_byte() {
    let backend = backend()
        .answers(200, &b"\xff\xfe\x00odd"[..])
        .header("content-type", "text/plain; charset=klingon")
        .start()
        .await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    let reply = node.get("/x").await;

    assert_eq!((reply.status(), &reply.body()[..]), (200, &b"\xff\xfe\x00odd"[..]));
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=klingon"));
}

#[tokio::test]
async fn a_multipart_message_reaches_a_mediator_to_the_byte() {
    let envelope =
        r#"{"x-mediator-urn":"urn:m","status":"Successful","response":{"status":201,"headers":{},"body":"taken"}}"#;
    let mediator = backend()
        .answers(200, envelope)
        .header("content-type", "application/json+openhim")
        .start()
        .await;
    let node = node().channel(path("^/x").primary(&mediator)).start().await;
    let body = b"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"\xff.bin\"\r\n\r\n\x00\x01\r\n--b--\r\n";

    let caller = node.caller().header("content-type", "multipart/form-data; boundary=b");
    let reply = caller.post("/x", &body[..]).await;

    assert_eq!((reply.status(), reply.text()), (201, "taken"));
    assert_eq!(&mediator.only().body[..], &body[..]);
}

/// Opens connections that begin a request and never go on.
async fn dawdlers(node: &openhim_node::testing::TestNode, count: usize) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(node.http()).await.unwrap();
        stream
            .write_all(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\nhalf")
            .await
            .unwrap();
        open.push(stream);
    }
    open
}

#[tokio::test]
async fn half_requests_and_mediators_that_never_answer_do_not_move_others() {
    let (good, silent) = (backend().start().await, backend().never_answers().start().await);
    let node = node()
        .set(|config| config.store.durability = Durability::Standard)
        .channel(path("^/x").primary(&good))
        .channel(path("^/silent").primary(&silent).with("timeout", 1500))
        .start()
        .await;

    let half = dawdlers(&node, 200).await;
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let caller = node.caller();
            tokio::spawn(async move { caller.get("/silent").await.status() })
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(node.post("/x", "{}").await.status(), 200);
    }

    assert!(begun.elapsed() < UNMOVED, "others waited for {:?}", begun.elapsed());
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), 500);
    }
    drop(half);
    // Everything that was recorded comes to an end.
    let recorded = node.recorded().closed(60).await;
    assert!(recorded.iter().all(|tx| tx.status() != "Processing"));
}

#[tokio::test]
async fn a_backend_that_resets_is_a_failed_route() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 16]).await;
            // What was not read makes the end a reset.
            drop(stream);
        }
    });
    let node = node()
        .channel(path("^/x").route("primary", port, doc! {"primary": true}))
        .start()
        .await;

    assert_eq!(node.post("/x", "{}").await.status(), 500);

    let tx = node.recorded().only().await;
    assert_eq!((tx.status(), tx.flag("autoRetry")), ("Failed", Some(true)));
}

#[tokio::test]
async fn a_header_section_without_end_is_refused() {
    let node = node().start().await;
    let mut stream = TcpStream::connect(node.http()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    let flood = vec![b'a'; 16 << 10];
    let mut sent = 0;
    // The answer may come, and the connection end, while the flood still flows.
    while sent < 4 << 20 && stream.write_all(&flood).await.is_ok() {
        sent += flood.len();
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;

    assert!(
        sent < 4 << 20 || answer.starts_with(b"HTTP/1.1 431"),
        "{sent} bytes were taken"
    );
}
