//! Transactions and their metrics as months of traffic leave them, the same in every run.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{DateTime, Document, RawDocumentBuf, doc};
use indicatif::{ProgressBar, ProgressStyle};
use openhim_node::store::{Collection, Store, Write};

pub(crate) const CHANNELS: usize = 12;
pub(crate) const CLIENTS: usize = 40;
/// 2026-01-01T00:00:00Z
pub(crate) const FIRST: i64 = 1_767_225_600_000;
/// Between two requests, milliseconds.
pub(crate) const PACE: i64 = 5_000;
const BATCH: usize = 1_000;

/// The id of channel or client `number`.
pub(crate) fn id(kind: u8, number: usize) -> ObjectId {
    let mut bytes = [kind; 12];
    bytes[11] = number as u8;
    ObjectId::from_bytes(bytes)
}

/// Every twentieth request fails, some are answered otherwise.
pub(crate) fn status(number: usize) -> &'static str {
    match number % 200 {
        0..=9 => "Failed",
        10..=14 => "Completed",
        15..=16 => "Completed with error(s)",
        17 => "Processing",
        _ => "Successful",
    }
}

/// The first channel takes most messages, the last one nearly none.
fn channel(number: usize) -> usize {
    let chance = number.wrapping_mul(2_654_435_761) >> 7;
    match chance % 1000 {
        0 => CHANNELS - 1,
        1..=600 => 0,
        other => 1 + other % (CHANNELS - 2),
    }
}

pub(crate) async fn fill(store: Arc<dyn Store>, count: usize, name: &'static str) {
    let bar = ProgressBar::new(count as u64).with_prefix(name);
    if let Ok(style) = ProgressStyle::with_template("seeding {prefix} {bar:30} {human_pos} of {human_len}, {eta} left")
    {
        bar.set_style(style);
    }
    let channels = (0..CHANNELS).map(|number| insert(Collection::Channels, &self::channel_document(number)));
    let clients = (0..CLIENTS).map(|number| insert(Collection::Clients, &client_document(number)));
    write(&store, channels.chain(clients).collect()).await;
    for start in (0..count).step_by(BATCH) {
        let end = (start + BATCH).min(count);
        let batch = (start..end).map(|number| insert(Collection::Transactions, &transaction(number)));
        write(&store, batch.collect()).await;
        bar.inc((end - start) as u64);
    }
    let span = count as i64 * PACE;
    for (kind, length) in [("h", 3_600_000), ("d", 86_400_000)] {
        for start in 0..=(span / length) {
            let at = FIRST + start * length;
            let batch = (0..CHANNELS).map(|channel| insert(Collection::Metrics, &metric(kind, at, channel)));
            write(&store, batch.collect()).await;
        }
    }
    store.close().await;
    bar.finish_and_clear();
}

async fn write(store: &Arc<dyn Store>, batch: Vec<Write>) {
    for outcome in store.write(&batch).await.expect("the store takes it") {
        outcome.expect("the store takes it");
    }
}

fn insert(into: Collection, document: &Document) -> Write {
    Write::InsertRaw {
        into,
        document: RawDocumentBuf::try_from(document).expect("a document"),
    }
}

fn channel_document(number: usize) -> Document {
    doc! {
        "_id": id(1, number), "name": format!("Channel {number}"), "urlPattern": format!("^/c{number}/.*$"),
        "type": "http", "status": "enabled", "allow": ["seed"], "authType": "private",
        "routes": [{"name": "backend", "host": "127.0.0.1", "port": 9, "primary": true}], "__v": 0,
    }
}

fn client_document(number: usize) -> Document {
    doc! {"_id": id(2, number), "clientID": format!("client-{number}"), "name": format!("Client {number}"), "roles": ["seed"], "__v": 0}
}

fn metric(kind: &str, at: i64, channel: usize) -> Document {
    doc! {
        "_id": ObjectId::new(), "type": kind, "startTime": DateTime::from_millis(at), "channelID": id(1, channel),
        "requests": 60, "responseTime": 6000, "minResponseTime": 3, "maxResponseTime": 900,
        "successful": 57, "failed": 3, "processing": 0, "completed": 0, "completedWithErrors": 0, "__v": 0,
    }
}

fn transaction(number: usize) -> Document {
    let at = DateTime::from_millis(FIRST + number as i64 * PACE);
    let channel = channel(number);
    let code = if status(number) == "Failed" { 500 } else { 200 };
    let body = format!(
        "{{\"resourceType\":\"Patient\",\"id\":\"{number}\",\"text\":\"{}\"}}",
        "Chalmers ".repeat(40 + number % 60)
    );
    doc! {
        "_id": ObjectId::new(), "clientID": id(2, number % CLIENTS), "clientIP": "10.0.0.9", "channelID": id(1, channel),
        "request": {
            "host": "him.example", "port": "5001", "path": format!("/c{channel}/Patient/{number}"), "querystring": "",
            "method": if number.is_multiple_of(3) { "GET" } else { "POST" },
            "headers": {"content-type": "application/fhir+json", "user-agent": "seed/1.0", "accept": "*/*"},
            "body": body, "timestamp": at,
        },
        "response": {
            "status": code, "headers": {"content-type": "application/fhir+json", "server": "seed"},
            "body": "{\"resourceType\":\"OperationOutcome\"}", "timestamp": at,
        },
        "routes": [], "orchestrations": [], "properties": {}, "childIDs": [], "canRerun": true, "autoRetry": false,
        "wasRerun": false, "status": status(number), "__v": 0,
    }
}
