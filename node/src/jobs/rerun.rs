//! Works on rerun tasks: sends their transactions again, batch by batch.
//!
//! Every node looks for tasks; each task is worked on under a lease, by one node at a time, and what is done is written
//! into it after each batch. A batch is marked in the task before anything of it is sent, and only if the task is still
//! `Processing`: that is how pausing, cancelling and deleting stop it. When its node dies, the task goes on elsewhere.
//!
//! Nothing runs twice: the id of a rerun follows from its task and its place in it ([`Work`]), so a node that takes over
//! finds what was sent already, and of two nodes that try the same only one is let through by the store. What was under
//! way when its node died, so that nobody knows whether it arrived, is reported as failed and not sent again.

mod pending;
mod work;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::doc;
use bson::oid::ObjectId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::work::Work;
use super::lease::Leases;
use crate::clock::Clock;
use crate::config;
use crate::pipeline::Pipeline;
use crate::store::{Collection, Find, SharedStore, StoreError};

/// Tasks that are looked at in one round.
const LOOK: u64 = 200;

/// The processor of one node.
#[derive(Debug)]
pub struct Processor {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    leases: Leases,
    pipeline: Arc<Pipeline>,
    poll: Duration,
    /// Tasks that are worked on at the same time.
    most: usize,
    active: Mutex<HashSet<ObjectId>>,
    running: TaskTracker,
}

impl Processor {
    /// As the settings say; messages go through `pipeline`.
    pub fn new(
        store: SharedStore,
        clock: Arc<dyn Clock>,
        leases: Leases,
        pipeline: Arc<Pipeline>,
        settings: &config::Rerun,
    ) -> Self {
        Self {
            store,
            clock,
            leases,
            pipeline,
            poll: Duration::from_millis(settings.processor.poll_period_millis.max(1)),
            // OpenHIM takes another one while it has not more than so many.
            most: usize::try_from(settings.active_concurrent_tasks.saturating_add(1)).unwrap_or(usize::MAX),
            active: Mutex::default(),
            running: TaskTracker::new(),
        }
    }

    /// Works until told to stop, then waits for the batches under way.
    pub async fn serve(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.round(&stop).await {
                tracing::warn!(%error, "Rerun tasks could not be looked for");
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(self.poll) => {}
            }
        }
        self.running.close();
        self.running.wait().await;
    }

    async fn round(self: &Arc<Self>, stop: &CancellationToken) -> Result<(), StoreError> {
        pending::settle(&self.store, self.clock.date()).await?;
        // A task that is `Processing` without a living owner was left by a node that died.
        let waiting = Find {
            filter: doc! { "status": { "$in": ["Queued", "Processing"] } },
            sort: doc! { "created": 1 },
            limit: LOOK,
            projection: doc! { "_id": 1 },
            ..Find::default()
        };
        for task in self.store.all(Collection::Tasks, waiting).await? {
            let Ok(id) = task.get_object_id("_id") else { continue };
            if self.is_full() {
                break;
            }
            if self.is_active(id) {
                continue;
            }
            let Some(lease) = self.leases.acquire(&format!("task:{}", id.to_hex())).await? else {
                continue;
            };
            self.active.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            let (processor, stop) = (Arc::clone(self), stop.clone());
            self.running.spawn(async move {
                let work = Work {
                    store: &processor.store,
                    clock: &*processor.clock,
                    pipeline: &processor.pipeline,
                    owner: lease.owner(),
                    lost: lease.lost(),
                    stop,
                    task: id,
                };
                if let Err(error) = work.run().await {
                    // The lease is given back below, so that the next round goes on.
                    tracing::error!(task.id = %id, %error, "Rerun task {id} came to a halt");
                }
                lease.release().await;
                processor
                    .active
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&id);
            });
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).len() >= self.most
    }

    fn is_active(&self, task: ObjectId) -> bool {
        self.active
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&task)
    }
}

#[cfg(test)]
mod tests;
