//! Removes the bodies of transactions that are older than their channel keeps them.
//!
//! Works in small batches, oldest first, and leaves everything else of the transaction in place. What has been culled
//! up to when is kept on the channel in a field of ours, because OpenHIM's `lastBodyCleared` says when the job ran and
//! not how far it came.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use super::{Job, JobError, Run};
use crate::clock::Millis;
use crate::config;
use crate::model::channel::Channel;
use crate::model::date;
use crate::store::{Collection, Find, SharedStore, Write};

/// The channel's field that says up to which request time bodies are gone.
const CULLED_UNTIL: &str = "openhimBodiesCulledUntil";

/// Transactions changed in one write, and the pause after it, so that messages hardly notice.
const BATCH: u64 = 20;
const BREATH: Duration = Duration::from_millis(10);

const DAY_MILLIS: f64 = 86_400_000.0;

/// OpenHIM's job `transaction body culling`.
#[derive(Debug)]
pub struct BodyCull {
    store: SharedStore,
    interval: String,
}

impl BodyCull {
    /// The job, if the settings want it.
    pub fn job(store: SharedStore, settings: &config::BodyCull) -> Option<Arc<dyn Job>> {
        let interval = format!("{} minutes", settings.poll_period_mins);
        settings
            .enabled
            .then(|| Arc::new(Self { store, interval }) as Arc<dyn Job>)
    }

    async fn cull(&self, channel: &Document, now: Millis) -> Result<u64, JobError> {
        let Channel {
            id,
            max_body_age_days: Some(days),
            ..
        } = Channel::from_document(channel)?
        else {
            return Ok(0);
        };
        let cut_off = DateTime::from_millis(now - (days * DAY_MILLIS) as Millis);
        let mut from = channel
            .get_datetime(CULLED_UNTIL)
            .or_else(|_| channel.get_datetime("lastBodyCleared"))
            .ok()
            .copied();
        let mut culled = 0;
        loop {
            let batch = self.store.all(Collection::Transactions, due(id, from, cut_off)).await?;
            if batch.is_empty() {
                break;
            }
            culled += batch.len() as u64;
            let writes = batch.iter().map(without_bodies).collect::<Result<Vec<_>, JobError>>()?;
            for outcome in self.store.write(&writes).await? {
                outcome?;
            }
            // What came before has none any more and need not be looked at again.
            from = batch.last().and_then(time).or(from);
            tokio::time::sleep(BREATH).await;
        }
        self.note(channel, id, cut_off, DateTime::from_millis(now)).await?;
        Ok(culled)
    }

    /// Writes down on the channel that it was culled, with an entry in its history as OpenHIM makes it.
    async fn note(&self, channel: &Document, id: ObjectId, cut_off: DateTime, now: DateTime) -> Result<(), JobError> {
        let operation = if channel.contains_key("lastBodyCleared") {
            "replace"
        } else {
            "add"
        };
        let value = date::to_iso(now.timestamp_millis()).unwrap_or_default();
        let patch = doc! {
            "_id": ObjectId::new(),
            "ref": id,
            "date": now,
            "ops": [{ "op": operation, "path": "/lastBodyCleared", "value": value }],
            "updatedBy": { "name": "Cron", "_id": ObjectId::new() },
            "__v": 0,
        };
        let set = doc! { "$set": { "lastBodyCleared": now, CULLED_UNTIL: cut_off, "updatedBy": { "name": "Cron" } } };
        let writes = vec![
            Write::Update {
                of: Collection::Channels,
                filter: doc! { "_id": id },
                update: set,
                many: false,
                upsert: false,
            },
            Write::Insert {
                into: Collection::ChannelAudits,
                document: patch,
            },
        ];
        for outcome in self.store.write(&writes).await? {
            outcome?;
        }
        Ok(())
    }
}

#[async_trait]
impl Job for BodyCull {
    fn name(&self) -> &str {
        "transaction body culling"
    }

    fn interval(&self) -> &str {
        &self.interval
    }

    async fn run(&self, run: Run) -> Result<Document, JobError> {
        let wanted = Find::by(doc! { "maxBodyAgeDays": { "$gt": 0 } });
        for channel in self.store.all(Collection::Channels, wanted).await? {
            let name = channel.get_str("name").unwrap_or_default();
            match self.cull(&channel, run.started).await {
                Ok(0) => {}
                Ok(culled) => tracing::info!(
                    channel.name = name,
                    culled,
                    "Removed the bodies of {culled} transactions"
                ),
                Err(error) => tracing::error!(channel.name = name, error = %error, "Bodies of {name} were not removed"),
            }
        }
        Ok(run.data)
    }
}

/// Transactions of the channel that are old enough and still have a body anywhere.
fn due(channel: ObjectId, from: Option<DateTime>, cut_off: DateTime) -> Find {
    let mut age = doc! { "$lte": cut_off };
    if let Some(from) = from {
        age.insert("$gte", from);
    }
    let places = [
        "request.body",
        "response.body",
        "routes.request.body",
        "routes.response.body",
        "routes.orchestrations.request.body",
        "routes.orchestrations.response.body",
        "orchestrations.request.body",
        "orchestrations.response.body",
    ];
    let any: Vec<Document> = places
        .iter()
        .map(|place| doc! { *place: { "$exists": true } })
        .collect();
    Find::by(doc! { "channelID": channel, "request.timestamp": age, "$or": any })
        .sorted(doc! { "request.timestamp": 1 })
        .limited(BATCH)
}

fn time(transaction: &Document) -> Option<DateTime> {
    let request = transaction.get_document("request").ok()?;
    request.get_datetime("timestamp").ok().copied()
}

fn without_bodies(transaction: &Document) -> Result<Write, JobError> {
    let id = transaction.get_object_id("_id")?;
    let mut set = doc! {};
    for list in ["routes", "orchestrations"] {
        if let Ok(entries) = transaction.get_array(list) {
            let mut entries = Bson::Array(entries.clone());
            strip(&mut entries);
            set.insert(list, entries);
        }
    }
    let request = transaction.get_document("request").ok();
    let method = request
        .and_then(|request| request.get_str("method").ok())
        .unwrap_or_default();
    if matches!(method, "POST" | "PUT" | "PATCH") {
        set.insert("canRerun", false);
    }
    let mut update = doc! { "$unset": { "request.body": "", "response.body": "" } };
    if !set.is_empty() {
        update.insert("$set", set);
    }
    Ok(Write::Update {
        of: Collection::Transactions,
        filter: doc! { "_id": id },
        update,
        many: false,
        upsert: false,
    })
}

/// Takes `body` out of every `request` and `response` below.
fn strip(value: &mut Bson) {
    match value {
        Bson::Array(entries) => entries.iter_mut().for_each(strip),
        Bson::Document(document) => {
            for part in ["request", "response"] {
                if let Ok(part) = document.get_document_mut(part) {
                    part.remove("body");
                }
            }
            if let Some(orchestrations) = document.get_mut("orchestrations") {
                strip(orchestrations);
            }
        }
        _ => {}
    }
}
