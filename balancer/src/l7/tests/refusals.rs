//! What is not passed on.

use std::time::{Duration, Instant};

use super::peers::{Act, Backend, OK, balancer, within};

#[tokio::test]
async fn nothing_that_can_be_read_in_two_ways_reaches_a_backend() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[]).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n",
        "X: a\r\n b\r\n",
        "X: a\nY: b\r\n",
        "X: a\rY: b\r\n",
        "X: a\0b\r\n",
        "Host: b\r\n",
        "Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 30\r\n",
    ] {
        let answer = balancer
            .talk(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n{hidden}"))
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{lines:?}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{lines:?}: {answer}");
    }
    for head in [
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ] {
        let answer = balancer.talk(&format!("{head}{hidden}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head:?}: {answer}");
    }
    assert_eq!(backend.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn limits_have_their_statuses() {
    let backend = Backend::answering(OK).await;
    let options = [
        ("max-header-bytes", "4096"),
        ("max-target-bytes", "256"),
        ("max-headers", "10"),
    ];
    let balancer = balancer(&[&backend], &options).await;
    let long = "x".repeat(5000);
    for (text, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", &long[..300]), 414),
        (format!("GET /{long}{long}"), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(20)),
            431,
        ),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 505),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n".to_owned(), 417),
    ] {
        let answer = balancer.talk(&text).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
    assert!(backend.seen().is_empty());
}

#[tokio::test]
async fn who_is_slow_is_told_so_and_others_do_not_notice() {
    let backend = Backend::answering(OK).await;
    let options = [("header-timeout", "300ms"), ("body-timeout", "300ms")];
    let balancer = balancer(&[&backend], &options).await;
    let mut slow_head = balancer.connect().await;
    slow_head.send("GET / HTTP/1.1\r\nHo").await;
    let mut slow_body = balancer.connect().await;
    slow_body
        .send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        .await;

    let begun = Instant::now();
    let mut quick = balancer.connect().await;
    quick.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n").await;
    quick.until("ok").await;
    assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());

    for client in [&mut slow_head, &mut slow_body] {
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert_eq!(backend.lines(), ["GET /quick HTTP/1.1"]);
}

#[tokio::test]
async fn a_client_has_so_many_requests_at_once_and_so_many_a_second() {
    let slow = Backend::start(|_| Act::SayLater(Duration::from_millis(500), OK)).await;
    let at_once = balancer(&[&slow], &[("client-maxconn", "1")]).await;
    let mut first = at_once.connect().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    within("the first request", async {
        while at_once.balancer.report().await.expect("runs").services[0].backends[0].active == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    let mut second = at_once.connect().await;
    second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;

    let refused = second.until("\r\n\r\n").await;
    assert!(
        refused.starts_with("HTTP/1.1 429 ") && refused.contains("Retry-After: 1\r\n"),
        "{refused}"
    );
    first.until("ok").await;

    let quick = Backend::answering(OK).await;
    let per_second = balancer(&[&quick], &[("rate", "3")]).await;
    let mut client = per_second.connect().await;
    for _ in 0..5 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    }
    for status in ["200", "200", "200", "429", "429"] {
        let head = client.until("\r\n\r\n").await;
        let body = head
            .lines()
            .find_map(|it| it.strip_prefix("Content-Length: "))
            .expect("a length");
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        let mut rest = vec![0; body.parse().expect("a number")];
        client.take(&mut rest).await;
    }
    assert_eq!(quick.seen().len(), 3);
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_does_not_reach_the_client() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let backend = Backend::answering(answer).await;
        let balancer = balancer(&[&backend], &[]).await;

        let told = balancer
            .talk("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;

        assert!(told.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer:?}: {told}");
        assert_eq!(backend.seen().len(), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn bytes_after_an_answers_end_go_to_nobody() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil",
    ] {
        let backend = Backend::start(move |it| match it.line() {
            "GET /a HTTP/1.1" => Act::Say(answer),
            _ => Act::Say(OK),
        })
        .await;
        let balancer = balancer(&[&backend], &[]).await;
        let mut client = balancer.connect().await;

        client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.until("\r\n\r\n").await;
        client
            .send("GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;
        let rest = client.rest().await;

        assert!(
            rest.ends_with("Connection: close\r\n\r\nok") && !rest.contains("evil"),
            "{answer:?}: {rest}"
        );
        let connections: Vec<usize> = backend.seen().iter().map(|it| it.connection).collect();
        assert_eq!(connections, [1, 2], "{answer:?}");
    }
}

#[tokio::test]
async fn who_may_not_come_in_is_told_so() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[("deny", "127.0.0.0/8")]).await;

    let answer = balancer
        .talk("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\nConnection: close\r\n\r\n")
        .await;

    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("<!doctype html>"),
        "{answer}"
    );
    assert!(backend.seen().is_empty());
}
