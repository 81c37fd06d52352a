//! Tasks that wait for transactions whose mediators answer later.

use std::collections::HashMap;

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};

use crate::model::transaction::Status;
use crate::store::{Collection, Find, SharedStore, StoreError};

/// Tasks that are looked at in one round.
const LOOK: u64 = 200;
/// Reruns that are looked up in one question.
const TOGETHER: usize = 500;

/// Notes which reruns have ended meanwhile, and completes the tasks that wait for no other.
///
/// # Errors
/// The store fails.
pub(super) async fn settle(store: &SharedStore, now: DateTime) -> Result<(), StoreError> {
    let waiting = Find {
        filter: doc! { "status": "Pending Async" },
        sort: doc! { "created": 1 },
        limit: LOOK,
        projection: doc! { "_id": 1 },
        ..Find::default()
    };
    for found in store.all(Collection::Tasks, waiting).await? {
        let Ok(id) = found.get_object_id("_id") else { continue };
        if let Some(task) = store.one(Collection::Tasks, doc! { "_id": id }).await? {
            settle_task(store, id, &task, now).await?;
        }
    }
    Ok(())
}

async fn settle_task(store: &SharedStore, id: ObjectId, task: &Document, now: DateTime) -> Result<(), StoreError> {
    let entries = task.get_array("transactions").map_or(&[][..], Vec::as_slice);
    let pending: Vec<(usize, Option<ObjectId>)> = entries
        .iter()
        .enumerate()
        .filter_map(|(at, entry)| Some((at, entry.as_document()?)))
        .filter(|(_, entry)| entry.get_str("tstatus").ok() == Some("Processing"))
        .map(|(at, entry)| {
            let child = entry.get_str("rerunID").ok();
            (at, child.and_then(|id| ObjectId::parse_str(id).ok()))
        })
        .collect();
    let mut set = Document::new();
    let mut waits = false;
    for some in pending.chunks(TOGETHER) {
        let statuses = statuses(store, some.iter().filter_map(|(_, child)| *child)).await?;
        for (at, child) in some {
            match ended(child.and_then(|child| statuses.get(&child))) {
                Some(fields) => set.extend(
                    fields
                        .into_iter()
                        .map(|(name, value)| (format!("transactions.{at}.{name}"), value)),
                ),
                None => waits = true,
            }
        }
    }
    if !waits {
        set.extend(doc! { "status": "Completed", "completedDate": now });
    }
    if !set.is_empty() {
        let still = doc! { "_id": id, "status": "Pending Async" };
        store.update(Collection::Tasks, still, doc! { "$set": set }).await?;
    }
    Ok(())
}

/// The statuses of those of the transactions that are there.
async fn statuses(
    store: &SharedStore,
    transactions: impl Iterator<Item = ObjectId>,
) -> Result<HashMap<ObjectId, String>, StoreError> {
    let find = Find {
        filter: doc! { "_id": { "$in": transactions.collect::<Vec<_>>() } },
        projection: doc! { "status": 1 },
        ..Find::default()
    };
    let found = store.all(Collection::Transactions, find).await?;
    let status = |one: &Document| {
        let status = one.get_str("status").unwrap_or_default().to_owned();
        Some((one.get_object_id("_id").ok()?, status))
    };
    Ok(found.iter().filter_map(status).collect())
}

/// What to write into an entry whose rerun has this status, or is not there; `None` while it has not ended.
fn ended(status: Option<&String>) -> Option<Document> {
    let Some(status) = status else {
        return Some(doc! {
            "tstatus": "Failed", "rerunStatus": Status::Failed, "error": "Error: The rerun could not be found",
        });
    };
    let is_over = !matches!(
        Status::named(status),
        Some(Status::Processing | Status::PendingAsync) | None
    );
    is_over.then(|| doc! { "tstatus": "Completed", "rerunStatus": status })
}
