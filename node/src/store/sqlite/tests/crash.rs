//! A process that is killed while it writes: whatever it was told is stored must be there.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};

use bson::doc;

use super::*;

const PATH: &str = "OPENHIM_TEST_CRASH_PATH";
const ROUND: &str = "OPENHIM_TEST_CRASH_ROUND";

/// Not a test of its own: the process that is killed.
#[test]
#[ignore = "started by the test below"]
fn write_until_killed() {
    let (Ok(path), Ok(round)) = (std::env::var(PATH), std::env::var(ROUND)) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store: SharedStore = open(Path::new(&path));
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..16 {
            writers.spawn(write(Arc::clone(&store), format!("{round}-{writer}")));
        }
        writers.join_all().await;
    });
}

async fn write(store: SharedStore, name: String) {
    for number in 0.. {
        let id = format!("{name}-{number}");
        let document = doc! {"_id": &id, "status": "Processing", "request": {"body": "x".repeat(3000)}};
        store.insert(Collection::Transactions, document).await.unwrap();
        say(&format!("inserted {id}"));
        let change = doc! {"$set": {"status": "Successful"}};
        store
            .update(Collection::Transactions, doc! {"_id": &id}, change)
            .await
            .unwrap();
        say(&format!("updated {id}"));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

#[tokio::test]
async fn every_acknowledged_write_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openhim.db");
    let (mut inserted, mut updated) = (HashSet::new(), HashSet::new());
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::sqlite::tests::crash::write_until_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(PATH, &path)
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut acknowledged = 0;
        // The last line may be cut off by the kill.
        for line in BufReader::new(child.stdout.take().unwrap())
            .split(b'\n')
            .map(Result::unwrap)
        {
            let line = String::from_utf8_lossy(&line).into_owned();
            match line.split_once(' ') {
                Some(("inserted", id)) if id.split('-').count() == 3 => drop(inserted.insert(id.to_owned())),
                Some(("updated", id)) => drop(updated.insert(id.to_owned())),
                _ => continue,
            }
            acknowledged += 1;
            if acknowledged == 400 + round * 333 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged >= 400, "{acknowledged}");

        let store: SharedStore = open(&path);
        let stored = store.all(Collection::Transactions, Find::default()).await.unwrap();
        let done = |document: &Document| document.get_str("status").is_ok_and(|status| status == "Successful");
        let ids = |wanted: &dyn Fn(&Document) -> bool| -> HashSet<String> {
            let ids = stored.iter().filter(|document| wanted(document));
            ids.map(|document| document.get_str("_id").unwrap().to_owned())
                .collect()
        };
        let missing: Vec<&String> = inserted
            .iter()
            .filter(|id| !ids(&|_| true).contains(*id))
            .take(5)
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        let all_done = ids(&done);
        let behind: Vec<&String> = updated
            .iter()
            .filter(|id| id.split('-').count() == 3 && !all_done.contains(*id))
            .take(5)
            .collect();
        assert!(behind.is_empty(), "{behind:?}");
        let found = store
            .count(Collection::Transactions, doc! {"status": "Successful"})
            .await
            .unwrap();
        assert_eq!(found, all_done.len() as u64, "indexes agree with documents");
        store.close().await;
        let connection = rusqlite::Connection::open(&path).unwrap();
        let verdict: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(verdict, "ok");
    }
}
