use std::net::Ipv4Addr;

use tokio::io::AsyncWriteExt;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[tokio::test]
async fn accepted_sockets_inherit_what_was_asked_of_the_listener() {
    let listener = listen(SocketAddr::new(LOOPBACK, 0), Listening::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();

    let (connected, accepted) = tokio::join!(connect(address, Source::Any, FirstBytes::NotYet), listener.accept());

    for stream in [connected.unwrap(), accepted.unwrap().0] {
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }
}

#[test]
fn a_peer_at_rest_is_asked_several_times_before_it_is_given_up() {
    assert!(KEEPALIVE_IDLE + 3 * KEEPALIVE_INTERVAL < USER_TIMEOUT);
}

#[tokio::test]
async fn a_connection_can_be_made_from_a_chosen_address() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let source: IpAddr = Ipv4Addr::new(127, 0, 0, 7).into();

    let stream = connect(
        listener.local_addr().unwrap(),
        Source::Address(source),
        FirstBytes::NotYet,
    )
    .await
    .unwrap();

    assert_eq!(stream.local_addr().unwrap().ip(), source);
}

#[tokio::test]
async fn a_connection_that_promised_first_bytes_stands_even_without_them() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(connect(address, Source::Any, FirstBytes::Here), listener.accept());
    let (client, (mut server, _)) = (client.unwrap(), accepted.unwrap());

    server.write_all(b"the server speaks first").await.unwrap();
    client.readable().await.unwrap();

    assert_eq!(FirstBytes::of(&client), FirstBytes::Here);
    assert_eq!(FirstBytes::of(&server), FirstBytes::NotYet);
}

#[tokio::test]
async fn a_source_of_the_other_family_is_an_error() {
    let source = Source::Address(IpAddr::from([0_u16; 8]));

    let error = connect(SocketAddr::new(LOOPBACK, 9), source, FirstBytes::NotYet)
        .await
        .unwrap_err();

    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
}

#[test]
fn two_listeners_share_a_port_only_when_asked_to() {
    let shared = Listening {
        reuse_port: true,
        ..Listening::default()
    };
    let first = listen(SocketAddr::new(LOOPBACK, 0), shared).unwrap();
    let address = first.local_addr().unwrap();

    assert!(listen(address, shared).is_ok());
    assert!(listen(address, Listening::default()).is_err());
}

#[tokio::test]
async fn undelivered_bytes_are_seen_until_they_are_acknowledged() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (writer, accepted) = tokio::join!(connect(address, Source::Any, FirstBytes::NotYet), listener.accept());
    let (writer, (reader, _)) = (writer.unwrap(), accepted.unwrap());
    assert_eq!(undelivered(&writer), 0);

    while writer.writable().await.is_ok() && writer.try_write(&[0; 65_536]).is_ok() {
        if undelivered(&writer) > 0 {
            break;
        }
    }

    assert!(undelivered(&writer) > 0);
    let mut sink = vec![0; 1 << 20];
    tokio::time::timeout(Duration::from_secs(10), async {
        while undelivered(&writer) > 0 {
            let _ = tokio::time::timeout(Duration::from_millis(5), reader.readable()).await;
            let _ = reader.try_read(&mut sink);
        }
    })
    .await
    .expect("everything is acknowledged in the end");
}

#[test]
fn a_budget_leaves_room_for_pipes_and_for_the_process_itself() {
    let budget = FileBudget::of(1024, 2);
    assert!(2 * budget.connections + 2 * budget.pipes + 64 <= 1024, "{budget:?}");
    assert!(budget.connections > 300, "{budget:?}");
    assert_eq!(FileBudget::of(10, 1).connections, 1);
}

#[test]
fn the_file_limit_ends_up_at_the_hard_limit() {
    let raised = raise_file_limit();
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);

    assert_eq!(Some(raised), current.or(Some(raised)));
    assert!(maximum.is_none_or(|most| raised <= most));
}
