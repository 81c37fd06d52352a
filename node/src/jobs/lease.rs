//! The right to do a piece of work, held in the store so that one node at a time has it.
//!
//! An owner shows again and again that it lives, by counting. Whoever wants the work watches the count: when it has not
//! moved for [`TERM`], the owner is taken for dead and the lease is taken over. No two nodes' clocks are compared, and
//! none is asked for the time of day, so a clock that jumps takes nobody's work away. A holder that cannot show that it
//! lives must stop before the others lose their patience: its lease is [`lost`](Lease::lost).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{Document, doc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::{Collection, FindAndUpdate, SharedStore, StoreError};

/// How long a lease stays its owner's who does not count any more.
pub const TERM: Duration = Duration::from_secs(20);

/// Leases that are watched at the same time; those beyond are seen for the first time again and again.
const WATCHED: usize = 10_000;

/// A lease of somebody else: owner and count as they were seen last, and since when they have been like that.
type Seen = (String, i64, Instant);

/// Where leases are kept, and for whom.
#[derive(Clone, Debug)]
pub struct Leases {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    node: Arc<str>,
    term: Duration,
    /// Others' leases, by key.
    seen: Arc<Mutex<HashMap<String, Seen>>>,
}

impl Leases {
    /// For the node of this identity.
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>, node: impl Into<Arc<str>>) -> Self {
        Self {
            store,
            clock,
            node: node.into(),
            term: TERM,
            seen: Arc::default(),
        }
    }

    /// The same with another term: all nodes must have the same one.
    #[must_use]
    pub fn lasting(mut self, term: Duration) -> Self {
        self.term = term;
        self
    }

    /// Takes the lease on `key`; `None` if somebody has it.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn acquire(&self, key: &str) -> Result<Option<Lease>, StoreError> {
        let asked = Instant::now();
        let Some(present) = self.store.one(Collection::Leases, doc! { "_id": key }).await? else {
            return self.make(key, asked).await;
        };
        let owner = present.get_str("owner").unwrap_or_default().to_owned();
        let beats = present.get_i64("beats").unwrap_or_default();
        if !self.is_dead(key, &owner, beats, asked) {
            return Ok(None);
        }
        let mine = self.name();
        let ask = FindAndUpdate {
            filter: doc! { "_id": key, "owner": &owner, "beats": present.get("beats").cloned() },
            update: doc! { "$set": { "owner": &mine, "since": self.clock.date(), "beats": 0_i64 } },
            return_new: true,
            ..FindAndUpdate::default()
        };
        let taken = self.store.find_and_update(Collection::Leases, ask).await?;
        if taken.is_some() {
            tracing::info!(lease.key = key, "Took over {key}: its owner shows no sign of life");
        }
        Ok(taken.map(|_| Lease::hold(self.clone(), key.to_owned(), mine, asked)))
    }

    async fn make(&self, key: &str, asked: Instant) -> Result<Option<Lease>, StoreError> {
        let mine = self.name();
        let lease = doc! { "_id": key, "owner": &mine, "since": self.clock.date(), "beats": 0_i64 };
        match self.store.insert(Collection::Leases, lease).await {
            Ok(()) => Ok(Some(Lease::hold(self.clone(), key.to_owned(), mine, asked))),
            Err(StoreError::Duplicate { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.node, uuid::Uuid::new_v4())
    }

    /// True if the lease has looked like this for a whole term.
    fn is_dead(&self, key: &str, owner: &str, beats: i64, now: Instant) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last_owner, last_beats, since)) = seen.get(key)
            && last_owner == owner
            && *last_beats == beats
        {
            return now.duration_since(*since) >= self.term;
        }
        if seen.len() >= WATCHED {
            let (term, before) = (self.term, seen.len());
            seen.retain(|_, (_, _, since)| now.duration_since(*since) < 2 * term);
            if seen.len() == before {
                return false;
            }
        }
        seen.insert(key.to_owned(), (owner.to_owned(), beats, now));
        false
    }

    async fn renew(&self, key: &str, owner: &str) -> Result<bool, StoreError> {
        let beat = doc! { "$inc": { "beats": 1_i64 } };
        let written = self.store.update(Collection::Leases, held(key, owner), beat).await?;
        Ok(written.matched == 1)
    }

    async fn release(&self, key: &str, owner: &str) {
        if let Err(error) = self.store.delete(Collection::Leases, held(key, owner)).await {
            // It runs out by itself.
            tracing::debug!(lease.key = key, error = %error, "A lease could not be given back");
        }
    }
}

fn held(key: &str, owner: &str) -> Document {
    doc! { "_id": key, "owner": owner }
}

/// The right to work on something, renewed in the background until it is released or dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Leases,
    key: String,
    owner: String,
    lost: CancellationToken,
    renewal: tokio::task::JoinHandle<()>,
}

impl Lease {
    fn hold(leases: Leases, key: String, owner: String, since: Instant) -> Self {
        let lost = CancellationToken::new();
        let renewal = tokio::spawn(keep(leases.clone(), key.clone(), owner.clone(), since, lost.clone()));
        Self {
            leases,
            key,
            owner,
            lost,
            renewal,
        }
    }

    /// Tells this holding of the lease from every other one.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Resolves when the lease is somebody else's, or may be.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives the lease back, so that others need not wait for its end.
    pub async fn release(self) {
        self.renewal.abort();
        self.leases.release(&self.key, &self.owner).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Renews until the lease is lost. `shown` is before the last sign of life, so that the holder stops before the others
/// take over, however slow the store was.
async fn keep(leases: Leases, key: String, owner: String, mut shown: Instant, lost: CancellationToken) {
    let pause = leases.term / 5;
    loop {
        tokio::time::sleep(pause).await;
        let now = Instant::now();
        let deadline = shown + leases.term - pause;
        match tokio::time::timeout_at(deadline, leases.renew(&key, &owner)).await {
            Ok(Ok(true)) => shown = now,
            Ok(Err(_)) if Instant::now() < deadline => {}
            Ok(_) | Err(_) => break,
        }
    }
    tracing::warn!(lease.key = key, "The lease on {key} is lost; its work stops here");
    lost.cancel();
}
