//! The live connections of one thread: what each has moved so far, and the way to end it from outside.
//!
//! The thread that serves a connection enters and leaves it; the control task looks through the tables of all threads, to
//! bring counters up to date, to list connections, and to end those of a backend. A connection counts its bytes in its
//! own place, so that threads do not fight over a backend's counters with every message.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use slab::Slab;

use crate::backend::{BackendState, Pick};
use crate::relay::{Meter, Totals};
use crate::service::ServiceState;

/// The live connections of one thread.
#[derive(Debug, Default)]
pub struct Sessions {
    live: Mutex<Slab<Entry>>,
}

#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    /// How much of the session's totals the counters of its backend and service have already.
    settled: (u64, u64),
}

/// A live connection.
#[derive(Debug)]
pub struct Session {
    /// The service it came in by.
    pub service: Arc<ServiceState>,
    /// The client, as far as it is known.
    pub client: SocketAddr,
    /// When it was accepted.
    pub since: Instant,
    pick: Pick,
    totals: Totals,
    life: Mutex<Life>,
}

#[derive(Debug)]
enum Life {
    Running(Option<Waker>),
    Ended(Why),
}

/// Why a connection was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An operator said so.
    Operator,
    /// Its backend went down, and `on_down` is `close`.
    BackendDown,
    /// Its backend was removed, and the time to drain is over.
    Drained,
    /// The process ends, and the time to drain is over.
    Shutdown,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator => "killed",
            Self::BackendDown => "backend-down",
            Self::Drained => "drain-timeout",
            Self::Shutdown => "shutdown",
        })
    }
}

impl Sessions {
    /// Enters a connection.
    pub fn open(self: &Arc<Self>, service: &Arc<ServiceState>, client: SocketAddr, since: Instant, pick: Pick) -> Open {
        let session = Arc::new(Session {
            service: Arc::clone(service),
            client,
            since,
            pick,
            totals: Totals::default(),
            life: Mutex::new(Life::Running(None)),
        });
        let key = self.lock().insert(Entry {
            session: Arc::clone(&session),
            settled: (0, 0),
        });
        Open {
            sessions: Arc::clone(self),
            session,
            key,
        }
    }

    /// Brings the counters of backends and services up to date with what moved since the last time.
    pub fn settle(&self) {
        self.lock().iter_mut().for_each(|(_, entry)| entry.settle());
    }

    /// Ends those connections that `which` picks; says how many.
    pub fn end(&self, why: Why, which: impl Fn(&Session) -> bool) -> usize {
        let chosen: Vec<Arc<Session>> = self
            .lock()
            .iter()
            .filter(|(_, entry)| which(&entry.session))
            .map(|(_, it)| Arc::clone(&it.session))
            .collect();
        chosen.iter().filter(|session| session.end(why)).count()
    }

    /// All of them.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Session>> {
        self.lock()
            .iter()
            .map(|(_, entry)| Arc::clone(&entry.session))
            .collect()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Entry>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn settle(&mut self) {
        let now = self.session.moved();
        let (up, down) = (now.0 - self.settled.0, now.1 - self.settled.1);
        if (up, down) != (0, 0) {
            let backend = self.session.backend();
            backend.bytes_to_backend.add(up);
            backend.bytes_to_client.add(down);
            self.session.service.counters.bytes_to_backend.add(up);
            self.session.service.counters.bytes_to_client.add(down);
            self.settled = now;
        }
    }
}

impl Session {
    /// The backend that serves it.
    #[must_use]
    pub fn backend(&self) -> &Arc<BackendState> {
        self.pick.state()
    }

    /// Bytes moved so far: to the backend, to the client.
    #[must_use]
    pub fn moved(&self) -> (u64, u64) {
        (
            self.totals.to_backend.load(Ordering::Relaxed),
            self.totals.to_client.load(Ordering::Relaxed),
        )
    }

    /// Ends it; false if that was done before.
    fn end(&self, why: Why) -> bool {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        let Life::Running(waker) = &mut *life else { return false };
        let waker = waker.take();
        *life = Life::Ended(why);
        drop(life);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Ready when it was ended from outside. Only one task can wait for that.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *life {
            Life::Ended(_) => Poll::Ready(()),
            Life::Running(Some(waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            Life::Running(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Why it was ended from outside, if it was.
    #[must_use]
    pub fn ended(&self) -> Option<Why> {
        match &*self.life.lock().unwrap_or_else(PoisonError::into_inner) {
            Life::Running(_) => None,
            Life::Ended(why) => Some(*why),
        }
    }
}

/// A connection in the table; leaves it when dropped.
#[derive(Debug)]
pub struct Open {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    key: usize,
}

impl Open {
    /// What the relay tells of every byte.
    #[must_use]
    pub fn meter(&self) -> SessionMeter {
        SessionMeter(Arc::clone(&self.session))
    }

    /// Completes when the connection is ended from outside.
    #[must_use]
    pub fn ended(&self) -> Ended {
        Ended(Arc::clone(&self.session))
    }

    /// The connection.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut live = self.sessions.lock();
        live[self.key].settle();
        live.remove(self.key);
    }
}

/// Counts a connection's bytes.
#[derive(Debug)]
pub struct SessionMeter(Arc<Session>);

// Only the connection's own task writes, so that a load and a store do what would otherwise take a locked addition.
impl Meter for SessionMeter {
    fn to_backend(&self, bytes: u64) {
        let total = &self.0.totals.to_backend;
        total.store(total.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    fn to_client(&self, bytes: u64) {
        let total = &self.0.totals.to_client;
        total.store(total.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }
}

/// See [`Open::ended`].
#[derive(Debug)]
pub struct Ended(Arc<Session>);

impl Future for Ended {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_ended(cx)
    }
}
