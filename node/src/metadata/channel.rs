//! Channels, whose every change is kept as a patch.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use super::MetadataError;
use crate::clock::Clock;
use crate::model::patch;
use crate::model::schema::tables::CHANNEL;
use crate::store::{Collection, Store};

/// Adds a channel.
///
/// # Errors
/// The store refuses it.
pub async fn insert(store: &dyn Store, clock: &dyn Clock, channel: Document, by: &str) -> Result<(), MetadataError> {
    store.insert(Collection::Channels, channel.clone()).await?;
    record(store, clock, &doc! {}, &channel, by).await
}

/// Saves what `sent` changes of `stored`.
///
/// # Errors
/// It does not fit the schema, somebody else was faster, or the store fails.
pub async fn save(
    store: &dyn Store,
    clock: &dyn Clock,
    stored: Document,
    sent: Document,
    by: &str,
) -> Result<(), MetadataError> {
    let merged = CHANNEL.merge(stored, sent, clock.now())?;
    if merged.update.is_empty() {
        return Ok(());
    }
    let written = store.update(Collection::Channels, merged.filter, merged.update).await?;
    if written.matched == 0 {
        return Err(MetadataError::Overtaken);
    }
    record(store, clock, &merged.before, &merged.after, by).await
}

/// Records what a change did; nothing if it did nothing. `before` is empty for a new channel.
///
/// # Errors
/// The store fails.
pub async fn record(
    store: &dyn Store,
    clock: &dyn Clock,
    before: &Document,
    after: &Document,
    by: &str,
) -> Result<(), MetadataError> {
    let ops = patch::operations(&patch::snapshot(before), &patch::snapshot(after))?;
    if ops.is_empty() {
        return Ok(());
    }
    let record = doc! {
        "_id": ObjectId::new(),
        "date": clock.date(),
        "ops": ops,
        "ref": after.get("_id").cloned().unwrap_or(Bson::Null),
        "updatedBy": {"_id": ObjectId::new(), "name": by},
        "__v": 0,
    };
    Ok(store.insert(Collection::ChannelAudits, record).await?)
}
