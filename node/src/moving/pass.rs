//! Going through one collection: bringing what is missing, and making both sides equal.

use std::collections::HashMap;
use std::sync::Arc;

use bson::{Bson, Document, RawDocumentBuf, doc};
use tokio::sync::mpsc;

use super::{MoveError, Report, Watch, from_id};
use crate::store::{self, Collection, Cursor, Find, SharedStore, StoreError, Write};

/// Documents in one batch, at most.
const BATCH: usize = 256;
/// Bytes of documents in one batch, about.
const BATCH_BYTES: usize = 4 << 20;
/// Batches that are read ahead.
const AHEAD: usize = 2;
/// How many of the target's last documents are looked at again: more than an interrupted run had in hand.
const OVERLAP: u64 = 4 * BATCH as u64;

/// Brings what comes after the target's last documents.
pub(super) async fn append(
    from: &SharedStore,
    to: &SharedStore,
    collection: Collection,
    report: &mut Report,
    watch: &dyn Watch,
) -> Result<(), MoveError> {
    let present = to.count(collection, doc! {}).await.map_err(MoveError::Target)?;
    let start = match present {
        0 => None,
        _ => resume_at(to, collection).await.map_err(MoveError::Target)?,
    };
    if start.is_some() {
        watch.advance(present.saturating_sub(OVERLAP));
    }
    let mut batches = read(from, collection, from_id(start)).await?;
    while let Some(batch) = batches.recv().await {
        let batch = batch.map_err(MoveError::Source)?;
        let seen = batch.len() as u64;
        if present == 0 {
            insert(to, collection, batch, report).await?;
        } else {
            equalize(to, collection, batch, report).await?;
        }
        watch.advance(seen);
    }
    Ok(())
}

/// The id from which on documents may be missing; `None`: any may be.
async fn resume_at(to: &SharedStore, collection: Collection) -> Result<Option<Bson>, StoreError> {
    let find = Find {
        sort: doc! {"_id": -1},
        skip: OVERLAP,
        limit: 1,
        projection: doc! {"_id": 1},
        ..Find::default()
    };
    let last = to.all(collection, find).await?.pop();
    // Comparisons keep to one kind of value; the usual kinds fill a whole collection.
    Ok(last
        .and_then(|mut last| last.remove("_id"))
        .filter(|id| matches!(id, Bson::ObjectId(_) | Bson::String(_))))
}

/// Makes the target's collection equal to the source's.
pub(super) async fn compare(
    from: &SharedStore,
    to: &SharedStore,
    collection: Collection,
    report: &mut Report,
    watch: &dyn Watch,
) -> Result<(), MoveError> {
    // First what is too much: it may hold a name that a new document needs.
    remove_extras(from, to, collection, report).await?;
    let mut batches = read(from, collection, from_id(None)).await?;
    while let Some(batch) = batches.recv().await {
        let batch = batch.map_err(MoveError::Source)?;
        let seen = batch.len() as u64;
        equalize(to, collection, batch, report).await?;
        watch.advance(seen);
    }
    Ok(())
}

async fn remove_extras(
    from: &SharedStore,
    to: &SharedStore,
    collection: Collection,
    report: &mut Report,
) -> Result<(), MoveError> {
    let find = Find {
        projection: doc! {"_id": 1},
        ..Find::default()
    };
    let mut cursor = to.find(collection, find).await.map_err(MoveError::Target)?;
    loop {
        let batch = gather(&mut cursor).await.map_err(MoveError::Target)?;
        if batch.is_empty() {
            return Ok(());
        }
        let ids = ids(&batch).map_err(MoveError::Target)?;
        let find = Find {
            projection: doc! {"_id": 1},
            ..Find::by(doc! {"_id": {"$in": ids.clone()}})
        };
        let known = by_id(from, collection, find).await.map_err(MoveError::Source)?;
        let extras = ids.into_iter().filter(|id| !known.contains_key(&key(id)));
        let writes = extras.map(|id| Write::Delete {
            from: collection,
            filter: doc! {"_id": {"$eq": id}},
            many: false,
        });
        report.removed += apply(to, collection, writes.collect(), report).await?;
    }
}

async fn insert(
    to: &SharedStore,
    collection: Collection,
    batch: Vec<RawDocumentBuf>,
    report: &mut Report,
) -> Result<(), MoveError> {
    let writes = batch.into_iter().map(|document| Write::InsertRaw {
        into: collection,
        document: Arc::new(document),
    });
    report.inserted += apply(to, collection, writes.collect(), report).await?;
    Ok(())
}

/// Inserts what is missing of a batch, replaces what is different.
async fn equalize(
    to: &SharedStore,
    collection: Collection,
    batch: Vec<RawDocumentBuf>,
    report: &mut Report,
) -> Result<(), MoveError> {
    let find = Find::by(doc! {"_id": {"$in": ids(&batch).map_err(MoveError::Source)?}});
    let known = by_id(to, collection, find).await.map_err(MoveError::Target)?;
    let (mut inserts, mut replacements) = (Vec::new(), Vec::new());
    for raw in &batch {
        let id = id(raw).map_err(MoveError::Source)?;
        match known.get(&key(&id)) {
            Some(present) if present.as_bytes() == raw.as_bytes() => {}
            Some(_) => replacements.extend(decoded(collection, raw, report).map(|document| Write::Replace {
                of: collection,
                filter: doc! {"_id": {"$eq": id}},
                document,
                upsert: false,
            })),
            None => inserts.push(Write::InsertRaw {
                into: collection,
                document: Arc::new(raw.clone()),
            }),
        }
    }
    report.replaced += apply(to, collection, replacements, report).await?;
    report.inserted += apply(to, collection, inserts, report).await?;
    Ok(())
}

/// Writes a batch; what one write meets is a trouble of one document. Answers how many were written.
async fn apply(
    to: &SharedStore,
    collection: Collection,
    writes: Vec<Write>,
    report: &mut Report,
) -> Result<u64, MoveError> {
    if writes.is_empty() {
        return Ok(0);
    }
    let ids: Vec<Option<Bson>> = writes.iter().map(concerned).collect();
    let mut written = 0;
    let outcomes = to.write(&writes).await.map_err(MoveError::Target)?;
    for (id, outcome) in ids.into_iter().zip(outcomes) {
        match outcome {
            Ok(done) => written += done.modified,
            Err(error) if error.is_temporary() => return Err(MoveError::Target(error)),
            Err(error) => {
                let id = id.map_or_else(String::new, |id| format!(" {}", crate::model::json::to_value(&id)));
                report.trouble(format!(
                    "document{id} of {} cannot be stored: {error}",
                    collection.name()
                ));
            }
        }
    }
    Ok(written)
}

fn concerned(write: &Write) -> Option<Bson> {
    let id = |document: &Document| document.get("_id").cloned();
    match write {
        Write::Insert { document, .. } | Write::Replace { document, .. } => id(document),
        Write::Delete { filter, .. } | Write::Update { filter, .. } => id(filter),
        Write::InsertRaw { document, .. } => self::id(document).ok(),
        Write::Set { id, .. } => Some((*id).into()),
    }
}

fn decoded(collection: Collection, raw: &RawDocumentBuf, report: &mut Report) -> Option<Document> {
    let decoded = store::decode(raw);
    if let Err(error) = &decoded {
        report.trouble(format!("a document of {} cannot be read: {error}", collection.name()));
    }
    decoded.ok()
}

/// Reads a collection ahead of the one who writes.
async fn read(
    from: &SharedStore,
    collection: Collection,
    find: Find,
) -> Result<mpsc::Receiver<Result<Vec<RawDocumentBuf>, StoreError>>, MoveError> {
    let mut cursor = from.find(collection, find).await.map_err(MoveError::Source)?;
    let (sender, batches) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        loop {
            let batch = gather(&mut cursor).await;
            let is_last = batch.as_ref().map_or(true, Vec::is_empty);
            if is_last && batch.is_ok() {
                return;
            }
            if sender.send(batch).await.is_err() || is_last {
                return;
            }
        }
    });
    Ok(batches)
}

async fn gather(cursor: &mut Cursor) -> Result<Vec<RawDocumentBuf>, StoreError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < BATCH
        && bytes < BATCH_BYTES
        && let Some(document) = cursor.next().await
    {
        let document = document?;
        bytes += document.as_bytes().len();
        batch.push(document);
    }
    Ok(batch)
}

async fn by_id(
    store: &SharedStore,
    collection: Collection,
    find: Find,
) -> Result<HashMap<Vec<u8>, RawDocumentBuf>, StoreError> {
    let mut cursor = store.find(collection, find).await?;
    let mut found = HashMap::new();
    while let Some(document) = cursor.next().await {
        let document = document?;
        found.insert(key(&id(&document)?), document);
    }
    Ok(found)
}

fn ids(batch: &[RawDocumentBuf]) -> Result<Vec<Bson>, StoreError> {
    batch.iter().map(id).collect()
}

fn id(document: &RawDocumentBuf) -> Result<Bson, StoreError> {
    let id = document.get("_id").ok().flatten();
    id.and_then(|id| Bson::try_from(id).ok())
        .ok_or_else(|| StoreError::Other("a document has no _id that can be read".into()))
}

/// An id's bytes: one number in two widths is two keys, which only makes a comparison take the longer way.
fn key(id: &Bson) -> Vec<u8> {
    let mut holder = Document::new();
    holder.insert("", id.clone());
    holder.to_vec().unwrap_or_default()
}
