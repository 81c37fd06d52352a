//! Who the client is, and whether it may come in.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Backend, Client, balancer, list, within};

#[tokio::test]
async fn a_believed_proxy_speaks_for_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("bound").to_string();
    let options = [
        ("backends", &*backend),
        ("check", "none"),
        ("accept-proxy", "127.0.0.0/8"),
        ("client-ip", "proxy-v1"),
    ];
    let balancer = balancer(&options).await;
    let mut client = Client::connect(balancer.address()).await;
    // In pieces, and with the client's first bytes right behind.
    for piece in ["PROXY TCP4 192.0.2.7 10.0.0.1 ", "4711 443\r\nhel", "lo"] {
        client.stream.write_all(piece.as_bytes()).await.expect("sent");
        client.stream.flush().await.expect("sent");
        tokio::task::yield_now().await;
    }
    client.stream.shutdown().await.expect("finished");

    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
    let mut received = String::new();
    within("everything", stream.read_to_string(&mut received))
        .await
        .expect("no reset");

    assert_eq!(received, "PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\nhello");
}

#[tokio::test]
async fn a_peer_that_must_send_a_header_and_does_not_is_ended_and_counted() {
    let backend = Backend::start().await;
    let balancer = balancer(&[("backends", &list(&[&backend])), ("accept-proxy", "127.0.0.1")]).await;
    let mut client = Client::connect(balancer.address()).await;
    client.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");

    assert_eq!(client.name().await, None);

    let report = balancer.report().await;
    assert_eq!(
        (
            report.services[0].bad_proxy_header,
            report.services[0].backends[0].connections
        ),
        (1, 0)
    );
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let backend = Backend::start().await;
    let balancer = balancer(&[("backends", &list(&[&backend])), ("accept-proxy", "192.0.2.0/24")]).await;
    let mut client = Client::connect(balancer.address()).await;
    client.name().await.expect("a backend");

    client.echo(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n").await;
}

#[tokio::test]
async fn only_admitted_clients_are_served() {
    let backend = Backend::start().await;
    for (option, networks, is_served) in [
        ("allow", "192.0.2.0/24", false),
        ("allow", "192.0.2.0/24,127.0.0.1", true),
        ("deny", "127.0.0.0/8", false),
        ("deny", "192.0.2.0/24", true),
    ] {
        let balancer = balancer(&[("backends", &list(&[&backend])), (option, networks)]).await;
        assert_eq!(balancer.ask().await.is_some(), is_served, "{option} {networks}");
        assert_eq!(balancer.report().await.services[0].denied, u64::from(!is_served));
    }
}

#[tokio::test]
async fn a_source_that_opens_too_many_connections_is_turned_away_for_a_while() {
    let backend = Backend::start().await;
    let balancer = balancer(&[("backends", &list(&[&backend])), ("rate", "5")]).await;

    let mut served = 0;
    for _ in 0..8 {
        served += u64::from(balancer.ask().await.is_some());
    }

    let limited = balancer.report().await.services[0].rate_limited;
    assert!(
        (5..=7).contains(&served) && limited == 8 - served,
        "{served} served, {limited} turned away"
    );
    let again = async {
        while balancer.ask().await.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("another one", again).await;
}

#[tokio::test]
async fn a_sticky_client_stays_with_its_backend_while_it_is_up() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let options = [
        ("backends", &*list(&[&one, &two])),
        ("sticky", "source"),
        ("threads", "2"),
    ];
    let balancer = balancer(&options).await;
    let first = balancer.ask().await.expect("a backend");
    for _ in 0..10 {
        assert_eq!(balancer.ask().await, Some(first));
    }

    let (dying, other) = if first == one.address { (one, two) } else { (two, one) };
    dying.stop().await;

    for _ in 0..10 {
        assert_eq!(balancer.ask().await, Some(other.address));
    }
}

#[tokio::test]
async fn when_every_backend_is_full_clients_wait_in_line_for_a_while() {
    let backend = Backend::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nodes");
    std::fs::write(&file, format!("{} maxconn=1\n", backend.address)).expect("written");
    let options = [
        ("backends-file", file.to_str().expect("plain")),
        ("queue", "1"),
        ("queue-timeout", "700ms"),
    ];
    let balancer = balancer(&options).await;
    let mut first = Client::connect(balancer.address()).await;
    first.name().await.expect("a backend");

    let mut second = Client::connect(balancer.address()).await;
    balancer
        .until("one waits", |report| report.services[0].waiting == 1)
        .await;
    assert_eq!(balancer.ask().await, None, "there is one place in the line");
    first.finish().await;
    assert_eq!(second.name().await, Some(backend.address));

    let begun = std::time::Instant::now();
    assert_eq!(balancer.ask().await, None, "nobody left in time");
    assert!(
        begun.elapsed() >= std::time::Duration::from_millis(600),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(balancer.report().await.services[0].queue_overflow, 2);
}

#[tokio::test]
async fn at_maxconn_the_next_client_waits_for_a_place() {
    let backend = Backend::start().await;
    let balancer = balancer(&[("backends", &list(&[&backend])), ("maxconn", "2"), ("threads", "1")]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(balancer.address()).await;
        client.name().await.expect("a backend");
        held.push(client);
    }

    let mut third = Client {
        stream: TcpStream::connect(balancer.address())
            .await
            .expect("the kernel accepts"),
    };
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), third.stream.readable()).await;
    assert!(early.is_err(), "it was served, or turned away");
    held.pop().expect("two").finish().await;

    assert_eq!(third.name().await, Some(backend.address));
}
