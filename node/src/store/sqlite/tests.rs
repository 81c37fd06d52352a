mod copy;
mod crash;
mod indexes;
mod planner;

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;

use bson::{Bson, DateTime, doc};

use super::*;
use crate::clock::ManualClock;
use crate::store::{SharedStore, conformance};

fn open(path: &Path) -> Arc<SqliteStore> {
    SqliteStore::open(path, SqliteOptions::default()).unwrap()
}

fn date(millis: i64) -> Bson {
    Bson::DateTime(DateTime::from_millis(millis))
}

#[tokio::test]
async fn it_does_what_every_store_must_do() {
    let folder = tempfile::tempdir().unwrap();
    let count = Cell::new(0);
    conformance::everything(|| {
        count.set(count.get() + 1);
        let path = folder.path().join(format!("{}.db", count.get()));
        async move { open(&path) as SharedStore }
    })
    .await;
}

#[tokio::test]
async fn what_was_written_is_there_after_closing_and_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openhim.db");
    let store: SharedStore = open(&path);
    store
        .insert(Collection::Users, doc! {"_id": 1, "email": "a"})
        .await
        .unwrap();
    store.close().await;
    let refused = store.insert(Collection::Users, doc! {"_id": 2, "email": "b"}).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(store.one(Collection::Users, doc! {}).await.is_err());
    store.close().await;
    assert!(
        !path.with_extension("db-wal").exists(),
        "everything is in the file itself"
    );

    let again: SharedStore = open(&path);
    assert_eq!(again.count(Collection::Users, doc! {}).await.unwrap(), 1);
}

#[tokio::test]
async fn what_waits_when_the_store_is_closed_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openhim.db");
    let store: SharedStore = open(&path);
    let mut writes = tokio::task::JoinSet::new();
    for id in 0..500 {
        let store = Arc::clone(&store);
        writes.spawn(async move { store.insert(Collection::Tasks, doc! {"_id": id}).await.is_ok() });
    }
    tokio::task::yield_now().await;
    store.close().await;
    let acknowledged = writes.join_all().await.into_iter().filter(|written| *written).count();

    let again: SharedStore = open(&path);
    assert_eq!(
        again.count(Collection::Tasks, doc! {}).await.unwrap(),
        acknowledged as u64
    );
}

#[test]
fn only_the_owner_may_read_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/openhim.db");
    let store = open(&path);
    for file in [
        path.clone(),
        path.with_extension("db-wal"),
        path.with_extension("db-shm"),
    ] {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    drop(store);
}

#[test]
fn a_file_that_can_not_be_used_is_named_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |path: &Path| {
        SqliteStore::open(path, SqliteOptions::default())
            .unwrap_err()
            .to_string()
    };

    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "not a database, but long enough to look at ".repeat(100)).unwrap();
    let said = refusal(&text);
    assert!(
        said.contains("notes.txt") && said.contains("not an SQLite database") && said.contains("store.url"),
        "{said}"
    );

    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE songs (title)")
        .unwrap();
    let said = refusal(&foreign);
    assert!(
        said.contains("foreign.db") && said.contains("another program"),
        "{said}"
    );

    let under_a_file = text.join("openhim.db");
    let said = refusal(&under_a_file);
    assert!(said.contains("notes.txt") && said.contains("store.url"), "{said}");

    let newer = folder.path().join("newer.db");
    drop(open(&newer));
    let connection = rusqlite::Connection::open(&newer).unwrap();
    connection
        .execute_batch("INSERT INTO openhim_migrations VALUES (999, 'later', 0)")
        .unwrap();
    let said = refusal(&newer);
    assert!(
        said.contains("newer.db") && said.contains("newer version") && said.contains("999"),
        "{said}"
    );
}

#[test]
fn a_commit_waits_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openhim.db");
    drop(open(&path));
    let database = Database::open(&path, 1024).unwrap();
    let pragma = |name: &str| -> String {
        database
            .connection
            .query_row(&format!("PRAGMA {name}"), [], |row| {
                row.get::<_, rusqlite::types::Value>(0)
            })
            .map(|value| format!("{value:?}"))
            .unwrap()
    };
    assert_eq!(pragma("synchronous"), "Integer(2)");
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
}

#[tokio::test]
async fn documents_past_their_time_are_swept_away() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(10_000_000));
    let options = SqliteOptions {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        sweep_every: Duration::ZERO,
        ..SqliteOptions::default()
    };
    let sqlite = SqliteStore::open(folder.path().join("openhim.db"), options).unwrap();
    let store: SharedStore = Arc::clone(&sqlite) as SharedStore;
    let hour = 3_600_000;
    for (id, created) in [(1, 10_000_000 - hour), (2, 10_000_000), (3, 10_000_001)] {
        store
            .insert(Collection::Events, doc! {"_id": id, "created": date(created)})
            .await
            .unwrap();
    }
    store.insert(Collection::Events, doc! {"_id": 4}).await.unwrap();
    store
        .insert(Collection::Events, doc! {"_id": 5, "created": "a text is no date"})
        .await
        .unwrap();
    for (id, kind) in [(1, "m"), (2, "h")] {
        let metric = doc! {"_id": id, "type": kind, "startTime": date(10_000_000 - 2 * hour)};
        store.insert(Collection::Metrics, metric).await.unwrap();
    }
    let old: Vec<Write> = (0..2500)
        .map(|id| Write::Insert {
            into: Collection::Alerts,
            document: doc! {"_id": id, "timestamp": date(0)},
        })
        .collect();
    store.write(&old).await.unwrap();
    clock.advance(1);
    let sweep = || {
        let sqlite = Arc::clone(&sqlite);
        tokio::task::spawn_blocking(move || sqlite.sweep().unwrap())
    };

    assert_eq!(sweep().await.unwrap(), 2, "the first event and the minute's metric");
    assert_eq!(store.count(Collection::Events, doc! {}).await.unwrap(), 4);
    assert_eq!(
        store
            .one(Collection::Metrics, doc! {})
            .await
            .unwrap()
            .unwrap()
            .get_str("type")
            .unwrap(),
        "h"
    );
    clock.advance(24 * hour);
    assert_eq!(sweep().await.unwrap(), 2502);
    assert_eq!(store.count(Collection::Alerts, doc! {}).await.unwrap(), 0);
    assert_eq!(
        store.count(Collection::Events, doc! {}).await.unwrap(),
        2,
        "what has no date stays"
    );
}

#[tokio::test]
async fn sweeping_happens_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        sweep_every: Duration::from_millis(10),
        ..SqliteOptions::default()
    };
    let store: SharedStore = SqliteStore::open(folder.path().join("openhim.db"), options).unwrap();
    store
        .insert(Collection::Events, doc! {"_id": 1, "created": date(0)})
        .await
        .unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while store.count(Collection::Events, doc! {}).await.unwrap() > 0 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_log_keeps_its_newest_lines_within_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        log_bytes: Some(100_000),
        ..SqliteOptions::default()
    };
    let store: SharedStore = SqliteStore::open(folder.path().join("openhim.db"), options).unwrap();
    for id in 0..500 {
        store
            .insert(Collection::Log, doc! {"_id": id, "message": "x".repeat(1000)})
            .await
            .unwrap();
    }
    let lines = store.all(Collection::Log, Find::default()).await.unwrap();
    let bytes: usize = lines.iter().map(|line| line.to_vec().unwrap().len()).sum();
    assert!((90_000..=100_000 * 17 / 16).contains(&bytes), "{bytes}");
    let last = lines.last().unwrap().get_i32("_id").unwrap();
    assert_eq!(last, 499);
    assert_eq!(lines.first().unwrap().get_i32("_id").unwrap(), 500 - lines.len() as i32);
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        largest_file: Some(3 << 20),
        ..SqliteOptions::default()
    };
    let store: SharedStore = SqliteStore::open(folder.path().join("openhim.db"), options).unwrap();
    let insert = |id: i32| store.insert(Collection::Transactions, doc! {"_id": id, "body": "x".repeat(100_000)});
    store
        .insert(Collection::Tasks, doc! {"_id": 0, "status": "a"})
        .await
        .unwrap();
    let mut held = 0;
    let full = loop {
        match insert(held).await {
            Ok(()) => held += 1,
            Err(error) => break error,
        }
        assert!(held < 100);
    };
    assert!(matches!(full, StoreError::Full(_)), "{full:?}");
    assert!(full.is_temporary());
    assert!(held > 10);

    // A write that still fits gets through beside one that does not.
    let small = doc! {"$set": {"status": "b"}};
    let (large, small) = tokio::join!(insert(1000), store.update(Collection::Tasks, doc! {"_id": 0}, small));
    assert!(matches!(large, Err(StoreError::Full(_))), "{large:?}");
    assert_eq!(small.unwrap().modified, 1);
    assert_eq!(
        store.count(Collection::Transactions, doc! {}).await.unwrap(),
        held as u64
    );

    store.delete(Collection::Transactions, doc! {"_id": 1}).await.unwrap();
    insert(1001).await.unwrap();
}

#[tokio::test]
async fn two_processes_may_share_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openhim.db");
    let (one, other): (SharedStore, SharedStore) = (open(&path), open(&path));
    let mut writes = tokio::task::JoinSet::new();
    for id in 0..200 {
        let store = if id % 2 == 0 {
            Arc::clone(&one)
        } else {
            Arc::clone(&other)
        };
        writes.spawn(async move { store.insert(Collection::Tasks, doc! {"_id": id}).await });
    }
    for outcome in writes.join_all().await {
        outcome.unwrap();
    }
    assert_eq!(one.count(Collection::Tasks, doc! {}).await.unwrap(), 200);

    let before = one.version(Collection::Channels).await.unwrap();
    other
        .insert(Collection::Channels, doc! {"_id": 1, "name": "a"})
        .await
        .unwrap();
    assert_ne!(
        one.version(Collection::Channels).await.unwrap(),
        before,
        "the other process' change is seen"
    );
    let before = one.version(Collection::Channels).await.unwrap();
    other.insert(Collection::Tasks, doc! {"_id": 1000}).await.unwrap();
    assert_eq!(one.version(Collection::Channels).await.unwrap(), before);
    assert_eq!(one.version(Collection::Tasks).await.unwrap(), None);
}

#[test]
fn many_may_open_a_new_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..25 {
        let path = folder.path().join(format!("{round}.db"));
        let openers: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || SqliteStore::open(path, SqliteOptions::default()).map(drop))
            })
            .collect();
        for opener in openers {
            opener.join().unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn an_older_file_gets_the_columns_and_indexes_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openhim.db");
    let store: SharedStore = open(&path);
    for id in 0..2500 {
        let document = doc! {"_id": id, "status": if id % 2 == 0 { "Failed" } else { "Successful" }};
        store.insert(Collection::Transactions, document).await.unwrap();
    }
    store.close().await;
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "DROP INDEX \"transactions.status_1_request.timestamp_-1\";
             ALTER TABLE transactions DROP COLUMN status;
             CREATE INDEX \"transactions.stale\" ON transactions (\"request.method\");",
        )
        .unwrap();
    drop(connection);

    let store: SharedStore = open(&path);
    assert_eq!(
        store
            .count(Collection::Transactions, doc! {"status": "Failed"})
            .await
            .unwrap(),
        1250
    );
    let connection = rusqlite::Connection::open(&path).unwrap();
    let plan: String = connection
        .query_row(
            "EXPLAIN QUERY PLAN SELECT seq FROM transactions WHERE status = x'00'",
            [],
            |row| row.get(3),
        )
        .unwrap();
    assert!(plan.contains("transactions.status_1_request.timestamp_-1"), "{plan}");
    let stale: i64 = connection
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name = 'transactions.stale'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(stale, 0);
}

#[tokio::test]
async fn slow_readers_hold_neither_threads_nor_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        readers: 1,
        ..SqliteOptions::default()
    };
    let path = folder.path().join("openhim.db");
    let store: SharedStore = SqliteStore::open(&path, options).unwrap();
    let batch = (0..2000).map(|id| Write::Insert {
        into: Collection::Tasks,
        document: doc! {"_id": id, "x": "x".repeat(500)},
    });
    store.write(&batch.collect::<Vec<_>>()).await.unwrap();

    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut cursor = store.find(Collection::Tasks, Find::default()).await.unwrap();
        cursor.next().await.unwrap().unwrap();
        idle.push(cursor);
    }
    let answered = tokio::time::timeout(Duration::from_secs(5), store.one(Collection::Tasks, doc! {"_id": 7})).await;
    assert!(answered.unwrap().unwrap().is_some());
    let connection = rusqlite::Connection::open(&path).unwrap();
    let (busy, log, done): (i64, i64, i64) = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert_eq!((busy, log, done), (0, 0, 0), "no reader holds the log back");
    for mut cursor in idle {
        let mut rest = 0;
        while let Some(document) = cursor.next().await {
            document.unwrap();
            rest += 1;
        }
        assert_eq!(rest, 1999);
    }
}
