//! Bodies and their ends, proper and otherwise.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peers::{Act, Backend, OK, balancer, within, written};

#[tokio::test]
async fn the_word_that_a_client_waits_for_comes_from_the_backend() {
    let backend = Backend::start(|_| Act::SayBetween("HTTP/1.1 100 Continue\r\n\r\n", OK)).await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = balancer.connect().await;

    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        .await;
    client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("abc").await;

    assert_eq!(client.until("ok").await, OK);
    assert_eq!(backend.seen()[0].body, b"abc");
    assert_eq!(backend.seen()[0].field("Expect"), Some("100-continue"));
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let backend = Backend::start(|_| Act::SayAtOnce("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")).await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = balancer.connect().await;

    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        .await;
    client.send(vec![b'x'; 200_000]).await;

    let answer = client.until("no!").await;
    assert!(answer.starts_with("HTTP/1.1 413 Too Large\r\n"), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn trailers_come_through_both_ways() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
    )
    .await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = balancer.connect().await;

    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n")
        .await;

    client.until("2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n").await;
    assert_eq!(backend.seen()[0].body, b"abc");
    assert_eq!(backend.seen()[0].field("TE"), Some("trailers"));
}

#[tokio::test]
async fn a_body_cut_short_does_not_look_whole() {
    for (answer, is_whole) in [
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            false,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", false),
        ("HTTP/1.1 200 OK\r\n\r\nhello", true),
    ] {
        let backend = Backend::start(move |_| Act::SayAndClose(answer)).await;
        let balancer = balancer(&[&backend], &[]).await;
        let mut client = balancer.connect().await;
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;

        let end = within("the end", client.end()).await;

        match end {
            Ok(text) => assert!(
                is_whole && text.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
                "{answer:?}: {text}"
            ),
            Err(error) => assert!(
                !is_whole && error.kind() == std::io::ErrorKind::ConnectionReset,
                "{error}"
            ),
        }
    }
    let backend = Backend::start(|_| Act::SayAndReset("HTTP/1.1 200 OK\r\n\r\nhello")).await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = balancer.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    within("the end", client.end()).await.expect_err("a reset");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_backends_work_within_a_second() {
    for is_cut in [false, true] {
        let backend = Backend::start(|_| Act::SayLater(Duration::from_secs(30), OK)).await;
        let balancer = balancer(&[&backend], &[]).await;
        let mut client = balancer.connect().await;
        let body = if is_cut { "ab" } else { "abc" };
        client
            .send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n{body}"))
            .await;
        within("the request", async {
            while balancer.balancer.report().await.expect("runs").services[0].backends[0].active == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;

        drop(client);

        let ended = tokio::time::timeout(Duration::from_secs(1), backend.ended.acquire()).await;
        ended.expect("within a second").expect("open").forget();
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_in_line_is_noticed_and_its_request_goes_nowhere() {
    let backend = Backend::start(|it| match it.line() {
        "GET /first HTTP/1.1" => Act::SayLater(Duration::from_secs(3), OK),
        _ => Act::Say(OK),
    })
    .await;
    let text = format!(
        "backends: [{{address: '{}', maxconn: 1}}]\nqueue_timeout: 20s\n",
        backend.address
    );
    let balancer = written(&text).await;
    let mut first = balancer.connect().await;
    first.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let queued = async |wanted: u64| loop {
        let report = balancer.balancer.report().await.expect("runs");
        let (active, waiting) = (report.services[0].backends[0].active, report.services[0].waiting);
        if (active, waiting as u64) == (1, wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    within("the first request", queued(0)).await;
    let (mut leaves, mut only_ended, mut stays) = (
        balancer.connect().await,
        balancer.connect().await,
        balancer.connect().await,
    );
    leaves
        .send("POST /leaves HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    only_ended.send("GET /ended HTTP/1.1\r\nHost: a\r\n\r\n").await;
    only_ended.stream.shutdown().await.expect("open");
    stays.send("GET /stays HTTP/1.1\r\nHost: a\r\n\r\n").await;
    within("three in line", queued(3)).await;

    drop(leaves);

    let noticed = tokio::time::timeout(Duration::from_secs(1), queued(2)).await;
    noticed.expect("within a second");
    assert_eq!(first.until("ok").await, OK);
    assert_eq!(stays.until("ok").await, OK);
    assert_eq!(only_ended.rest().await.replace("HTTP/1.1 100 Continue\r\n\r\n", ""), OK);
    let mut lines = backend.lines();
    lines.sort();
    assert_eq!(
        lines,
        ["GET /ended HTTP/1.1", "GET /first HTTP/1.1", "GET /stays HTTP/1.1"]
    );
    let report = balancer.balancer.report().await.expect("runs");
    assert_eq!(report.services[0].requests.as_ref().expect("http").client_gone, 1);
}

#[tokio::test]
async fn a_client_that_only_ends_its_side_still_gets_its_answer() {
    let backend = Backend::start(|_| Act::SayLater(Duration::from_millis(1200), OK)).await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = balancer.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.stream.shutdown().await.expect("open");

    let answer = client.rest().await;

    assert_eq!(answer.replace("HTTP/1.1 100 Continue\r\n\r\n", ""), OK);
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test]
async fn a_large_body_goes_up_and_down_whole() {
    const LENGTH: usize = 8 << 20;
    let backend = Backend::start(|_| Act::Echo("HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n")).await;
    // Sends back what comes, so the answer has begun before the request is complete.
    let balancer = balancer(&[&backend], &[]).await;
    let client = balancer.connect().await.stream;
    let (mut from, mut to) = client.into_split();
    let pattern = |index: usize| (index / 7 % 251) as u8;
    let sending = tokio::spawn(async move {
        to.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes())
            .await?;
        let bytes: Vec<u8> = (0..LENGTH).map(pattern).collect();
        to.write_all(&bytes).await
    });
    let mut back = Vec::new();
    within("the answer", from.read_to_end(&mut back))
        .await
        .expect("no reset");
    sending.await.expect("no panic").expect("sent");

    let start = back.windows(4).position(|it| it == b"\r\n\r\n").expect("a head") + 4;
    assert_eq!(back.len() - start, LENGTH);
    assert!(
        back[start..]
            .iter()
            .enumerate()
            .all(|(index, byte)| *byte == pattern(index))
    );
}

#[tokio::test]
async fn a_backend_that_reads_nothing_stops_the_client_instead_of_filling_memory() {
    let backend = Backend::start(|_| Act::Stall).await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = balancer.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        .await;

    let (mut sent, block) = (0, vec![0; 1 << 20]);
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), client.stream.write(&block)).await {
        sent += written.expect("the connection stands");
        assert!(sent < 100 << 20, "nobody stops it");
    }

    assert!(sent > 0);
}
