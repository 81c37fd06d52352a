use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::Config;

fn check(options: &[(&str, &str)]) -> Check {
    let all = options.iter().copied().chain([("backends", "127.0.0.1:1")]);
    Config::from_options(all)
        .check()
        .expect("good options")
        .plan
        .services
        .remove(0)
        .check
}

fn failed() -> Result<(), Failure> {
    Err(Failure::unreachable("refused"))
}

#[test]
fn nothing_is_known_before_the_first_probe_and_the_first_one_settles_it() {
    let check = check(&[]);
    let mut good = HealthMachine::new(&check);
    let mut bad = good.clone();
    assert_eq!((good.health(), good.is_new()), (&Health::Unknown, true));

    assert_eq!(good.observe(&check, Ok(())), Some(Change::Up));
    assert_eq!(bad.observe(&check, failed()), Some(Change::Down));
    assert!(!good.is_new() && !bad.is_new());
}

#[test]
fn it_takes_fall_failures_in_a_row_to_go_down_and_rise_successes_to_come_up() {
    let check = check(&[("rise", "2"), ("fall", "3")]);
    let mut machine = HealthMachine::new(&check);
    let mut changes = Vec::new();
    for success in [true, false, false, true, false, false, false, true, false, true, true] {
        let result = if success { Ok(()) } else { failed() };
        changes.push(machine.observe(&check, result));
    }

    let mut expected = vec![None; 11];
    (expected[0], expected[6], expected[10]) = (Some(Change::Up), Some(Change::Down), Some(Change::Up));
    assert_eq!(changes, expected);
}

#[test]
fn probes_come_faster_while_the_state_is_changing() {
    let check = check(&[("interval", "2s"), ("fast-interval", "500ms")]);
    let mut machine = HealthMachine::new(&check);
    machine.observe(&check, Ok(()));
    assert_eq!(machine.next_in(&check, 0.5), Duration::from_secs(2));
    machine.observe(&check, failed());
    assert_eq!(machine.next_in(&check, 0.5), Duration::from_millis(500));
    machine.observe(&check, Ok(()));
    assert_eq!(machine.next_in(&check, 0.0), Duration::from_millis(1800));
    assert_eq!(machine.next_in(&check, 1.0), Duration::from_millis(2200));
}

#[test]
fn without_checks_a_backend_counts_as_up() {
    assert_eq!(HealthMachine::new(&check(&[("check", "none")])).health(), &Health::Up);
}

/// Answers each connection with these bytes, and returns the address and what it was asked.
async fn answering(answer: &'static [u8]) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).await.unwrap_or(0);
            let _ = sender
                .send(String::from_utf8_lossy(&asked[..length]).into_owned())
                .await;
            let _ = stream.write_all(answer).await;
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn an_http_check_wants_an_expected_status() {
    let (address, mut asked) = answering(b"HTTP/1.1 204 No Content\r\n\r\n").await;

    let options = [("check", "http"), ("check-path", "/heartbeat?x=1")];
    assert_eq!(probe(address, &check(&options), None).await, Ok(()));
    let asked = asked.recv().await.expect("it was asked").to_lowercase();
    assert!(asked.starts_with("get /heartbeat?x=1 http/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: {address}\r\n")), "{asked}");

    let picky = [("check", "http"), ("check-expect", "200")];
    let failure = probe(address, &check(&picky), None).await.expect_err("204 is not 200");
    assert_eq!(failure, Failure::answered("GET /heartbeat answered 204"));
}

#[tokio::test]
async fn a_check_may_ask_another_port_than_the_traffics() {
    let (address, _asked) = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let traffic = SocketAddr::new(address.ip(), 1);
    let port = address.port().to_string();

    assert_eq!(
        probe(traffic, &check(&[("check", "http"), ("check-port", &port)]), None).await,
        Ok(())
    );
    assert_eq!(probe(traffic, &check(&[("check-port", &port)]), None).await, Ok(()));
    assert!(
        probe(traffic, &check(&[]), None)
            .await
            .expect_err("port 1 is closed")
            .is_unreachable
    );
}

#[tokio::test]
async fn a_backend_that_accepts_and_says_nothing_fails_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let options = [("check", "http"), ("check-timeout", "50ms")];

    let failure = probe(address, &check(&options), None).await.expect_err("silence");

    assert!(failure.text.contains("no answer"), "{failure}");
}

#[tokio::test]
async fn what_is_not_http_is_not_healthy() {
    let (address, _asked) = answering(b"220 smtp ready\r\n").await;

    assert!(
        !probe(address, &check(&[("check", "http")]), None)
            .await
            .expect_err("smtp")
            .is_unreachable
    );
}

mod https {
    use std::sync::Arc;

    use rustls::ServerConfig;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    async fn secure_backend() -> SocketAddr {
        let pair = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).expect("a certificate");
        let key = rustls_pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn an_unknown_certificate_is_accepted_only_when_told_so() {
        let address = secure_backend().await;

        let insecure = [("check", "https"), ("check-insecure", "true"), ("check-timeout", "5s")];
        assert_eq!(probe(address, &check(&insecure), None).await, Ok(()));
        let failure = probe(address, &check(&[("check", "https"), ("check-timeout", "5s")]), None)
            .await
            .expect_err("unknown");
        assert!(!failure.is_unreachable, "{failure}");
    }
}
