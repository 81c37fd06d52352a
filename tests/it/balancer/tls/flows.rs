//! Bytes, ends and limits of flows whose client side is encrypted.

use super::*;

#[tokio::test]
async fn bytes_pass_both_ways_and_either_side_may_finish_first() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let backend = Backend::start().await;
    let balancer = ending_tls(&authority, &list(&[&backend]), &[]).await;
    let config = Arc::new(authority.client(None));
    let mut client = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    assert_eq!(line(&mut client).await, backend.address.to_string());

    // More than all buffers hold; the backend echoes while it is still being sent.
    let sent: Vec<u8> = (0..4_000_000_u32).map(|it| (it % 251) as u8).collect();
    let (mut from, mut to) = tokio::io::split(client);
    let sending = async {
        to.write_all(&sent).await.expect("sent");
        to.shutdown().await.expect("finished");
    };
    let mut received = Vec::new();
    let receiving = async { from.read_to_end(&mut received).await.expect("a proper end") };
    within("an echo", async { tokio::join!(sending, receiving) }).await;

    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    let report = balancer
        .until("counted", |it| it.services[0].bytes_in >= 4_000_000)
        .await;
    assert_eq!(
        (report.services[0].tls_handshakes, report.services[0].tls_failed),
        (1, 0)
    );
}

#[tokio::test]
async fn with_either_version_a_client_that_has_finished_still_gets_the_whole_answer() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let (listener, backend) = backend().await;
    let balancer = ending_tls(&authority, &backend, &[]).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let config = builder.expect("a version").with_root_certificates(authority.roots());
        let config = Arc::new(config.with_no_client_auth());
        let mut client = connect(balancer.address(), &config, "balancer.example")
            .await
            .expect("TLS");
        client.write_all(b"question").await.expect("sent");
        client.shutdown().await.expect("finished");

        let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
        let mut question = Vec::new();
        within("the question", stream.read_to_end(&mut question))
            .await
            .expect("a proper end");
        assert_eq!(question, b"question");
        let answer = vec![7; 300_000];
        let sending = async {
            stream.write_all(&answer).await.expect("sent");
            stream.shutdown().await.expect("finished");
        };
        let mut received = Vec::new();
        let receiving = async { client.read_to_end(&mut received).await.expect("a proper end") };
        within("an answer", async { tokio::join!(sending, receiving) }).await;
        assert!(received == answer, "{} bytes", received.len());
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_backend_back_and_loses_nothing() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    authority.sign("node", &["localhost"]);
    let (listener, backend) = backend().await;
    let ca = authority.text("ca.pem");
    let more = [
        ("backend-tls", "true"),
        ("backend-ca", &*ca),
        ("backend-name", "localhost"),
    ];
    let balancer = ending_tls(&authority, &backend, &more).await;
    let config = Arc::new(authority.client(None));
    let connecting = connect(balancer.address(), &config, "balancer.example");
    let accepting = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        TlsAcceptor::from(authority.server("node"))
            .accept(stream)
            .await
            .expect("TLS")
    };
    let (client, mut stream) = within("both ends", async { tokio::join!(connecting, accepting) }).await;
    let mut client = client.expect("TLS");

    // Until nothing goes any more for a while: what is on the way is bounded.
    let piece: Vec<u8> = (0..65_536_u32).map(|it| (it % 253) as u8).collect();
    let mut sent = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), stream.write(&piece[sent % piece.len()..])).await
    {
        sent += written.expect("the connection stands");
        assert!(sent < 64 << 20, "nobody holds it back");
    }
    let sending = async {
        stream.shutdown().await.expect("finished");
    };
    let mut received = Vec::new();
    let receiving = async { client.read_to_end(&mut received).await.expect("a proper end") };
    within("everything", async { tokio::join!(sending, receiving) }).await;

    assert_eq!(received.len(), sent);
    let expected = |index: usize| piece[index % piece.len()];
    assert!(
        received
            .iter()
            .enumerate()
            .all(|(index, byte)| *byte == expected(index))
    );
}

#[tokio::test]
async fn handshakes_have_a_time_limit_in_both_modes() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let backend = Backend::start().await;
    for mode in ["tcp", "http"] {
        let more = [("handshake-timeout", "300ms"), ("mode", mode)];
        let balancer = ending_tls(&authority, &list(&[&backend]), &more).await;
        for first in [&b""[..], b"\x16\x03\x01"] {
            let begun = std::time::Instant::now();
            let mut stream = TcpStream::connect(balancer.address()).await.expect("connected");
            stream.write_all(first).await.expect("sent");
            let mut rest = Vec::new();
            let _ = within("the end", stream.read_to_end(&mut rest)).await;
            assert!(
                (250..3000).contains(&begun.elapsed().as_millis()),
                "{:?}",
                begun.elapsed()
            );
        }
        let mut stream = TcpStream::connect(balancer.address()).await.expect("connected");
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
        let mut rest = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut rest)).await;
        balancer.until("counted", |it| it.services[0].tls_failed == 3).await;
    }
}

#[tokio::test]
async fn an_end_without_a_farewell_is_a_reset_for_the_other_side_and_a_reset_is_one_too() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let (listener, backend) = backend().await;
    let balancer = ending_tls(&authority, &backend, &[]).await;
    let config = Arc::new(authority.client(None));

    let mut client = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    client.write_all(b"half a mess").await.expect("sent");
    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
    let mut begin = [0; 11];
    within("the beginning", stream.read_exact(&mut begin))
        .await
        .expect("delivered");
    // A FIN below TLS, without close_notify.
    client.get_mut().0.shutdown().await.expect("finished");
    let end = within("the end", stream.read(&mut begin)).await;
    assert_eq!(
        end.expect_err("no proper end").kind(),
        std::io::ErrorKind::ConnectionReset
    );

    let mut client = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
    stream.write_all(b"half an answ").await.expect("sent");
    let mut begin = [0; 12];
    within("the beginning", client.read_exact(&mut begin))
        .await
        .expect("delivered");
    stream.set_zero_linger().expect("an option");
    drop(stream);
    let end = within("the end", client.read(&mut begin)).await;
    assert_eq!(
        end.expect_err("no proper end").kind(),
        std::io::ErrorKind::ConnectionReset
    );
}
