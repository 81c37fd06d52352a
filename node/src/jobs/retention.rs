//! Deletes whole transactions that are older, or take more room, than the settings and their channels allow.
//!
//! Oldest first, a few at a time with a pause in between, so that messages hardly notice; a transaction under way, or
//! one that waits for its mediator, stays. Then the store gives back the room that became free. What each channel
//! occupies is measured on the way and kept with the job's state, where it is reported from.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use super::{Job, JobError, Run};
use crate::clock::Millis;
use crate::config::RetentionRule;
use crate::metrics::prometheus::Prometheus;
use crate::model::number;
use crate::record::OWNER;
use crate::store::{Collection, Find, SharedStore, Write};

/// The name in the store.
pub const NAME: &str = "transaction retention";
/// Transactions deleted in one write, and the pause after it.
const BATCH: u64 = 50;
const BREATH: Duration = Duration::from_millis(10);
/// The field of a channel that holds its own rule: `maxAgeDays`, `maxSizeMB`.
const RULE: &str = "retention";
/// What channels occupy is measured this often, because all transactions are looked at: often where a channel is bounded
/// by its size, seldom where it is only reported.
const HOUR: Millis = 3_600_000;
const SELDOM: Millis = 6 * HOUR;
const DAY_MILLIS: f64 = 86_400_000.0;
const MIB: f64 = 1_048_576.0;

/// The job.
#[derive(Debug)]
pub struct Retention {
    store: SharedStore,
    rule: RetentionRule,
    prometheus: Arc<Prometheus>,
}

/// Which transactions are looked at.
#[derive(Clone, Copy, Debug)]
enum Scope {
    All,
    Channel(ObjectId),
}

impl Scope {
    fn filter(self) -> Document {
        let mut filter = doc! { "status": { "$nin": ["Processing", "Pending Async"] } };
        filter.insert(OWNER.as_str(), doc! { "$exists": false });
        if let Self::Channel(id) = self {
            filter.insert("channelID", id);
        }
        filter
    }
}

impl Retention {
    /// The job. It always exists, because channels have rules of their own and what they occupy is reported.
    pub fn job(store: SharedStore, rule: RetentionRule, prometheus: Arc<Prometheus>) -> Arc<dyn Job> {
        Arc::new(Self {
            store,
            rule,
            prometheus,
        })
    }

    /// Deletes what is older than `days`; answers how many it were.
    async fn by_age(&self, scope: Scope, days: f64, now: Millis) -> Result<u64, JobError> {
        let cut_off = DateTime::from_millis(now - (days * DAY_MILLIS) as Millis);
        let mut filter = scope.filter();
        filter.insert("request.timestamp", doc! { "$lt": cut_off });
        let mut deleted = 0;
        loop {
            let batch = self.delete_oldest(&filter, BATCH).await?;
            deleted += batch;
            if batch == 0 {
                return Ok(deleted);
            }
        }
    }

    /// Deletes the oldest until the store occupies at most `mb`.
    async fn by_store_size(&self, mb: f64) -> Result<u64, JobError> {
        let filter = Scope::All.filter();
        let mut deleted = 0;
        while self.store.size().await?.is_some_and(|bytes| bytes as f64 > mb * MIB) {
            let batch = self.delete_oldest(&filter, BATCH).await?;
            if batch == 0 {
                // What is left is not transactions.
                break;
            }
            deleted += batch;
        }
        Ok(deleted)
    }

    /// Deletes a channel's oldest until its transactions occupy at most `mb`; `bytes` is what they occupy now.
    async fn by_channel_size(&self, channel: ObjectId, mb: f64, mut bytes: f64) -> Result<u64, JobError> {
        let filter = Scope::Channel(channel).filter();
        let mut deleted = 0;
        while bytes > mb * MIB {
            let find = Find::by(filter.clone())
                .sorted(doc! { "request.timestamp": 1 })
                .limited(BATCH);
            let mut cursor = self.store.find(Collection::Transactions, find).await?;
            let mut ids = Vec::new();
            while bytes > mb * MIB
                && let Some(raw) = cursor.next().await
            {
                let raw = raw?;
                bytes -= raw.as_bytes().len() as f64;
                ids.push(raw.get_object_id("_id")?);
            }
            drop(cursor);
            if ids.is_empty() {
                break;
            }
            deleted += self.delete(ids).await?;
        }
        Ok(deleted)
    }

    async fn delete_oldest(&self, filter: &Document, most: u64) -> Result<u64, JobError> {
        let find = Find {
            filter: filter.clone(),
            sort: doc! { "request.timestamp": 1 },
            limit: most,
            projection: doc! { "_id": 1 },
            ..Find::default()
        };
        let found = self.store.all(Collection::Transactions, find).await?;
        let ids: Vec<ObjectId> = found.iter().filter_map(|one| one.get_object_id("_id").ok()).collect();
        match ids.is_empty() {
            true => Ok(0),
            false => self.delete(ids).await,
        }
    }

    async fn delete(&self, ids: Vec<ObjectId>) -> Result<u64, JobError> {
        let waiting = Write::Delete {
            from: Collection::AutoRetries,
            filter: doc! { "transactionID": { "$in": ids.clone() } },
            many: true,
        };
        let gone = Write::Delete {
            from: Collection::Transactions,
            filter: doc! { "_id": { "$in": ids } },
            many: true,
        };
        let mut outcomes = self.store.write(&[gone, waiting]).await?.into_iter();
        let deleted = outcomes.next().transpose()?.unwrap_or_default().modified;
        tokio::time::sleep(BREATH).await;
        Ok(deleted)
    }

    /// Applies the channel's own rule; that of its size only if `bytes`, what it occupies, was measured now.
    async fn channel(&self, channel: &Document, bytes: Option<f64>, now: Millis) -> Result<u64, JobError> {
        let Ok(rule) = channel.get_document(RULE) else {
            return Ok(0);
        };
        let id = channel.get_object_id("_id")?;
        let amount = |name: &str| rule.get(name).and_then(number::of_bson).filter(|amount| *amount > 0.0);
        let mut deleted = 0;
        if let Some(days) = amount("maxAgeDays") {
            deleted += self.by_age(Scope::Channel(id), days, now).await?;
        }
        if let (Some(mb), Some(bytes)) = (amount("maxSizeMB"), bytes) {
            let bytes = match deleted {
                0 => bytes,
                _ => self.occupied(id).await?,
            };
            deleted += self.by_channel_size(id, mb, bytes).await?;
        }
        Ok(deleted)
    }

    async fn occupied(&self, channel: ObjectId) -> Result<f64, JobError> {
        let measured = self.store.bytes_by(Collection::Transactions, "channelID").await?;
        let own = measured.into_iter().find(|one| one.key == Bson::ObjectId(channel));
        Ok(own.map_or(0.0, |own| own.bytes as f64))
    }

    async fn measure(&self, channels: &[Document]) -> Result<Document, JobError> {
        let measured = self.store.bytes_by(Collection::Transactions, "channelID").await?;
        let name_of = |key: &Bson| {
            let channel = channels.iter().find(|channel| channel.get("_id") == Some(key));
            channel
                .and_then(|channel| channel.get_str("name").ok())
                .unwrap_or("(deleted)")
                .to_owned()
        };
        let list: Vec<Document> = measured
            .iter()
            .map(|one| {
                doc! {
                    "channelID": one.key.clone(), "name": name_of(&one.key),
                    "bytes": one.bytes as i64, "transactions": one.count as i64,
                }
            })
            .collect();
        let store = self
            .store
            .size()
            .await?
            .map_or(Bson::Null, |bytes| Bson::Int64(bytes as i64));
        Ok(doc! { "storeBytes": store, "channels": list })
    }

    /// Shows Prometheus what was measured last, by this node or another one.
    fn report(&self, data: &Document) {
        let list = data.get_array("channels").map_or(&[][..], Vec::as_slice);
        let row = |one: &Document| {
            let bytes = one.get_i64("bytes").ok().and_then(|bytes| u64::try_from(bytes).ok())?;
            Some((one.get_str("name").ok()?.to_owned(), bytes))
        };
        self.prometheus
            .occupied(list.iter().filter_map(Bson::as_document).filter_map(row).collect());
    }
}

#[async_trait]
impl Job for Retention {
    fn name(&self) -> &str {
        NAME
    }

    fn interval(&self) -> &str {
        "10 minutes"
    }

    async fn run(&self, run: Run) -> Result<Document, JobError> {
        let now = run.started;
        let channels = self.store.all(Collection::Channels, Find::default()).await?;
        let mut deleted = 0;
        if let Some(days) = self.rule.max_age_days.filter(|days| *days > 0.0) {
            deleted += self.by_age(Scope::All, days, now).await?;
        }
        let is_bounded = channels.iter().any(has_size);
        let every = if is_bounded { HOUR } else { SELDOM };
        let measured_at = run
            .data
            .get_datetime("measuredAt")
            .map_or(i64::MIN, |at| at.timestamp_millis());
        let is_fresh = (measured_at..measured_at.saturating_add(every)).contains(&now);
        let measured = match is_bounded && !is_fresh {
            true => self.store.bytes_by(Collection::Transactions, "channelID").await?,
            false => vec![],
        };
        for channel in &channels {
            let own = measured.iter().find(|one| Some(&one.key) == channel.get("_id"));
            let bytes = (!is_fresh).then(|| own.map_or(0.0, |own| own.bytes as f64));
            let name = channel.get_str("name").unwrap_or_default();
            match self.channel(channel, bytes, now).await {
                Ok(count) => deleted += count,
                Err(error) => {
                    tracing::error!(channel.name = name, %error, "Transactions of {name} were not deleted");
                }
            }
        }
        if let Some(mb) = self.rule.max_size_mb.filter(|mb| *mb > 0.0) {
            deleted += self.by_store_size(mb).await?;
        }
        if deleted > 0 {
            tracing::info!(
                transactions = deleted,
                "Deleted {deleted} transactions that need not be kept any more"
            );
            while self.store.shrink().await? {
                tokio::time::sleep(BREATH).await;
            }
        }
        if is_fresh {
            self.report(&run.data);
            return Ok(run.data);
        }
        let mut data = self.measure(&channels).await?;
        data.insert("measuredAt", DateTime::from_millis(now));
        self.report(&data);
        Ok(data)
    }
}

fn has_size(channel: &Document) -> bool {
    channel.get_document(RULE).is_ok_and(|rule| {
        rule.get("maxSizeMB")
            .and_then(number::of_bson)
            .is_some_and(|mb| mb > 0.0)
    })
}

#[cfg(test)]
mod tests;
