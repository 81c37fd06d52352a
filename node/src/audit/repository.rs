//! Other systems' audit records on their way into the store.
//!
//! A listener hands in messages as they came; one task reads and stores them, many in one write. What waits is bounded
//! by bytes: a sender on a connection then waits, datagrams wait in the kernel's buffer. A store that is away is tried
//! again until it is back. Nothing here touches the road of messages.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{DateTime, Document};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{meta, parse};
use crate::clock::Clock;
use crate::store::{Collection, SharedStore, StoreError, Write};

/// Messages that may wait, and the KiB that they may have together.
const QUEUE: usize = 65_536;
const WAITING_KIB: usize = 64 << 10;
/// Messages stored in one write.
const BATCH: usize = 256;
/// Pauses before the store is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

struct Received {
    message: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Where listeners hand in what they received; a clone hands in to the same place.
#[derive(Clone, Debug)]
pub struct Intake {
    queue: mpsc::Sender<Received>,
    room: Arc<Semaphore>,
}

impl Intake {
    /// An intake, and the task that stores what comes in: to be driven on some runtime until all clones are gone.
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let intake = Self {
            queue,
            room: Arc::new(Semaphore::new(WAITING_KIB)),
        };
        (intake, store_all(inbox, store, clock))
    }

    /// Hands in one message; waits while too much is waiting already. `false` if nothing is stored any more.
    pub async fn take(&self, message: Bytes) -> bool {
        let kib = u32::try_from(message.len() / 1024 + 1).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room)
            .acquire_many_owned(kib.min(WAITING_KIB as u32))
            .await
        else {
            return false;
        };
        self.queue.send(Received { message, _room: room }).await.is_ok()
    }
}

async fn store_all(mut inbox: mpsc::Receiver<Received>, store: SharedStore, clock: Arc<dyn Clock>) {
    let mut messages = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut messages, BATCH).await > 0 {
        let now = clock.date();
        let records: Vec<Document> = messages
            .iter()
            .filter_map(|received| record(&received.message, now))
            .collect();
        keep(&store, records).await;
        messages.clear();
    }
}

/// The document of one message; what is not syslog is dropped, as OpenHIM does.
fn record(message: &Bytes, now: DateTime) -> Option<Document> {
    let text = String::from_utf8_lossy(message);
    let Some(mut record) = parse::parse(&text, now) else {
        tracing::info!("Invalid message received");
        return None;
    };
    record.insert("_id", ObjectId::new());
    record.insert("__v", 0);
    Some(record)
}

/// Stores records, however long the store is away.
async fn keep(store: &SharedStore, records: Vec<Document>) {
    let mut pause = RETRY.0;
    while let Err(error) = insert(store, &records).await {
        if !error.is_temporary() {
            tracing::error!(%error, records = records.len(), "Audit records could not be stored");
            return;
        }
        if pause == RETRY.0 {
            tracing::warn!(%error, "Audit records wait for the store");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
    // The console's filters; the next record with the same values brings what is missing now.
    if let Err(error) = meta::learn(&**store, &records).await {
        tracing::warn!(%error, "The filters of the audit trail could not be brought up to date");
    }
}

async fn insert(store: &SharedStore, records: &[Document]) -> Result<(), StoreError> {
    let inserts = records.iter().map(|record| Write::Insert {
        into: Collection::Audits,
        document: record.clone(),
    });
    for outcome in store.write(&inserts.collect::<Vec<_>>()).await? {
        match outcome {
            Ok(_) => {}
            // The first attempt of a write that is repeated.
            Err(error) if error.is_duplicate() => {}
            Err(error) if error.is_temporary() => return Err(error),
            Err(error) => tracing::error!(%error, "An audit record could not be stored"),
        }
    }
    Ok(())
}
