//! How fast the embedded store is: durable inserts and updates, the console's lists, opening after a kill.
//!
//! `cargo bench -p openhim-node --bench store` prints a table; `-- 500000` fills the store with that many transactions
//! first (30 000 if not given). Times are wall-clock; CPU is that of this whole process.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark stops at the first surprise and prints"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use openhim_node::store::sqlite::{SqliteOptions, SqliteStore};
use openhim_node::store::{Collection, Find, SharedStore, Write};

/// Callers that write at the same time.
const WRITERS: usize = 64;
/// Length of one round of writing.
const ROUND: Duration = Duration::from_secs(4);
/// The first transaction's time.
const START: i64 = 1_750_000_000_000;
const STATUSES: [&str; 5] = ["Successful", "Successful", "Successful", "Completed", "Failed"];

fn main() {
    let rows: i64 = std::env::args()
        .filter_map(|word| word.parse().ok())
        .next()
        .unwrap_or(30_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(rows));
}

async fn run(rows: i64) {
    let folder = tempfile::tempdir_in(std::env::var("OPENHIM_BENCH_FOLDER").unwrap_or_else(|_| ".".into())).unwrap();
    let path = folder.path().join("openhim.db");
    write_rounds(&folder.path().join("writes.db")).await;

    let store = open(&path);
    let start = Instant::now();
    fill(&store, rows).await;
    println!(
        "filled with {rows} transactions in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    lists(&store, rows).await;
    reopening(&store, &path, folder.path()).await;
    store.close().await;
}

fn open(path: &Path) -> SharedStore {
    SqliteStore::open(path, SqliteOptions::default()).unwrap()
}

/// A recorded message of about 4 KB, as the engine stores it.
fn transaction(number: i64) -> Document {
    let choose = |of: usize| usize::try_from(number).unwrap_or(0) * 7919 % of;
    let timestamp = Bson::DateTime(DateTime::from_millis(START + number * 500));
    let id = |kind: u8, of: usize| {
        let mut bytes = [kind; 12];
        bytes[11] = u8::try_from(choose(of)).unwrap();
        ObjectId::from_bytes(bytes)
    };
    let headers = doc! {
        "host": "him.example.org:5001", "content-type": "application/fhir+json", "accept": "*/*",
        "authorization": "Basic dGVzdEFwcDp0ZXN0", "user-agent": "example/1.0", "x-forwarded-for": "10.0.0.9",
    };
    let code = [200, 201, 404, 500][choose(4)];
    let body = "{\"resourceType\":\"Patient\",\"active\":true}".repeat(40);
    doc! {
        "_id": ObjectId::new(), "status": STATUSES[choose(5)], "clientID": id(1, 20), "clientIP": "10.0.0.9", "channelID": id(2, 50),
        "childIDs": [], "canRerun": true, "autoRetry": false, "wasRerun": false, "routes": [],
        "request": {
            "host": "him.example.org", "port": "5001", "path": format!("/fhir/Patient/{}", number % 1000), "headers": headers.clone(),
            "querystring": "a=b", "body": &body, "method": "POST", "timestamp": timestamp.clone(),
        },
        "response": {"status": code, "headers": headers, "body": &body[..body.len() / 4], "timestamp": timestamp.clone()},
        "orchestrations": [{"name": "route", "request": {"path": "/fhir", "timestamp": timestamp}, "response": {"status": 200}}],
    }
}

async fn fill(store: &SharedStore, rows: i64) {
    let numbers: Vec<i64> = (0..rows).collect();
    for chunk in numbers.chunks(500) {
        let insert = |number: &i64| Write::Insert {
            into: Collection::Transactions,
            document: transaction(*number),
        };
        let outcomes = store
            .write(&chunk.iter().map(insert).collect::<Vec<_>>())
            .await
            .unwrap();
        for outcome in outcomes {
            outcome.unwrap();
        }
    }
}

/// Many callers, each waiting for its own writes.
async fn write_rounds(path: &Path) {
    let store = open(path);
    for kind in ["insert", "insert and update"] {
        for round in 0..3 {
            let (cpu, start) = (cpu(), Instant::now());
            let mut writers = tokio::task::JoinSet::new();
            for writer in 0..WRITERS as i64 {
                writers.spawn(write_for_a_while(
                    Arc::clone(&store),
                    kind,
                    (round * 1000 + writer) * 1_000_000,
                    start,
                ));
            }
            let mut waits: Vec<Duration> = writers.join_all().await.into_iter().flatten().collect();
            let (cpu, wall) = (self::cpu() - cpu, start.elapsed());
            waits.sort();
            println!(
                "{kind:18} {:6.0} a second, {:5.1} µs CPU each, waiting {:.2} ms (p50) {:.2} ms (p99)",
                waits.len() as f64 / wall.as_secs_f64(),
                cpu.as_secs_f64() * 1e6 / waits.len() as f64,
                millis(waits[waits.len() / 2]),
                millis(waits[waits.len() * 99 / 100]),
            );
        }
    }
    let build = Instant::now();
    for number in 0..20_000 {
        std::hint::black_box(transaction(number));
    }
    println!(
        "(making one document takes {:.1} µs of that)",
        build.elapsed().as_secs_f64() * 1e6 / 20_000.0
    );
    store.close().await;
}

async fn write_for_a_while(store: SharedStore, kind: &str, first: i64, start: Instant) -> Vec<Duration> {
    let mut waits = Vec::new();
    let mut number = first;
    while start.elapsed() < ROUND {
        let document = transaction(number);
        let id = document.get_object_id("_id").unwrap();
        number += 1;
        let asked = Instant::now();
        store.insert(Collection::Transactions, document).await.unwrap();
        if kind != "insert" {
            let change = doc! {"$set": {"status": "Completed", "response": {"status": 200, "body": "x".repeat(500)}}};
            store
                .update(Collection::Transactions, doc! {"_id": id}, change)
                .await
                .unwrap();
        }
        waits.push(asked.elapsed());
    }
    waits
}

/// What the console asks for.
async fn lists(store: &SharedStore, rows: i64) {
    let channel = {
        let mut bytes = [2; 12];
        bytes[11] = 7;
        ObjectId::from_bytes(bytes)
    };
    let at = |share: f64| Bson::DateTime(DateTime::from_millis(START + (rows as f64 * share) as i64 * 500));
    let filters = [
        ("newest 50", doc! {}),
        ("by status", doc! {"status": "Failed"}),
        ("by channel", doc! {"channelID": channel}),
        ("by status and channel", doc! {"status": "Failed", "channelID": channel}),
        (
            "by status and channel, none",
            doc! {"status": "Processing", "channelID": channel},
        ),
        (
            "by time",
            doc! {"request.timestamp": {"$gte": at(0.3), "$lte": at(0.4)}},
        ),
        (
            "by time and channel",
            doc! {"request.timestamp": {"$gte": at(0.3), "$lte": at(0.4)}, "channelID": channel},
        ),
        (
            "by response status",
            doc! {"response.status": {"$gte": 500, "$lt": 600}},
        ),
        (
            "by response status, none",
            doc! {"response.status": {"$gte": 300, "$lt": 400}},
        ),
        (
            "by path",
            doc! {"request.path": {"$regex": "Patient/77", "$options": "i"}},
        ),
        (
            "by path, none",
            doc! {"request.path": {"$regex": "Observation", "$options": "i"}},
        ),
        ("was rerun", doc! {"childIDs": {"$exists": true, "$ne": []}}),
        ("by method, none", doc! {"request.method": "DELETE"}),
        ("by host, none", doc! {"request.host": "elsewhere"}),
    ];
    for (name, filter) in filters {
        let find = Find {
            projection: doc! {"request.body": 0, "response.body": 0, "routes.request.body": 0, "orchestrations.request.body": 0},
            ..Find::by(filter.clone())
                .sorted(doc! {"request.timestamp": -1})
                .limited(50)
        };
        let mut times = Vec::new();
        let mut found = 0;
        let began = Instant::now();
        while times.len() < 200 && (began.elapsed() < Duration::from_secs(3) || times.len() < 3) {
            let start = Instant::now();
            found = store.all(Collection::Transactions, find.clone()).await.unwrap().len();
            times.push(start.elapsed());
        }
        times.sort();
        let start = Instant::now();
        let count = store.count(Collection::Transactions, filter).await.unwrap();
        println!(
            "list {name:28} {:8.2} ms (p50) {:8.2} ms (p95), {found} found; counting {count} takes {:.2} ms",
            millis(times[times.len() / 2]),
            millis(times[times.len() * 95 / 100]),
            millis(start.elapsed())
        );
    }
}

/// A copy of the files of a running store is what a kill leaves behind.
async fn reopening(store: &SharedStore, path: &Path, folder: &Path) {
    let copy = folder.join("copy.db");
    fill(store, 2000).await;
    let log = |path: &Path| path.with_extension("db-wal");
    std::fs::copy(path, &copy).unwrap();
    std::fs::copy(log(path), log(&copy)).unwrap();
    let bytes = std::fs::metadata(log(&copy)).unwrap().len();
    let start = Instant::now();
    let again = open(&copy);
    let opened = start.elapsed();
    again.one(Collection::Transactions, doc! {}).await.unwrap().unwrap();
    println!(
        "opening after a kill: {:.1} ms, first answer after {:.1} ms, log of {} KiB",
        millis(opened),
        millis(start.elapsed()),
        bytes / 1024
    );
    again.close().await;
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
