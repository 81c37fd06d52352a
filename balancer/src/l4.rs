//! The life of a TCP connection on one screen.
//!
//! [`listen`](crate::listen) accepted it and holds its permit. Here it is admitted, a backend is chosen and connected,
//! another one if that fails, and then [`mod@relay`] carries its bytes. At the end there is one log line.
//!
//! After a byte was sent to a backend nothing is ever sent to another one: a message must not arrive twice. Nothing here
//! changes what other connections see, but for counters and reports of failed connects.

pub mod choose;
pub mod flows;
pub(crate) mod identity;
pub(crate) mod secure;
pub mod sessions;
pub mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::connect::connect;
use crate::log::{By, End as Ending, Journal, Line};
use crate::plan::{AllDown, ClientIp, Service};
use crate::proxy_protocol::tlv::Extensions;
use crate::proxy_protocol::{Claim, v1, v2};
use crate::relay::{self, Opening, Outcome, Peer, Side, Terms, relay};
use crate::service::{Place, ServiceState, is_admitted, is_in};
use crate::snapshot::Snapshot;
use crate::socket::{FirstBytes, Source, reset_on_close};
use crate::tls::{End, Facts};

use choose::{Chooser, Chosen, Refusal, next_backend};
use identity::Identity;
use sessions::{Open, Sessions, Why};

/// Where connections of one service come in on one thread.
#[derive(Debug)]
pub struct Door {
    /// The service.
    pub service: Arc<ServiceState>,
    /// The thread's live connections.
    pub sessions: Arc<Sessions>,
    /// The thread's log; `None` when it is off.
    pub journal: Option<Arc<Journal>>,
    /// The thread's place in the turn.
    pub chooser: Mutex<Chooser>,
    /// The ways to the service's groups, as far as they were used.
    groups: Mutex<Vec<Arc<Door>>>,
}

/// What is known of a connection before it has a backend, and in the log line after.
#[derive(Debug)]
struct Record {
    begun: Instant,
    client: SocketAddr,
    backend: Option<SocketAddr>,
    steps: Steps,
}

/// How the way to the backend was.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    queue: Duration,
    connect: Duration,
    retries: u32,
}

/// A client and a backend that found each other.
#[derive(Debug)]
struct Met {
    /// The service itself, or its group.
    door: Arc<Door>,
    ends: Ends,
    terms: Terms,
    open: Open,
    steps: Steps,
    /// What it takes up of its group.
    place: Option<Place>,
}

/// Both ends of a flow. Where neither is encrypted the kernel may carry it.
#[derive(Debug)]
enum Ends {
    Plain(TcpStream, TcpStream),
    Secure(End, End),
}

impl Ends {
    fn new(client: End, backend: End) -> Self {
        match (client, backend) {
            (End::Plain(client), End::Plain(backend)) => Self::Plain(client, backend),
            (client, backend) => Self::Secure(client, backend),
        }
    }
}

/// Serves one accepted connection to its end.
///
/// Until it has a backend it lives in a box of its own. A connection spends its life in the relay, and thousands of them
/// at the same time: what was needed before is given back by then. `permit` is given back at the end.
pub fn serve<P: Send>(
    door: Arc<Door>,
    client: TcpStream,
    peer: SocketAddr,
    permit: P,
) -> impl Future<Output = ()> + Send {
    let meeting = Box::pin(meet(door, client, peer));
    async move {
        let Some(Met {
            door,
            ends,
            terms,
            open,
            steps,
            place,
        }) = meeting.await
        else {
            return;
        };
        let (meter, ended) = (open.meter(), open.ended());
        let outcome = match ends {
            Ends::Plain(client, backend) => relay(client, backend, terms, meter, ended).await,
            Ends::Secure(client, backend) => Box::pin(relay(client, backend, terms, meter, ended)).await,
        };
        door.close(&open, steps, &outcome);
        drop((permit, place));
    }
}

/// Brings a client together with a backend. `None` if that did not come to pass; it is logged then.
async fn meet(door: Arc<Door>, mut client: TcpStream, peer: SocketAddr) -> Option<Met> {
    let mut record = Record {
        begun: Instant::now(),
        client: peer,
        backend: None,
        steps: Steps::default(),
    };
    let snapshot = door.service.live.load();
    let policy = &snapshot.service;
    let identity = match identify(&door, policy, &mut client, &mut record).await {
        Ok(identity) => identity,
        Err(end) => {
            reset_on_close(&client);
            door.log(&record, (0, 0), end);
            return None;
        }
    };
    let secured = match secure::meet(&door, &snapshot, client).await {
        Ok(secured) => secured,
        Err(end) => {
            door.log(&record, (0, 0), end);
            return None;
        }
    };
    let secure::Met {
        client,
        facts,
        early,
        door: group,
    } = secured;
    // From here on it is the group's, if it goes to one.
    let (door, snapshot, place) = match group {
        Some(group) => {
            group.service.counters.accepted.add(1);
            let begun = Instant::now();
            let Some(place) = group.service.enter().await else {
                record.steps.queue = begun.elapsed();
                let end = Ending {
                    by: By::Balancer,
                    word: "queue-timeout",
                    code: "sQ",
                };
                turn_away(client, group.service.live.load().service.all_down).await;
                group.log(&record, (0, 0), end);
                return None;
            };
            record.steps.queue = begun.elapsed();
            let snapshot = group.service.live.load();
            (group, snapshot, Some(place))
        }
        None => (door, snapshot, None),
    };
    let policy = &snapshot.service;
    let told = Told {
        identity: &identity,
        facts: facts.as_ref(),
    };
    let Reached {
        backend,
        chosen,
        mut opening,
    } = match reach(&door, &snapshot, &client, told, &mut record).await {
        Ok(reached) => reached,
        Err(end) => {
            turn_away(client, policy.all_down).await;
            door.log(&record, (0, 0), end);
            return None;
        }
    };
    opening.bytes.extend_from_slice(&early);
    let terms = Terms {
        idle: policy.timeouts.idle,
        half_close: policy.timeouts.half_close,
        opening,
    };
    let open = door
        .sessions
        .open(&door.service, record.client, record.begun, chosen.pick);
    Some(Met {
        door,
        ends: Ends::new(client, backend),
        terms,
        open,
        steps: record.steps,
        place,
    })
}

/// What a backend is told of a client.
#[derive(Clone, Copy, Debug)]
struct Told<'a> {
    identity: &'a Identity,
    facts: Option<&'a Facts>,
}

impl Door {
    /// Where connections of a service come in on one thread.
    #[must_use]
    pub fn new(service: Arc<ServiceState>, sessions: Arc<Sessions>, journal: Option<Arc<Journal>>) -> Self {
        Self {
            service,
            sessions,
            journal,
            chooser: Mutex::new(Chooser::new(rand::random())),
            groups: Mutex::default(),
        }
    }

    /// The way to the backends of this group.
    fn group(&self, name: &str) -> Option<Arc<Self>> {
        let service = self.service.group(name)?;
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = groups.iter().find(|door| Arc::ptr_eq(&door.service, &service)) {
            return Some(Arc::clone(door));
        }
        groups.retain(|door| door.service.name != service.name);
        let door = Arc::new(Self::new(service, Arc::clone(&self.sessions), self.journal.clone()));
        groups.push(Arc::clone(&door));
        Some(door)
    }

    /// Keeps the books of a connection that was carried.
    fn close(&self, open: &Open, steps: Steps, outcome: &Outcome) {
        let session = open.session();
        if matches!(
            outcome.end,
            relay::End::Reset(Side::Backend) | relay::End::Failed(Side::Backend, _)
        ) {
            session.backend().aborted.add(1);
        }
        let backend = Some(session.backend().address);
        let record = Record {
            begun: session.since,
            client: session.client,
            backend,
            steps,
        };
        self.log(
            &record,
            (outcome.to_backend, outcome.to_client),
            describe(outcome, session.ended()),
        );
    }

    fn log(&self, record: &Record, (bytes_in, bytes_out): (u64, u64), end: Ending) {
        let Some(journal) = &self.journal else { return };
        journal.write(&Line {
            service: &self.service.name,
            client: record.client,
            backend: record.backend,
            queue: record.steps.queue,
            connect: record.steps.connect,
            total: record.begun.elapsed(),
            bytes_in,
            bytes_out,
            retries: record.steps.retries,
            end,
        });
    }
}

/// Finds out who the client is, and whether it may come in.
async fn identify(
    door: &Door,
    policy: &Service,
    client: &mut TcpStream,
    record: &mut Record,
) -> Result<Identity, Ending> {
    let peer = record.client;
    let identity = if is_in(&policy.accept_proxy, peer.ip().to_canonical()) {
        Identity::from_header(client, peer).await.map_err(|error| {
            door.service.counters.bad_proxy_header.add(1);
            tracing::debug!(service = %door.service.name, %peer, %error, "No good PROXY header");
            Ending {
                by: By::Client,
                word: "bad-proxy-header",
                code: "PR",
            }
        })?
    } else {
        Identity::of_peer(peer)
    };
    record.client = identity.client;
    if !is_admitted(policy, identity.client) {
        door.service.counters.denied.add(1);
        return Err(Ending {
            by: By::Balancer,
            word: "denied",
            code: "PR",
        });
    }
    if !door.service.is_within_rate(identity.client.ip(), Instant::now()) {
        door.service.counters.rate_limited.add(1);
        return Err(Ending {
            by: By::Balancer,
            word: "rate-limited",
            code: "PR",
        });
    }
    Ok(identity)
}

/// A backend that answered, and the permit to use it.
#[derive(Debug)]
struct Reached {
    backend: End,
    chosen: Chosen,
    /// What it is still to be sent first.
    opening: Opening,
}

/// Finds a backend that takes the connection. Each is tried once; nothing has been sent to any of them.
async fn reach(
    door: &Door,
    snapshot: &Snapshot,
    client: &End,
    told: Told<'_>,
    record: &mut Record,
) -> Result<Reached, Ending> {
    let connector = snapshot.tls.client.as_deref();
    let policy = &snapshot.service;
    let mut tried = Vec::new();
    loop {
        let chosen = choose(door, snapshot, record, &tried).await?;
        let state = Arc::clone(chosen.pick.state());
        let source = source(chosen.client_ip, record.client);
        record.backend = Some(state.address);
        let begun = Instant::now();
        let first = match (chosen.client_ip, client) {
            (ClientIp::None | ClientIp::Transparent, End::Plain(client)) if connector.is_none() => {
                FirstBytes::of(client)
            }
            _ => FirstBytes::Here,
        };
        let limit = policy.timeouts.connect;
        let reaching = async {
            let stream = connect(state.address, source, first, limit).await?;
            let mut opening = told.identity.opening(chosen.client_ip, client, told.facts);
            let backend = match connector {
                None => End::Plain(stream),
                Some(connector) => {
                    let header = std::mem::take(&mut opening.bytes);
                    opening.header_len = 0;
                    let stream = secure::begin(connector, &chosen, stream, &header, limit).await?;
                    End::Tls(Box::new(stream.into()))
                }
            };
            Ok((backend, opening))
        };
        let result = reaching.await;
        record.steps.connect += begun.elapsed();
        let error = match result {
            Ok((backend, opening)) => {
                state.connected(begun.elapsed());
                if record.steps.retries > 0 {
                    door.service.counters.redispatched.add(1);
                }
                return Ok(Reached {
                    backend,
                    chosen,
                    opening,
                });
            }
            Err(error) => error,
        };
        door.service.connect_failed(&state, &error);
        if tried.len() >= policy.retries {
            door.service.counters.no_backend.add(1);
            return Err(Ending {
                by: By::Backend,
                word: "connect-failed",
                code: "SC",
            });
        }
        state.redispatched.add(1);
        record.steps.retries += 1;
        tried.push(state.address);
    }
}

/// Where a connection to a backend comes from.
pub(crate) fn source(client_ip: ClientIp, client: SocketAddr) -> Source {
    match client_ip {
        ClientIp::Transparent => Source::Transparent(client.ip()),
        ClientIp::None | ClientIp::ProxyV1 | ClientIp::ProxyV2 => Source::Any,
    }
}

/// Appends what a backend is sent first to tell it of a client who came to `local`.
pub(crate) fn opening_for(
    how: ClientIp,
    client: SocketAddr,
    local: SocketAddr,
    facts: Option<&Facts>,
    out: &mut Vec<u8>,
) {
    match how {
        ClientIp::None | ClientIp::Transparent => {}
        ClientIp::ProxyV1 => v1::write(client, local, out),
        ClientIp::ProxyV2 => {
            let claim = Claim::Tcp {
                source: client,
                destination: local,
            };
            v2::write(claim, &extensions(facts), out);
        }
    }
}

/// What TLS told, for a PROXY header.
fn extensions(facts: Option<&Facts>) -> Extensions<'_> {
    facts.map_or_else(Extensions::default, |facts| Extensions {
        alpn: facts.alpn.as_deref(),
        authority: facts.server_name.as_deref(),
        ssl: Some(facts.as_ssl()),
        ..Extensions::default()
    })
}

/// Asks for the next backend.
async fn choose(door: &Door, snapshot: &Snapshot, record: &mut Record, tried: &[SocketAddr]) -> Result<Chosen, Ending> {
    let ip: IpAddr = record.client.ip();
    let begun = Instant::now();
    let result = next_backend(&door.service, &door.chooser, snapshot, ip, tried).await;
    record.steps.queue += begun.elapsed();
    result.map_err(|refusal| {
        let (by, word, code) = match refusal {
            Refusal::Nobody if tried.is_empty() => (By::Balancer, "no-backend", "SC"),
            Refusal::Nobody => (By::Backend, "connect-failed", "SC"),
            Refusal::QueueFull => (By::Balancer, "queue-full", "sQ"),
            Refusal::QueueTimeout => (By::Balancer, "queue-timeout", "sQ"),
        };
        Ending { by, word, code }
    })
}

/// Tells a client that nobody can take it.
async fn turn_away(mut client: End, how: AllDown) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\
        connection: close\r\n\r\n";
    match how {
        AllDown::Reset => {
            if let Some(socket) = client.socket() {
                reset_on_close(socket);
            }
        }
        AllDown::Close => {}
        AllDown::Http503 => {
            // Without reading what the client sends, the kernel would reset the connection and the answer be lost.
            let farewell = async {
                let mut sink = [0; 4096];
                let _ = client.read(&mut sink).await?;
                client.write_all(ANSWER).await?;
                client.shutdown().await?;
                while client.read(&mut sink).await? > 0 {}
                Ok::<(), io::Error>(())
            };
            let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
        }
    }
}

/// What an outcome is in the log.
pub(crate) fn describe(outcome: &Outcome, ended: Option<Why>) -> Ending {
    let (by, word, code) = match outcome.end {
        relay::End::Closed(Side::Client) => (By::Client, "closed", "--"),
        relay::End::Closed(Side::Backend) => (By::Backend, "closed", "--"),
        relay::End::Reset(Side::Client) => (By::Client, "reset", "CD"),
        relay::End::Reset(Side::Backend) => (By::Backend, "reset", "SD"),
        relay::End::Failed(Side::Client, io::ErrorKind::TimedOut) => (By::Client, "vanished", "cD"),
        relay::End::Failed(Side::Backend, io::ErrorKind::TimedOut) => (By::Backend, "vanished", "sD"),
        relay::End::Failed(Side::Client, _) => (By::Client, "failed", "CD"),
        relay::End::Failed(Side::Backend, _) => (By::Backend, "failed", "SD"),
        relay::End::Idle => (By::Balancer, "idle-timeout", "cD"),
        relay::End::HalfClosed => (By::Balancer, "half-close-timeout", "cD"),
        relay::End::Killed => match ended {
            Some(Why::Operator) => (By::Operator, "killed", "KD"),
            Some(Why::BackendDown) => (By::Balancer, "backend-down", "DD"),
            Some(Why::Drained) => (By::Balancer, "drain-timeout", "KD"),
            Some(Why::Shutdown) | None => (By::Balancer, "shutdown", "KD"),
        },
    };
    Ending { by, word, code }
}

#[cfg(test)]
mod tests;
