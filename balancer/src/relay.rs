//! Copies bytes both ways between a client and its backend until the flow ends.
//!
//! The last station of a layer-4 connection: [`l4`](crate::l4) has accepted, chosen and connected; from here on only
//! bytes matter. Each direction is a [`Lane`] of its own, so either side may finish while the other still talks.
//! Plain sockets move bulk by `splice(2)`; everything else, and every small message, goes through one scratch buffer
//! that the thread owns. A flow holds memory only while it has bytes that the other side does not take yet.
//!
//! Only an end that a peer made properly is passed on as an end. Whatever else cuts a flow short (a reset, a time
//! limit, an operator) reaches both sides as a reset, so that half a message can never pass for a whole one. A reset
//! waits until the bytes that came before it were delivered.
//!
//! This module never chooses a backend, never connects, never looks at what the bytes mean.

mod lane;
mod splice;

pub use splice::{CAPACITY as PIPE_CAPACITY, MOST_PIPES, limit_pipes};

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::socket;
use lane::{Broken, Budget, Lane};

/// How long a broken flow may take to deliver its last bytes when no half-close limit is set.
const FALLBACK_LINGER: Duration = Duration::from_secs(60);
/// First and longest pause between two looks at a socket that still has bytes under way.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));

/// One end of a flow.
pub trait Peer: AsyncRead + AsyncWrite + Unpin {
    /// The socket below, if there is one: what is reset, and asked for undelivered bytes.
    fn socket(&self) -> Option<&TcpStream>;

    /// The socket, if its bytes are the flow's bytes: what may be spliced.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

impl Peer for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }

    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl<S: Peer> Peer for tokio_rustls::server::TlsStream<S> {
    fn socket(&self) -> Option<&TcpStream> {
        self.get_ref().0.socket()
    }
}

impl<S: Peer> Peer for tokio_rustls::client::TlsStream<S> {
    fn socket(&self) -> Option<&TcpStream> {
        self.get_ref().0.socket()
    }
}

/// One of the two sides of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Backend,
}

/// How a flow ended, and by whose doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both sides finished properly; this one first.
    Closed(Side),
    /// This side reset the connection.
    Reset(Side),
    /// The connection to this side failed otherwise: it stopped answering, or broke TLS off.
    Failed(Side, io::ErrorKind),
    /// Nothing moved for [`Terms::idle`].
    Idle,
    /// One side had finished, and nothing moved for [`Terms::half_close`].
    HalfClosed,
    /// The caller's `kill` future completed.
    Killed,
}

/// What a finished flow leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub end: End,
    /// Bytes the backend's socket took, without the [`Opening`]'s header.
    pub to_backend: u64,
    /// Bytes the client's socket took.
    pub to_client: u64,
}

/// What a flow is held to.
#[derive(Debug, Default)]
pub struct Terms {
    /// Longest time without a byte in either direction; zero: no limit.
    pub idle: Duration,
    /// The same once one side has finished; zero: no limit.
    pub half_close: Duration,
    /// What goes to the backend first.
    pub opening: Opening,
}

/// Bytes for the backend that did not come through the relay: a PROXY header, and what was read while looking at the
/// client's first bytes.
#[derive(Debug, Default)]
pub struct Opening {
    pub bytes: Vec<u8>,
    /// How many of `bytes`, from the start, are ours and not the client's; they are not counted.
    pub header_len: usize,
}

/// Told of every byte as a socket takes it.
pub trait Meter {
    fn to_backend(&self, bytes: u64);
    fn to_client(&self, bytes: u64);
}

/// Two running totals.
#[derive(Debug, Default)]
pub struct Totals {
    pub to_backend: AtomicU64,
    pub to_client: AtomicU64,
}

impl Meter for Totals {
    fn to_backend(&self, bytes: u64) {
        self.to_backend.fetch_add(bytes, Ordering::Relaxed);
    }

    fn to_client(&self, bytes: u64) {
        self.to_client.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl<M: Meter + ?Sized> Meter for &M {
    fn to_backend(&self, bytes: u64) {
        (**self).to_backend(bytes);
    }

    fn to_client(&self, bytes: u64) {
        (**self).to_client(bytes);
    }
}

impl<M: Meter + ?Sized> Meter for std::sync::Arc<M> {
    fn to_backend(&self, bytes: u64) {
        (**self).to_backend(bytes);
    }

    fn to_client(&self, bytes: u64) {
        (**self).to_client(bytes);
    }
}

/// Relays between `client` and `backend` until the flow is over; both connections are closed when the future is
/// dropped.
///
/// `kill` ends the flow when it completes; [`std::future::pending`] never does.
pub fn relay<C: Peer, B: Peer, M: Meter, K: Future<Output = ()>>(
    client: C,
    backend: B,
    terms: Terms,
    meter: M,
    kill: K,
) -> Relay<C, B, M, K> {
    let Terms {
        idle,
        half_close,
        opening,
    } = terms;
    let flow = Flow {
        client,
        backend,
        up: Lane::opening_with(opening),
        down: Lane::default(),
        first: None,
        lost: None,
        emptying: None,
        quiet: Quiet::new(idle, half_close),
        meter,
    };
    Relay { flow, kill }
}

pin_project_lite::pin_project! {
    /// A flow on its way; see [`relay`].
    ///
    /// Written out as a state machine because thousands of these sit idle: an `async fn` would keep its arguments
    /// twice.
    #[must_use = "nothing moves until it is awaited"]
    #[derive(Debug)]
    pub struct Relay<C, B, M, K> {
        flow: Flow<C, B, M>,
        #[pin]
        kill: K,
    }
}

impl<C: Peer, B: Peer, M: Meter, K: Future<Output = ()>> Future for Relay<C, B, M, K> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.project();
        if this.kill.poll(cx).is_ready() {
            return Poll::Ready(this.flow.cut(End::Killed));
        }
        this.flow.poll(cx)
    }
}

#[derive(Debug)]
struct Flow<C, B, M> {
    client: C,
    backend: B,
    /// Client to backend.
    up: Lane,
    /// Backend to client.
    down: Lane,
    /// The side that finished first.
    first: Option<Side>,
    /// The side that broke, and how.
    lost: Option<(Side, io::ErrorKind)>,
    /// Set while the last bytes before a reset are on their way to the side that is left.
    emptying: Option<Box<Emptying>>,
    quiet: Quiet,
    meter: M,
}

impl<C: Peer, B: Peer, M: Meter> Flow<C, B, M> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if self.emptying.is_none() {
            match self.poll_lanes(cx) {
                Poll::Ready(Some(end)) => return Poll::Ready(self.finish(end)),
                // A side is lost and all it said was written to the other.
                Poll::Ready(None) => self.emptying = Some(Box::default()),
                Poll::Pending => {
                    let end = ready!(self.poll_quiet(cx));
                    return Poll::Ready(self.cut(end));
                }
            }
        }
        ready!(self.poll_emptying(cx));
        Poll::Ready(self.cut(self.lost_end()))
    }

    /// Moves what can be moved. Ready with the end once both sides finished properly, or with `None` once nothing is
    /// left to read from a lost side.
    fn poll_lanes(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let mut budget = Budget::default();
        let moved = (self.up.moved(), self.down.moved());
        let done = (self.up.is_finished(), self.down.is_finished());
        let verdict = loop {
            let up = self.up.poll(cx, &mut self.client, &mut self.backend, &mut budget, |n| {
                self.meter.to_backend(n)
            });
            if let Poll::Ready(result) = up
                && self.note(result, Side::Client, Side::Backend)
            {
                continue;
            }
            let down = self
                .down
                .poll(cx, &mut self.backend, &mut self.client, &mut budget, |n| {
                    self.meter.to_client(n)
                });
            if let Poll::Ready(result) = down
                && self.note(result, Side::Backend, Side::Client)
            {
                continue;
            }
            match (self.lost, self.first) {
                (Some((Side::Client, _)), _) if self.up.is_finished() => break Poll::Ready(None),
                (Some((Side::Backend, _)), _) if self.down.is_finished() => break Poll::Ready(None),
                (None, Some(first)) if self.up.is_finished() && self.down.is_finished() => {
                    break Poll::Ready(Some(End::Closed(first)));
                }
                _ => break Poll::Pending,
            }
        };
        if moved != (self.up.moved(), self.down.moved()) || done != (self.up.is_finished(), self.down.is_finished()) {
            self.quiet.since = None;
        }
        verdict
    }

    /// Takes note of what became of the lane from `source` to `sink`; true when the other lane has to be looked at
    /// again because of it.
    fn note(&mut self, result: Result<(), Broken>, source: Side, sink: Side) -> bool {
        let (side, error) = match result {
            Ok(()) => {
                if self.first.is_none() {
                    self.first = Some(source);
                    self.close_with_the_other_lane(source);
                }
                return false;
            }
            Err(Broken::Source(error)) => (source, error),
            Err(Broken::Sink(error)) => (sink, error),
        };
        if let Some((lost, _)) = self.lost
            && lost != side
        {
            // Both are gone: nobody is left to deliver anything to.
            self.up.abandon();
            self.down.abandon();
            return true;
        }
        self.lost.get_or_insert((side, error.kind()));
        let (from_lost, to_lost) = match side {
            Side::Client => (&mut self.up, &mut self.down),
            Side::Backend => (&mut self.down, &mut self.up),
        };
        to_lost.abandon();
        // A write that failed leaves bytes to read that came before the reset; a read that failed leaves none.
        if side == source {
            from_lost.source_is_gone();
        } else {
            from_lost.ends_without_fin();
        }
        true
    }

    /// When the other lane comes to its end too, both connections are closed, and closing says to `source`, of whom
    /// nothing is left to read, what a FIN would. A layer above the socket has its own farewell to say.
    fn close_with_the_other_lane(&mut self, source: Side) {
        match source {
            Side::Client if self.client.plain().is_some() => self.down.ends_without_fin(),
            Side::Backend if self.backend.plain().is_some() => self.up.ends_without_fin(),
            Side::Client | Side::Backend => {}
        }
    }

    /// Ready with the end when nothing has moved for too long.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let milliseconds = |limit: u32| Duration::from_millis(limit.into());
        let (limit, end) = if self.lost.is_some() {
            (self.quiet.linger(), self.lost_end())
        } else if self.up.is_finished() || self.down.is_finished() {
            (milliseconds(self.quiet.half_close), End::HalfClosed)
        } else {
            (milliseconds(self.quiet.idle), End::Idle)
        };
        let (client, backend) = (&self.client, &self.backend);
        self.quiet
            .poll(cx, limit, || undelivered(client) + undelivered(backend))
            .map(|()| end)
    }

    /// Ready when the side that is left has acknowledged every byte, or is not going to.
    fn poll_emptying(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.quiet.linger();
        let survivor = match self.lost {
            Some((Side::Client, _)) => self.backend.socket(),
            _ => self.client.socket(),
        };
        let (Some(survivor), Some(emptying)) = (survivor, self.emptying.as_mut()) else {
            return Poll::Ready(());
        };
        loop {
            let left = socket::undelivered(survivor);
            if left == 0 {
                return Poll::Ready(());
            }
            let now = Instant::now();
            if left != emptying.left {
                (emptying.left, emptying.since) = (left, Some(now));
            }
            if emptying.since.is_some_and(|since| now >= since + linger) {
                return Poll::Ready(());
            }
            let pause = emptying.pause;
            let timer = emptying.timer.get_or_insert_with(|| Box::pin(sleep_until(now + pause)));
            ready!(timer.as_mut().poll(cx));
            emptying.pause = (pause * 2).min(LOOK_AGAIN.1);
            emptying.timer = None;
        }
    }

    fn lost_end(&self) -> End {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
        match self.lost {
            Some((side, ConnectionReset | BrokenPipe | NotConnected | ConnectionAborted)) => End::Reset(side),
            Some((side, kind)) => End::Failed(side, kind),
            None => End::HalfClosed,
        }
    }

    fn finish(&self, end: End) -> Outcome {
        Outcome {
            end,
            to_backend: self.up.counted(),
            to_client: self.down.counted(),
        }
    }

    /// The end of a flow that did not end by itself: neither side shall take it for complete.
    fn cut(&self, end: End) -> Outcome {
        for socket in [self.client.socket(), self.backend.socket()].into_iter().flatten() {
            socket::reset_on_close(socket);
        }
        self.finish(end)
    }
}

fn undelivered(peer: &impl Peer) -> u64 {
    peer.socket().map_or(0, socket::undelivered)
}

/// The wait for a broken flow's last bytes to be acknowledged.
#[derive(Debug)]
struct Emptying {
    left: u64,
    since: Option<Instant>,
    pause: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Default for Emptying {
    fn default() -> Self {
        Self {
            left: 0,
            since: None,
            pause: LOOK_AGAIN.0,
            timer: None,
        }
    }
}

/// Notices silence, with one timer that is made when it is first needed and moved only when it fires.
#[derive(Debug)]
struct Quiet {
    /// Milliseconds, as little is to be kept for each of thousands.
    idle: u32,
    half_close: u32,
    /// Start of the silence; `None`: something has just moved.
    since: Option<Instant>,
    watch: Option<Box<Watch>>,
}

#[derive(Debug)]
struct Watch {
    /// The limit that the timer was set for.
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    /// What the kernel still had to deliver when the timer last fired.
    undelivered: u64,
}

impl Quiet {
    fn new(idle: Duration, half_close: Duration) -> Self {
        let milliseconds = |limit: Duration| match u32::try_from(limit.as_millis()) {
            Ok(0) if !limit.is_zero() => 1,
            Ok(milliseconds) => milliseconds,
            Err(_) => u32::MAX,
        };
        Self {
            idle: milliseconds(idle),
            half_close: milliseconds(half_close),
            since: None,
            watch: None,
        }
    }

    fn linger(&self) -> Duration {
        match self.half_close {
            0 => FALLBACK_LINGER,
            milliseconds => Duration::from_millis(milliseconds.into()),
        }
    }

    /// Ready when `limit` has passed without a sign of life; `undelivered` is what the kernel still has to hand out, for
    /// a peer that reads slowly is not silent.
    fn poll(&mut self, cx: &mut Context<'_>, limit: Duration, undelivered: impl Fn() -> u64) -> Poll<()> {
        if limit.is_zero() {
            self.watch = None;
            return Poll::Pending;
        }
        loop {
            let deadline = *self.since.get_or_insert_with(Instant::now) + limit;
            let watch = match &mut self.watch {
                Some(watch) if watch.limit == limit => watch,
                watch => watch.insert(Box::new(Watch {
                    limit,
                    timer: Box::pin(sleep_until(deadline)),
                    undelivered: 0,
                })),
            };
            ready!(watch.timer.as_mut().poll(cx));
            if watch.timer.deadline() >= deadline {
                let undelivered = undelivered();
                if undelivered == 0 || undelivered == watch.undelivered {
                    return Poll::Ready(());
                }
                watch.undelivered = undelivered;
                self.since = Some(Instant::now());
            }
            let deadline = self.since.unwrap_or(deadline) + limit;
            watch.timer.as_mut().reset(deadline);
        }
    }
}
