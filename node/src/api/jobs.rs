//! `/jobs`: what the nodes do beside the messages, when, and how it went; `/retries`: what waits to be sent again.
//! Both are ours.

use std::collections::BTreeMap;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use super::auth::Caller;
use super::context::Call;
use super::error::{self, Doing};
use super::reply::Reply;
use super::router::Answer;
use crate::model::role::Permission;
use crate::store::{Collection, Find, Write};

/// Entries of the queue that are counted, at most.
const MOST: u64 = 100_000;

/// `GET /jobs`
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not list the jobs via the API:";
    caller.require("getJobs", Permission::LogsView)?;
    let store = call.api.store();
    let by_name = Find::default().sorted(doc! {"name": 1});
    let known = store.all(Collection::AgendaJobs, by_name).await.doing(DOING)?;
    let leases = store.all(Collection::Leases, Find::default()).await.doing(DOING)?;
    let jobs: Vec<Document> = known.iter().map(|job| shown(job, &leases)).collect();
    Ok(Reply::documents(&jobs)?)
}

fn shown(job: &Document, leases: &[Document]) -> Document {
    let name = job.get_str("name").unwrap_or_default();
    let key = format!("job:{name}");
    let lease = leases
        .iter()
        .find(|lease| lease.get_str("_id").is_ok_and(|id| id == key));
    let time = |field: &str| job.get_datetime(field).map_or(i64::MIN, |date| date.timestamp_millis());
    let has_failed = time("failedAt") != i64::MIN && time("failedAt") >= time("lastFinishedAt");
    let outcome = match (lease, time("lastFinishedAt")) {
        (Some(_), _) => "running",
        (None, i64::MIN) => "never ran",
        (None, _) if has_failed => "failed",
        (None, _) => "succeeded",
    };
    let mut shown = doc! {
        "name": name,
        "interval": job.get("repeatInterval").cloned().unwrap_or(Bson::Null),
        "state": outcome,
        "node": lease.and_then(|lease| lease.get_str("owner").ok()).and_then(|owner| owner.split('/').next()),
    };
    for (field, stored) in [
        ("lastRunAt", "lastRunAt"),
        ("lastFinishedAt", "lastFinishedAt"),
        ("nextRunAt", "nextRunAt"),
        ("failedAt", "failedAt"),
        ("failCount", "failCount"),
        ("failReason", "failReason"),
        ("data", "data"),
    ] {
        shown.insert(field, job.get(stored).cloned().unwrap_or(Bson::Null));
    }
    shown
}

/// `GET /retries`: for each channel, how many transactions wait and since when.
pub(super) async fn waiting(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not list the retries via the API:";
    caller.require("getRetries", Permission::TransactionRerunAll)?;
    let store = call.api.store();
    let oldest = Find::default().sorted(doc! {"requestTimestamp": 1}).limited(MOST);
    let entries = store.all(Collection::AutoRetries, oldest).await.doing(DOING)?;
    let mut channels: BTreeMap<ObjectId, (i64, Bson)> = BTreeMap::new();
    for entry in &entries {
        let Ok(channel) = entry.get_object_id("channelID") else {
            continue;
        };
        let since = entry.get("requestTimestamp").cloned().unwrap_or(Bson::Null);
        channels.entry(channel).or_insert((0, since)).0 += 1;
    }
    let listed: Vec<Document> = channels
        .into_iter()
        .map(|(channel, (count, since))| doc! {"channelID": channel, "waiting": count, "oldest": since})
        .collect();
    Ok(Reply::documents(&listed)?)
}

/// `DELETE /retries/:channelId`: nothing that waits for the channel is sent again.
pub(super) async fn purge(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not purge the retries via the API:";
    caller.require("purgeRetries", Permission::TransactionRerunAll)?;
    let channel = error::id(&call.params.get("channelId"), "Channel").rejected(DOING)?;
    let gone = Write::Delete {
        from: Collection::AutoRetries,
        filter: doc! {"channelID": channel},
        many: true,
    };
    let purged = call.api.store().apply(gone).await.doing(DOING)?.modified;
    tracing::info!("User {} purged {purged} retries of channel {channel}", caller.email());
    Ok(Reply::document(&doc! {"purged": purged as i64})?)
}
