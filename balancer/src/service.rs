//! One service as all threads share it: its snapshot, its gates, its counters.

mod rate;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::backend::connect::{ConnectError, Report, Reports};
use crate::backend::requests::Requests;
use crate::backend::{BackendState, Counter, Waiting};
use crate::plan;
use crate::schedule::sticky::Sticky;
use crate::snapshot::{Live, Snapshot};

use rate::RateLimit;

/// What lives as long as a service has its name, through all reloads.
#[derive(Debug)]
pub struct ServiceState {
    /// Its name.
    pub name: Arc<str>,
    /// What is to be done with a connection right now.
    pub live: Live<Snapshot>,
    /// Lets connections in up to the service's `maxconn`.
    pub gate: Arc<Gate>,
    /// Clients that wait for a backend with room.
    pub waiting: Arc<Waiting>,
    /// What happened so far.
    pub counters: Counters,
    /// Where failed connects are told.
    reports: Reports,
    /// Requests of each client that are under way, if there is a limit.
    clients: Mutex<HashMap<IpAddr, u32>>,
    /// Its groups: services that get some of its clients.
    groups: Live<Vec<Arc<ServiceState>>>,
    /// Which backend a client had, if it is to stay there.
    sticky: Mutex<Option<Sticky>>,
    /// How many connections each source may open, if there is a limit.
    rate: Mutex<Option<RateLimit>>,
}

/// Clients of one service that are remembered.
const REMEMBERED: usize = 100_000;

/// What happened to the connections of a service.
#[derive(Debug, Default)]
pub struct Counters {
    /// Accepted.
    pub accepted: Counter,
    /// Turned away because of `allow` and `deny`.
    pub denied: Counter,
    /// Turned away because their source opened too many.
    pub rate_limited: Counter,
    /// Ended because of a PROXY header that was missing, broken or too slow.
    pub bad_proxy_header: Counter,
    /// TLS handshakes of clients that came to pass.
    pub tls_handshakes: Counter,
    /// Those of them that went on from an earlier connection.
    pub tls_resumed: Counter,
    /// TLS handshakes of clients that did not, and first messages of which no name could be read.
    pub tls_failed: Counter,
    /// Turned away because no backend could take them.
    pub no_backend: Counter,
    /// Turned away because the line of waiting clients was full, or did not move in time.
    pub queue_overflow: Counter,
    /// Had to wait in that line.
    pub queued: Counter,
    /// Carried by another backend than the first chosen.
    pub redispatched: Counter,
    /// Accepts that failed.
    pub accept_errors: Counter,
    /// Datagrams that no flow could take.
    pub dropped_datagrams: Counter,
    /// Bytes from clients to backends.
    pub bytes_to_backend: Counter,
    /// Bytes from backends to clients.
    pub bytes_to_client: Counter,
    /// Requests, in http mode.
    pub requests: Requests,
}

impl ServiceState {
    /// A service nobody has used yet.
    #[must_use]
    pub fn new(snapshot: Snapshot, reports: Reports) -> Self {
        let limit = snapshot.service.maxconn.unwrap_or(usize::MAX);
        let sticky = snapshot.service.sticky.map(|it| Sticky::new(it.timeout, REMEMBERED));
        Self {
            name: Arc::clone(&snapshot.service.name),
            sticky: Mutex::new(sticky),
            rate: Mutex::new(snapshot.service.rate.map(RateLimit::new)),
            live: Live::new(snapshot),
            gate: Arc::new(Gate::new(limit)),
            waiting: Arc::default(),
            counters: Counters::default(),
            reports,
            groups: Live::new(Vec::new()),
            clients: Mutex::default(),
        }
    }

    /// Makes another snapshot the current one.
    pub fn publish(&self, snapshot: Snapshot) {
        self.gate.set_limit(snapshot.service.maxconn.unwrap_or(usize::MAX));
        self.set_sticky(snapshot.service.sticky);
        self.set_rate(snapshot.service.rate);
        self.live.publish(snapshot);
        self.waiting.wake_all();
    }

    fn set_sticky(&self, policy: Option<plan::Sticky>) {
        let mut sticky = lock(&self.sticky);
        match (&mut *sticky, policy) {
            (Some(table), Some(policy)) => table.set_timeout(policy.timeout),
            (table, policy) => *table = policy.map(|it| Sticky::new(it.timeout, REMEMBERED)),
        }
    }

    fn set_rate(&self, policy: Option<u32>) {
        let mut rate = lock(&self.rate);
        match (&mut *rate, policy) {
            (Some(table), Some(policy)) => table.set(policy),
            (table, policy) => *table = policy.map(RateLimit::new),
        }
    }

    /// True if this source may open a connection now; it then has one less.
    #[must_use]
    pub fn is_within_rate(&self, source: IpAddr, now: Instant) -> bool {
        lock(&self.rate).as_mut().is_none_or(|table| table.admit(source, now))
    }

    /// The [key](crate::schedule::member_key) of the backend that a client had, if it is to stay there.
    #[must_use]
    pub fn remembered(&self, client: IpAddr, now: Instant) -> Option<u64> {
        lock(&self.sticky).as_ref()?.get(client, now)
    }

    /// Remembers the backend of a client, if clients are to stay.
    pub fn remember(&self, client: IpAddr, key: u64, now: Instant) {
        if let Some(table) = lock(&self.sticky).as_mut() {
            table.put(client, key, now);
        }
    }

    /// Lets a client have one more request under way; `None` if it has `most` already.
    #[must_use]
    pub fn admit_client(self: &Arc<Self>, client: IpAddr, most: u32) -> Option<ClientPlace> {
        let client = client.to_canonical();
        let mut clients = lock(&self.clients);
        let count = clients.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(ClientPlace {
            service: Arc::clone(self),
            client,
        })
    }

    /// A place among the connections or requests that a group may have at once, as soon as there is one; `None` if that
    /// takes longer than anybody waits in line. That is counted.
    pub async fn enter(&self) -> Option<Place> {
        if let Some(place) = self.gate.try_enter() {
            return Some(place);
        }
        let patience = self.live.load().service.timeouts.queue;
        self.counters.queued.add(1);
        let entered = tokio::time::timeout(patience, self.gate.enter(|| ())).await;
        if entered.is_err() {
            self.counters.queue_overflow.add(1);
        }
        entered.ok()
    }

    /// Its group of this name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<Arc<Self>> {
        self.groups.load().iter().find(|it| *it.name == *name).cloned()
    }

    /// Makes these its groups.
    pub fn set_groups(&self, groups: Vec<Arc<Self>>) {
        self.groups.publish(groups);
    }

    /// Counts a connect that failed and, if the backend is to blame, tells the control task.
    pub fn connect_failed(&self, backend: &BackendState, error: &ConnectError) {
        match error {
            ConnectError::Refused(_) | ConnectError::Tls(_) => backend.connect_errors.add(1),
            ConnectError::Silent(_) => backend.connect_timeouts.add(1),
            ConnectError::Local(error) => {
                tracing::warn!(service = %self.name, backend = %backend.address, %error, "Could not connect from here");
                return;
            }
        }
        let report = Report {
            service: Arc::clone(&self.name),
            address: backend.address,
            reason: error.to_string(),
        };
        let _ = self.reports.try_send(report);
    }
}

/// A client's request under way; over when dropped.
#[derive(Debug)]
pub struct ClientPlace {
    service: Arc<ServiceState>,
    client: IpAddr,
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut clients = lock(&self.service.clients);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True if `allow` and `deny` let this client in.
#[must_use]
pub fn is_admitted(service: &plan::Service, client: SocketAddr) -> bool {
    let ip = client.ip().to_canonical();
    (service.allow.is_empty() || is_in(&service.allow, ip)) && !is_in(&service.deny, ip)
}

/// True if one of the networks holds the address.
#[must_use]
pub fn is_in(networks: &[ipnet::IpNet], ip: IpAddr) -> bool {
    networks.iter().any(|net| net.contains(&ip))
}

/// Lets in as many as its limit says; who comes after waits outside.
#[derive(Debug)]
pub struct Gate {
    inside: AtomicUsize,
    limit: AtomicUsize,
    room: Notify,
    /// Somebody had to wait, and there was no room to speak of since.
    is_full: AtomicBool,
}

impl Gate {
    /// An empty place.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            inside: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            room: Notify::new(),
            is_full: AtomicBool::new(false),
        }
    }

    /// How many are inside.
    #[must_use]
    pub fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }

    /// How many may be.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::SeqCst)
    }

    /// Changes the limit. Nobody who is inside has to leave.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
        self.is_full.store(false, Ordering::Relaxed);
        self.room.notify_waiters();
        self.room.notify_one();
    }

    /// Goes in if there is room.
    #[must_use]
    pub fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let limit = self.limit();
        self.inside
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |inside| {
                (inside < limit).then_some(inside + 1)
            })
            .ok()
            .map(|_| Place { gate: Arc::clone(self) })
    }

    /// Goes in as soon as there is room. `when_full` is called if that is not at once, but only by the first one until a
    /// tenth of the places has become free.
    pub async fn enter(self: &Arc<Self>, when_full: impl FnOnce()) -> Place {
        if let Some(place) = self.try_enter() {
            return place;
        }
        if !self.is_full.swap(true, Ordering::Relaxed) {
            when_full();
        }
        loop {
            let mut notified = std::pin::pin!(self.room.notified());
            notified.as_mut().enable();
            if let Some(place) = self.try_enter() {
                // Only who leaves a full place wakes someone: where several left, there is room for the next one too.
                if self.inside() < self.limit() {
                    self.room.notify_one();
                }
                return place;
            }
            notified.await;
        }
    }
}

/// A place inside; leaves when dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let (before, limit) = (self.gate.inside.fetch_sub(1, Ordering::SeqCst), self.gate.limit());
        if before >= limit {
            self.gate.room.notify_one();
        }
        if self.gate.is_full.load(Ordering::Relaxed) && before <= limit - limit / 10 {
            self.gate.is_full.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_full_gate_opens_when_someone_leaves_or_the_limit_grows() {
        let gate = Arc::new(Gate::new(1));
        let first = gate.try_enter().expect("room");
        assert!(gate.try_enter().is_none());

        let waiting = {
            let gate = Arc::clone(&gate);
            async move {
                tokio::time::timeout(Duration::from_secs(5), gate.enter(|| ()))
                    .await
                    .expect("let in")
            }
        };
        let (second, ()) = tokio::join!(waiting, async { drop(first) });
        assert_eq!(gate.inside(), 1);

        let waiting = tokio::time::timeout(Duration::from_secs(5), gate.enter(|| ()));
        let (third, ()) = tokio::join!(waiting, async { gate.set_limit(2) });
        assert_eq!(gate.inside(), 2);
        drop((second, third));
        assert_eq!(gate.inside(), 0);
    }

    #[tokio::test]
    async fn all_who_wait_come_in_when_many_leave_at_once() {
        let gate = Arc::new(Gate::new(4));
        let inside: Vec<Place> = (0..4).filter_map(|_| gate.try_enter()).collect();

        let waiting = (0..3).map(|_| gate.enter(|| ()));
        let waiting = futures_util::future::join_all(waiting);
        let limited = tokio::time::timeout(Duration::from_secs(5), waiting);
        let (places, ()) = tokio::join!(limited, async { drop(inside) });

        assert_eq!(places.expect("let in").len(), 3);
    }

    #[tokio::test]
    async fn that_it_is_full_is_told_once_until_it_has_emptied_a_little() {
        let gate = Arc::new(Gate::new(20));
        let mut inside: Vec<Place> = (0..20).filter_map(|_| gate.try_enter()).collect();
        let mut told = 0;

        for (leaving, expected) in [(1, 1), (1, 1), (1, 1), (3, 2)] {
            let waiting = gate.enter(|| told += 1);
            let (place, ()) = tokio::join!(waiting, async { drop(inside.drain(..leaving)) });
            inside.push(place);
            while let Some(place) = gate.try_enter() {
                inside.push(place);
            }
            let _ = tokio::time::timeout(Duration::ZERO, gate.enter(|| told += 1)).await;
            assert_eq!(told, expected);
        }
    }
}
