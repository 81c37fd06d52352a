//! Turns the queue of failed deliveries into rerun tasks.
//!
//! A transaction whose delivery failed waits in `autoretries`; after the channel's period it becomes part of a task, and
//! the task's processor sends it again. A destination that stays down is not stormed: not more than [`CAP`] per channel
//! and run; a single probe while the latest attempts of all channels that lead there have failed; and longer and longer
//! pauses from the third attempt on, spread by chance so that what failed together does not come back together. What waits for a channel that is switched off, or has the option switched off, is dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};

use super::{Job, JobError, Run};
use crate::clock::Millis;
use crate::model::channel::Channel;
use crate::model::transaction::Status;
use crate::store::{Collection, Find, SharedStore, StoreError, Write};

/// Retries of one channel in one run, which is a minute.
const CAP: u64 = 200;

/// As many failed attempts in a row close the tap to one probe a run.
const BREAKER: usize = 5;

/// The pause doubles with each attempt after the second, up to this many times the channel's period.
const LONGEST_PAUSE: i64 = 16;

/// How long entries of channels without automatic retry stay, so that operators and their tools can see them.
const UNWANTED_MILLIS: Millis = 10 * MINUTE;

const MINUTE: Millis = 60_000;

/// The field that says into which task an entry goes, so that a run which dies is taken up where it was.
const CLAIM: &str = "openhimTask";

/// OpenHIM's job `auto retry failed transactions`.
#[derive(Debug)]
pub struct AutoRetry {
    store: SharedStore,
}

/// A queue entry that may be sent again now.
#[derive(Debug)]
struct Due {
    entry: ObjectId,
    transaction: ObjectId,
}

impl AutoRetry {
    /// The job. It always exists, because channels switch retrying on and off.
    pub fn job(store: SharedStore) -> Arc<dyn Job> {
        Arc::new(Self { store })
    }

    /// Finishes what a run that died had begun.
    async fn recover(&self, now: Millis) -> Result<(), JobError> {
        let claimed = self
            .store
            .all(Collection::AutoRetries, Find::by(doc! { CLAIM: { "$exists": true } }))
            .await?;
        let mut tasks: HashMap<ObjectId, Vec<ObjectId>> = HashMap::new();
        for entry in &claimed {
            tasks
                .entry(entry.get_object_id(CLAIM)?)
                .or_default()
                .push(entry.get_object_id("transactionID")?);
        }
        for (task, transactions) in tasks {
            self.hand_over(task, &transactions, now).await?;
        }
        Ok(())
    }

    /// What of the channel's queue may be sent now, at most `room`.
    async fn due(&self, channel: &Channel, room: usize, now: Millis) -> Result<Vec<Due>, JobError> {
        let period = (channel.auto_retry_period_minutes * MINUTE as f64) as Millis;
        // OpenHIM counts the minute in which the job runs as part of the period.
        let latest = DateTime::from_millis(now - period + MINUTE);
        let waiting = Find::by(doc! { "channelID": channel.id, "requestTimestamp": { "$lte": latest } })
            .sorted(doc! { "requestTimestamp": 1 })
            .limited(4 * CAP);
        let mut due = Vec::new();
        if room == 0 {
            return Ok(due);
        }
        for entry in self.store.all(Collection::AutoRetries, waiting).await? {
            let transaction = entry.get_object_id("transactionID")?;
            let since = entry.get_datetime("requestTimestamp")?.timestamp_millis();
            if now - since + MINUTE >= self.pause(transaction, period).await? {
                due.push(Due {
                    entry: entry.get_object_id("_id")?,
                    transaction,
                });
            }
            if due.len() == room {
                break;
            }
        }
        Ok(due)
    }

    /// How long this transaction has to wait: 1, 1, 2, 4, 8, … periods, the longer ones by up to a quarter more.
    async fn pause(&self, transaction: ObjectId, period: Millis) -> Result<Millis, JobError> {
        let found = self
            .store
            .one(Collection::Transactions, doc! { "_id": transaction })
            .await?;
        let attempt = found
            .as_ref()
            .and_then(|found| found.get("autoRetryAttempt"))
            .map_or(0, whole);
        let pause = period * (1_i64 << (attempt - 1).clamp(0, 10)).min(LONGEST_PAUSE);
        Ok(match pause > period {
            true => pause + pause / 4 * chance(transaction) / 256,
            false => pause,
        })
    }

    /// True if the latest attempts through these channels have all failed to deliver.
    async fn is_down(&self, channels: &[ObjectId]) -> Result<bool, JobError> {
        let attempts = Find {
            filter: doc! { "channelID": { "$in": channels.to_vec() }, "autoRetryAttempt": { "$exists": true } },
            sort: doc! { "request.timestamp": -1 },
            limit: BREAKER as u64,
            projection: doc! { "autoRetry": 1, "status": 1 },
            ..Find::default()
        };
        let latest = self.store.all(Collection::Transactions, attempts).await?;
        let has_failed = |attempt: &Document| {
            attempt.get_bool("autoRetry").unwrap_or(false)
                || attempt.get_str("status").ok() == Some(Status::Failed.name())
        };
        Ok(latest.len() == BREAKER && latest.iter().all(has_failed))
    }

    /// Claims the entries, makes the task, removes the entries; each step may be repeated.
    async fn enqueue(&self, due: &[Due], now: Millis) -> Result<(), JobError> {
        if due.is_empty() {
            return Ok(());
        }
        let task = ObjectId::new();
        let entries: Vec<ObjectId> = due.iter().map(|due| due.entry).collect();
        let claim = Write::Update {
            of: Collection::AutoRetries,
            filter: doc! { "_id": { "$in": entries } },
            update: doc! { "$set": { CLAIM: task } },
            many: true,
            upsert: false,
        };
        self.store.apply(claim).await?;
        self.hand_over(task, &due.iter().map(|due| due.transaction).collect::<Vec<_>>(), now)
            .await
    }

    async fn hand_over(&self, task: ObjectId, transactions: &[ObjectId], now: Millis) -> Result<(), JobError> {
        match self
            .store
            .insert(Collection::Tasks, task_document(task, transactions, now))
            .await
        {
            Ok(()) | Err(StoreError::Duplicate { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let done = Write::Delete {
            from: Collection::AutoRetries,
            filter: doc! { CLAIM: task },
            many: true,
        };
        self.store.apply(done).await?;
        tracing::info!(task.id = %task, retries = transactions.len(), "Queued {} transactions to be sent again", transactions.len());
        Ok(())
    }

    /// Drops what waits for channels that do not retry.
    async fn drop_unwanted(&self, retrying: &[ObjectId], now: Millis) -> Result<(), JobError> {
        let filter = doc! {
            "channelID": { "$nin": retrying.to_vec() },
            "requestTimestamp": { "$lte": DateTime::from_millis(now - UNWANTED_MILLIS) },
        };
        self.store
            .apply(Write::Delete {
                from: Collection::AutoRetries,
                filter,
                many: true,
            })
            .await?;
        Ok(())
    }
}

#[async_trait]
impl Job for AutoRetry {
    fn name(&self) -> &str {
        "auto retry failed transactions"
    }

    fn interval(&self) -> &str {
        "1 minutes"
    }

    async fn run(&self, run: Run) -> Result<Document, JobError> {
        self.recover(run.started).await?;
        let wanted = Find::by(doc! { "autoRetryEnabled": true, "status": "enabled" });
        let mut retrying = Vec::new();
        let mut due = Vec::new();
        let mut destinations: BTreeMap<String, Vec<Channel>> = BTreeMap::new();
        for document in self.store.all(Collection::Channels, wanted).await? {
            // One that cannot be read carries nothing either.
            let Ok(channel) = Channel::from_document(&document) else {
                continue;
            };
            retrying.push(channel.id);
            destinations.entry(destination(&channel)).or_default().push(channel);
        }
        for (destination, channels) in destinations {
            let ids: Vec<ObjectId> = channels.iter().map(|channel| channel.id).collect();
            let is_down = self.is_down(&ids).await?;
            let mut probes = 1;
            for channel in &channels {
                let room = if is_down { probes } else { CAP as usize };
                let found = self.due(channel, room, run.started).await?;
                probes = probes.saturating_sub(found.len());
                due.extend(found);
            }
            if is_down && probes == 0 {
                tracing::warn!("{destination} does not answer; one transaction is sent there to see");
            }
        }
        self.enqueue(&due, run.started).await?;
        self.drop_unwanted(&retrying, run.started).await?;
        Ok(run.data)
    }
}

/// A rerun task of the node's own, as OpenHIM writes it.
fn task_document(id: ObjectId, transactions: &[ObjectId], now: Millis) -> Document {
    let entries: Vec<Document> = transactions
        .iter()
        .map(|transaction| doc! { "_id": ObjectId::new(), "tid": transaction.to_hex(), "tstatus": "Queued" })
        .collect();
    let count = i32::try_from(entries.len()).unwrap_or(i32::MAX);
    doc! {
        "_id": id,
        "status": "Queued",
        "transactions": entries,
        "created": DateTime::from_millis(now),
        "user": "internal",
        "remainingTransactions": count,
        "totalTransactions": count,
        "batchSize": 1,
        "__v": 0,
    }
}

/// Where a channel's primary route leads; its routes are tried again together.
fn destination(channel: &Channel) -> String {
    let primary = channel.enabled_routes().find(|route| route.is_primary);
    match primary.and_then(|route| Some((route.host.as_ref()?, route.port))) {
        Some((host, port)) => format!(
            "{host}:{}",
            port.unwrap_or(if primary.is_some_and(|it| it.is_secured) {
                443
            } else {
                80
            })
        ),
        None => channel.name.clone(),
    }
}

/// A number from 0 to 255 that is always the same for a transaction.
fn chance(transaction: ObjectId) -> i64 {
    use sha1::Digest as _;
    i64::from(sha1::Sha1::digest(transaction.bytes())[0])
}

fn whole(value: &bson::Bson) -> i64 {
    match value {
        bson::Bson::Int32(number) => i64::from(*number),
        bson::Bson::Int64(number) => *number,
        bson::Bson::Double(number) => *number as i64,
        _ => 0,
    }
}
