//! Connections and requests: who gets them, in which order, over which connection.

use std::time::Duration;

use super::peers::{Act, Backend, OK, balancer, serve, within, written};

#[tokio::test]
async fn each_request_of_a_connection_goes_to_the_next_backend() {
    let (one, two) = (Backend::answering(OK).await, Backend::answering(OK).await);
    let balancer = balancer(&[&one, &two], &[]).await;
    let mut client = balancer.connect().await;

    for index in 0..6 {
        client.send(format!("GET /{index} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(client.until("ok").await, OK);
    }

    let (mut first, mut second) = (one.lines(), two.lines());
    if first[0] != "GET /0 HTTP/1.1" {
        std::mem::swap(&mut first, &mut second);
    }
    assert_eq!(first, ["GET /0 HTTP/1.1", "GET /2 HTTP/1.1", "GET /4 HTTP/1.1"]);
    assert_eq!(second, ["GET /1 HTTP/1.1", "GET /3 HTTP/1.1", "GET /5 HTTP/1.1"]);
    // All clients share one connection to each.
    assert!(one.seen().iter().chain(&two.seen()).all(|it| it.connection == 1));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let slow_first = Backend::start(|it| match it.line() {
        "GET /a HTTP/1.1" => Act::SayLater(
            Duration::from_millis(200),
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
        ),
        "POST /b HTTP/1.1" => Act::Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n"),
        _ => Act::Say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nc"),
    })
    .await;
    let balancer = balancer(&[&slow_first], &[]).await;
    let text = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\r\n\
        GET /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    let answer = balancer.talk(text).await;

    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na\
         HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nc"
    );
    let seen = slow_first.seen();
    assert_eq!((seen.len(), &*seen[1].body), (3, &b"abc"[..]));
}

#[tokio::test]
async fn a_client_of_http_1_0_is_answered_in_a_form_it_knows() {
    let chunked =
        Backend::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n")
            .await;
    let with_chunks = balancer(&[&chunked], &[]).await;

    let answer = with_chunks.talk("GET / HTTP/1.0\r\n\r\n").await;

    assert_eq!(answer, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello");
    assert_eq!(chunked.seen()[0].field("Host"), Some(&*chunked.address.to_string()));

    let sized = Backend::answering(OK).await;
    let with_length = balancer(&[&sized], &[]).await;
    let mut client = with_length.connect().await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        client.until("Connection: keep-alive\r\n\r\nok").await;
    }
}

#[tokio::test]
async fn a_granted_upgrade_becomes_a_tunnel_with_every_byte_in_its_place() {
    let backend = Backend::start(|it| match it.field("Upgrade") {
        Some("echo") => {
            Act::Echo("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
        }
        _ => Act::Say(OK),
    })
    .await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = balancer.connect().await;

    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly")
        .await;

    client
        .until("Upgrade: echo\r\nConnection: Upgrade\r\n\r\nhelloearly")
        .await;
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    client.until("GET / HTTP/1.1\r\n\r\n").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream)
        .await
        .expect("open");
    assert_eq!(client.rest().await, "");
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test]
async fn an_upgrade_that_is_answered_otherwise_is_an_ordinary_request() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = balancer.connect().await;

    client
        .send(
            "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;

    client.until("ok").await;
    client.until("ok").await;
    assert_eq!(backend.lines(), ["GET /a HTTP/1.1", "GET /b HTTP/1.1"]);
}

#[tokio::test]
async fn routes_lead_to_groups_and_the_rest_stays() {
    let (own, api) = (Backend::answering(OK).await, Backend::answering(OK).await);
    let group = format!("api={}", api.address);
    let balancer = balancer(
        &[&own],
        &[("groups", &group), ("routes", "/api=api"), ("routes", "b.org/=api")],
    )
    .await;
    let mut client = balancer.connect().await;

    for (host, path) in [("a", "/api/x"), ("a", "/apix"), ("B.org:80", "/y")] {
        client
            .send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        client.until("ok").await;
    }

    assert_eq!(own.lines(), ["GET /apix HTTP/1.1"]);
    assert_eq!(api.lines(), ["GET /api/x HTTP/1.1", "GET /y HTTP/1.1"]);
}

#[tokio::test]
async fn a_group_serves_as_many_requests_at_once_as_it_may() {
    let (own, api) = (
        Backend::answering(OK).await,
        Backend::start(|_| Act::SayLater(Duration::from_millis(300), OK)).await,
    );
    let text = format!(
        "backends: '{}'\ngroups: {{api: {{backends: '{}', maxconn: 1}}}}\nroutes: ['/api=api']\n",
        own.address, api.address
    );
    let balancer = written(&text).await;
    let begun = std::time::Instant::now();

    let request = "GET /api HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = tokio::join!(balancer.talk(request), balancer.talk(request), balancer.talk(request));

    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    for answer in [answers.0, answers.1, answers.2] {
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert_eq!(api.seen().len(), 3);
}

#[tokio::test]
async fn a_cookie_keeps_a_client_with_its_backend() {
    let (one, two) = (Backend::answering(OK).await, Backend::answering(OK).await);
    let balancer = balancer(&[&one, &two], &[("sticky", "cookie")]).await;
    let mut client = balancer.connect().await;
    client.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = client.until("\r\n\r\nok").await;
    let cookie = answer
        .lines()
        .find_map(|it| it.strip_prefix("Set-Cookie: "))
        .and_then(|it| it.split(';').next())
        .expect("a cookie");

    for _ in 0..5 {
        client
            .send(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=y; {cookie}\r\n\r\n"))
            .await;
        assert_eq!(client.until("ok").await, OK);
    }

    let counts = [one.seen().len(), two.seen().len()];
    assert!(counts == [6, 0] || counts == [0, 6], "{counts:?}");
}

#[tokio::test]
async fn http_2_gets_the_same_answers() {
    let backend = Backend::start(|it| match it.line() {
        "POST /big HTTP/1.1" => {
            Act::Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        }
        "GET /cut HTTP/1.1" => Act::SayAndReset("HTTP/1.1 200 OK\r\n\r\nhalf"),
        _ => Act::SayAndClose("HTTP/1.1 200 OK\r\n\r\nto the end"),
    })
    .await;
    let balancer = balancer(&[&backend], &[]).await;
    let stream = balancer.connect().await.stream;
    let (sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .expect("HTTP/2 is spoken");
    let carrying = tokio::spawn(connection);
    let ask = |method: &str, path: &str, body: &'static str| {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://a{path}"))
            .body(http_body_util::Full::new(bytes::Bytes::from_static(body.as_bytes())));
        let mut sender = sender.clone();
        async move {
            use http_body_util::BodyExt;
            let response = within("an answer", sender.send_request(request.expect("sound")))
                .await
                .expect("answered");
            let status = response.status().as_u16();
            let whole = within("the body", response.into_body().collect()).await;
            (status, whole.map(|it| it.to_bytes()))
        }
    };

    let answers = tokio::join!(
        ask("POST", "/big", "body"),
        ask("GET", "/end", ""),
        ask("GET", "/cut", "")
    );

    assert_eq!((answers.0.0, &answers.0.1.expect("whole")[..]), (200, &b"hello"[..]));
    assert_eq!(
        (answers.1.0, &answers.1.1.expect("whole")[..]),
        (200, &b"to the end"[..])
    );
    assert_eq!(answers.2.0, 200);
    assert!(answers.2.1.is_err(), "a body that was cut short looks whole");
    let seen = backend.seen();
    let big = seen.iter().find(|it| it.line() == "POST /big HTTP/1.1").expect("seen");
    assert_eq!((big.field("Host"), &big.body[..]), (Some("a"), &b"body"[..]));
    carrying.abort();
}

#[tokio::test]
async fn http_2_that_was_agreed_on_in_tls_is_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("a certificate");
    let (cert, key) = (folder.path().join("crt"), folder.path().join("key"));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let backend = Backend::answering(OK).await;
    let files = [
        ("tls-cert", cert.to_str().expect("plain")),
        ("tls-key", key.to_str().expect("plain")),
    ];
    let balancer = balancer(&[&backend], &files).await;
    let mut config = crate::tls::client::lax().expect("a client");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = balancer.connect().await.stream;
    let stream = within("TLS", connector.connect("a".try_into().expect("a name"), stream))
        .await
        .expect("TLS");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .expect("HTTP/2 is spoken");
    let carrying = tokio::spawn(connection);

    for _ in 0..2 {
        let request = http::Request::builder()
            .uri("https://a/x")
            .body(http_body_util::Empty::<bytes::Bytes>::new());
        let answer = within("an answer", sender.send_request(request.expect("sound"))).await;
        assert_eq!(answer.expect("answered").status().as_u16(), 200);
    }

    let seen = backend.seen();
    assert_eq!((seen.len(), seen[0].line()), (2, "GET /x HTTP/1.1"));
    assert_eq!(seen[0].field("X-Forwarded-Proto"), Some("https"));
    carrying.abort();
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_does_not_wait_for_idle_clients() {
    let backend = Backend::start(|it| match it.line() {
        "GET /slow HTTP/1.1" => Act::SayLater(Duration::from_millis(400), OK),
        _ => Act::Say(OK),
    })
    .await;
    let balancer = balancer(&[&backend], &[]).await;
    let (mut idle, mut busy) = (balancer.connect().await, balancer.connect().await);
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    idle.until("ok").await;
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    within("the request", async {
        while balancer.balancer.report().await.expect("runs").services[0].backends[0].active == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    balancer.shutdown.soft.cancel();

    assert_eq!(idle.rest().await, "");
    assert_eq!(busy.rest().await, OK);
    within("the end", balancer.balancer.wait()).await;
}

#[tokio::test]
async fn a_backend_that_is_told_of_its_client_by_a_header_gets_a_connection_for_each_request() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[("client-ip", "proxy-v1")]).await;
    let mut client = balancer.connect().await;
    let own = client.stream.local_addr().expect("connected");

    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.until("ok").await;
    }

    let seen = backend.seen();
    let begin = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} ", own.port());
    assert!(seen.iter().all(|it| it.line().starts_with(&begin)), "{seen:?}");
    assert_eq!(seen.iter().map(|it| it.connection).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_the_client_is_passed_on() {
    let backend = Backend::answering(OK).await;
    let options = [("trusted-proxies", "127.0.0.1"), ("deny", "192.0.2.66")];
    let balancer = balancer(&[&backend], &options).await;
    let mut client = balancer.connect().await;

    client
        .send("GET / HTTP/1.1\r\nHost: a:80\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\n\r\n")
        .await;
    client.until("ok").await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n")
        .await;
    let refused = client.until("\r\n\r\n").await;

    let seen = backend.seen();
    assert_eq!(seen.len(), 1);
    for (name, value) in [
        ("X-Forwarded-For", "192.0.2.7, 127.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "a:80"),
        ("Forwarded", "for=127.0.0.1;host=\"a:80\";proto=http"),
        ("X-Request-Id", "mine"),
    ] {
        assert_eq!(seen[0].field(name), Some(value), "{name}");
    }
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
}

#[tokio::test]
async fn a_stream_that_is_given_up_ends_the_backends_work_and_leaves_the_others_alone() {
    let backend = Backend::start(|it| match it.line() {
        "GET /slow HTTP/1.1" => Act::SayLater(Duration::from_secs(30), OK),
        _ => Act::Say(OK),
    })
    .await;
    let balancer = balancer(&[&backend], &[]).await;
    let stream = balancer.connect().await.stream;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .expect("HTTP/2 is spoken");
    let carrying = tokio::spawn(connection);
    let request = |uri: &str, host: Option<&str>| {
        let request = http::Request::builder().uri(uri);
        let request = match host {
            Some(host) => request.header("host", host),
            None => request,
        };
        request
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .expect("sound")
    };
    let slow = sender.send_request(request("http://a/slow", None));
    let slow = tokio::spawn(slow);
    within("the slow request", async {
        while balancer.balancer.report().await.expect("runs").services[0].backends[0].active == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    slow.abort();

    let ended = tokio::time::timeout(Duration::from_secs(1), backend.ended.acquire()).await;
    ended.expect("within a second").expect("open").forget();
    for (host, status) in [(None, 200), (Some("a"), 200), (Some("b"), 400)] {
        let answer = within("an answer", sender.send_request(request("http://a/", host))).await;
        assert_eq!(answer.expect("answered").status().as_u16(), status, "{host:?}");
    }
    assert_eq!(backend.seen().len(), 3);
    carrying.abort();
}

#[tokio::test]
async fn a_changed_configuration_holds_for_the_next_request_of_an_open_connection() {
    let (own, api) = (Backend::answering(OK).await, Backend::answering(OK).await);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("balancer.yaml");
    let write = |route: &str| {
        let text = format!(
            "{{threads: 1, metrics: off, admin: off, log: off, listen: '127.0.0.1:0', mode: http, check: none, \
             backends: '{}', groups: {{api: '{}'}}, routes: ['{route}=api']}}",
            own.address, api.address
        );
        std::fs::write(&file, text).expect("written");
    };
    write("/api");
    let balancer = serve(crate::Config::from_file(&file).expect("sound")).await;
    let mut client = balancer.connect().await;
    client.send("GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.until("ok").await;

    write("/other");
    balancer.balancer.reload().await.expect("sound");

    client.send("GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.until("ok").await;
    assert_eq!((own.seen().len(), api.seen().len()), (1, 1));
}
