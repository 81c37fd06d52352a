//! Datagrams, by flow: what one client sends to one address goes to one backend, and that backend's answers go back to
//! the client from the address it had sent to.
//!
//! One [`Inlet`] serves one listening socket on one thread. The kernel gives all datagrams of a client to the same
//! thread, so that flows are not shared. A flow has a socket of its own towards its backend, and ends by silence.
//!
//! Datagrams are passed on whole or not at all, and never kept: what a socket does not take at once is dropped and
//! counted, as the network would. This module never decides who a flow's backend is; a [`Clients`] does.

mod inlet;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use crate::relay::Meter;
use crate::socket::{self, Source};
use inlet::{Arrival, LARGEST, Sockets};

/// Backends tried for one datagram when the first ones turn out to be deaf.
const ATTEMPTS: usize = 3;

/// Decides about flows, and hears what became of them.
pub trait Clients: Send + Sync + 'static {
    type Flow: Flow;

    /// Lets a client in and chooses its backend, not one of `tried`. `None`: what it sent is dropped.
    fn admit(&self, client: SocketAddr, tried: &[SocketAddr]) -> Option<Admitted<Self::Flow>>;

    /// A datagram was dropped.
    fn dropped(&self, why: Dropped);
}

/// A client's flow, as its owner keeps it.
pub trait Flow: Meter + Send + Sync + 'static {
    /// Ready when the flow is to end by the owner's will.
    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// It is over.
    fn over(&self, end: FlowEnd);
}

/// A flow that may begin.
#[derive(Debug)]
pub struct Admitted<F> {
    pub backend: SocketAddr,
    pub source: Source,
    pub flow: F,
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// There are [`Limits::flows`] flows.
    Full,
    /// No backend could be reached.
    Unreachable,
    /// The socket to the backend, or the one to the client, had no room.
    Congested,
}

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEnd {
    /// Nothing came for [`Limits::idle`].
    Silence,
    /// The backend's machine says that nobody listens there, or cannot be reached.
    Refused(io::ErrorKind),
    /// By the owner's will, or because the inlet is closed.
    Ended,
}

/// What an inlet is held to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A flow on which nothing came for so long is over; not zero.
    pub idle: Duration,
    /// Flows at most.
    pub flows: usize,
}

/// Serves the datagrams that come in on `listener` until the future is dropped, which ends all flows.
///
/// # Errors
/// The socket does not work any more.
pub async fn serve<C: Clients>(listener: std::net::UdpSocket, clients: Arc<C>, limits: Limits) -> io::Result<()> {
    let inlet = Inlet {
        sockets: Arc::new(Sockets::new(listener)?),
        clients,
        limits,
        flows: Arc::default(),
    };
    // Flows end with the inlet, also when this future is dropped.
    let _end = EndFlows(Arc::clone(&inlet.flows));
    let mut buffer = vec![0; LARGEST].into_boxed_slice();
    loop {
        let Arrival { client, at, length } = inlet.sockets.receive(&mut buffer).await?;
        inlet.take(client, at, &buffer[..length]);
    }
}

struct Inlet<C: Clients> {
    sockets: Arc<Sockets>,
    clients: Arc<C>,
    limits: Limits,
    flows: Arc<Flows<C::Flow>>,
}

/// Who sent, and which of our addresses it sent to.
type Key = (SocketAddr, IpAddr);

/// The live flows of an inlet.
struct Flows<F> {
    live: Mutex<HashMap<Key, Arc<Way<F>>>>,
    begun: Instant,
}

impl<F> Default for Flows<F> {
    fn default() -> Self {
        Self {
            live: Mutex::default(),
            begun: Instant::now(),
        }
    }
}

impl<F> Flows<F> {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Way<F>>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One flow.
struct Way<F> {
    key: Key,
    backend: SocketAddr,
    to_backend: UdpSocket,
    flow: F,
    /// Milliseconds from the inlet's begin to the last datagram in either direction.
    last: AtomicU64,
    closed: tokio_util::sync::CancellationToken,
}

impl<C: Clients> Inlet<C> {
    /// Passes one datagram on, by the flow it belongs to or by a new one.
    fn take(&self, client: SocketAddr, at: IpAddr, datagram: &[u8]) {
        let key = (client, at);
        let mut tried = Vec::new();
        for _ in 0..ATTEMPTS {
            let known = self.flows.lock().get(&key).cloned();
            let way = match known {
                Some(way) => way,
                None => match self.begin(key, &tried) {
                    Ok(way) => way,
                    Err(why) => return self.clients.dropped(why),
                },
            };
            match inlet::send_now(&way.to_backend, datagram) {
                Ok(_) => {
                    way.touch(&self.flows);
                    return way.flow.to_backend(datagram.len() as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.clients.dropped(Dropped::Congested);
                }
                // An error is about a datagram before; this one was not sent, and may go elsewhere.
                Err(error) => {
                    tried.push(way.backend);
                    way.end(&self.flows, FlowEnd::Refused(error.kind()));
                }
            }
        }
        self.clients.dropped(Dropped::Unreachable);
    }

    fn begin(&self, key: Key, tried: &[SocketAddr]) -> Result<Arc<Way<C::Flow>>, Dropped> {
        if self.flows.lock().len() >= self.limits.flows {
            return Err(Dropped::Full);
        }
        let Admitted { backend, source, flow } = self.clients.admit(key.0, tried).ok_or(Dropped::Unreachable)?;
        let connected = socket::connect_datagrams(backend, source).and_then(UdpSocket::from_std);
        let to_backend = match connected {
            Ok(to_backend) => to_backend,
            Err(error) => {
                flow.over(FlowEnd::Refused(error.kind()));
                return Err(Dropped::Unreachable);
            }
        };
        let closed = tokio_util::sync::CancellationToken::new();
        let way = Arc::new(Way {
            key,
            backend,
            to_backend,
            flow,
            last: AtomicU64::new(0),
            closed,
        });
        way.touch(&self.flows);
        self.flows.lock().insert(key, Arc::clone(&way));
        let answering = Answering {
            way: Arc::clone(&way),
            flows: Arc::clone(&self.flows),
            sockets: Arc::clone(&self.sockets),
            clients: Arc::clone(&self.clients),
            idle: self.limits.idle,
        };
        tokio::spawn(answering.run());
        Ok(way)
    }
}

impl<F: Flow> Way<F> {
    fn touch(&self, flows: &Flows<F>) {
        let now = u64::try_from(flows.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Takes the flow off the table; only the first to do so tells its owner.
    fn end(&self, flows: &Flows<F>, end: FlowEnd) {
        let mut live = flows.lock();
        if live
            .get(&self.key)
            .is_some_and(|known| std::ptr::eq(Arc::as_ptr(known), self))
        {
            live.remove(&self.key);
            drop(live);
            self.closed.cancel();
            self.flow.over(end);
        }
    }
}

/// Ends what is left when the inlet goes.
struct EndFlows<F: Flow>(Arc<Flows<F>>);

impl<F: Flow> Drop for EndFlows<F> {
    fn drop(&mut self) {
        let left: Vec<_> = self.0.lock().values().cloned().collect();
        for way in left {
            way.end(&self.0, FlowEnd::Ended);
        }
    }
}

/// The task of a flow: takes the backend's answers back, and notices the end.
struct Answering<C: Clients> {
    way: Arc<Way<C::Flow>>,
    flows: Arc<Flows<C::Flow>>,
    sockets: Arc<Sockets>,
    clients: Arc<C>,
    idle: Duration,
}

impl<C: Clients> Answering<C> {
    async fn run(self) {
        let end = tokio::select! {
            () = self.way.closed.cancelled() => return,
            () = poll_fn(|cx| self.way.flow.poll_ended(cx)) => FlowEnd::Ended,
            () = self.silence() => FlowEnd::Silence,
            kind = self.answers() => FlowEnd::Refused(kind),
        };
        self.way.end(&self.flows, end);
    }

    /// Returns when nothing came for too long.
    async fn silence(&self) {
        loop {
            let last = Duration::from_millis(self.way.last.load(Ordering::Relaxed));
            let deadline = self.flows.begun + last + self.idle;
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    /// Passes answers on until the backend turns out to be gone.
    async fn answers(&self) -> io::ErrorKind {
        loop {
            let (client, at) = self.way.key;
            let sent = inlet::with_buffer(&self.way.to_backend, |answer| {
                self.way.touch(&self.flows);
                (answer.len(), self.sockets.send(answer, client, at))
            });
            match sent.await {
                Ok((length, Ok(()))) => self.way.flow.to_client(length as u64),
                Ok((_, Err(_))) => self.clients.dropped(Dropped::Congested),
                Err(error) => return error.kind(),
            }
        }
    }
}
