//! This node among the others: its identity, its signs of life, and what becomes of a dead node's messages.
//!
//! Each run of a node has an id of its own, and each transaction under way carries the id of the run that has it in its
//! hands. A run is dead if its process is gone from this machine, if the machine was started anew, or if its sign of
//! life has not changed for a while. Clocks of other machines are never compared: what counts is that nothing changes.
//! A dead run's transactions are failed, and nobody else's.

mod machine;
mod presence;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bson::{DateTime, Document, doc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::machine::Machine;
pub use self::presence::Presence;
use crate::clock::Clock;
use crate::model::transaction::Status;
use crate::store::{Collection, Find, SharedStore, StoreError, Write};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(3);
/// A run on another machine that shows no sign of life for this time is dead.
const DEAD: Duration = Duration::from_secs(30);
/// OpenHIM's words for what is left of a crash.
const CRASHED: &str = "OpenHIM crashed while still waiting for a response";
const CRASHED_LATE: &str = "OpenHIM crashed while secondary routes were still running";
/// Field of a transaction under way; the same as the recorder's.
const OWNER: &str = "openhimNode";

/// This run of this node.
#[derive(Debug)]
pub struct Member {
    id: String,
    store: SharedStore,
    clock: Arc<dyn Clock>,
    machine: Machine,
}

impl Member {
    pub const NAME: &'static str = "cluster membership";

    /// A new run, not yet announced.
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            store,
            clock,
            machine: Machine::this(),
        }
    }

    /// The id of this run.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Shows the others that this run lives.
    ///
    /// # Errors
    /// The store fails.
    pub async fn announce(&self) -> Result<(), StoreError> {
        let mut fields = self.machine.describe();
        fields.insert("started", self.clock.date());
        let update = doc! {"$set": fields, "$currentDate": {"lastSeen": true}, "$inc": {"beats": 1_i64}};
        self.upsert(update).await
    }

    /// A sign of life.
    async fn beat(&self) -> Result<(), StoreError> {
        self.upsert(doc! {"$currentDate": {"lastSeen": true}, "$inc": {"beats": 1_i64}, "$setOnInsert": self.machine.describe()})
            .await
    }

    async fn upsert(&self, update: Document) -> Result<(), StoreError> {
        let write = Write::Update {
            of: Collection::Nodes,
            filter: doc! {"_id": &self.id},
            update,
            many: false,
            upsert: true,
        };
        self.store.apply(write).await.map(drop)
    }

    /// Fails what runs that are surely dead have left, and, if nobody else lives, what was left by nobody known:
    /// OpenHIM itself ran on this store before.
    ///
    /// # Errors
    /// The store fails.
    pub async fn settle_orphans(&self) -> Result<(), StoreError> {
        let mut is_alone = true;
        for other in self.others().await? {
            let Ok(id) = other.get_str("_id") else { continue };
            match self.machine.is_surely_dead(&other) {
                true => self.bury(id).await?,
                false => is_alone = false,
            }
        }
        if is_alone {
            let before = DateTime::from_millis(self.clock.now());
            let unowned = doc! {OWNER: {"$exists": false}, "request.timestamp": {"$lt": before}};
            self.fail(unowned, false).await?;
        }
        Ok(())
    }

    async fn others(&self) -> Result<Vec<Document>, StoreError> {
        let find = Find::by(doc! {"_id": {"$ne": &self.id}});
        self.store.all(Collection::Nodes, find).await
    }

    /// Fails a dead run's transactions and forgets the run.
    async fn bury(&self, id: &str) -> Result<(), StoreError> {
        let count = self.fail(doc! {OWNER: id}, true).await?;
        if count > 0 {
            warn!(
                node.id = id,
                transactions = count,
                "Failed {count} transactions that a dead node left behind"
            );
        }
        self.store.delete(Collection::Nodes, doc! {"_id": id}).await.map(drop)
    }

    /// Fails what `which` finds among the transactions that were never closed.
    async fn fail(&self, which: Document, with_late: bool) -> Result<u64, StoreError> {
        let unanswered = doc! {"response": {"$exists": false}, "error": {"$exists": false}};
        let mut count = 0;
        for status in [Status::Processing, Status::PendingAsync] {
            if status == Status::PendingAsync && !with_late {
                // Without an owner nobody can tell it from one that waits for its mediator.
                continue;
            }
            let mut filter = doc! {"status": status};
            filter.extend(which.clone());
            filter.extend(unanswered.clone());
            count += self.close(filter, Status::Failed, CRASHED).await?;
        }
        if with_late {
            let mut filter = doc! {"status": Status::Processing, "response.status": {"$gte": 500}};
            filter.extend(which.clone());
            count += self.close(filter, Status::Failed, CRASHED_LATE).await?;
            let mut filter = doc! {"status": Status::Processing};
            filter.extend(which.clone());
            count += self.close(filter, Status::CompletedWithErrors, CRASHED_LATE).await?;
            // What has its final status only loses its owner.
            self.update(which, doc! {"$unset": {OWNER: ""}}).await?;
        }
        Ok(count)
    }

    async fn close(&self, filter: Document, status: Status, message: &str) -> Result<u64, StoreError> {
        let update = doc! {"$set": {"status": status, "error": {"message": message}}, "$unset": {OWNER: ""}};
        self.update(filter, update).await
    }

    async fn update(&self, filter: Document, update: Document) -> Result<u64, StoreError> {
        let write = Write::Update {
            of: Collection::Transactions,
            filter,
            update,
            many: true,
            upsert: false,
        };
        Ok(self.store.apply(write).await?.modified)
    }

    /// Gives signs of life and watches those of the others, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(BEAT);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pulse = Pulse::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.round(&mut pulse).await {
                // The store's own trouble is logged by those who need it more.
                tracing::debug!(%error, "No sign of life could be given");
            }
        }
    }

    async fn round(&self, pulse: &mut Pulse) -> Result<(), StoreError> {
        self.beat().await?;
        let others = self.others().await?;
        for id in pulse.dead(&others, Instant::now(), &self.machine) {
            self.bury(&id).await?;
        }
        Ok(())
    }

    /// Says good-bye: this run has closed what it had in its hands.
    pub async fn leave(&self) {
        if let Err(error) = self.bury(&self.id).await {
            warn!(%error, "This node could not take its leave of the cluster");
        } else {
            info!("Left the cluster");
        }
    }
}

/// When each other run last showed a change.
#[derive(Debug, Default)]
struct Pulse(HashMap<String, (i64, Instant)>);

impl Pulse {
    /// The runs that are dead, given what is stored now.
    fn dead(&mut self, others: &[Document], now: Instant, machine: &Machine) -> Vec<String> {
        let mut seen = HashMap::new();
        let mut dead = Vec::new();
        for other in others {
            let Ok(id) = other.get_str("_id") else { continue };
            let beats = other.get_i64("beats").unwrap_or_default();
            let since = match self.0.get(id) {
                Some((before, since)) if *before == beats => *since,
                _ => now,
            };
            if now.duration_since(since) >= DEAD || machine.is_surely_dead(other) {
                dead.push(id.to_owned());
            } else {
                seen.insert(id.to_owned(), (beats, since));
            }
        }
        self.0 = seen;
        dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far_away(id: &str, beats: i64) -> Document {
        doc! {"_id": id, "beats": beats, "machine": "another", "boot": "b", "pids": "p", "pid": 1_i64, "since": 1_i64}
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_far_away_is_dead_when_nothing_changes_for_a_while() {
        let mut pulse = Pulse::default();
        let machine = Machine::this();
        let start = Instant::now();

        assert!(
            pulse
                .dead(&[far_away("a", 1), far_away("b", 1)], start, &machine)
                .is_empty()
        );
        let later = start + Duration::from_secs(20);
        assert!(
            pulse
                .dead(&[far_away("a", 1), far_away("b", 2)], later, &machine)
                .is_empty()
        );
        let much_later = start + DEAD;

        assert_eq!(
            pulse.dead(&[far_away("a", 1), far_away("b", 2)], much_later, &machine),
            ["a"]
        );
    }
}
