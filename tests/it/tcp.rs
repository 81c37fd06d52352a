//! Channels with ports of their own: TCP, TLS, MLLP.

use std::time::Duration;

use bson::{Document, doc};
use openhim_node::store::Collection;
use openhim_node::testing::{Backend, ChannelBuilder, DEADLINE, TestNode, backend, eventually, node, path};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{free_port, plain_http};

const ADT: &str = "MSH|^~\\&|LAB|CLINIC|HIM|MOH|20260101||ADT^A01|C42|P|2.5\rPID|1\r";

fn channel(kind: &str, port: u16) -> ChannelBuilder {
    path("^/never$")
        .with("type", kind)
        .with("tcpPort", i32::from(port))
        .with("tcpHost", "127.0.0.1")
        .with("methods", Vec::<String>::new())
        .with("authType", "private")
}

async fn connect(port: u16) -> TcpStream {
    eventually("the channel's port is open", async || {
        TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await
}

async fn is_closed(port: u16) -> Option<()> {
    TcpStream::connect(("127.0.0.1", port)).await.err().map(drop)
}

/// Reads exactly this many bytes.
async fn read(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let reading = tokio::time::timeout(DEADLINE, stream.read_exact(&mut bytes));
    reading.await.expect("an answer in time").expect("an answer");
    bytes
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), message: &[u8], answer: &[u8]) {
    stream.write_all(message).await.unwrap();
    let got = read(stream, answer.len()).await;
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(answer));
}

/// Reads one MLLP frame.
async fn frame(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\x1c\r") {
        bytes.extend(read(stream, 1).await);
    }
    let text = String::from_utf8(bytes).unwrap();
    text.strip_prefix('\x0b')
        .expect("a frame")
        .trim_end_matches("\x1c\r")
        .to_owned()
}

async fn set(node: &TestNode, id: bson::oid::ObjectId, set: Document) {
    node.store()
        .update(Collection::Channels, doc! {"_id": id}, doc! {"$set": set})
        .await
        .unwrap();
}

#[tokio::test]
async fn what_one_read_yields_is_a_transaction_and_the_socket_gets_the_body_and_stays_open() {
    let backend = backend().echoes().start().await;
    let port = free_port();
    let node = node()
        .channel(channel("tcp", port).route(
            "primary",
            backend.address().port(),
            doc! {"primary": true, "path": "/in"},
        ))
        .start()
        .await;
    let mut stream = connect(port).await;

    ask(&mut stream, b"hello \xff", b"hello \xff").await;
    ask(&mut stream, b"again", b"again").await;

    let seen = backend.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("POST", "/in"));
    assert_eq!(seen[0].body, &b"hello \xff"[..]);
    assert_eq!(seen[0].header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen[0].header("x-openhim-clientid"), None);
    let recorded = node.recorded().closed(2).await;
    let tx = &recorded[0];
    assert_eq!(tx.status(), "Successful");
    assert_eq!(tx.text("request.path"), Some("/"));
    assert_eq!(tx.text("request.method"), Some("POST"));
    assert_eq!(tx.text("request.host"), Some("localhost"));
    assert_eq!(tx.text("request.port"), Some("7787"));
    assert_eq!(tx.text("request.headers.X-Forwarded-Host"), Some("localhost:7787"));
    assert_eq!(tx.text("clientIP"), Some("127.0.0.1"));
    assert!(tx.at("clientID").is_some_and(|id| id.as_object_id().is_some()));
    assert_eq!(tx.at("response.headers.vary"), None);
    assert_eq!(tx.text("response.body"), Some("hello \u{fffd}"));
}

#[tokio::test]
async fn a_failed_route_is_told_in_words_and_an_empty_answer_in_none() {
    let (dead, empty) = (free_port(), backend().answers(200, "").start().await);
    let (failing, silent) = (free_port(), free_port());
    let node = node()
        .channel(channel("tcp", failing).route("primary", dead, doc! {"primary": true}))
        .channel(channel("tcp", silent).primary(&empty))
        .start()
        .await;

    ask(&mut connect(failing).await, b"x", b"An internal server error occurred").await;
    let mut stream = connect(silent).await;
    stream.write_all(b"x").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();

    assert_eq!(rest, b"");
    let recorded = node.recorded().closed(2).await;
    assert!(
        recorded
            .iter()
            .any(|tx| tx.status() == "Failed" && tx.flag("autoRetry") == Some(true))
    );
}

#[tokio::test]
async fn a_sender_that_stops_sending_still_gets_its_answer() {
    let backend = backend()
        .answers(200, "late")
        .after(Duration::from_millis(200))
        .start()
        .await;
    let port = free_port();
    let _node = node().channel(channel("tcp", port).primary(&backend)).start().await;
    let mut stream = connect(port).await;

    stream.write_all(b"x").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();

    assert_eq!(answer, b"late");
}

#[tokio::test]
async fn a_framed_message_is_put_together_and_keeps_its_frame_on_the_way_to_the_backend() {
    let backend = backend().echoes().start().await;
    let port = free_port();
    let node = node().channel(channel("tcp", port).primary(&backend)).start().await;
    let mut stream = connect(port).await;
    let framed = format!("\x0b{ADT}\x1c\r");

    for piece in framed.as_bytes().chunks(7) {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(frame(&mut stream).await, ADT);
    stream.write_all(format!("{framed}{framed}").as_bytes()).await.unwrap();
    assert_eq!(frame(&mut stream).await, ADT);
    assert_eq!(frame(&mut stream).await, ADT);

    assert!(backend.seen().iter().all(|seen| seen.body == framed.as_bytes()));
    assert_eq!(node.recorded().closed(3).await.len(), 3);
}

#[tokio::test]
async fn an_hl7_sender_gets_an_acknowledgment_whatever_the_backend_says() {
    let ack = "MSH|^~\\&|HIM|MOH|LAB|CLINIC|1||ACK^A01|9|P|2.5\rMSA|AA|C42\r";
    for (status, body, expected) in [(200, ack, ack), (201, "stored", "MSA|AA|C42"), (200, "", "MSA|AA|C42")] {
        let backend = backend().answers(status, body).start().await;
        let port = free_port();
        let _node = node().channel(channel("tcp", port).primary(&backend)).start().await;
        let mut stream = connect(port).await;

        stream.write_all(format!("\x0b{ADT}\x1c\r").as_bytes()).await.unwrap();

        let answer = frame(&mut stream).await;
        assert!(answer.contains(expected), "{answer}");
    }
}

#[tokio::test]
async fn an_hl7_sender_is_told_that_its_message_failed() {
    let (port, dead) = (free_port(), free_port());
    let _node = node()
        .channel(channel("tcp", port).route("primary", dead, doc! {"primary": true}))
        .start()
        .await;
    let mut stream = connect(port).await;

    stream.write_all(format!("\x0b{ADT}\x1c\r").as_bytes()).await.unwrap();

    let answer = frame(&mut stream).await;
    assert!(answer.starts_with("MSH|^~\\&|HIM|MOH|LAB|CLINIC|"), "{answer}");
    assert!(
        answer.contains("|ACK^A01|") && answer.contains("\rMSA|AE|C42|Internal Server Error\r"),
        "{answer}"
    );
}

#[tokio::test]
async fn half_a_framed_message_is_no_message() {
    let backend = backend().start().await;
    let port = free_port();
    let node = node().channel(channel("tcp", port).primary(&backend)).start().await;
    let mut stream = connect(port).await;

    stream.write_all(b"\x0bMSH|half").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();

    assert_eq!(rest, b"");
    assert_eq!(node.recorded().count().await, 0);
}

#[tokio::test]
async fn ports_follow_their_channels() {
    let backend = backend().echoes().start().await;
    let (first, second) = (free_port(), free_port());
    let channel = channel("tcp", first).primary(&backend);
    let id = channel.id();
    let node = node()
        .set(|config| config.caching.refresh_millis = 50)
        .instances(2)
        .channel(channel)
        .start()
        .await;
    let mut old = connect(first).await;
    ask(&mut old, b"one", b"one").await;

    set(&node, id, doc! {"tcpPort": i32::from(second)}).await;
    ask(&mut connect(second).await, b"two", b"two").await;
    eventually("the old port is closed", async || is_closed(first).await).await;
    let mut rest = Vec::new();
    tokio::time::timeout(DEADLINE, old.read_to_end(&mut rest))
        .await
        .expect("the old connection ends")
        .unwrap();

    set(&node, id, doc! {"status": "disabled"}).await;
    eventually("a disabled channel has no port", async || is_closed(second).await).await;
    set(&node, id, doc! {"status": "enabled"}).await;
    ask(&mut connect(second).await, b"three", b"three").await;
    set(&node, id, doc! {"type": "http"}).await;
    eventually("an HTTP channel has no port", async || is_closed(second).await).await;
}

#[tokio::test]
async fn a_port_in_use_is_taken_as_soon_as_it_is_free() {
    let backend = backend().echoes().start().await;
    let port = free_port();
    let owner = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let other = free_port();
    let _node = node()
        .channel(channel("tcp", port).primary(&backend))
        .channel(channel("tcp", other).primary(&backend))
        .start()
        .await;
    ask(&mut connect(other).await, b"meanwhile", b"meanwhile").await;

    drop(owner);

    ask(&mut connect(port).await, b"at last", b"at last").await;
}

#[tokio::test]
async fn channels_of_several_addresses_may_share_a_port_and_one_elsewhere_stops_none() {
    let (one, two) = (
        backend().answers(200, "one").start().await,
        backend().answers(200, "two").start().await,
    );
    let port = free_port();
    let at = |host: &str, backend: &Backend| channel("tcp", port).with("tcpHost", host).primary(backend);
    let moving = at("127.0.0.3", &two);
    let moved = moving.id();
    let node = node()
        .instances(2)
        // Not an address of this machine.
        .channel(at("192.0.2.1", &one))
        .channel(at("127.0.0.2", &one))
        .channel(moving)
        .start()
        .await;
    let reach = async |host: &str| {
        let host = host.to_owned();
        eventually("the channel's port is open", async || {
            TcpStream::connect((host.as_str(), port)).await.ok()
        })
        .await
    };

    ask(&mut reach("127.0.0.2").await, b"x", b"one").await;
    ask(&mut reach("127.0.0.3").await, b"x", b"two").await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());

    set(&node, moved, doc! {"tcpHost": "127.0.0.4"}).await;
    ask(&mut reach("127.0.0.4").await, b"x", b"two").await;
    eventually("the old place is given up", async || {
        TcpStream::connect(("127.0.0.3", port)).await.err().map(drop)
    })
    .await;
    ask(&mut reach("127.0.0.2").await, b"x", b"one").await;
}

#[tokio::test]
async fn a_channel_without_a_host_is_at_every_address() {
    let backend = backend().answers(200, "here").start().await;
    let port = free_port();
    let everywhere = channel("tcp", port).with("tcpHost", bson::Bson::Null).primary(&backend);
    let _node = node().channel(everywhere).start().await;
    connect(port).await;

    for host in ["127.0.0.1", "127.0.0.9"] {
        ask(&mut TcpStream::connect((host, port)).await.unwrap(), b"x", b"here").await;
    }
}

#[tokio::test]
async fn a_tls_channel_takes_clients_with_and_without_a_certificate() {
    let backend = backend().echoes().start().await;
    let port = free_port();
    let node = node().channel(channel("tls", port).primary(&backend)).start().await;

    for tls in [
        plain_http::Tls::anonymous(),
        plain_http::Tls::with_fresh_certificate("stranger"),
    ] {
        let tcp = connect(port).await;
        let connector = tokio_rustls::TlsConnector::from(tls.config());
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, tcp).await.unwrap();
        ask(&mut stream, b"secret", b"secret").await;
    }

    assert_eq!(node.recorded().closed(2).await.len(), 2);
}

#[tokio::test]
async fn a_trusted_proxy_says_who_sends() {
    let backend = backend().echoes().start().await;
    let port = free_port();
    let node = node()
        .set(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()])
        .channel(channel("tcp", port).primary(&backend))
        .start()
        .await;
    let mut stream = connect(port).await;

    ask(
        &mut stream,
        b"PROXY TCP4 10.1.2.3 10.0.0.1 4711 6000\r\nhello",
        b"hello",
    )
    .await;

    assert_eq!(node.recorded().only().await.text("clientIP"), Some("10.1.2.3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_and_dying_instances_lose_no_port() {
    let backend = backend().echoes().start().await;
    let port = free_port();
    let node = node()
        .instances(2)
        .channel(channel("tcp", port).primary(&backend))
        .start()
        .await;
    ask(&mut connect(port).await, b"before", b"before").await;

    node.node.restart().await;
    for _ in 0..8 {
        ask(
            &mut TcpStream::connect(("127.0.0.1", port)).await.unwrap(),
            b"renewed",
            b"renewed",
        )
        .await;
    }
    node.node.crash_instance(0);
    // What a dying instance had accepted is gone with it; the port is not.
    eventually("eight connections in a row are served", async || {
        for _ in 0..8 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            stream.write_all(b"crashed").await.ok()?;
            stream.read_exact(&mut [0; 7]).await.ok()?;
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn an_open_connection_does_not_keep_the_node_from_stopping() {
    let backend: Backend = backend().echoes().start().await;
    let port = free_port();
    let node = node().channel(channel("tcp", port).primary(&backend)).start().await;
    let mut stream = connect(port).await;
    ask(&mut stream, b"x", b"x").await;

    tokio::time::timeout(Duration::from_secs(5), node.stop())
        .await
        .expect("the node stops");

    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn messages_that_come_while_others_are_under_way_stay_apart_and_are_answered_in_order() {
    let backend = backend().echoes().after(Duration::from_millis(300)).start().await;
    let port = free_port();
    let node = node().channel(channel("tcp", port).primary(&backend)).start().await;
    let mut stream = connect(port).await;
    stream.set_nodelay(true).unwrap();

    for message in [b"one", b"two", b"six"] {
        stream.write_all(message).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    assert_eq!(read(&mut stream, 9).await, b"onetwosix");
    assert_eq!(node.recorded().closed(3).await.len(), 3);
}

#[tokio::test]
async fn a_sender_that_reads_no_answers_does_not_hold_up_another() {
    let backend = backend().answers(200, vec![b'a'; 4 << 20]).start().await;
    let port = free_port();
    let node = node().channel(channel("tcp", port).primary(&backend)).start().await;
    let mut deaf = connect(port).await;
    for _ in 0..8 {
        deaf.write_all(b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let mut other = connect(port).await;
    other.write_all(b"y").await.unwrap();

    assert!(read(&mut other, 4 << 20).await.iter().all(|byte| *byte == b'a'));
    drop(deaf);
    let recorded = node.recorded().closed(2).await;
    assert!(recorded.iter().all(|tx| tx.status() != "Failed"));
}

#[tokio::test]
async fn a_frame_without_end_is_dropped_at_its_limit() {
    let backend = backend().start().await;
    let port = free_port();
    let node = node()
        .set(|config| config.limits.request_body_mb = 1)
        .channel(channel("tcp", port).primary(&backend))
        .start()
        .await;
    let mut stream = connect(port).await;

    let flood = [&b"\x0bMSH|"[..], &vec![b'x'; 3 << 20]].concat();
    let _ = stream.write_all(&flood).await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest))
        .await
        .expect("the connection ends");

    assert_eq!(rest, b"");
    assert_eq!(node.recorded().count().await, 0);
}
