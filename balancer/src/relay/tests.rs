//! Real sockets on both ends; the relay runs on the test's own thread.

use std::future::pending;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// A client and a backend with a relay between them.
struct Rig {
    client: TcpStream,
    backend: TcpStream,
    relay: JoinHandle<Outcome>,
    totals: Arc<Totals>,
    kill: Option<oneshot::Sender<()>>,
}

async fn rig(terms: Terms) -> Rig {
    let (client, client_end) = pair().await;
    let (backend_end, backend) = pair().await;
    let totals = Arc::new(Totals::default());
    let (kill, killed) = oneshot::channel();
    let killed = async {
        if killed.await.is_err() {
            pending::<()>().await;
        }
    };
    let relay = tokio::spawn(relay(client_end, backend_end, terms, Arc::clone(&totals), killed));
    Rig {
        client,
        backend,
        relay,
        totals,
        kill: Some(kill),
    }
}

/// Two ends of one TCP connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (connected, accepted) = tokio::join!(connecting, listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

impl Rig {
    async fn outcome(&mut self) -> Outcome {
        timeout(LONG, &mut self.relay)
            .await
            .expect("the flow should have ended")
            .unwrap()
    }
}

async fn read_exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(LONG, stream.read_exact(&mut bytes))
        .await
        .expect("bytes should have come")
        .unwrap();
    bytes
}

async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(LONG, stream.read_to_end(&mut bytes))
        .await
        .expect("an end should have come")?;
    Ok(bytes)
}

/// Reads until the connection ends, and says with which bytes and how.
async fn read_until_broken(stream: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match timeout(LONG, stream.read(&mut buffer))
            .await
            .expect("an end should have come")
        {
            Ok(0) => return (bytes, Ok(())),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

fn is_reset(end: &io::Result<()>) -> bool {
    end.as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// Bytes that differ at every place, so that a lost, doubled or swapped piece shows.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test]
async fn bytes_pass_both_ways_and_are_counted() {
    let mut rig = rig(Terms::default()).await;

    rig.client.write_all(b"question").await.unwrap();
    assert_eq!(read_exactly(&mut rig.backend, 8).await, b"question");
    rig.backend.write_all(b"answer").await.unwrap();
    assert_eq!(read_exactly(&mut rig.client, 6).await, b"answer");
    drop(rig.client);

    let outcome = timeout(LONG, async {
        assert_eq!(read_to_end(&mut rig.backend).await.unwrap(), b"");
        drop(rig.backend);
        rig.relay.await.unwrap()
    });
    let outcome = outcome.await.unwrap();
    assert_eq!(
        outcome,
        Outcome {
            end: End::Closed(Side::Client),
            to_backend: 8,
            to_client: 6
        }
    );
    assert_eq!(rig.totals.to_backend.load(Ordering::Relaxed), 8);
    assert_eq!(rig.totals.to_client.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let mut rig = rig(Terms::default()).await;

    rig.backend.write_all(b"220 ready\r\n").await.unwrap();

    assert_eq!(read_exactly(&mut rig.client, 11).await, b"220 ready\r\n");
}

#[tokio::test]
async fn a_client_that_has_finished_still_gets_the_whole_answer() {
    let mut rig = rig(Terms::default()).await;

    rig.client.write_all(b"all of it").await.unwrap();
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.backend).await.unwrap(), b"all of it");
    let answer = pattern(3_000_000, 7);
    rig.backend
        .write_all(&answer[..1_500_000])
        .await
        .unwrap_or_else(|_| unreachable!());
    let (rest, got) = tokio::join!(
        async {
            rig.backend.write_all(&answer[1_500_000..]).await.unwrap();
            rig.backend.shutdown().await.unwrap();
        },
        read_to_end(&mut rig.client)
    );

    let () = rest;
    assert!(got.unwrap() == answer);
    assert_eq!(rig.outcome().await.end, End::Closed(Side::Client));
}

#[tokio::test]
async fn a_backend_that_has_finished_still_gets_the_rest_of_the_request() {
    let mut rig = rig(Terms::default()).await;

    rig.backend.write_all(b"early answer").await.unwrap();
    rig.backend.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.client).await.unwrap(), b"early answer");
    rig.client.write_all(b"late request").await.unwrap();
    rig.client.shutdown().await.unwrap();

    assert_eq!(read_to_end(&mut rig.backend).await.unwrap(), b"late request");
    assert_eq!(rig.outcome().await.end, End::Closed(Side::Backend));
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_backend_after_the_bytes_before_it() {
    let mut rig = rig(Terms::default()).await;

    rig.client.write_all(b"before").await.unwrap();
    assert_eq!(read_exactly(&mut rig.backend, 6).await, b"before");
    rig.client.set_zero_linger().unwrap();
    drop(rig.client);

    let (bytes, end) = read_until_broken(&mut rig.backend).await;
    assert_eq!(bytes, b"");
    assert!(is_reset(&end), "{end:?}");
    assert_eq!(
        timeout(LONG, rig.relay).await.unwrap().unwrap().end,
        End::Reset(Side::Client)
    );
}

#[tokio::test]
async fn a_reset_by_the_backend_reaches_the_client_after_the_bytes_before_it() {
    let mut rig = rig(Terms::default()).await;

    rig.backend.write_all(b"half an ans").await.unwrap();
    assert_eq!(read_exactly(&mut rig.client, 11).await, b"half an ans");
    rig.backend.set_zero_linger().unwrap();
    drop(rig.backend);

    let (bytes, end) = read_until_broken(&mut rig.client).await;
    assert_eq!(bytes, b"");
    assert!(is_reset(&end), "{end:?}");
    assert_eq!(
        timeout(LONG, rig.relay).await.unwrap().unwrap().end,
        End::Reset(Side::Backend)
    );
}

#[tokio::test]
async fn a_reset_waits_for_a_slow_reader_to_take_what_was_read_before_it() {
    let mut rig = rig(Terms::default()).await;
    let sent = pattern(40_000_000, 3);

    // More than all buffers hold, while the backend reads nothing.
    let mut accepted = 0;
    while let Ok(written) = timeout(Duration::from_millis(200), rig.client.write(&sent[accepted..])).await {
        accepted += written.unwrap();
        assert!(accepted < sent.len(), "there is no back-pressure");
    }
    rig.client.set_zero_linger().unwrap();
    drop(rig.client);
    let mut received = Vec::new();
    let mut buffer = vec![0; 50_000];
    let end = loop {
        match timeout(LONG, rig.backend.read(&mut buffer))
            .await
            .expect("an end should have come")
        {
            Ok(0) => break Ok(()),
            Ok(read) => received.extend_from_slice(&buffer[..read]),
            Err(error) => break Err(error),
        }
    };

    assert!(is_reset(&end), "{end:?}");
    let outcome = timeout(LONG, rig.relay).await.unwrap().unwrap();
    assert_eq!(outcome.end, End::Reset(Side::Client));
    assert_eq!(
        outcome.to_backend,
        received.len() as u64,
        "what the relay wrote was delivered"
    );
    assert!(received.len() > 100_000 && received[..] == sent[..received.len()]);
}

#[tokio::test]
async fn what_a_peer_said_before_it_went_away_is_delivered_though_writing_to_it_fails() {
    let mut rig = rig(Terms::default()).await;

    // The backend answers without reading the request: closing then makes its kernel reset.
    rig.client.write_all(&[b'x'; 1000]).await.unwrap();
    rig.backend.peek(&mut [0]).await.unwrap();
    rig.backend.write_all(b"413 too large").await.unwrap();
    drop(rig.backend);
    let _ = rig.client.write_all(&[b'x'; 1000]).await;

    let (bytes, _) = read_until_broken(&mut rig.client).await;
    assert_eq!(bytes, b"413 too large");
    assert_eq!(
        timeout(LONG, rig.relay).await.unwrap().unwrap().end,
        End::Reset(Side::Backend)
    );
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_writer_back_and_loses_nothing() {
    let (mut client, client_end) = pair().await;
    let (backend_end, mut backend) = pair().await;
    for stream in [&client, &client_end, &backend_end, &backend] {
        let socket = socket2::SockRef::from(stream);
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.set_send_buffer_size(64 * 1024).unwrap();
    }
    let flow = tokio::spawn(relay(
        client_end,
        backend_end,
        Terms::default(),
        Totals::default(),
        pending(),
    ));
    let sent = pattern(50_000_000, 11);

    // Nobody reads: the backend must be stopped by full buffers, long before it has written everything.
    let mut accepted = 0;
    while let Ok(written) = timeout(Duration::from_millis(300), backend.write(&sent[accepted..])).await {
        accepted += written.unwrap();
    }
    assert!(accepted < 3_000_000, "{accepted} bytes are somewhere in between");
    let (got, ()) = tokio::join!(read_to_end(&mut client), async {
        backend.write_all(&sent[accepted..]).await.unwrap();
        backend.shutdown().await.unwrap();
    });

    assert!(got.unwrap() == sent);
    drop(client);
    assert_eq!(timeout(LONG, flow).await.unwrap().unwrap().to_client, 50_000_000);
}

#[tokio::test]
async fn bulk_is_spliced_and_small_messages_are_not() {
    let mut rig = rig(Terms::default()).await;
    let bulk = pattern(6_000_000, 5);
    let before = splice::taken();

    for round in 0..200_u32 {
        rig.client.write_all(&round.to_be_bytes()).await.unwrap();
        assert_eq!(read_exactly(&mut rig.backend, 4).await, round.to_be_bytes());
    }
    let after_small = splice::taken();
    for _ in 0..3 {
        let (sent, got) = tokio::join!(rig.client.write_all(&bulk), read_exactly(&mut rig.backend, bulk.len()));
        sent.unwrap();
        assert!(got == bulk);
        for round in 0..20_u32 {
            rig.client.write_all(&round.to_be_bytes()).await.unwrap();
            assert_eq!(read_exactly(&mut rig.backend, 4).await, round.to_be_bytes());
        }
    }

    assert_eq!(after_small, before, "no pipe is needed for small messages");
    assert!(splice::taken() > before, "bulk goes through a pipe");
    let spliced = splice::taken();
    for round in 0..20_u32 {
        rig.client.write_all(&round.to_be_bytes()).await.unwrap();
        assert_eq!(read_exactly(&mut rig.backend, 4).await, round.to_be_bytes());
    }
    assert_eq!(splice::taken(), spliced, "the flow is back to copying");
}

#[tokio::test]
async fn a_flow_between_memory_streams_is_copied_and_ends_both_ways() {
    struct Memory(DuplexStream);
    impl AsyncRead for Memory {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }
    impl AsyncWrite for Memory {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
    impl Peer for Memory {
        fn socket(&self) -> Option<&TcpStream> {
            None
        }
    }
    let (mut client, client_end) = duplex(1000);
    let (backend_end, mut backend) = duplex(700);
    let flow = tokio::spawn(relay(
        Memory(client_end),
        Memory(backend_end),
        Terms::default(),
        Totals::default(),
        pending(),
    ));
    let bulk = pattern(1_000_000, 9);

    let (got, ()) = tokio::join!(read_to_end(&mut backend), async {
        client.write_all(&bulk).await.unwrap();
        client.shutdown().await.unwrap();
    });

    assert!(got.unwrap() == bulk);
    backend.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
    assert_eq!(
        timeout(LONG, flow).await.unwrap().unwrap().end,
        End::Closed(Side::Client)
    );
}

#[tokio::test]
async fn the_opening_goes_out_at_once_and_its_header_is_not_counted() {
    let opening = Opening {
        bytes: b"PROXY UNKNOWN\r\nGET".to_vec(),
        header_len: 15,
    };
    let mut rig = rig(Terms {
        opening,
        ..Terms::default()
    })
    .await;

    assert_eq!(read_exactly(&mut rig.backend, 18).await, b"PROXY UNKNOWN\r\nGET");
    rig.client.write_all(b" /").await.unwrap();
    assert_eq!(read_exactly(&mut rig.backend, 2).await, b" /");

    assert_eq!(rig.totals.to_backend.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn a_silent_flow_ends_after_the_idle_limit_and_not_before() {
    let mut rig = rig(Terms {
        idle: Duration::from_millis(400),
        ..Terms::default()
    })
    .await;

    let start = Instant::now();
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.client.write_all(b".").await.unwrap();
        read_exactly(&mut rig.backend, 1).await;
    }
    let outcome = rig.outcome().await;

    assert_eq!(outcome.end, End::Idle);
    assert!(start.elapsed() >= Duration::from_millis(950), "{:?}", start.elapsed());
    assert!(
        read_to_end(&mut rig.client).await.is_err(),
        "silence is not an end that the backend made"
    );
}

#[tokio::test]
async fn a_flow_that_stays_half_closed_in_silence_is_ended() {
    let mut rig = rig(Terms {
        half_close: Duration::from_millis(300),
        ..Terms::default()
    })
    .await;

    rig.client.shutdown().await.unwrap();
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.backend.write_all(b".").await.unwrap();
        read_exactly(&mut rig.client, 1).await;
    }

    assert_eq!(rig.outcome().await.end, End::HalfClosed);
    assert!(read_to_end(&mut rig.client).await.is_err());
}

#[tokio::test]
async fn a_reader_that_is_slower_than_the_idle_limit_is_not_cut_off_while_it_reads() {
    let mut rig = rig(Terms {
        idle: Duration::from_millis(250),
        ..Terms::default()
    })
    .await;
    let sent = pattern(400_000, 13);

    rig.backend.write_all(&sent).await.unwrap();
    rig.backend.shutdown().await.unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let step = (sent.len() - received.len()).min(50_000);
        received.extend(read_exactly(&mut rig.client, step).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    assert!(received == sent);
}

#[tokio::test]
async fn a_killed_flow_is_reset_on_both_sides() {
    let mut rig = rig(Terms::default()).await;
    rig.client.write_all(b"x").await.unwrap();
    read_exactly(&mut rig.backend, 1).await;

    rig.kill.take().unwrap().send(()).unwrap();

    assert_eq!(rig.outcome().await.end, End::Killed);
    assert!(read_to_end(&mut rig.client).await.is_err());
    assert!(read_to_end(&mut rig.backend).await.is_err());
}

#[test]
fn an_idle_flow_is_small() {
    let size = size_of::<Relay<TcpStream, TcpStream, Arc<Totals>, std::future::Pending<()>>>();
    assert!(size <= 256, "{size}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_pieces_every_byte_arrives_in_order(
        up in prop::collection::vec(1_usize..200_000, 0..12),
        down in prop::collection::vec(1_usize..200_000, 0..12),
        reads in prop::collection::vec(1_usize..100_000, 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut rig = rig(Terms::default()).await;
            let (client_read, client_write) = rig.client.split();
            let (backend_read, backend_write) = rig.backend.split();
            let ((), (), got_up, got_down) = tokio::join!(
                send(client_write, &up, 1),
                send(backend_write, &down, 2),
                receive(backend_read, &reads),
                receive(client_read, &reads),
            );
            assert!(got_up == pattern(up.iter().sum(), 1));
            assert!(got_down == pattern(down.iter().sum(), 2));
            let outcome = rig.outcome().await;
            assert_eq!((outcome.to_backend, outcome.to_client), (got_up.len() as u64, got_down.len() as u64));
        });
    }
}

async fn send(mut to: impl AsyncWrite + Unpin, pieces: &[usize], seed: u64) {
    let bytes = pattern(pieces.iter().sum(), seed);
    let mut at = 0;
    for piece in pieces {
        to.write_all(&bytes[at..at + piece]).await.unwrap();
        at += piece;
        tokio::task::yield_now().await;
    }
    to.shutdown().await.unwrap();
}

async fn receive(mut from: impl AsyncRead + Unpin, sizes: &[usize]) -> Vec<u8> {
    let mut received = Vec::new();
    let mut buffer = vec![0; 100_000];
    for size in sizes.iter().cycle() {
        let read = timeout(LONG, from.read(&mut buffer[..*size]))
            .await
            .expect("bytes should have come")
            .unwrap();
        if read == 0 {
            break;
        }
        received.extend_from_slice(&buffer[..read]);
    }
    received
}
