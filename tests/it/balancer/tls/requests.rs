//! HTTP over TLS, on either side.

use super::*;

#[tokio::test]
async fn http_is_served_over_tls_in_both_versions_and_learns_of_the_certificate() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    authority.sign("clinic", &["clinic-7"]);
    let (listener, backend) = backend().await;
    let ca = authority.text("ca.pem");
    let balancer = ending_tls(&authority, &backend, &[("mode", "http"), ("tls-client-ca", &ca)]).await;
    let mut config = authority.client(Some("clinic"));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = connect(balancer.address(), &Arc::new(config), "balancer.example")
        .await
        .expect("TLS");
    client
        .write_all(b"GET /x HTTP/1.1\r\nHost: balancer.example\r\n\r\n")
        .await
        .expect("sent");

    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(within("a request", stream.read_u8()).await.expect("no reset"));
    }
    let seen = String::from_utf8(seen).expect("text").to_lowercase();
    assert!(seen.contains("x-forwarded-proto: https\r\n"), "{seen}");
    assert!(seen.contains("x-ssl-client-cn: clinic-7\r\n"), "{seen}");
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .expect("sent");
    let mut answer = vec![0; 15];
    within("an answer", client.read_exact(&mut answer))
        .await
        .expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 200 OK");

    let mut config = authority.client(Some("clinic"));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = connect(balancer.address(), &Arc::new(config), "balancer.example")
        .await
        .expect("TLS");
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn requests_go_to_backends_over_tls_that_is_kept_and_tell_the_client_before_it() {
    let authority = Authority::new();
    authority.sign("node", &["localhost"]);
    let (listener, backend) = backend().await;
    let ca = authority.text("ca.pem");
    for client_ip in ["none", "proxy-v1"] {
        let options = [
            ("backends", &*backend),
            ("mode", "http"),
            ("backend-tls", "true"),
            ("backend-ca", &*ca),
            ("backend-name", "localhost"),
            ("check", "none"),
            ("client-ip", client_ip),
        ];
        let balancer = balancer(&options).await;
        let mut client = TcpStream::connect(balancer.address()).await.expect("connected");
        let mut kept = None;
        for _ in 0..2 {
            let request = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
            client.write_all(request).await.expect("sent");
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => {
                    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
                    if client_ip == "proxy-v1" {
                        assert!(line(&mut stream).await.starts_with("PROXY TCP4 127.0.0.1 "));
                    }
                    let acceptor = TlsAcceptor::from(authority.server("node"));
                    within("a handshake", acceptor.accept(stream)).await.expect("TLS")
                }
            };
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                seen.push(within("a request", stream.read_u8()).await.expect("no reset"));
            }
            assert!(
                seen.starts_with(b"GET /x HTTP/1.1\r\n"),
                "{}",
                String::from_utf8_lossy(&seen)
            );
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.expect("sent");
            stream.flush().await.expect("sent");
            let mut received = vec![0; answer.len()];
            within("an answer", client.read_exact(&mut received))
                .await
                .expect("an answer");
            assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n") && received.ends_with(b"ok"));
            // A connection that tells of one client is not for another request.
            kept = (client_ip == "none").then_some(stream);
        }
    }
}

#[tokio::test]
async fn openssl_is_understood_in_both_versions() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    authority.sign("clinic", &["clinic-7"]);
    let backend = Backend::start().await;
    let ca = authority.text("ca.pem");
    let balancer = ending_tls(&authority, &list(&[&backend]), &[("tls-client-ca", &ca)]).await;
    for version in ["-tls1_2", "-tls1_3"] {
        let address = balancer.address().to_string();
        let files = ["ca.pem", "clinic.crt", "clinic.key"].map(|file| authority.text(file));
        let asked = tokio::task::spawn_blocking(move || {
            Command::new("openssl")
                .args([
                    "s_client",
                    version,
                    "-brief",
                    "-verify_return_error",
                    "-servername",
                    "balancer.example",
                ])
                .args([
                    "-connect", &address, "-CAfile", &files[0], "-cert", &files[1], "-key", &files[2],
                ])
                .stdin(std::process::Stdio::null())
                .output()
        });
        let Ok(output) = within("openssl", asked).await.expect("no panic") else {
            return println!("skipped: openssl is not installed");
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && said.contains("Verification: OK"),
            "{version}: {said}"
        );
    }
    assert_eq!(balancer.report().await.services[0].tls_handshakes, 2);
}
