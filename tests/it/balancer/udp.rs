//! Datagrams: flows by source, answers from the address the client used.

use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::support::{balancer, within};

/// Answers each datagram with its own address and the datagram.
async fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = [format!("{address} ").as_bytes(), &buffer[..length]].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

async fn ask(client: &UdpSocket, text: &str) -> (SocketAddr, String) {
    client.send(text.as_bytes()).await.expect("sent");
    let mut buffer = [0; 2048];
    let length = within("an answer", client.recv(&mut buffer)).await.expect("received");
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let (backend, echoed) = answer.split_once(' ').expect("two words");
    (backend.parse().expect("an address"), echoed.to_owned())
}

async fn client_of(address: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    client.connect(address).await.expect("connected");
    client
}

#[tokio::test]
async fn a_flow_stays_with_its_backend_and_flows_go_round() {
    let backends = [echo().await, echo().await];
    let list = format!("{},{}", backends[0], backends[1]);
    let balancer = balancer(&[("mode", "udp"), ("backends", &list), ("threads", "1")]).await;

    let mut names = Vec::new();
    for _ in 0..4 {
        let client = client_of(balancer.address()).await;
        let (backend, echoed) = ask(&client, "<13>one").await;
        assert_eq!(echoed, "<13>one");
        assert_eq!(ask(&client, "<13>two").await.0, backend, "the flow moved");
        names.push(backend);
    }

    assert_eq!((names[0], names[1]), (names[2], names[3]));
    assert_ne!(names[0], names[1]);
    let report = balancer
        .until("the count", |report| report.services[0].bytes_in == 4 * 14)
        .await;
    assert_eq!((report.services[0].accepted, report.services[0].mode), (4, "udp"));
}

#[tokio::test]
async fn a_silent_flow_ends_and_frees_its_place() {
    let list = echo().await.to_string();
    let balancer = balancer(&[("mode", "udp"), ("backends", &list), ("idle-timeout", "100ms")]).await;
    let client = client_of(balancer.address()).await;
    ask(&client, "hello").await;

    balancer.until("the end of the flow", |report| report.active == 0).await;

    assert_eq!(ask(&client, "again").await.1, "again");
    assert_eq!(balancer.report().await.services[0].accepted, 2);
}
