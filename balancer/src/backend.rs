//! A backend's counters, which outlive snapshots and reloads, and the permit to use it.
//!
//! Data threads count here; the control task reads. Who a backend is (its service and address) never changes; what it may
//! get (weight, limits) is in the [snapshot](crate::snapshot), how it is doing in the control task.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

pub mod connect;
pub mod requests;

use requests::Requests;

/// Counters of one backend of one service. Aligned so that two backends never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct BackendState {
    /// Where it is; with the service that holds it, its identity.
    pub address: SocketAddr,
    /// Connections and attempts under way. Only [`Pick`] changes it, so that it cannot underflow.
    active: AtomicU32,
    /// Clients of the service that wait for a backend with room.
    waiting: Arc<Waiting>,
    /// Connections made to it since start.
    pub connections: Counter,
    /// Connects that were refused or failed at once.
    pub connect_errors: Counter,
    /// Connects that were not answered in time.
    pub connect_timeouts: Counter,
    /// Clients that went to another backend because a connect to this one failed.
    pub redispatched: Counter,
    /// Connections it reset, or that broke on its side.
    pub aborted: Counter,
    /// Time that successful connects took, in microseconds, summed.
    pub connect_micros: Counter,
    /// Bytes it was sent by finished and settled connections.
    pub bytes_to_backend: Counter,
    /// Bytes it sent.
    pub bytes_to_client: Counter,
    /// Requests it was sent.
    pub requests: Requests,
}

impl BackendState {
    /// A backend nobody has used yet; `waiting` are the clients to wake when it has room again.
    #[must_use]
    pub fn new(address: SocketAddr, waiting: Arc<Waiting>) -> Self {
        Self {
            address,
            active: AtomicU32::new(0),
            waiting,
            connections: Counter::default(),
            connect_errors: Counter::default(),
            connect_timeouts: Counter::default(),
            redispatched: Counter::default(),
            aborted: Counter::default(),
            connect_micros: Counter::default(),
            bytes_to_backend: Counter::default(),
            bytes_to_client: Counter::default(),
            requests: Requests::default(),
        }
    }

    /// Connections and attempts under way.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Notes a connect that succeeded.
    pub fn connected(&self, took: Duration) {
        self.connections.add(1);
        self.connect_micros
            .add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// The permit to use a backend: counts as one connection under way until it is dropped.
#[derive(Debug)]
pub struct Pick {
    state: Arc<BackendState>,
}

impl Pick {
    /// A permit, unless `limit` of them are out.
    #[must_use]
    pub fn try_new(state: &Arc<BackendState>, limit: u32) -> Option<Self> {
        state
            .active
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |active| {
                (active < limit).then_some(active + 1)
            })
            .ok()
            .map(|_| Self {
                state: Arc::clone(state),
            })
    }

    /// The backend it is for.
    #[must_use]
    pub fn state(&self) -> &Arc<BackendState> {
        &self.state
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.state.active.fetch_sub(1, Ordering::SeqCst);
        self.state.waiting.wake_one();
    }
}

/// The clients of a service that wait because every backend is at its limit, first come first served.
#[derive(Debug, Default)]
pub struct Waiting {
    count: AtomicUsize,
    room: Notify,
}

impl Waiting {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Joins the line, unless `most` are in it.
    pub fn join(&self, most: usize) -> Option<Waiter<'_>> {
        self.count
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |count| {
                (count < most).then_some(count + 1)
            })
            .ok()
            .map(|_| Waiter { line: self })
    }

    /// Says that there is room for one more.
    pub fn wake_one(&self) {
        if self.count() > 0 {
            self.room.notify_one();
        }
    }

    /// Says that everything may have changed.
    pub fn wake_all(&self) {
        self.room.notify_waiters();
        self.wake_one();
    }
}

/// A place in the line; leaves it when dropped.
#[derive(Debug)]
pub struct Waiter<'a> {
    line: &'a Waiting,
}

impl Waiter<'_> {
    /// Calls `attempt` now and whenever there may be room, until it returns something.
    pub async fn until<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        loop {
            let mut notified = pin!(self.line.room.notified());
            // Listening starts before the attempt, so that room made in between is not missed.
            notified.as_mut().enable();
            if let Some(it) = attempt() {
                return it;
            }
            notified.await;
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.line.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Arc<BackendState> {
        Arc::new(BackendState::new(SocketAddr::from(([127, 0, 0, 1], 1)), Arc::default()))
    }

    #[test]
    fn a_pick_counts_until_it_is_dropped() {
        let state = state();

        let first = Pick::try_new(&state, 2);
        let second = Pick::try_new(&state, 2);

        assert!(first.is_some() && second.is_some() && Pick::try_new(&state, 2).is_none());
        drop(first);
        assert_eq!(state.active(), 1);
        assert!(Pick::try_new(&state, 2).is_some());
    }

    #[test]
    fn permits_never_exceed_the_limit_between_threads() {
        let state = state();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let pick = Pick::try_new(&state, 3);
                        assert!(state.active() <= 3);
                        drop(pick);
                    }
                });
            }
        });
        assert_eq!(state.active(), 0);
    }

    #[tokio::test]
    async fn a_waiting_client_gets_the_room_that_another_leaves() {
        let waiting = Arc::new(Waiting::default());
        let state = Arc::new(BackendState::new(
            SocketAddr::from(([127, 0, 0, 1], 1)),
            Arc::clone(&waiting),
        ));
        let first = Pick::try_new(&state, 1).expect("room");

        let waiter = waiting.join(1).expect("a place in the line");
        assert!(waiting.join(1).is_none(), "the line is full");
        let second = tokio::time::timeout(Duration::from_secs(5), waiter.until(|| Pick::try_new(&state, 1)));
        let (second, ()) = tokio::join!(second, async { drop(first) });

        assert!(second.is_ok(), "woken");
        drop(second);
        drop(waiter);
        assert_eq!(waiting.count(), 0);
    }
}
