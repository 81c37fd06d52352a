//! Lists without a limit: they are sent while they are read, from either store, and the node stays small.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine as _;
use bson::oid::ObjectId;
use bson::{DateTime, RawDocumentBuf, rawdoc};
use openhim_node::store::mongo::MongoStore;
use openhim_node::store::sqlite::SqliteStore;
use openhim_node::store::{Collection, SharedStore, Write as Change};
use openhim_node::testing::mongod::Mongod;

use crate::support::node::{Node, ROOT, node};

/// Transactions, and bytes of the body of each.
const COUNT: usize = 15_000;
const BODY: usize = 8 << 10;
/// What the node may grow by while it sends all of them, KiB: a fifth of what it sends.
const GROWTH: u64 = 24 << 10;

fn transaction(number: usize) -> RawDocumentBuf {
    let body = format!("~{}", "a".repeat(BODY));
    rawdoc! {
        "_id": ObjectId::new(), "status": "Successful", "childIDs": [], "routes": [], "orchestrations": [],
        "request": {"path": "/", "method": "POST", "body": body, "timestamp": DateTime::from_millis(number as i64)},
    }
}

fn fill(store: &SharedStore) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for start in (0..COUNT).step_by(500) {
            let insert = |number| Change::InsertRaw {
                into: Collection::Transactions,
                document: transaction(number).into(),
            };
            let batch: Vec<Change> = (start..start + 500).map(insert).collect();
            for outcome in store.write(&batch).await.unwrap() {
                outcome.unwrap();
            }
        }
        store.close().await;
    });
}

/// Asks for everything; answers with the number of bodies, and the time until the first byte and until the last one.
fn list(node: &Node) -> (usize, Duration, Duration) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(node.api()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let login = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", ROOT.0, ROOT.1));
    let target = "/transactions?filterRepresentation=full&filterLimit=0";
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nhost: h\r\nauthorization: Basic {login}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = BufReader::with_capacity(64 << 10, stream);
    let mut head = String::new();
    answer.read_line(&mut head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let first = started.elapsed();
    let (mut bodies, mut part) = (0, vec![0; 64 << 10]);
    loop {
        match answer.read(&mut part).unwrap() {
            0 => return (bodies, first, started.elapsed()),
            read => bodies += part[..read].iter().filter(|byte| **byte == b'~').count(),
        }
    }
}

fn is_streamed(node: &Node) {
    // Who logs in for the first time pays for that with memory, too.
    let warm = list(node);
    assert_eq!(warm.0, COUNT);
    node.forget_peak();
    let before = node.memory("VmRSS");

    let (bodies, first, all) = list(node);

    assert_eq!(bodies, COUNT);
    let after = node.memory("VmHWM");
    assert!(
        after.saturating_sub(before) < GROWTH,
        "the node grew by {} KiB",
        after - before
    );
    assert!(first < all / 3, "the first bytes came after {first:?} of {all:?}");
}

#[test]
fn a_list_without_a_limit_is_sent_while_the_embedded_store_is_read() {
    let node = node().set("api.protocol", "http");
    let path = node.store_url().replace("sqlite://", "");
    fill(&(SqliteStore::open(path, Default::default()).unwrap() as SharedStore));
    is_streamed(&node.start());
}

#[test]
fn a_list_without_a_limit_is_sent_while_mongodb_is_read() {
    let Some(server) = Mongod::start() else {
        return;
    };
    let url = server.url("openhim");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let store = runtime
        .block_on(MongoStore::connect(&url, None, Default::default()))
        .unwrap();
    fill(&(store as SharedStore));
    is_streamed(&node().set("api.protocol", "http").set("store.url", &url).start());
}
