//! Transactions and their metrics as two months of traffic leave them, the same in every run.
//!
//! Twelve channels of very different traffic, forty clients, every status, bodies of half a kilobyte to 200 KB, reruns,
//! and what mediators report: orchestrations, routes, properties. Events are left out: none is older than an hour.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use indicatif::{ProgressBar, ProgressStyle};
use openhim_node::store::{Collection, Store, Write};

pub(crate) const CHANNELS: usize = 12;
pub(crate) const CLIENTS: usize = 40;
/// 2026-01-01T00:00:00Z
pub(crate) const FIRST: i64 = 1_767_225_600_000;
/// Between two requests, milliseconds.
pub(crate) const PACE: i64 = 10_000;
/// One transaction in so many repeats the one before it.
pub(crate) const RERUN: usize = 100;
const BATCH: usize = 1_000;
const TASKS: usize = 2_000;

/// The id of channel or client `number`.
pub(crate) fn id(kind: u8, number: usize) -> ObjectId {
    let mut bytes = [kind; 12];
    bytes[11] = number as u8;
    ObjectId::from_bytes(bytes)
}

/// The id of transaction `number`: in the order of time, as ids are.
pub(crate) fn transaction_id(number: usize) -> ObjectId {
    let mut bytes = [0x74; 12];
    let seconds = (FIRST + number as i64 * PACE) / 1000;
    bytes[..4].copy_from_slice(&(seconds as u32).to_be_bytes());
    bytes[8..].copy_from_slice(&(number as u32).to_be_bytes());
    ObjectId::from_bytes(bytes)
}

/// A pseudo-random number below `most`, another one for each `salt`.
fn any(number: usize, salt: usize, most: usize) -> usize {
    let mut mixed =
        (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (salt as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ mixed >> 31) as usize) % most
}

/// Status and code of the answer: one in twenty fails, some are answered otherwise.
fn outcome(number: usize) -> (&'static str, Option<i32>) {
    match any(number, 1, 1000) {
        0..=39 => ("Failed", Some(500)),
        40..=49 => ("Failed", Some(504)),
        50..=69 => ("Completed", Some(404)),
        70..=74 => ("Completed", Some(400)),
        75..=82 => ("Completed with error(s)", Some(200)),
        83 => ("Pending Async", Some(202)),
        84 if number > 1000 => ("Failed", None),
        85..=200 => ("Successful", Some(201)),
        _ => ("Successful", Some(200)),
    }
}

/// The first channel takes most messages, the last one nearly none.
fn channel(number: usize) -> usize {
    match any(number, 2, 1000) {
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
    let tasks = (0..TASKS).map(|number| insert(Collection::Tasks, &task(number)));
    write(&store, channels.chain(clients).chain(tasks).collect()).await;
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
        document: RawDocumentBuf::try_from(document).expect("a document").into(),
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

fn task(number: usize) -> Document {
    let tid = transaction_id(number).to_hex();
    doc! {
        "_id": ObjectId::new(), "status": "Completed", "created": DateTime::from_millis(FIRST + number as i64 * 60_000),
        "user": "root@openhim.org", "remainingTransactions": 0, "totalTransactions": 50, "batchSize": 1,
        "transactions": (0..50).map(|_| doc! {"tid": &tid, "tstatus": "Completed"}).collect::<Vec<_>>(), "__v": 0,
    }
}

/// The characters of one body in ten thousand, one in a hundred, and all others.
fn body_length(number: usize) -> usize {
    match any(number, 3, 10_000) {
        0 => 200_000,
        1..=100 => 20_000,
        other => 300 + other % 600,
    }
}

fn body(number: usize) -> String {
    let text = "Chalmers, Peter James; 534 Erewhon St PeasantVille; ".repeat(body_length(number) / 52 + 1);
    format!("{{\"resourceType\":\"Patient\",\"id\":\"{number}\",\"text\":\"{text}\"}}")
}

fn transaction(number: usize) -> Document {
    let at = DateTime::from_millis(FIRST + number as i64 * PACE);
    let channel = channel(number);
    let (status, code) = outcome(number);
    let is_read = any(number, 4, 3) == 0;
    let mut transaction = doc! {
        "_id": transaction_id(number), "clientID": id(2, any(number, 5, CLIENTS)), "clientIP": "10.0.0.9",
    };
    if number % RERUN == RERUN - 1 {
        transaction.insert("parentID", transaction_id(number - 1));
    }
    let is_rerun = number % RERUN == RERUN - 2;
    let children: Vec<ObjectId> = is_rerun.then(|| transaction_id(number + 1)).into_iter().collect();
    transaction.extend(doc! {
        "childIDs": children, "channelID": id(1, channel),
        "request": {
            "host": if any(number, 6, 500) == 0 { "old.him.example" } else { "him.example" }, "port": "5001",
            "path": format!("/c{channel}/Patient/{number}"),
            "querystring": if is_read { format!("_id={number}&_count=20") } else { String::new() },
            "method": if is_read { "GET" } else { "POST" }, "headers": headers("seed/1.0"),
            "body": body(number), "timestamp": at,
        },
    });
    if let Some(code) = code {
        transaction.insert("response", response(code, at));
    }
    transaction.extend(doc! {
        "routes": routes(number, channel, at), "orchestrations": orchestrations(number, at),
        "canRerun": true, "autoRetry": false, "wasRerun": is_rerun, "status": status, "__v": 0,
    });
    if any(number, 7, 50) == 0 {
        transaction.insert("properties", doc! {"facility": (number % 90).to_string()});
    }
    if status == "Failed" {
        transaction.insert(
            "error",
            doc! {"message": "connect ECONNREFUSED 10.0.0.20:8080", "stack": ""},
        );
    }
    transaction
}

fn headers(agent: &str) -> Document {
    doc! {
        "content-type": "application/fhir+json", "user-agent": agent, "accept": "*/*", "host": "him.example:5001",
        "authorization": "Basic c2VlZDpzZWVk", "x-forwarded-for": "10.0.0.9", "x-openhim-transactionid": "5f1e",
    }
}

fn response(code: i32, at: DateTime) -> Document {
    doc! {
        "status": code, "headers": {"content-type": "application/fhir+json", "server": "seed"},
        "body": "{\"resourceType\":\"OperationOutcome\"}", "timestamp": at,
    }
}

fn message(host: &str, path: String, code: i32, at: DateTime) -> Document {
    doc! {
        "request": {"host": host, "port": "8080", "path": path, "querystring": "", "method": "POST",
            "headers": headers("mediator/1.0"), "body": "{\"resourceType\":\"Bundle\"}", "timestamp": at},
        "response": response(code, at),
    }
}

/// What secondary routes answered: one channel has them.
fn routes(number: usize, channel: usize, at: DateTime) -> Vec<Bson> {
    let mut route = doc! {"_id": ObjectId::new(), "name": "audit copy", "orchestrations": []};
    let code = if any(number, 8, 40) == 0 { 503 } else { 200 };
    route.extend(message("audit.example", format!("/copy/{number}"), code, at));
    if channel == 3 { vec![route.into()] } else { vec![] }
}

/// What a mediator did: three channels go through one.
fn orchestrations(number: usize, at: DateTime) -> Vec<Bson> {
    let steps = if (1..4).contains(&channel(number)) {
        1 + any(number, 9, 3)
    } else {
        0
    };
    let step = |step: usize| {
        let code = if any(number, 10 + step, 60) == 0 { 500 } else { 200 };
        let mut step = doc! {"_id": ObjectId::new(), "name": format!("step {step}")};
        step.extend(message("registry.example", format!("/registry/{number}"), code, at));
        step.into()
    };
    (0..steps).map(step).collect()
}
