//! Which backend a connection tries next, on one thread.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::backend::Pick;
use crate::plan::ClientIp;
use crate::schedule::{Turn, client_key};
use crate::service::ServiceState;
use crate::snapshot::{Candidate, Pool, Snapshot};

/// A thread's own place in the turn of one service.
#[derive(Debug)]
pub struct Chooser {
    primary: Turn,
    backup: Turn,
}

/// What choosing came to.
#[derive(Debug)]
pub enum Choice {
    /// This one.
    Picked(Chosen),
    /// Everyone who might is at its limit, or has not been checked yet.
    Wait,
    /// There is nobody left to try.
    Nobody,
}

/// A backend that was chosen.
#[derive(Debug)]
pub struct Chosen {
    /// The permit to use it.
    pub pick: Pick,
    /// How it learns the client's address.
    pub client_ip: ClientIp,
    /// Its name, if it was configured by one.
    pub host: Option<Arc<str>>,
    /// Who it is; see [`member_key`](crate::schedule::member_key).
    pub key: u64,
}

/// Why a client gets no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is nobody left to try.
    Nobody,
    /// Too many wait already.
    QueueFull,
    /// Nobody had room in time.
    QueueTimeout,
}

/// Chooses the next backend for a client; waits in line while all of them are at their limits, or nobody has been checked
/// yet.
///
/// # Errors
/// The client gets none. That is counted.
pub async fn next_backend(
    service: &ServiceState,
    chooser: &Mutex<Chooser>,
    snapshot: &Snapshot,
    client: IpAddr,
    tried: &[SocketAddr],
) -> Result<Chosen, Refusal> {
    let nobody = || {
        service.counters.no_backend.add(1);
        Refusal::Nobody
    };
    let attempt = |snapshot: &Snapshot| {
        let mut chooser = chooser.lock().unwrap_or_else(PoisonError::into_inner);
        chooser.choose(service, snapshot, client, tried)
    };
    // Who comes while others wait does not overtake them.
    if service.waiting.count() == 0 {
        match attempt(snapshot) {
            Choice::Picked(chosen) => return Ok(chosen),
            Choice::Nobody => return Err(nobody()),
            Choice::Wait => {}
        }
    }
    let overflow = |refusal| {
        service.counters.queue_overflow.add(1);
        Err(refusal)
    };
    let policy = &snapshot.service;
    let Some(waiter) = service.waiting.join(policy.queue) else {
        return overflow(Refusal::QueueFull);
    };
    service.counters.queued.add(1);
    // Backends may come and go meanwhile.
    let turn = waiter.until(|| match attempt(&service.live.load()) {
        Choice::Picked(chosen) => Some(Ok(chosen)),
        Choice::Nobody => Some(Err(nobody())),
        Choice::Wait => None,
    });
    let result = tokio::time::timeout(policy.timeouts.queue, turn).await;
    result.unwrap_or_else(|_| overflow(Refusal::QueueTimeout))
}

impl Chosen {
    /// The permit to use this backend, unless it is at its limit.
    pub(crate) fn try_new(candidate: &Candidate) -> Option<Self> {
        let pick = Pick::try_new(&candidate.state, candidate.limit)?;
        Some(Self {
            pick,
            client_ip: candidate.client_ip,
            host: candidate.host.clone(),
            key: candidate.key,
        })
    }
}

impl Chooser {
    /// A thread's start; `seed` should differ between threads and processes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            primary: Turn::new(seed),
            backup: Turn::new(!seed),
        }
    }

    /// Chooses among those that were not tried: the one the client had before if it is to stay there, else by the
    /// schedule; a backup only when no primary is left.
    pub fn choose(
        &mut self,
        service: &ServiceState,
        snapshot: &Snapshot,
        client: IpAddr,
        tried: &[SocketAddr],
    ) -> Choice {
        if let Some(chosen) = had_before(service, snapshot, client, tried) {
            return Choice::Picked(chosen);
        }
        let choice = match from_pool(&snapshot.primary, &mut self.primary, client, tried) {
            Choice::Nobody => from_pool(&snapshot.backup, &mut self.backup, client, tried),
            choice => choice,
        };
        match &choice {
            Choice::Picked(chosen) => service.remember(client, chosen.key, Instant::now()),
            Choice::Nobody if snapshot.is_pending => return Choice::Wait,
            Choice::Nobody | Choice::Wait => {}
        }
        choice
    }
}

fn had_before(service: &ServiceState, snapshot: &Snapshot, client: IpAddr, tried: &[SocketAddr]) -> Option<Chosen> {
    let now = Instant::now();
    let key = service.remembered(client, now)?;
    let candidate = snapshot
        .candidates()
        .find(|it| it.key == key && !tried.contains(&it.state.address))?;
    let chosen = Chosen::try_new(candidate)?;
    service.remember(client, key, now);
    Some(chosen)
}

fn from_pool(pool: &Pool, turn: &mut Turn, client: IpAddr, tried: &[SocketAddr]) -> Choice {
    let is_full = Cell::new(false);
    let room = |index: usize| {
        let candidate = &pool.candidates[index];
        if tried.contains(&candidate.state.address) {
            return None;
        }
        let active = candidate.state.active();
        is_full.set(is_full.get() || active >= candidate.limit);
        (active < candidate.limit).then_some(active)
    };
    let client = client_key(client);
    // Another thread may take the last permit in between; then there is one candidate less in the next round.
    while let Some(index) = pool.table.pick(turn, client, room) {
        if let Some(chosen) = Chosen::try_new(&pool.candidates[index]) {
            return Choice::Picked(chosen);
        }
    }
    if is_full.get() { Choice::Wait } else { Choice::Nobody }
}
