//! Keeps the transaction log.
//!
//! The pipeline holds a [`Recorder`] and reports what happens to each message; the [`writer`] task gathers the reports of
//! many messages into one write, with the events and metrics that follow from them.
//!
//! A request is stored before it is routed ([`Recorder::open`]); its end is stored within moments after the client has
//! its answer, or before it if `store.durability` is `strict` ([`Ticket::close`]). A message that was opened is always
//! closed: a ticket that is dropped closes itself as failed. This module never reads tables and never decides what the
//! client is told.

pub mod capture;
mod courier;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::raw::{CStr, cstr};
use bson::{DateTime, Document, RawDocument, RawDocumentBuf, doc, rawdoc};
use tokio::sync::oneshot;

pub use self::courier::Courier;
pub use self::writer::Writer;
use self::writer::{Entry, Outcome, Queue, outcome_within};
use crate::clock::{Clock, Millis};
use crate::config::Durability;
use crate::events::Subject;
use crate::metrics::{Counter, Sample};
use crate::model::text::Text;
use crate::model::transaction::{Answer, ErrorPart, Opening, Status};
use crate::store::{Collection, SharedStore, StoreError, Write, decode};

/// How long a message waits for room in the queue, and then for the store, before it is refused.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a document occupies besides its bodies, roughly.
const OVERHEAD: usize = 2048;

/// Field of a transaction that is under way: the run of the node that has it in its hands. OpenHIM ignores it; it is
/// gone when the transaction is closed.
pub const OWNER: &CStr = cstr!("openhimNode");
/// The fields that a closed transaction no longer has.
const GONE: &[&str] = &["openhimNode"];

/// Why a message was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Too much waits for the store already.
    #[error("too many transactions wait for the store")]
    Full,
    /// The store did not answer in time. The transaction may still be stored; it is then closed as failed.
    #[error("the store did not answer in time")]
    Slow,
    #[error("the transaction could not be stored")]
    Store(#[source] StoreError),
}

/// Where messages are recorded.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    queue: Queue,
    clock: Arc<dyn Clock>,
    durability: Durability,
    /// This run of this node.
    owner: String,
}

impl Recorder {
    /// A recorder and the task that writes for it; `limit` is the bytes that may wait for the store, 0 for no limit.
    pub fn new(
        store: SharedStore,
        clock: Arc<dyn Clock>,
        durability: Durability,
        limit: usize,
        owner: String,
    ) -> (Self, Writer) {
        let (queue, writer) = Queue::new(limit, store);
        let inner = Inner {
            queue,
            clock,
            durability,
            owner,
        };
        (Self(Arc::new(inner)), writer)
    }

    /// The same for the messages of one instance, and the task that has to run there.
    pub fn at_home(&self) -> (Self, Courier) {
        let (queue, courier) = self.0.queue.with_courier();
        let inner = Inner {
            queue,
            ..Inner::clone(&self.0)
        };
        (Self(Arc::new(inner)), courier)
    }

    /// Records a request. When this resolves, the store holds it.
    ///
    /// # Errors
    /// The store did not take it; the message must not be routed.
    pub async fn open(&self, opening: Opening, subject: Subject, channel: &str) -> Result<Ticket, OpenError> {
        if !self.0.queue.admit(PATIENCE).await {
            return Err(OpenError::Full);
        }
        let mut ticket = Ticket {
            recorder: self.clone(),
            id: opening.id,
            channel: opening.channel,
            at: subject.at,
            is_closed: false,
        };
        let bytes = OVERHEAD + opening.request.body.as_ref().map_or(0, Text::len);
        let started = subject.channel_start(channel, self.0.clock.date());
        let mut document = opening.stored();
        drop(opening);
        document.append(OWNER, self.0.owner.as_str());
        let (waiter, outcome) = oneshot::channel();
        let entry = Entry {
            writes: vec![insert(Collection::Transactions, document)],
            bytes,
            waiter: Some(waiter),
            overtakes: true,
            home: None,
            sample: None,
        };
        if self.0.queue.push(entry).is_err() {
            ticket.is_closed = true;
            return Err(OpenError::Store(StoreError::Unavailable(
                "the writer has stopped".into(),
            )));
        }
        match outcome_within(PATIENCE, outcome).await {
            Some(Ok(())) => {
                ticket.push(vec![insert(Collection::Events, started)], 0, None, None);
                Ok(ticket)
            }
            Some(Err(error)) => {
                ticket.is_closed = true;
                Err(OpenError::Store(error))
            }
            // Dropping the ticket closes what may still be stored.
            None => Err(OpenError::Slow),
        }
    }

    /// Reports that `parent` was sent again as `child`; when this resolves, the store holds it and everything that was
    /// reported before it. Repeating it changes nothing.
    pub async fn link(&self, parent: ObjectId, child: ObjectId) {
        self.note(link(parent, child), child).await;
    }

    /// Notes in a task what became of one of its transactions: `fields` of its entry for `parent`.
    pub async fn note_in_task(&self, task: ObjectId, parent: ObjectId, child: ObjectId, fields: Document) {
        let fields = fields.into_iter();
        let set: Document = fields
            .map(|(name, value)| (format!("transactions.$.{name}"), value))
            .collect();
        let noted = Write::Update {
            of: Collection::Tasks,
            filter: doc! {"_id": task, "transactions.tid": parent.to_hex()},
            update: doc! {"$set": set},
            many: false,
            upsert: false,
        };
        self.note(noted, child).await;
    }

    async fn note(&self, write: Write, child: ObjectId) {
        let (waiter, outcome) = oneshot::channel();
        let entry = Entry {
            writes: vec![write],
            bytes: OVERHEAD,
            waiter: Some(waiter),
            home: None,
            overtakes: false,
            sample: None,
        };
        if self.0.queue.push(entry).is_err() {
            tracing::error!(tx.id = %child, "It could not be noted that {child} is a rerun: the writer has stopped");
        }
        settled(Some(outcome)).await;
    }

    /// True if a client's answer waits until it is stored.
    pub fn is_strict(&self) -> bool {
        self.0.durability == Durability::Strict
    }

    /// Bytes that wait for the store.
    pub fn waiting_bytes(&self) -> usize {
        self.0.queue.waiting_bytes()
    }
}

/// A message that is recorded and under way.
#[derive(Debug)]
#[must_use = "a ticket that is dropped closes its transaction as failed"]
pub struct Ticket {
    recorder: Recorder,
    id: ObjectId,
    channel: ObjectId,
    at: Millis,
    is_closed: bool,
}

/// How a message ended.
#[derive(Debug)]
pub struct Closing {
    /// What the primary route yielded, unless it was reported before.
    pub answer: Option<Answer>,
    /// Results of secondary routes that were not reported before.
    pub routes: Vec<RawDocumentBuf>,
    pub status: Status,
    /// Set if a route failed: whether the transaction is to be tried again.
    pub auto_retry: Option<bool>,
    /// When the response was complete; `None` if there is no time to count.
    pub answered_at: Option<Millis>,
    pub events: Vec<RawDocumentBuf>,
}

impl Ticket {
    /// The transaction's id.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Now, as the store writes it.
    pub fn now(&self) -> DateTime {
        self.recorder.0.clock.date()
    }

    /// Reports what the primary route yielded while secondary routes are still running; awaits the outcome if the
    /// answer has to.
    pub async fn answered(&self, answer: Answer, events: Vec<RawDocumentBuf>) {
        let set = answer.stored();
        drop(answer);
        let bytes = OVERHEAD + set.as_bytes().len();
        let mut writes = vec![self.set(set, &[])];
        writes.extend(events.into_iter().map(|event| insert(Collection::Events, event)));
        let (waiter, outcome) = self.waiter();
        self.push(writes, bytes, waiter, None);
        settled(outcome).await;
    }

    /// Reports the result of a secondary route.
    pub fn routed(&self, entry: &RawDocument) {
        let bytes = OVERHEAD + entry.as_bytes().len();
        let write = self.push_route(entry);
        self.push(vec![write], bytes, None, None);
    }

    /// Reports the end; awaits the outcome if the answer has to.
    pub async fn close(mut self, closing: Closing) {
        let (waiter, outcome) = self.waiter();
        self.finish(closing, waiter);
        settled(outcome).await;
    }

    fn waiter(&self) -> (Option<oneshot::Sender<Outcome>>, Option<oneshot::Receiver<Outcome>>) {
        if !self.recorder.is_strict() {
            return (None, None);
        }
        let (waiter, outcome) = oneshot::channel();
        (Some(waiter), Some(outcome))
    }

    fn finish(&mut self, mut closing: Closing, waiter: Option<oneshot::Sender<Outcome>>) {
        self.is_closed = true;
        let mut set = closing.answer.take().map(|answer| answer.stored()).unwrap_or_default();
        set.append(cstr!("status"), closing.status.name());
        if let Some(again) = closing.auto_retry {
            set.append(cstr!("autoRetry"), again);
        }
        let routes = closing.routes.iter().map(|entry| entry.as_bytes().len());
        let bytes = OVERHEAD + set.as_bytes().len() + routes.sum::<usize>();
        // The end comes first: its outcome is the one that a strict answer waits for.
        let mut writes = vec![self.set(set, GONE)];
        writes.extend(closing.routes.iter().map(|entry| self.push_route(entry)));
        if closing.auto_retry == Some(true) {
            writes.push(Write::Insert {
                into: Collection::AutoRetries,
                document: self.retry(),
            });
        }
        writes.extend(
            closing
                .events
                .into_iter()
                .map(|event| insert(Collection::Events, event)),
        );
        let sample = closing.answered_at.map(|answered| Sample {
            channel: self.channel,
            at: self.at,
            took: (answered - self.at).max(0),
            counter: Counter::of_status(closing.status.name()),
        });
        self.push(writes, bytes, waiter, sample);
    }

    fn retry(&self) -> Document {
        doc! {
            "_id": ObjectId::new(),
            "transactionID": self.id,
            "channelID": self.channel,
            "requestTimestamp": DateTime::from_millis(self.at),
            "__v": 0,
        }
    }

    fn set(&self, set: RawDocumentBuf, unset: &'static [&'static str]) -> Write {
        Write::Set {
            of: Collection::Transactions,
            id: self.id,
            set: Arc::new(set),
            unset,
        }
    }

    /// A result is added once, also if the write is repeated.
    fn push_route(&self, entry: &RawDocument) -> Write {
        let mut filter = doc! {"_id": self.id};
        if let Ok(id) = entry.get_object_id("_id") {
            filter.insert("routes._id", doc! {"$ne": id});
        }
        Write::Update {
            of: Collection::Transactions,
            filter,
            update: doc! {"$push": {"routes": decode(entry).unwrap_or_default()}},
            many: false,
            upsert: false,
        }
    }

    fn push(&self, writes: Vec<Write>, bytes: usize, waiter: Option<oneshot::Sender<Outcome>>, sample: Option<Sample>) {
        let entry = Entry {
            writes,
            bytes,
            waiter,
            overtakes: false,
            home: None,
            sample,
        };
        if self.recorder.0.queue.push(entry).is_err() {
            tracing::error!(tx.id = %self.id, "Transaction {} could not be recorded: the writer has stopped", self.id);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_closed {
            return;
        }
        let error = ErrorPart {
            message: "the transaction was given up before it was answered".into(),
            stack: "Error: the transaction was given up before it was answered".into(),
        };
        let set = rawdoc! {"status": Status::Failed.name(), "error": error.stored()};
        self.push(vec![self.set(set, GONE)], OVERHEAD, None, None);
    }
}

/// The writer never gives up on what it has taken; a client may.
async fn settled(outcome: Option<oneshot::Receiver<Outcome>>) {
    if let Some(outcome) = outcome {
        let _ = outcome.await;
    }
}

/// What makes `child` a rerun of `parent` in the parent's document.
pub fn link(parent: ObjectId, child: ObjectId) -> Write {
    Write::Update {
        of: Collection::Transactions,
        filter: doc! {"_id": parent},
        update: doc! {"$addToSet": {"childIDs": child}, "$set": {"wasRerun": true}},
        many: false,
        upsert: false,
    }
}

fn insert(into: Collection, document: RawDocumentBuf) -> Write {
    Write::InsertRaw {
        into,
        document: Arc::new(document),
    }
}

#[cfg(test)]
mod tests;
