//! TLS that passes through, by the name that is asked for.

use super::*;

#[tokio::test]
async fn tls_passes_through_to_the_group_of_its_name_and_the_rest_to_the_default() {
    let authority = Authority::new();
    for file in ["a", "b", "default"] {
        authority.sign(file, &["a.example", "x.b.example", "c.example"]);
    }
    let (a, _a) = tls_backend(authority.server("a")).await;
    let (b, _b) = tls_backend(authority.server("b")).await;
    let (default, _default) = tls_backend(authority.server("default")).await;
    let (own, groups) = (default.to_string(), [format!("a={a}"), format!("b={b}")]);
    let options = [
        ("backends", &*own),
        ("groups", &*groups[0]),
        ("groups", &*groups[1]),
        ("sni", "a.example=a,*.b.example=b"),
        ("handshake-timeout", "500ms"),
    ];
    let balancer = balancer(&options).await;
    let config = Arc::new(authority.client(None));
    for (name, file) in [
        ("a.example", "a"),
        ("x.b.example", "b"),
        ("c.example", "default"),
        ("A.Example", "a"),
    ] {
        let mut client = connect(balancer.address(), &config, name).await.expect("TLS");
        assert_eq!(shown(&client), authority.pair(file).0[0], "{name}");
        line(&mut client).await;
        client.write_all(b"through").await.expect("sent");
        let mut back = [0; 7];
        within("an echo", client.read_exact(&mut back))
            .await
            .expect("delivered");
    }

    // A byte at a time, so that nothing of the first message is there at once.
    let mut client = rustls::ClientConnection::new(
        Arc::clone(&config),
        ServerName::try_from("x.b.example").expect("a name"),
    )
    .expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("written");
    let mut stream = TcpStream::connect(balancer.address()).await.expect("connected");
    stream.set_nodelay(true).expect("an option");
    for byte in &hello {
        stream.write_all(&[*byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    let mut record = [0; 3];
    within("an answer", stream.read_exact(&mut record))
        .await
        .expect("a server hello");
    assert_eq!(record, [22, 3, 3]);

    let report = balancer.report().await;
    let counted: Vec<_> = report
        .services
        .iter()
        .map(|it| (it.name.rsplit('/').next().unwrap_or(""), it.backends[0].connections))
        .collect();
    assert_eq!(counted[1..], [("a", 2), ("b", 2)], "{counted:?}");

    for hostile in [
        &b"\x16\x03\x01\x00\x00"[..],
        b"\x16\x03\x01\x40\x00\x02",
        b"\x16\x03\x01\x02\x00\x01",
    ] {
        let begun = std::time::Instant::now();
        let mut stream = TcpStream::connect(balancer.address()).await.expect("connected");
        stream.write_all(hostile).await.expect("sent");
        let end = within("an end", stream.read(&mut record)).await;
        assert!(!matches!(end, Ok(1..)), "{hostile:?} was passed on");
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
    balancer.until("counted", |it| it.services[0].tls_failed == 3).await;
}
