//! The copy of the log in the store, which the console shows.
//!
//! Whoever writes the program's lines hands each of them over here as well ([`keep`]); a task stores them, many in one
//! write. Nobody ever waits for that: what waits is bounded, and lines for which there is no room are counted and left
//! out. The store keeps the collection within its size.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use tokio::sync::mpsc;

use crate::clock::Millis;
use crate::store::{Collection, SharedStore, Write};

/// Lines that may wait for the store.
const QUEUE: usize = 8192;
/// Lines stored in one write.
const BATCH: usize = 512;
/// How long lines gather before they are stored.
const LINGER: Duration = Duration::from_millis(200);
/// Bytes of a line's message that are kept.
const LONGEST: usize = 16 << 10;
/// Tries to store some lines before they are given up.
const TRIES: u32 = 8;

/// One line of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub at: Millis,
    /// `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
    pub message: String,
    /// What else was noted.
    pub meta: Vec<(String, String)>,
    /// `master`, or the instance: `worker1`, …
    pub label: String,
}

#[derive(Debug)]
struct Book {
    queue: mpsc::Sender<Line>,
    left_out: Arc<AtomicU64>,
}

/// Where lines go, if they go anywhere.
#[derive(Debug)]
struct Log(ArcSwapOption<Book>);

/// The program has one log, as it has one standard output; the node that runs in it gives it a place in its store.
static LOG: Log = Log(ArcSwapOption::const_empty());

/// True if lines are kept at all.
pub fn is_open() -> bool {
    LOG.0.load().is_some()
}

/// Keeps a line, if there is room; never waits.
pub fn keep(line: Line) {
    LOG.keep(line);
}

/// Lines are kept in this store from now on. The task stores them until [`close`], or until another store takes over.
pub fn open(store: SharedStore) -> impl Future<Output = ()> + Send {
    LOG.open(store)
}

/// No more lines are kept; the task ends when it has stored those that wait.
pub fn close() {
    LOG.0.store(None);
}

impl Log {
    fn keep(&self, mut line: Line) {
        let book = self.0.load();
        let Some(book) = book.as_ref() else { return };
        if line.message.len() > LONGEST {
            line.message.truncate(line.message.floor_char_boundary(LONGEST));
        }
        if book.queue.try_send(line).is_err() {
            book.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn open(&self, store: SharedStore) -> impl Future<Output = ()> + Send + use<> {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let left_out = Arc::<AtomicU64>::default();
        self.0.store(Some(Arc::new(Book {
            queue,
            left_out: Arc::clone(&left_out),
        })));
        store_all(inbox, store, left_out)
    }
}

async fn store_all(mut inbox: mpsc::Receiver<Line>, store: SharedStore, left_out: Arc<AtomicU64>) {
    let mut lines = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut lines, BATCH).await > 0 {
        if lines.len() < BATCH && !inbox.is_closed() {
            tokio::time::sleep(LINGER).await;
            while lines.len() < BATCH
                && let Ok(line) = inbox.try_recv()
            {
                lines.push(line);
            }
        }
        let missing = left_out.swap(0, Ordering::Relaxed);
        let at = lines.last().map_or(0, |line| line.at);
        let mut documents: Vec<Document> = lines.drain(..).map(document).collect();
        if missing > 0 {
            documents.push(document(Line {
                at,
                level: "warn",
                message: format!("{missing} lines of the log were not kept: there was no room"),
                meta: Vec::new(),
                label: "master".into(),
            }));
        }
        insert(&store, documents).await;
    }
}

/// What cannot be stored is still on standard output; nothing is logged here, because that would come back.
async fn insert(store: &SharedStore, documents: Vec<Document>) {
    for attempt in 0..TRIES {
        let inserts = documents.iter().map(|document| Write::Insert {
            into: Collection::Log,
            document: document.clone(),
        });
        match store.write(&inserts.collect::<Vec<_>>()).await {
            Err(error) if error.is_temporary() => tokio::time::sleep(LINGER * (1 << attempt)).await,
            _ => return,
        }
    }
}

fn document(line: Line) -> Document {
    let meta = match line.meta.is_empty() {
        true => Bson::Null,
        // Dots in names would be taken for steps of a path.
        false => line
            .meta
            .into_iter()
            .map(|(name, value)| (name.replace('.', "_"), Bson::from(value)))
            .collect::<Document>()
            .into(),
    };
    doc! {
        "_id": ObjectId::new(),
        "timestamp": DateTime::from_millis(line.at),
        "level": line.level,
        "message": line.message,
        "meta": meta,
        "label": line.label,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Find;
    use crate::store::sqlite::{SqliteOptions, SqliteStore};

    fn line(number: usize) -> Line {
        Line {
            at: 1_795_348_800_000 + number as i64,
            level: "info",
            message: format!("line {number}"),
            meta: Vec::new(),
            label: "master".into(),
        }
    }

    fn store(folder: &tempfile::TempDir, log_bytes: Option<u64>) -> SharedStore {
        let options = SqliteOptions {
            log_bytes,
            ..SqliteOptions::default()
        };
        SqliteStore::open(folder.path().join("t.db"), options).unwrap()
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_said_and_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder, None);
        let log = Log(ArcSwapOption::empty());
        log.keep(line(0));
        let storing = log.open(Arc::clone(&store));

        // Nobody stores yet: there is room for so many and no more, and no call waits.
        for number in 0..QUEUE + 100 {
            log.keep(line(number));
        }
        log.0.store(None);
        storing.await;

        let said = store
            .count(Collection::Log, doc! {"message": {"$regex": "^100 lines"}})
            .await
            .unwrap();
        assert_eq!(said, 1);
        let kept = store.count(Collection::Log, doc! {}).await.unwrap();
        assert_eq!(kept, QUEUE as u64 + 1);
    }

    #[tokio::test]
    async fn the_newest_lines_are_kept_within_the_cap() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder, Some(64 << 10));
        let log = Log(ArcSwapOption::empty());
        let storing = log.open(Arc::clone(&store));
        for number in 0..QUEUE - 1 {
            log.keep(line(number));
        }
        log.keep(Line {
            meta: vec![("http.port".into(), "5001".into())],
            ..line(9_999_999)
        });
        log.0.store(None);
        log.keep(line(1));
        storing.await;

        let newest = store
            .all(
                Collection::Log,
                Find::default().sorted(doc! {"timestamp": -1}).limited(1),
            )
            .await
            .unwrap();
        assert_eq!(newest[0].get_str("message").unwrap(), "line 9999999");
        assert_eq!(newest[0].get_document("meta").unwrap(), &doc! {"http_port": "5001"});
        let kept = store.count(Collection::Log, doc! {}).await.unwrap();
        assert!(kept < 1000, "{kept} lines of about 130 bytes are more than the cap");
    }
}
