//! Tasks that wait for transactions whose mediators answer later.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use crate::model::transaction::Status;
use crate::store::{Collection, Find, SharedStore, StoreError};

/// Tasks that are looked at in one round.
const LOOK: u64 = 200;

/// Notes which reruns have ended meanwhile, and completes the tasks that wait for no other.
///
/// # Errors
/// The store fails.
pub(super) async fn settle(store: &SharedStore, now: DateTime) -> Result<(), StoreError> {
    let waiting = Find::by(doc! { "status": "Pending Async" }).limited(LOOK);
    for task in store.all(Collection::Tasks, waiting).await? {
        if let Ok(id) = task.get_object_id("_id") {
            settle_task(store, id, &task, now).await?;
        }
    }
    Ok(())
}

async fn settle_task(store: &SharedStore, id: ObjectId, task: &Document, now: DateTime) -> Result<(), StoreError> {
    let entries = task.get_array("transactions").map_or(&[][..], Vec::as_slice);
    let mut set = Document::new();
    let mut waits = false;
    for (at, entry) in entries.iter().filter_map(Bson::as_document).enumerate() {
        if entry.get_str("tstatus").ok() != Some("Processing") {
            continue;
        }
        match ended(store, entry).await? {
            Some(fields) => set.extend(
                fields
                    .into_iter()
                    .map(|(name, value)| (format!("transactions.{at}.{name}"), value)),
            ),
            None => waits = true,
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

/// What to write into an entry whose rerun has ended; `None` while it has not.
async fn ended(store: &SharedStore, entry: &Document) -> Result<Option<Document>, StoreError> {
    let child = entry
        .get_str("rerunID")
        .ok()
        .and_then(|id| ObjectId::parse_str(id).ok());
    let found = match child {
        Some(child) => store.one(Collection::Transactions, doc! { "_id": child }).await?,
        None => None,
    };
    let Some(found) = found else {
        return Ok(Some(doc! {
            "tstatus": "Failed", "rerunStatus": Status::Failed, "error": "Error: The rerun could not be found",
        }));
    };
    let status = found.get_str("status").unwrap_or_default();
    let is_over = !matches!(
        Status::named(status),
        Some(Status::Processing | Status::PendingAsync) | None
    );
    Ok(is_over.then(|| doc! { "tstatus": "Completed", "rerunStatus": status }))
}
