//! Peers that misbehave, and a store that does.

use std::time::Duration;

use bson::doc;
use openhim_node::testing::{DEADLINE, TestNode, backend, node, path};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a raw conversation yields until the node closes the connection.
async fn raw(node: &TestNode, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(node.http()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("the node closes")
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A backend that reads a request's head, says `answer` and closes.
async fn scripted(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    port
}

#[tokio::test]
async fn malformed_requests_are_answered_and_the_connection_closed() {
    let node = node().set(|config| config.limits.header_bytes = 8192).start().await;
    let huge = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(70_000));

    assert!(raw(&node, b"NOT HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(raw(&node, huge.as_bytes()).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_client_that_sends_half_a_header_is_dropped_in_time() {
    let node = node()
        .set(|config| config.limits.header_timeout_millis = 200)
        .start()
        .await;

    let answer = raw(&node, b"GET / HTTP/1.1\r\nhost: x\r\n").await;

    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_five_seconds() {
    let backend = backend().start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;
    let started = std::time::Instant::now();

    let answer = raw(&node, b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await;

    assert!(answer.to_lowercase().contains("keep-alive: timeout=5"), "{answer}");
    let idle = started.elapsed();
    assert!(
        (Duration::from_millis(4900)..Duration::from_millis(6500)).contains(&idle),
        "closed after {idle:?}"
    );
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_still_gets_its_answer() {
    let backend = backend().after(Duration::from_millis(100)).start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;
    let mut stream = TcpStream::connect(node.http()).await.unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();

    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer))
        .await
        .expect("an answer")
        .unwrap();

    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_finished_transaction() {
    let backend = backend().after(Duration::from_millis(200)).start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;
    let mut stream = TcpStream::connect(node.http()).await.unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    openhim_node::testing::eventually("the backend is asked", async || {
        (!backend.seen().is_empty()).then_some(())
    })
    .await;

    drop(stream);

    assert_eq!(node.recorded().only().await.status(), "Successful");
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let backend = backend().echoes().start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;
    let mut stream = TcpStream::connect(node.http()).await.unwrap();
    stream
        .write_all(
            b"POST /x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n",
        )
        .await
        .unwrap();
    let mut first = [0; 25];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut first))
        .await
        .expect("100")
        .unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");

    stream.write_all(b"hello").await.unwrap();

    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn a_backend_that_closes_without_a_word_hangs_up() {
    let port = scripted(b"").await;
    let node = node()
        .channel(path("^/x").route("r", port, doc! {"primary": true}))
        .start()
        .await;

    assert_eq!(node.get("/x").await.status(), 500);

    let tx = node.recorded().only().await;
    assert_eq!(tx.text("error.message"), Some("socket hang up"));
}

#[tokio::test]
async fn a_backend_that_breaks_off_a_short_answer_is_a_failed_route() {
    let port = scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let node = node()
        .channel(path("^/x").route("r", port, doc! {"primary": true}))
        .start()
        .await;

    assert_eq!(node.get("/x").await.status(), 500);

    let tx = node.recorded().only().await;
    assert_eq!((tx.status(), tx.text("error.message")), ("Failed", Some("aborted")));
    assert_eq!(tx.flag("autoRetry"), Some(true));
}

#[tokio::test]
async fn a_backend_that_breaks_off_a_long_answer_does_not_make_it_look_whole() {
    let port = scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhalf").await;
    let node = node()
        .channel(path("^/x").route("r", port, doc! {"primary": true}))
        .start()
        .await;
    let mut stream = TcpStream::connect(node.http()).await.unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();

    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("the node closes");

    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.contains("content-length: 1000000") && answer.len() < 2000,
        "{answer}"
    );
    let tx = node.recorded().only().await;
    assert_eq!((tx.status(), tx.text("error.message")), ("Failed", Some("aborted")));
}

#[tokio::test]
async fn a_kept_connection_that_the_backend_closed_costs_no_request() {
    // Says that it keeps the connection, and closes it at once.
    let port = scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let node = node()
        .channel(path("^/x").route("r", port, doc! {"primary": true}))
        .start()
        .await;

    for _ in 0..50 {
        assert_eq!(node.get("/x").await.status(), 200);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_trickling_backend_is_not_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let _ = stream.read(&mut head).await;
        for piece in ["HTTP/1.1 200 OK\r\n", "content-length: 3\r\n\r\n", "a", "b", "c"] {
            stream.write_all(piece.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    });
    let node = node()
        .channel(
            path("^/x")
                .with("timeout", 150)
                .route("r", port, doc! {"primary": true}),
        )
        .start()
        .await;

    assert_eq!(node.get("/x").await.text(), "abc");
}

#[tokio::test]
async fn too_many_requests_of_one_client_are_told_to_wait() {
    let backend = backend().start().await;
    let node = node()
        .set(|config| config.limits.channel_requests_per_second = 2)
        .channel(path("^/x").primary(&backend))
        .start()
        .await;

    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(node.get("/x").await.status());
    }

    assert_eq!(statuses[..2], [200, 200]);
    assert!(statuses[2..].contains(&429), "{statuses:?}");
}
