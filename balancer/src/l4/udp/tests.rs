//! Real sockets on both ends.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(10);

/// Gives flows to backends in turn and keeps what it hears.
#[derive(Default)]
struct Turn {
    backends: Vec<SocketAddr>,
    next: AtomicUsize,
    heard: Arc<Mutex<Heard>>,
    kill: Arc<AtomicBool>,
}

#[derive(Default, Debug, Clone, PartialEq)]
struct Heard {
    admitted: Vec<SocketAddr>,
    to_backend: u64,
    to_client: u64,
    over: Vec<FlowEnd>,
    dropped: Vec<Dropped>,
}

struct Owned {
    heard: Arc<Mutex<Heard>>,
    kill: Arc<AtomicBool>,
}

impl Meter for Owned {
    fn to_backend(&self, bytes: u64) {
        self.heard.lock().unwrap().to_backend += bytes;
    }

    fn to_client(&self, bytes: u64) {
        self.heard.lock().unwrap().to_client += bytes;
    }
}

impl Flow for Owned {
    fn poll_ended(&self, _: &mut Context<'_>) -> Poll<()> {
        if self.kill.load(Ordering::Relaxed) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn over(&self, end: FlowEnd) {
        self.heard.lock().unwrap().over.push(end);
    }
}

impl Clients for Turn {
    type Flow = Owned;

    fn admit(&self, client: SocketAddr, tried: &[SocketAddr]) -> Option<Admitted<Owned>> {
        let count = self.backends.len();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let backend = (0..count)
            .map(|step| self.backends[(start + step) % count])
            .find(|it| !tried.contains(it))?;
        self.heard.lock().unwrap().admitted.push(client);
        let flow = Owned {
            heard: Arc::clone(&self.heard),
            kill: Arc::clone(&self.kill),
        };
        Some(Admitted {
            backend,
            source: Source::Any,
            flow,
        })
    }

    fn dropped(&self, why: Dropped) {
        self.heard.lock().unwrap().dropped.push(why);
    }
}

struct Rig {
    address: SocketAddr,
    serving: JoinHandle<io::Result<()>>,
    heard: Arc<Mutex<Heard>>,
    kill: Arc<AtomicBool>,
}

impl Rig {
    fn start(bind: IpAddr, backends: &[SocketAddr], limits: Limits) -> Self {
        let listener = socket::listen_datagrams(SocketAddr::new(bind, 0), false).unwrap();
        let address = listener.local_addr().unwrap();
        let turn = Turn {
            backends: backends.to_vec(),
            ..Turn::default()
        };
        let (heard, kill) = (Arc::clone(&turn.heard), Arc::clone(&turn.kill));
        let serving = tokio::spawn(serve(listener, Arc::new(turn), limits));
        Self {
            address,
            serving,
            heard,
            kill,
        }
    }

    fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    async fn until(&self, what: impl Fn(&Heard) -> bool) -> Heard {
        let looking = async {
            while !what(&self.heard()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(LONG, looking)
            .await
            .unwrap_or_else(|_| panic!("{:?}", self.heard()));
        self.heard()
    }
}

const CALM: Limits = Limits {
    idle: Duration::from_secs(60),
    flows: 100,
};

async fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn client_of(address: SocketAddr) -> UdpSocket {
    let any: IpAddr = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let client = UdpSocket::bind((any, 0)).await.unwrap();
    client.connect(address).await.unwrap();
    client
}

async fn received(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; LARGEST];
    let (length, from) = timeout(LONG, socket.recv_from(&mut buffer))
        .await
        .expect("a datagram should have come")
        .unwrap();
    buffer.truncate(length);
    (buffer, from)
}

#[tokio::test]
async fn a_clients_datagrams_stay_with_one_backend_and_are_answered() {
    let ((one, one_address), (other, other_address)) = (socket().await, socket().await);
    let rig = Rig::start(Ipv4Addr::LOCALHOST.into(), &[one_address, other_address], CALM);
    let (first, second) = (client_of(rig.address).await, client_of(rig.address).await);

    first.send(b"first 1").await.unwrap();
    let (got, flow_of_first) = received(&one).await;
    assert_eq!(got, b"first 1");
    second.send(b"second 1").await.unwrap();
    let (got, flow_of_second) = received(&other).await;
    assert_eq!(got, b"second 1");
    first.send(b"first 2").await.unwrap();
    assert_eq!(received(&one).await, (b"first 2".to_vec(), flow_of_first));

    other.send_to(b"for the second", flow_of_second).await.unwrap();
    one.send_to(b"for the first", flow_of_first).await.unwrap();
    assert_eq!(received(&first).await.0, b"for the first");
    assert_eq!(received(&second).await.0, b"for the second");
    let heard = rig.until(|heard| heard.to_client == 27).await;
    assert_eq!((heard.admitted.len(), heard.to_backend), (2, 22));
}

#[tokio::test]
async fn answers_come_from_the_address_the_client_had_used() {
    let (backend, backend_address) = socket().await;
    let rig = Rig::start(Ipv4Addr::UNSPECIFIED.into(), &[backend_address], CALM);
    // A connected socket takes answers from no other address.
    let client = client_of((Ipv4Addr::new(127, 0, 0, 9), rig.address.port()).into()).await;

    client.send(b"question").await.unwrap();
    let (_, flow) = received(&backend).await;
    backend.send_to(b"answer", flow).await.unwrap();

    assert_eq!(
        received(&client).await,
        (
            b"answer".to_vec(),
            (Ipv4Addr::new(127, 0, 0, 9), rig.address.port()).into()
        )
    );
}

#[tokio::test]
async fn ipv6_clients_are_answered_too() {
    let (backend, backend_address) = socket().await;
    let rig = Rig::start(Ipv6Addr::UNSPECIFIED.into(), &[backend_address], CALM);
    let client = client_of((Ipv6Addr::LOCALHOST, rig.address.port()).into()).await;

    client.send(b"question").await.unwrap();
    let (_, flow) = received(&backend).await;
    backend.send_to(b"answer", flow).await.unwrap();

    assert_eq!(received(&client).await.0, b"answer");
}

#[tokio::test]
async fn the_largest_and_the_empty_datagram_pass_whole() {
    let (backend, backend_address) = socket().await;
    let rig = Rig::start(Ipv4Addr::LOCALHOST.into(), &[backend_address], CALM);
    let client = client_of(rig.address).await;
    let large: Vec<u8> = (0..65_507_u32).map(|byte| byte as u8).collect();

    client.send(&large).await.unwrap();
    client.send(b"").await.unwrap();

    let (got, flow) = received(&backend).await;
    assert!(got == large);
    assert_eq!(received(&backend).await.0, b"");
    backend.send_to(&large, flow).await.unwrap();
    assert!(received(&client).await.0 == large);
}

#[tokio::test]
async fn a_flow_ends_by_silence_and_begins_anew() {
    let (backend, backend_address) = socket().await;
    let limits = Limits {
        idle: Duration::from_millis(200),
        ..CALM
    };
    let rig = Rig::start(Ipv4Addr::LOCALHOST.into(), &[backend_address], limits);
    let client = client_of(rig.address).await;

    // Answers are signs of life as well.
    client.send(b"1").await.unwrap();
    let (_, first_flow) = received(&backend).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        backend.send_to(b"still here", first_flow).await.unwrap();
        received(&client).await;
    }
    assert_eq!(rig.heard().over, []);
    rig.until(|heard| heard.over == [FlowEnd::Silence]).await;
    client.send(b"2").await.unwrap();

    assert_ne!(received(&backend).await.1, first_flow);
    assert_eq!(rig.heard().admitted.len(), 2);
}

#[tokio::test]
async fn a_deaf_backend_is_noticed_and_the_next_datagram_goes_elsewhere() {
    let (backend, backend_address) = socket().await;
    let deaf = socket().await.1;
    let rig = Rig::start(Ipv4Addr::LOCALHOST.into(), &[deaf, backend_address], CALM);
    let client = client_of(rig.address).await;

    client.send(b"lost as by the network").await.unwrap();
    rig.until(|heard| heard.over == [FlowEnd::Refused(io::ErrorKind::ConnectionRefused)])
        .await;
    client.send(b"arrives").await.unwrap();

    assert_eq!(received(&backend).await.0, b"arrives");
}

#[tokio::test]
async fn a_full_table_keeps_the_flows_it_has() {
    let (backend, backend_address) = socket().await;
    let rig = Rig::start(
        Ipv4Addr::LOCALHOST.into(),
        &[backend_address],
        Limits { flows: 1, ..CALM },
    );
    let (known, newcomer) = (client_of(rig.address).await, client_of(rig.address).await);

    known.send(b"1").await.unwrap();
    received(&backend).await;
    newcomer.send(b"too many").await.unwrap();
    rig.until(|heard| heard.dropped == [Dropped::Full]).await;
    known.send(b"2").await.unwrap();

    assert_eq!(received(&backend).await.0, b"2");
}

#[tokio::test]
async fn without_a_backend_datagrams_are_dropped_and_counted() {
    let rig = Rig::start(Ipv4Addr::LOCALHOST.into(), &[], CALM);
    client_of(rig.address).await.send(b"for nobody").await.unwrap();
    rig.until(|heard| heard.dropped == [Dropped::Unreachable]).await;
}

#[tokio::test]
async fn flows_end_by_the_owners_will_and_with_the_inlet() {
    let (backend, backend_address) = socket().await;
    let rig = Rig::start(Ipv4Addr::LOCALHOST.into(), &[backend_address], CALM);
    let client = client_of(rig.address).await;

    client.send(b"1").await.unwrap();
    let (_, flow) = received(&backend).await;
    rig.kill.store(true, Ordering::Relaxed);
    // Whatever wakes the flow makes it look.
    backend.send_to(b"wake", flow).await.unwrap();
    rig.until(|heard| heard.over == [FlowEnd::Ended]).await;

    rig.kill.store(false, Ordering::Relaxed);
    client.send(b"2").await.unwrap();
    received(&backend).await;
    rig.serving.abort();
    rig.until(|heard| heard.over == [FlowEnd::Ended; 2]).await;
}
