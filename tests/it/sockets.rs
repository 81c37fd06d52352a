//! Routes to backends that speak plain TCP or MLLP.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bson::doc;
use openhim_node::testing::{ChannelBuilder, node, path};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::free_port;

const ADT: &str = "MSH|^~\\&|LAB|CLINIC|HIM|MOH|1||ADT^A01|C42|P|2.5\rPID|1\r";

fn to(kind: &str, port: u16) -> ChannelBuilder {
    path("^/x").route("primary", port, doc! {"type": kind, "primary": true})
}

/// A peer that talks to each connection as it is told.
async fn peer<F>(talk: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream));
        }
    });
    port
}

/// Answers each frame with these frames; counts connections.
async fn hl7(answer: &'static [u8], connections: &Arc<AtomicUsize>) -> u16 {
    let connections = Arc::clone(connections);
    peer(move |mut stream| {
        connections.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut heard = Vec::new();
            while stream.read_buf(&mut heard).await.is_ok_and(|count| count > 0) {
                if heard.ends_with(b"\x1c\r") {
                    assert!(heard.starts_with(b"\x0bMSH"), "{heard:?}");
                    assert!(!heard.starts_with(b"\x0b\x0b"), "{heard:?}");
                    heard.clear();
                    stream.write_all(answer).await.unwrap();
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_tcp_route_sends_the_body_and_takes_what_comes_back() {
    let port = peer(async |mut stream: TcpStream| {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        heard.reverse();
        stream.write_all(&heard).await.unwrap();
    })
    .await;
    let node = node().channel(to("tcp", port)).start().await;

    let reply = node.post("/x", "abc").await;

    assert_eq!((reply.status(), reply.text()), (200, "cba"));
    let tx = node.recorded().only().await;
    assert_eq!(tx.status(), "Successful");
    assert_eq!(
        tx.text("orchestrations.0.request.port"),
        Some(port.to_string().as_str())
    );
    assert_eq!(tx.text("orchestrations.0.request.body"), Some("abc"));
}

#[tokio::test]
async fn a_tcp_peer_that_is_silent_or_not_there_fails_the_route() {
    let silent = peer(async |mut stream: TcpStream| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
        std::future::pending().await
    })
    .await;
    let dead = free_port();
    for (port, message) in [
        (silent, "Request took longer than 150ms".to_owned()),
        (dead, format!("connect ECONNREFUSED 127.0.0.1:{dead}")),
    ] {
        let node = node().channel(to("tcp", port).with("timeout", 150)).start().await;

        assert_eq!(node.post("/x", "abc").await.status(), 500);

        let tx = node.recorded().only().await;
        assert_eq!(tx.text("error.message"), Some(message.as_str()));
        assert_eq!((tx.status(), tx.flag("autoRetry")), ("Failed", Some(true)));
    }
}

#[tokio::test]
async fn an_mllp_route_frames_the_message_and_keeps_its_connection() {
    let connections = Arc::default();
    let port = hl7(b"\x0bMSH|^~\\&|a\rMSA|AA|C42\r\x1c\r", &connections).await;
    let node = node().channel(to("mllp", port)).start().await;

    let plain = node.post("/x", ADT).await;
    let framed = node.post("/x", format!("\x0b{ADT}\x1c\r")).await;

    for reply in [plain, framed] {
        assert_eq!((reply.status(), reply.text()), (200, "MSH|^~\\&|a\rMSA|AA|C42\r"));
        assert_eq!(reply.header("content-type"), Some("application/hl7-v2"));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_verdict_of_an_mllp_peer_is_the_status() {
    for (answer, status, ended) in [
        (&b"\x0bMSH|^~\\&|a\rMSA|AE|C42\r\x1c\r"[..], 500, "Failed"),
        (b"\x0bMSH|^~\\&|a\rMSA|AR|C42\r\x1c\r", 400, "Completed"),
        (b"nonsense", 500, "Failed"),
    ] {
        let port = hl7(answer, &Arc::default()).await;
        let node = node().channel(to("mllp", port)).start().await;

        assert_eq!(node.post("/x", ADT).await.status(), status);
        assert_eq!(node.recorded().only().await.status(), ended);
    }
}

#[tokio::test]
async fn an_mllp_connection_that_its_peer_has_closed_is_not_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let port = peer(move |mut stream: TcpStream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut heard = Vec::new();
            while !heard.ends_with(b"\x1c\r") && stream.read_buf(&mut heard).await.is_ok_and(|count| count > 0) {}
            let _ = stream.write_all(b"\x0bMSH|^~\\&|a\rMSA|AA|1\r\x1c\r").await;
        }
    })
    .await;
    let node = node().channel(to("mllp", port)).start().await;

    for _ in 0..3 {
        assert_eq!(node.post("/x", ADT).await.status(), 200);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    assert_eq!(connections.load(Ordering::Relaxed), 3);
}
