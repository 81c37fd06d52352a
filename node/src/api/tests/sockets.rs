//! The API on real sockets: TLS, connections that are kept, clients that go away, the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bson::doc;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::TestApi;
use crate::api::{self, TlsSource};
use crate::crypto::certificate::{SelfSigned, chain_from_pem};
use crate::keystore::{Keystore, LiveKeystore, cert_document};
use crate::store::Collection;

const DEADLINE: Duration = Duration::from_secs(10);

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

async fn serve(api: &TestApi, tls: Option<TlsSource>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(api::serve(Arc::clone(&api.service.api), listener, tls, stop.clone()));
    Served { address, stop, serving }
}

/// Sends a request and reads its answer, whose body must have a length.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    read_answer(stream).await
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let read = async {
        let mut bytes = Vec::new();
        loop {
            bytes.push(stream.read_u8().await.unwrap());
            if bytes.ends_with(b"\r\n\r\n") {
                break;
            }
        }
        let head = String::from_utf8(bytes).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        head + std::str::from_utf8(&body).unwrap()
    };
    tokio::time::timeout(DEADLINE, read).await.expect("no answer in time")
}

const HEARTBEAT: &str = "GET /heartbeat HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test]
async fn tls_serves_with_the_keystores_certificate_and_asks_for_none() {
    let api = TestApi::start().await;
    let wanted = SelfSigned {
        alternative_names: vec!["localhost".into()],
        ..SelfSigned::default()
    };
    let pair = wanted.generate(super::NOW - 86_400_000).unwrap();
    let stored = doc! {"cert": cert_document(&pair.certificate).unwrap(), "key": &pair.key, "ca": []};
    let keystore = Keystore::from_stored(&crate::model::keystore::Keystore::from_document(&stored)).unwrap();
    let live = Arc::new(LiveKeystore::new(keystore, api.clock.clone()).unwrap());
    let served = serve(&api, Some(Arc::new(move || live.plain_server_config()))).await;

    let mut stream = connect_tls(served.address, &pair.certificate).await;
    for _ in 0..2 {
        let answer = exchange(&mut stream, HEARTBEAT).await;
        assert!(answer.starts_with("http/1.1 200 ok\r\n"), "{answer}");
    }
    // A client that speaks no TLS disturbs nobody.
    let mut plain = TcpStream::connect(served.address).await.unwrap();
    plain.write_all(HEARTBEAT.as_bytes()).await.unwrap();
    assert!(exchange(&mut stream, HEARTBEAT).await.starts_with("http/1.1 200"));

    served.stop.cancel();
    tokio::time::timeout(DEADLINE, served.serving).await.unwrap().unwrap();
}

async fn connect_tls(address: SocketAddr, certificate: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in chain_from_pem(certificate).unwrap() {
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_refused_body_is_read_so_that_its_sender_sees_why() {
    let api = TestApi::start_with(|config| config.api.max_payload_size_mb = 1.0).await;
    let served = serve(&api, None).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let length = 8 * 1024 * 1024;
    let head = format!(
        "POST /channels HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; length]).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert!(answer.starts_with("http/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_change_is_carried_to_its_end_when_the_client_goes_away() {
    let api = TestApi::start().await;
    let root = api.log_in(super::ROOT).await;
    let served = serve(&api, None).await;
    let body = r#"{"name":"left","urlPattern":"x","routes":[{"name":"r","host":"h","port":1,"primary":true}]}"#;
    let request = format!(
        "POST /channels HTTP/1.1\r\nhost: localhost\r\ncookie: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        root.cookie,
        body.len()
    );
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    drop(stream);

    let deadline = tokio::time::Instant::now() + DEADLINE;
    while api.stored(Collection::ChannelAudits, doc! {}).await.is_empty() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the channel was left without its history"
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(api.stored(Collection::Channels, doc! {}).await.len(), 1);
}

#[tokio::test]
async fn a_header_section_that_is_too_long_is_refused() {
    let api = TestApi::start_with(|config| config.limits.header_bytes = 16 * 1024).await;
    let served = serve(&api, None).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let request = format!(
        "GET /heartbeat HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "y".repeat(40_000)
    );
    let answer = exchange(&mut stream, &request).await;
    assert!(answer.starts_with("http/1.1 431"), "{answer}");
}

#[tokio::test]
async fn connections_that_wait_do_not_hold_up_the_end() {
    let api = TestApi::start().await;
    let served = serve(&api, None).await;
    let mut kept = TcpStream::connect(served.address).await.unwrap();
    exchange(&mut kept, HEARTBEAT).await;
    served.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), served.serving)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(kept.read(&mut [0; 16]).await.unwrap(), 0);
}
