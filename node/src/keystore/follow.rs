//! Watches the store for another keystore, whoever wrote it.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::LiveKeystore;
use crate::model::keystore::Keystore as Stored;
use crate::store::{Collection, Result, SharedStore};

/// Keeps `live` as the store has it, looking every `every`, until `stop`.
pub async fn follow(live: Arc<LiveKeystore>, store: SharedStore, every: Duration, stop: CancellationToken) {
    let mut seen = Seen::default();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_reachable = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let looked = seen.look(&store).await;
        match &looked {
            Ok(Some(document)) => put_to_use(&live, document),
            Ok(None) => {}
            Err(error) if is_reachable => warn!(%error, "The keystore could not be read; the present one stays in use"),
            Err(_) => {}
        }
        is_reachable = looked.is_ok();
    }
}

/// Puts the stored keystore to use now. A pair that cannot be used is reported, and the present one stays.
///
/// # Errors
/// The store does not answer.
pub async fn refresh(live: &LiveKeystore, store: &SharedStore) -> Result<()> {
    if let Some(document) = store.one(Collection::Keystores, doc! {}).await? {
        put_to_use(live, &document);
    }
    Ok(())
}

fn put_to_use(live: &LiveKeystore, document: &Document) {
    match live.update(&Stored::from_document(document)) {
        Ok(()) => info!("The keystore was read and is in use"),
        Err(error) => warn!(%error, "The keystore's certificate cannot be used; the present one stays in use"),
    }
}

/// What the store held when it was last asked.
#[derive(Debug, Default)]
struct Seen {
    version: Option<u64>,
    document: Option<Document>,
}

impl Seen {
    /// The stored keystore, if it differs from the one seen before.
    async fn look(&mut self, store: &SharedStore) -> Result<Option<Document>> {
        let version = store.version(Collection::Keystores).await?;
        if version.is_some() && version == self.version {
            return Ok(None);
        }
        let document = store.one(Collection::Keystores, doc! {}).await?;
        self.version = version;
        if document == self.document {
            return Ok(None);
        }
        self.document = document;
        Ok(self.document.clone())
    }
}
