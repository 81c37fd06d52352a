//! Connections: who gets them, and that nothing is lost on the way.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Backend, Client, Refusing, balancer, list, within};

#[tokio::test]
async fn sequential_connections_on_one_thread_go_round_exactly() {
    let backends = [
        Backend::start().await,
        Backend::start().await,
        Backend::start().await,
        Backend::start().await,
    ];
    let all: Vec<&Backend> = backends.iter().collect();
    let balancer = balancer(&[("backends", &list(&all)), ("threads", "1")]).await;

    let mut order = Vec::new();
    for _ in 0..400 {
        order.push(balancer.ask().await.expect("a backend"));
    }

    let cycle = &order[..4];
    assert!(order.chunks(4).all(|round| round == cycle), "the order changed");
    for backend in &backends {
        assert_eq!(order.iter().filter(|it| **it == backend.address).count(), 100);
    }
}

#[tokio::test]
async fn with_several_threads_each_share_is_within_one_connection_a_thread() {
    let backends = [
        Backend::start().await,
        Backend::start().await,
        Backend::start().await,
        Backend::start().await,
    ];
    let all: Vec<&Backend> = backends.iter().collect();
    let balancer = balancer(&[("backends", &list(&all)), ("threads", "3")]).await;

    let mut shares: HashMap<SocketAddr, i32> = HashMap::new();
    for _ in 0..400 {
        *shares.entry(balancer.ask().await.expect("a backend")).or_default() += 1;
    }

    assert_eq!(shares.len(), 4);
    assert!(shares.values().all(|share| (97..=103).contains(share)), "{shares:?}");
}

#[tokio::test]
async fn a_refused_connect_goes_to_another_backend_inside_the_same_connection() {
    let good = Backend::start().await;
    let dying = Backend::start().await;
    let balancer = balancer(&[
        ("backends", &list(&[&good, &dying])),
        ("threads", "1"),
        ("interval", "1h"),
    ])
    .await;

    let dead = dying.stop().await;
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(balancer.ask().await, Some(good.address));
    }

    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    balancer.until_state(dead, "ejected").await;
    let report = balancer.report().await;
    let counted = report.services[0]
        .backends
        .iter()
        .find(|it| it.address == dead.to_string())
        .expect("still listed");
    // One connect finds out; a few more may be under way before the word has spread.
    let refused = counted.connect_errors;
    assert!((1..=10).contains(&refused), "{refused}");
    assert_eq!(
        (counted.redispatched, report.services[0].redispatched),
        (refused, refused)
    );
}

#[tokio::test]
async fn a_backend_that_comes_back_gets_its_share_again() {
    let (good, dying) = (Backend::start().await, Backend::start().await);
    let options = [
        ("backends", &*list(&[&good, &dying])),
        ("threads", "1"),
        ("interval", "50ms"),
    ];
    let balancer = balancer(&options).await;
    let dead = dying.stop().await;
    for _ in 0..4 {
        assert_eq!(balancer.ask().await, Some(good.address));
    }
    balancer.until_state(dead, "down").await;

    let back = Backend::on(dead).await;
    balancer.until_state(back.address, "up").await;

    let mut names = [balancer.ask().await, balancer.ask().await];
    names.sort_unstable();
    let mut expected = [Some(good.address), Some(back.address)];
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn when_nobody_can_be_reached_the_client_hears_it_at_once() {
    let (one, two) = (Refusing::new(), Refusing::new());
    let backends = format!("{},{}", one.address, two.address);
    for (how, check) in [("reset", "none"), ("close", "none"), ("reset", "tcp")] {
        let balancer = balancer(&[("backends", &backends), ("check", check), ("all-down", how)]).await;
        let begun = Instant::now();
        let conversation = async { TcpStream::connect(balancer.address()).await?.read(&mut [0; 16]).await };

        let end = within("the end", conversation).await;

        assert_eq!(
            end.map_err(|error| error.kind()).ok(),
            (how == "close").then_some(0),
            "{how} {check}"
        );
        assert!(
            begun.elapsed() < Duration::from_millis(500),
            "{how}: {:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test]
async fn a_plain_http_service_can_answer_503_instead() {
    let refusing = Refusing::new();
    let backend = refusing.address.to_string();
    let balancer = balancer(&[("backends", &backend), ("all-down", "http-503")]).await;
    let mut client = Client::connect(balancer.address()).await;
    client
        .stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("sent");

    let mut answer = Vec::new();
    let reading = async { while client.stream.read_buf(&mut answer).await.expect("no reset") > 0 {} };
    within("an answer", reading).await;

    assert!(
        answer.starts_with(b"HTTP/1.1 503 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn bytes_arrive_unchanged_both_ways_and_each_direction_ends_by_itself() {
    let backend = Backend::start().await;
    let balancer = balancer(&[("backends", &list(&[&backend])), ("threads", "1")]).await;
    let mut client = Client::connect(balancer.address()).await;
    assert_eq!(client.name().await, Some(backend.address));
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();

    let (mut from, mut to) = client.stream.split();
    let sending = async {
        to.write_all(&sent).await.expect("sent");
        // The echo of what is on its way still has to arrive after this.
        to.shutdown().await.expect("finished");
    };
    let mut received = Vec::new();
    let (_, read) = within("the echo", async {
        tokio::join!(sending, from.read_to_end(&mut received))
    })
    .await;

    read.expect("no reset");
    assert!(
        received == sent,
        "{} of {} bytes, or other bytes",
        received.len(),
        sent.len()
    );
    balancer
        .until("bytes counted", |report| {
            let (service, backend) = (&report.services[0], &report.services[0].backends[0]);
            let counts = [service.bytes_in, service.bytes_out, backend.bytes_in, backend.bytes_out];
            let greeting = backend.address.len() as u64 + 1;
            counts == [3_000_000, 3_000_000 + greeting, 3_000_000, 3_000_000 + greeting] && backend.active == 0
        })
        .await;
}

#[tokio::test]
async fn counters_of_a_long_connection_grow_while_it_lives() {
    let backend = Backend::start().await;
    let balancer = balancer(&[("backends", &list(&[&backend])), ("threads", "1")]).await;
    let mut client = Client::connect(balancer.address()).await;
    client.name().await.expect("a backend");

    client.echo(b"0123456789").await;

    let report = balancer
        .until("the count", |report| report.services[0].bytes_in == 10)
        .await;
    assert_eq!(
        (
            report.active,
            report.services[0].active,
            report.services[0].backends[0].active
        ),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn a_backend_sees_the_clients_address_in_a_proxy_header() {
    for version in ["proxy-v1", "proxy-v2"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let backend = listener.local_addr().expect("bound").to_string();
        let options = [("backends", &*backend), ("check", "none"), ("client-ip", version)];
        let balancer = balancer(&options).await;
        let mut client = Client::connect(balancer.address()).await;
        let me = client.stream.local_addr().expect("connected");
        client.stream.write_all(b"hello").await.expect("sent");
        client.stream.shutdown().await.expect("finished");

        let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
        let mut received = Vec::new();
        within("everything", stream.read_to_end(&mut received))
            .await
            .expect("no reset");

        let expected = if version == "proxy-v1" {
            let to = balancer.address();
            format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello", me.port(), to.port()).into_bytes()
        } else {
            let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
            bytes.extend(me.port().to_be_bytes());
            bytes.extend(balancer.address().port().to_be_bytes());
            bytes.extend(b"hello");
            bytes
        };
        assert_eq!(received, expected, "{version}");
    }
}

#[tokio::test]
async fn a_clean_stop_lets_connections_end_and_takes_no_new_ones() {
    let backend = Backend::start().await;
    let balancer = balancer(&[("backends", &list(&[&backend]))]).await;
    let mut client = Client::connect(balancer.address()).await;
    client.name().await.expect("a backend");

    balancer.shutdown.soft.cancel();
    let refused = async {
        while TcpStream::connect(balancer.address()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("a refusal", refused).await;
    client.echo(b"still here").await;
    client.finish().await;

    within("the end", balancer.balancer.wait()).await;
}

#[tokio::test]
async fn a_stop_ends_connections_that_outlive_the_drain_timeout_with_a_reset() {
    let backend = Backend::start().await;
    let balancer = balancer(&[("backends", &list(&[&backend])), ("drain-timeout", "50ms")]).await;
    let mut client = Client::connect(balancer.address()).await;
    client.name().await.expect("a backend");

    balancer.shutdown.soft.cancel();

    within("the end", balancer.balancer.wait()).await;
    let end = within("the reset", client.stream.read(&mut [0; 16])).await;
    assert_eq!(end.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
}
