//! The life of an HTTP connection, and of each request on it, on two screens: this one and [`request`].
//!
//! [`listen`](crate::listen) accepted it. Here its requests are read one after the other by strict [`framing`]; each goes
//! to a backend of its own choice ([`request`]), over a connection from the thread's [`pool`] or a new one, and
//! [`exchange`] moves both directions at once. HTTP/2 comes in by [`http2`], which makes a connection with one request of
//! each stream. Whatever carries the bytes is behind [`transport`].
//!
//! Heads keep their order and letters ([`headers`]), bodies are never held but for what the other side cannot take yet.

mod alarm;
mod answer;
mod cookie;
mod exchange;
mod forwarded;
pub mod framing;
mod headers;
mod http2;
mod pool;
mod presence;
mod record;
mod request;
mod retry;
mod route;
pub mod transport;
mod tunnel;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::l4::choose::Chooser;
use crate::l4::identity::Identity;
use crate::l4::secure::accept;
use crate::l4::sessions::Sessions;
use crate::log::Journal;
use crate::plan::Http;
use crate::relay::Peer;
use crate::service::{ServiceState, is_in};
use crate::socket::reset_on_close;

use alarm::Alarm;
use framing::{Field, Limits, Scan, Violation};
use pool::Pool;
use transport::{ClientInfo, Protocol, Rewound, Wire};
use tunnel::Tunnel;

/// What a client of HTTP/2 begins with when it knows that it may.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How often connections that wait in a pool are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Where the requests of one service come in on one thread.
#[derive(Debug)]
pub struct Door {
    /// The service's own backends.
    own: Arc<Lane>,
    /// Its groups, as far as they were used.
    groups: Mutex<Vec<Arc<Lane>>>,
    sessions: Arc<Sessions>,
    journal: Option<Arc<Journal>>,
    /// Cancelled when nothing new is accepted any more.
    closed: CancellationToken,
}

/// One thread's way to the backends of a service or group.
#[derive(Debug)]
struct Lane {
    service: Arc<ServiceState>,
    chooser: Mutex<Chooser>,
    pool: Mutex<Pool>,
}

impl Lane {
    fn new(service: Arc<ServiceState>) -> Arc<Self> {
        Arc::new(Self {
            service,
            chooser: Mutex::new(Chooser::new(rand::random())),
            pool: Mutex::default(),
        })
    }
}

impl Door {
    /// A door that lets clients in until `closed`.
    #[must_use]
    pub fn new(
        service: Arc<ServiceState>,
        sessions: Arc<Sessions>,
        journal: Option<Arc<Journal>>,
        closed: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            own: Lane::new(service),
            groups: Mutex::default(),
            sessions,
            journal,
            closed,
        })
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &Arc<ServiceState> {
        &self.own.service
    }

    /// Closes connections to backends that nobody has used for too long, as long as there is anybody to use them.
    pub fn sweep(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let door: Weak<Self> = Arc::downgrade(self);
        async move {
            let mut ticks = tokio::time::interval(SWEEP);
            loop {
                ticks.tick().await;
                let Some(door) = door.upgrade() else { return };
                lock(&door.own.pool).sweep();
                lock(&door.groups).iter().for_each(|lane| lock(&lane.pool).sweep());
            }
        }
    }

    /// The way to the backends of this group.
    fn lane(&self, group: &str) -> Option<Arc<Lane>> {
        let service = self.own.service.group(group)?;
        let mut groups = lock(&self.groups);
        if let Some(lane) = groups.iter().find(|lane| Arc::ptr_eq(&lane.service, &service)) {
            return Some(Arc::clone(lane));
        }
        groups.retain(|lane| lane.service.name != service.name);
        let lane = Lane::new(service);
        groups.push(Arc::clone(&lane));
        Some(lane)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one accepted connection to its end. `permit` is given back then.
pub async fn serve<P: Send>(door: Arc<Door>, mut stream: TcpStream, peer: SocketAddr, permit: P) {
    let client = match identify(&door, &mut stream, peer).await {
        Some(client) => client,
        None => return reset_on_close(&stream),
    };
    let mut info = ClientInfo {
        client,
        local: stream.local_addr().unwrap_or(peer),
        protocol: Protocol::Http1,
        tls: None,
    };
    let snapshot = door.service().live.load();
    let (terminator, limit) = (snapshot.tls.server.clone(), snapshot.service.timeouts.handshake);
    drop(snapshot);
    match terminator {
        None => converse(door, stream, info).await,
        Some(terminator) => {
            let accepted = accept(door.service(), &terminator, stream, limit).await;
            drop(terminator);
            if let Some((stream, facts)) = accepted {
                info.tls = Some(Arc::new(facts));
                Box::pin(converse(door, stream, info)).await;
            }
        }
    }
    drop(permit);
}

/// Who the client is: the peer, or whom its PROXY header names. `None` if there should have been one.
async fn identify(door: &Door, stream: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
    let snapshot = door.service().live.load();
    if !is_in(&snapshot.service.accept_proxy, peer.ip().to_canonical()) {
        return Some(peer);
    }
    match Identity::from_header(stream, peer).await {
        Ok(identity) => Some(identity.client),
        Err(error) => {
            door.service().counters.bad_proxy_header.add(1);
            tracing::debug!(service = %door.service().name, %peer, %error, "No good PROXY header");
            None
        }
    }
}

/// Answers what a client asks over an established connection, TLS ended or not, until either side has enough.
pub async fn converse<C: Peer + Send + 'static>(door: Arc<Door>, stream: C, info: ClientInfo) {
    let has_agreed = |info: &ClientInfo| info.tls.as_ref().is_some_and(|tls| tls.alpn.as_deref() == Some(b"h2"));
    // A stream of such a connection comes here too, and is one of HTTP/1.1.
    if info.protocol == Protocol::Http1 && has_agreed(&info) {
        return http2::serve(door, stream, info).await;
    }
    let mut conversation = Conversation::new(door, stream, info);
    loop {
        let snapshot = conversation.door.service().live.load();
        let rules = &snapshot.service.http;
        let limits = limits(rules);
        let next = std::future::poll_fn(|cx| conversation.poll_next(cx, rules, &limits)).await;
        let after = match next {
            Next::Request(length) => {
                // What holds now, not when its client began to think about it.
                let snapshot = conversation.door.service().live.load();
                conversation.answer(&snapshot, length, limits).await
            }
            Next::Bad(violation) => conversation.refuse_unread(violation.status()).await,
            Next::Slow => conversation.refuse_unread(408).await,
            Next::Http2 => {
                let Conversation { door, wire, info, .. } = conversation;
                return http2::serve(door, Rewound::new(wire), info).await;
            }
            Next::Over => return,
        };
        match after {
            After::Next => {}
            // In boxes, for a connection that waits shall not be as large as one that ends.
            After::Part => return Box::pin(exchange::part(&mut conversation.wire)).await,
            After::Reset => {
                if let Some(socket) = conversation.wire.stream.socket() {
                    reset_on_close(socket);
                }
                return;
            }
            After::Tunnel(tunnel) => return Box::pin(tunnel.run(conversation)).await,
        }
    }
}

fn limits(rules: &Http) -> Limits {
    Limits {
        head_bytes: rules.max_header_bytes,
        header_count: rules.max_headers,
        target_bytes: rules.max_target_bytes,
    }
}

/// A client's connection between and during its requests.
struct Conversation<C> {
    door: Arc<Door>,
    info: ClientInfo,
    wire: Wire<C>,
    alarm: Alarm,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    scan: Scan,
    /// The head of the request under way, and memory for its lines and for those of its answer.
    head: Vec<u8>,
    fields: [Vec<Field>; 2],
    ids: record::Ids,
    /// Requests so far.
    count: u32,
    /// Since when a request is awaited.
    quiet_since: Instant,
    /// When the first byte of the next one came.
    begun: Option<Instant>,
}

/// What a client does next.
#[derive(Debug)]
enum Next {
    /// It asks; the head has this length.
    Request(usize),
    /// It says what can be read in more than one way, or is too large.
    Bad(Violation),
    /// It has begun and does not come to an end.
    Slow,
    /// It speaks HTTP/2.
    Http2,
    /// It asks no more, or is not to.
    Over,
}

/// What follows a request.
enum After {
    /// The next one.
    Next,
    /// A goodbye that lets what was written arrive.
    Part,
    /// An end that nobody takes for a proper one.
    Reset,
    /// Another protocol.
    Tunnel(Box<Tunnel>),
}

impl<C: Peer + Send> Conversation<C> {
    fn new(door: Arc<Door>, stream: C, info: ClientInfo) -> Self {
        Self {
            closed: Box::pin(door.closed.clone().cancelled_owned()),
            door,
            info,
            wire: Wire::new(stream),
            alarm: Alarm::default(),
            scan: Scan::default(),
            head: Vec::new(),
            fields: Default::default(),
            ids: record::Ids::default(),
            count: 0,
            quiet_since: Instant::now(),
            begun: None,
        }
    }

    /// Waits for the next request's whole head.
    fn poll_next(&mut self, cx: &mut Context<'_>, rules: &Http, limits: &Limits) -> Poll<Next> {
        loop {
            let held = self.wire.input.held();
            // An empty line before a request is tolerated (RFC 9112, section 2.2).
            if held.starts_with(b"\r\n") {
                self.wire.input.consume(2);
                continue;
            }
            if self.count == 0 && held.len() >= 18 && PREFACE.starts_with(&held[..18]) {
                match held.len() < PREFACE.len() {
                    true => {}
                    false if held.starts_with(PREFACE) => return Poll::Ready(Next::Http2),
                    false => return Poll::Ready(Next::Bad(Violation::BadVersion)),
                }
            } else if held != b"\r" && !held.is_empty() {
                self.begun.get_or_insert_with(Instant::now);
                match self.scan.find(held, limits) {
                    Ok(Some(length)) => return Poll::Ready(Next::Request(length)),
                    Ok(None) => {}
                    Err(violation) => return Poll::Ready(Next::Bad(violation)),
                }
            }
            if self.wire.input.ended {
                return Poll::Ready(Next::Over);
            }
            match self.wire.poll_fill(cx) {
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Over),
                Poll::Pending => {}
            }
            return self.poll_patience(cx, rules);
        }
    }

    /// Ready when the next request is not waited for any longer.
    fn poll_patience(&mut self, cx: &mut Context<'_>, rules: &Http) -> Poll<Next> {
        let Some(begun) = self.begun else {
            self.wire.rest();
            if self.closed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Next::Over);
            }
            let patience = match self.count {
                0 => rules.header_timeout,
                _ => rules.keep_alive_timeout,
            };
            ready!(self.alarm.poll(cx, self.quiet_since + patience));
            return Poll::Ready(Next::Over);
        };
        ready!(self.alarm.poll(cx, begun + rules.header_timeout));
        Poll::Ready(Next::Slow)
    }
}

#[cfg(test)]
mod tests;
