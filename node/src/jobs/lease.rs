//! The right to do a piece of work, held in the store so that one node at a time has it.
//!
//! A lease runs out by itself when its owner stops renewing it, so a dead owner's work is taken over after [`TERM`] at
//! the latest. A holder that finds its lease gone must stop: somebody else may have it.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Millis};
use crate::store::{Collection, FindAndUpdate, SharedStore, StoreError};

/// How long a lease lasts without being renewed, milliseconds.
pub const TERM: Millis = 20_000;

/// How often a lease is renewed while the work goes on.
const RENEWAL: Duration = Duration::from_secs(5);

/// Where leases are kept, and for whom.
#[derive(Clone, Debug)]
pub struct Leases {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    node: Arc<str>,
}

impl Leases {
    /// For the node of this identity.
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>, node: impl Into<Arc<str>>) -> Self {
        Self {
            store,
            clock,
            node: node.into(),
        }
    }

    /// Takes the lease on `key`; `None` if somebody has it.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn acquire(&self, key: &str) -> Result<Option<Lease>, StoreError> {
        let now = self.clock.now();
        let owner = format!("{}/{}", self.node, uuid::Uuid::new_v4());
        let ask = FindAndUpdate {
            filter: doc! { "_id": key, "until": { "$lte": date(now) } },
            update: doc! { "$set": { "owner": &owner, "since": date(now), "until": date(now + TERM) } },
            upsert: true,
            ..FindAndUpdate::default()
        };
        match self.store.find_and_update(Collection::Leases, ask).await {
            Ok(_) => Ok(Some(Lease::hold(self.clone(), key.to_owned(), owner))),
            // Somebody's lease is still good, so the filter missed it and the insert met it.
            Err(StoreError::Duplicate { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn renew(&self, key: &str, owner: &str) -> Result<bool, StoreError> {
        let until = date(self.clock.now() + TERM);
        let written = self
            .store
            .update(
                Collection::Leases,
                held(key, owner),
                doc! { "$set": { "until": until } },
            )
            .await?;
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

fn date(millis: Millis) -> bson::DateTime {
    bson::DateTime::from_millis(millis)
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
    fn hold(leases: Leases, key: String, owner: String) -> Self {
        let lost = CancellationToken::new();
        let renewal = tokio::spawn(keep(leases.clone(), key.clone(), owner.clone(), lost.clone()));
        Self {
            leases,
            key,
            owner,
            lost,
            renewal,
        }
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

/// Renews until the lease is lost. A store that does not answer for a whole term means lost: others may have taken it.
async fn keep(leases: Leases, key: String, owner: String, lost: CancellationToken) {
    let mut renewed = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(RENEWAL).await;
        match leases.renew(&key, &owner).await {
            Ok(true) => renewed = tokio::time::Instant::now(),
            Ok(false) => break,
            Err(_) if renewed.elapsed() + RENEWAL < Duration::from_millis(TERM as u64) => {}
            Err(_) => break,
        }
    }
    tracing::warn!(lease.key = key, "The lease on {key} is lost; its work stops here");
    lost.cancel();
}
