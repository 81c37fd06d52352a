//! The balancer's own certificates, those of clients, and what is wrong with files.

use super::*;

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let authority = Authority::new();
    authority.sign("server", &["first.example"]);
    authority.sign("wild", &["*.sites.example", "sites.example"]);
    let backend = Backend::start().await;
    let certificates = format!("{},{}", authority.text("server.crt"), authority.text("wild.crt"));
    let keys = format!("{},{}", authority.text("server.key"), authority.text("wild.key"));
    let options = [("tls-cert", &*certificates), ("tls-key", &*keys)];
    let balancer = ending_tls(&authority, &list(&[&backend]), &options).await;
    let config = Arc::new(authority.client(None));

    for (name, file) in [
        ("first.example", "server"),
        ("FIRST.example", "server"),
        ("a.sites.example", "wild"),
        ("sites.example", "wild"),
    ] {
        let client = connect(balancer.address(), &config, name).await.expect("TLS");
        assert_eq!(shown(&client), authority.pair(file).0[0], "{name}");
    }
    for name in ["other.example", "a.b.sites.example"] {
        let error = connect(balancer.address(), &config, name)
            .await
            .expect_err("not for that name");
        assert!(error.to_string().contains("certificate"), "{name}: {error}");
    }
}

#[tokio::test]
async fn both_versions_are_spoken_unless_the_older_is_refused_and_sessions_go_on_on_any_thread() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let backend = Backend::start().await;
    let balancer = ending_tls(&authority, &list(&[&backend]), &[("threads", "2")]).await;
    for (version, expected) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let config = builder.expect("a version").with_root_certificates(authority.roots());
        let config = Arc::new(config.with_no_client_auth());
        for round in 0..6 {
            let mut client = connect(balancer.address(), &config, "balancer.example")
                .await
                .expect("TLS");
            line(&mut client).await;
            let session = client.get_ref().1;
            assert_eq!(session.protocol_version(), Some(expected));
            let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(resumed, round > 0, "round {round} of {expected:?}");
            client.shutdown().await.expect("finished");
        }
    }
    assert_eq!(balancer.report().await.services[0].tls_resumed, 10);

    let strict = ending_tls(&authority, &list(&[&backend]), &[("tls-min", "1.3")]).await;
    let old = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &strict.address().to_string()])
        .stdin(std::process::Stdio::null())
        .output();
    if let Ok(old) = old {
        assert!(!old.status.success(), "{}", String::from_utf8_lossy(&old.stdout));
    }
}

#[tokio::test]
async fn a_new_pair_is_taken_up_and_a_broken_one_refused_with_the_old_kept() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let backend = Backend::start().await;
    let balancer = ending_tls(&authority, &list(&[&backend]), &[]).await;
    let config = Arc::new(authority.client(None));
    let first = authority.pair("server").0[0].clone();
    let mut held = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    line(&mut held).await;

    // A key that does not belong to it, then no key at all.
    authority.sign("other", &["balancer.example"]);
    fs::copy(authority.path("other.key"), authority.path("server.key")).expect("copied");
    let says = |text: &'static str| {
        move |it: &openhim_balancer::Report| it.reloads.problems.iter().any(|it| it.contains(text))
    };
    balancer
        .until("refused", says("does not belong to the certificate in"))
        .await;
    fs::write(authority.path("server.key"), "nothing").expect("written");
    let report = balancer.until("refused", says("holds no private key")).await;
    assert!(report.reloads.bad >= 2 && report.reloads.problems[0].contains("the certificates before stay in use"));
    let client = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    assert_eq!(shown(&client), first);

    fs::copy(authority.path("other.crt"), authority.path("server.crt")).expect("copied");
    fs::copy(authority.path("other.key"), authority.path("server.key")).expect("copied");
    let second = authority.pair("other").0[0].clone();
    within("the new certificate", async {
        loop {
            let fresh = Arc::new(authority.client(None));
            let client = connect(balancer.address(), &fresh, "balancer.example")
                .await
                .expect("never refused");
            if shown(&client) == second {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    balancer.until("well", |it| it.reloads.problems.is_empty()).await;
    held.write_all(b"still there").await.expect("the connection stands");
    let mut back = [0; 11];
    within("an echo", held.read_exact(&mut back))
        .await
        .expect("the connection stands");
}

#[tokio::test]
async fn certificates_of_clients_are_verified_and_told_to_backends() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("server", &["balancer.example"]);
    authority.sign("clinic", &["clinic-7"]);
    stranger.sign("clinic", &["clinic-7"]);
    let (listener, backend) = backend().await;
    let ca = authority.text("ca.pem");
    let options = [
        ("tls-client-ca", &*ca),
        ("client-ip", "proxy-v2"),
        ("alpn", "mllp"),
        ("tls-client", "optional"),
    ];
    let balancer = ending_tls(&authority, &backend, &options).await;
    let header = async || {
        let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
        let mut bytes = vec![0; 4096];
        let length = within("a header", stream.read(&mut bytes)).await.expect("no reset");
        bytes.truncate(length);
        bytes
    };

    let mut config = authority.client(Some("clinic"));
    config.alpn_protocols = vec![b"mllp".to_vec()];
    let client = connect(balancer.address(), &Arc::new(config), "balancer.example")
        .await
        .expect("TLS");
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"mllp"[..]));
    let bytes = header().await;
    let Ok(Progress::Complete(told)) = parse(&bytes) else {
        panic!("{bytes:?}")
    };
    let ssl = told.tlvs.ssl().expect("TLS is told");
    assert!(ssl.certificate && ssl.verified);
    assert_eq!((ssl.common_name, ssl.version), (Some("clinic-7"), Some("TLSv1.3")));
    assert!(ssl.cipher.is_some_and(|it| it.starts_with("TLS_")), "{ssl:?}");
    assert_eq!(told.tlvs.authority(), Some("balancer.example"));

    let _client = connect(
        balancer.address(),
        &Arc::new(authority.client(None)),
        "balancer.example",
    )
    .await
    .expect("optional");
    let bytes = header().await;
    let Ok(Progress::Complete(told)) = parse(&bytes) else {
        panic!("{bytes:?}")
    };
    let ssl = told.tlvs.ssl().expect("TLS is told");
    assert!(!ssl.certificate && !ssl.verified && ssl.common_name.is_none());

    let (chain, key) = stranger.pair("clinic");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_root_certificates(authority.roots());
    let wrong = builder.with_client_auth_cert(chain, key).expect("a pair");
    let refused = async {
        let mut client = connect(balancer.address(), &Arc::new(wrong), "balancer.example").await?;
        client.read_u8().await
    };
    assert!(
        within("a refusal", refused).await.is_err(),
        "a wrong one is worse than none"
    );
    balancer.until("counted", |it| it.services[0].tls_failed == 1).await;
}

#[tokio::test]
async fn a_session_is_worth_nothing_once_other_authorities_are_believed() {
    let (old, new) = (Authority::new(), Authority::new());
    old.sign("server", &["balancer.example"]);
    old.sign("clinic", &["clinic-7"]);
    let backend = Backend::start().await;
    let ca = old.text("clients.pem");
    fs::copy(old.path("ca.pem"), &ca).expect("copied");
    let balancer = ending_tls(&old, &list(&[&backend]), &[("tls-client-ca", &ca)]).await;
    let config = Arc::new(old.client(Some("clinic")));
    let served = async || {
        let mut client = connect(balancer.address(), &config, "balancer.example").await.ok()?;
        let mut first = [0];
        within("an answer", client.read_exact(&mut first)).await.ok()?;
        client.get_ref().1.handshake_kind()
    };
    assert_eq!(served().await, Some(HandshakeKind::Full));
    assert_eq!(served().await, Some(HandshakeKind::Resumed));

    // The same session is good after a new certificate ...
    old.sign("server", &["balancer.example"]);
    balancer
        .until("a good reload", |it| {
            it.reloads.good > 0 && it.reloads.problems.is_empty()
        })
        .await;
    assert_eq!(served().await, Some(HandshakeKind::Resumed));

    // ... and not when its holder would not be let in today.
    fs::copy(new.path("ca.pem"), &ca).expect("copied");
    within("a refusal", async {
        while served().await.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_with_files_is_told_with_its_place_before_anything_is_bound() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    authority.sign("other", &["balancer.example"]);
    for (cert, key, says) in [
        ("server.crt", "other.key", "does not belong to the certificate in"),
        ("server.key", "server.key", "holds no certificate in PEM"),
        ("server.crt", "server.crt", "holds no private key in PEM"),
        ("missing.crt", "server.key", "cannot be read: No such file"),
    ] {
        let text = format!("listen: 127.0.0.1:0\nbackends: 127.0.0.1:1\ntls_cert: {cert}\ntls_key: {key}\n");
        let path = authority.path("balancer.yaml");
        fs::write(&path, text).expect("written");
        let checked = Command::new(env!("CARGO_BIN_EXE_openhim-core"))
            .args(["check-config".as_ref(), "balancer".as_ref(), path.as_os_str()])
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.code() == Some(1) && said.contains(says), "{said}");
        assert!(said.contains("balancer.yaml:"), "{said}");
        let refused = Command::new(env!("CARGO_BIN_EXE_openhim-core"))
            .args(["balancer".as_ref(), "--config".as_ref(), path.as_os_str()])
            .output()
            .expect("it runs");
        assert_eq!(
            refused.status.code(),
            Some(64),
            "{}",
            String::from_utf8_lossy(&refused.stderr)
        );
    }
    assert!(Path::new(&authority.path("ca.pem")).exists());
}
