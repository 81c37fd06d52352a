//! The values that audit records have had so far: what the console offers as filters.
//!
//! One document, changed only by adding what is missing, so that several nodes may do it at the same time.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use crate::store::{Collection, Result, Store, Write};

/// The id of the document where this node makes it: two nodes that make it at once make one.
const ID: [u8; 12] = *b"openhimaudit";
const LISTS: [&str; 4] = [
    "eventType",
    "eventID",
    "activeParticipantRoleID",
    "participantObjectIDTypeCode",
];

/// Values of one kind that are offered; what is beyond is found by typing it.
const MOST: usize = 2000;

/// Adds the values of `records` that are new.
///
/// # Errors
/// The store fails.
pub async fn learn(store: &dyn Store, records: &[Document]) -> Result<()> {
    let mut known = match store.one(Collection::AuditMeta, doc! {}).await? {
        Some(known) => known,
        None => make(store).await?,
    };
    let id = known.get("_id").cloned().unwrap_or(Bson::Null);
    let mut writes = Vec::new();
    for record in records {
        for (list, code) in codes(record) {
            add_code(&id, &mut known, list, code, &mut writes);
        }
        add_source(&id, &mut known, record, &mut writes);
    }
    if writes.is_empty() {
        return Ok(());
    }
    for outcome in store.write(&writes).await? {
        outcome?;
    }
    Ok(())
}

async fn make(store: &dyn Store) -> Result<Document> {
    let mut empty = doc! {"_id": ObjectId::from_bytes(ID)};
    for list in LISTS {
        empty.insert(list, Bson::Array(Vec::new()));
    }
    empty.insert("auditSourceID", Bson::Array(Vec::new()));
    empty.insert("__v", 0);
    match store.insert(Collection::AuditMeta, empty.clone()).await {
        Err(error) if !error.is_duplicate() => Err(error),
        _ => Ok(empty),
    }
}

/// Each code of a record, with the list it belongs to.
fn codes(record: &Document) -> Vec<(&'static str, Document)> {
    let event = record.get_document("eventIdentification").ok();
    let mut found = Vec::new();
    if let Some(kind) = event.and_then(|event| event.get_document("eventTypeCode").ok()) {
        found.push(("eventType", kind.clone()));
    }
    if let Some(event) = event {
        found.push(("eventID", event.get_document("eventID").cloned().unwrap_or_default()));
    }
    found.extend(codes_within(record, "activeParticipant", "roleIDCode").map(|code| (LISTS[2], code)));
    found.extend(
        codes_within(record, "participantObjectIdentification", "participantObjectIDTypeCode")
            .map(|code| (LISTS[3], code)),
    );
    found
}

fn codes_within<'r>(record: &'r Document, list: &str, field: &'r str) -> impl Iterator<Item = Document> + 'r {
    let items = record.get_array(list).map_or(&[][..], Vec::as_slice);
    items
        .iter()
        .filter_map(Bson::as_document)
        .filter_map(move |item| item.get_document(field).ok().cloned())
}

fn add_code(id: &Bson, known: &mut Document, list: &'static str, code: Document, writes: &mut Vec<Write>) {
    let value = code.get_str("code").ok().filter(|value| !value.is_empty());
    if value.is_none() && list != "eventID" {
        return;
    }
    let present = known.get_array(list).is_ok_and(|entries| {
        entries
            .iter()
            .filter_map(Bson::as_document)
            .any(|entry| entry.get_str("code").ok().filter(|known| !known.is_empty()) == value)
    });
    if present || is_full(known, list) {
        return;
    }
    let mut entry = code.clone();
    entry.insert("_id", ObjectId::new());
    let mut filter = doc! {"_id": id};
    if let Some(value) = value {
        filter.insert(format!("{list}.code"), doc! {"$ne": value});
    }
    writes.push(push(filter, list, entry.clone().into()));
    remember(known, list, entry.into());
}

fn add_source(id: &Bson, known: &mut Document, record: &Document, writes: &mut Vec<Write>) {
    let source = record
        .get_document("auditSourceIdentification")
        .ok()
        .and_then(|source| source.get_str("auditSourceID").ok())
        .filter(|source| !source.is_empty());
    let Some(source) = source else { return };
    let present = known
        .get_array("auditSourceID")
        .is_ok_and(|sources| sources.iter().any(|known| known.as_str() == Some(source)));
    if present || is_full(known, "auditSourceID") {
        return;
    }
    let filter = doc! {"_id": id, "auditSourceID": {"$ne": source}};
    writes.push(push(filter, "auditSourceID", source.into()));
    remember(known, "auditSourceID", source.into());
}

fn is_full(known: &Document, list: &str) -> bool {
    known.get_array(list).is_ok_and(|values| values.len() >= MOST)
}

fn push(filter: Document, list: &str, entry: Bson) -> Write {
    Write::Update {
        of: Collection::AuditMeta,
        filter,
        update: doc! {"$push": {list: entry}},
        many: false,
        upsert: false,
    }
}

fn remember(known: &mut Document, list: &str, entry: Bson) {
    match known.get_array_mut(list) {
        Ok(entries) => entries.push(entry),
        Err(_) => drop(known.insert(list, vec![entry])),
    }
}
