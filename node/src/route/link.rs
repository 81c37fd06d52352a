//! One connection to a backend, seen from both ends of its use: hyper reads and writes it, the router watches it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What the router knows of a connection while hyper owns its use.
#[derive(Debug)]
pub(super) struct Link {
    /// Uncontended: both users run on the instance's one thread.
    stream: Mutex<TcpStream>,
    opened: Instant,
    /// Microseconds after `opened` at which a byte last moved.
    moved: AtomicU64,
}

impl Link {
    pub(super) fn new(stream: TcpStream) -> Arc<Self> {
        Arc::new(Self {
            stream: Mutex::new(stream),
            opened: Instant::now(),
            moved: AtomicU64::new(0),
        })
    }

    fn stream(&self) -> MutexGuard<'_, TcpStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the idle time anew.
    pub(super) fn touch(&self) {
        let now = self.opened.elapsed().as_micros() as u64;
        self.moved.store(now, Ordering::Relaxed);
    }

    fn moved(&self) -> Instant {
        self.opened + Duration::from_micros(self.moved.load(Ordering::Relaxed))
    }

    /// Resolves when no byte has moved for `limit`.
    pub(super) async fn silence(&self, limit: Duration) {
        loop {
            let due = self.moved() + limit;
            tokio::time::sleep_until(due).await;
            if self.moved() + limit <= Instant::now() {
                return;
            }
        }
    }

    /// True if the backend has closed an idle connection or has said something unasked: nothing may be sent on it.
    pub(super) fn is_stale(&self) -> bool {
        let stream = self.stream();
        let outcome = SockRef::from(&*stream).peek(&mut [MaybeUninit::uninit()]);
        !matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The end of a [`Link`] that bytes go through.
#[derive(Debug)]
pub(super) struct Wire(pub(super) Arc<Link>);

impl Wire {
    fn with<T>(&self, poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<T>) -> Poll<T> {
        poll(Pin::new(&mut *self.0.stream()))
    }

    fn moving<T>(&self, poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<T>) -> Poll<T> {
        let outcome = self.with(poll);
        if outcome.is_ready() {
            self.0.touch();
        }
        outcome
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.moving(|stream| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.moving(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.moving(|stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
