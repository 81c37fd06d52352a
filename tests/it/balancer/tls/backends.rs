//! TLS to backends.

use super::*;

#[tokio::test]
async fn backends_are_spoken_to_in_tls_verified_named_and_resumed() {
    let authority = Authority::new();
    authority.sign("node", &["localhost"]);
    let (address, _task) = tls_backend(authority.server("node")).await;
    let (backend, ca) = (format!("localhost:{}", address.port()), authority.text("ca.pem"));
    let options = [
        ("backends", &*backend),
        ("backend-tls", "true"),
        ("backend-ca", &*ca),
        ("check", "tcp"),
    ];
    let balancer = balancer(&options).await;
    balancer.until_state(address, "up").await;

    let mut client = Client::connect(balancer.address()).await;
    assert_eq!(line(&mut client.stream).await.split(' ').next(), Some("localhost"));
    client.echo(b"through").await;
    client.finish().await;
    let mut client = Client::connect(balancer.address()).await;
    assert_eq!(line(&mut client.stream).await, "localhost Resumed");
}

#[tokio::test]
async fn a_backend_with_a_wrong_certificate_gets_nobody() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("node", &["localhost"]);
    stranger.sign("node", &["localhost"]);
    let (right, _one) = tls_backend(authority.server("node")).await;
    let (wrong, _two) = tls_backend(stranger.server("node")).await;
    let backends = format!("127.0.0.1:{},127.0.0.1:{}", right.port(), wrong.port());
    let ca = authority.text("ca.pem");
    let options = [
        ("backends", &*backends),
        ("backend-tls", "true"),
        ("backend-ca", &*ca),
        ("backend-name", "localhost"),
        ("threads", "1"),
    ];
    for check in ["tcp", "none"] {
        let mut options = options.to_vec();
        options.push(("check", check));
        let balancer = balancer(&options).await;
        for _ in 0..6 {
            let mut client = Client::connect(balancer.address()).await;
            assert!(line(&mut client.stream).await.starts_with("localhost "), "{check}");
        }
        let state = if check == "tcp" { "down" } else { "ejected" };
        balancer.until_state(wrong, state).await;
    }
    let mut options = options.to_vec();
    options.retain(|(name, _)| *name != "backend-ca");
    options.push(("backend-insecure", "true"));
    let balancer = balancer(&options).await;
    balancer.until_state(wrong, "up").await;
}

#[tokio::test]
async fn a_proxy_header_goes_before_tls_to_a_backend() {
    let authority = Authority::new();
    authority.sign("node", &["localhost"]);
    authority.sign("server", &["balancer.example"]);
    let (listener, backend) = backend().await;
    let ca = authority.text("ca.pem");
    let more = [
        ("backend-tls", "true"),
        ("backend-ca", &*ca),
        ("backend-name", "localhost"),
        ("client-ip", "proxy-v1"),
    ];
    let balancer = ending_tls(&authority, &backend, &more).await;
    let config = Arc::new(authority.client(None));
    let mut client = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    client.write_all(b"hello").await.expect("sent");

    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
    assert!(line(&mut stream).await.starts_with("PROXY TCP4 127.0.0.1 "));
    let mut stream = within(
        "a handshake",
        TlsAcceptor::from(authority.server("node")).accept(stream),
    )
    .await
    .expect("TLS");
    let mut hello = [0; 5];
    within("the bytes", stream.read_exact(&mut hello))
        .await
        .expect("delivered");
    assert_eq!(&hello, b"hello");
}
