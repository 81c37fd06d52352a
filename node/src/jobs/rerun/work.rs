//! One task, from where it stands to its end.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use futures_util::StreamExt as _;
use futures_util::stream;
use sha2::Digest as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::jobs::JobError;
use crate::model::transaction::Status;
use crate::pipeline::Pipeline;
use crate::pipeline::rerun::{Rerun, RerunError};
use crate::record;
use crate::store::{Collection, SharedStore, StoreError, Write, Written};

/// Of a batch, this many are under way at the same time.
const CONCURRENT: usize = 64;
/// The holding of the lease under which a task is worked on: a holder that lost it changes nothing any more.
const OWNER: &str = "openhimOwner";
/// How long a rerun that another node has in its hands is waited for.
const PATIENCE: Duration = Duration::from_secs(90);
const GLANCE: Duration = Duration::from_millis(500);
/// A task of so many transactions is written whole so often that its batches do not wait for it. What a larger one has
/// done is written down every so often: whoever takes it over finds the rest by its reruns.
const SMALL: usize = 1000;
const SELDOM: Duration = Duration::from_secs(1);
/// How often it is seen whether a larger task is still wanted.
const STILL: Duration = Duration::from_millis(100);
/// Who makes the tasks of automatic retries.
const INTERNAL: &str = "internal";

/// A task that this node holds.
pub(super) struct Work<'a> {
    pub(super) store: &'a SharedStore,
    pub(super) clock: &'a dyn Clock,
    pub(super) pipeline: &'a Arc<Pipeline>,
    pub(super) owner: &'a str,
    pub(super) lost: CancellationToken,
    pub(super) stop: CancellationToken,
    pub(super) task: ObjectId,
}

/// One transaction of a task.
#[derive(Clone, Debug)]
struct Entry {
    at: usize,
    tid: String,
    state: State,
    /// The id of its rerun, whether it was sent or not.
    child: ObjectId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// It may have been sent.
    Begun,
    /// The mediator answers later.
    Pending,
    Done,
}

/// How far a task is.
#[derive(Debug, Default)]
struct Progress {
    /// What is before this place is not waiting any more.
    at: usize,
    /// What is done and not written down.
    notes: Document,
    /// When it was last written down, and seen that the task is still wanted.
    written: Option<Instant>,
    seen: Option<Instant>,
}

/// What is written into an entry.
#[derive(Debug)]
struct Note {
    tstatus: &'static str,
    rerun: Option<(ObjectId, Status)>,
    error: Option<String>,
}

impl Work<'_> {
    /// Works until the task is done, or somebody else decides about it.
    pub(super) async fn run(&self) -> Result<(), JobError> {
        let Some(task) = self.take().await? else { return Ok(()) };
        let mut entries = entries(&task);
        let is_internal = task.get_str("user").ok() == Some(INTERNAL);
        let size = crate::model::number::of_bson(task.get("batchSize").unwrap_or(&Bson::Null))
            .map_or(1, |size| size.max(1.0) as usize);
        tracing::info!(task.id = %self.task, transactions = entries.len(), "Processing rerun task {}", self.task);
        self.settle_begun(&mut entries).await?;
        let mut progress = Progress::default();
        loop {
            let batch: Vec<usize> = waiting(&entries[progress.at..]).take(size).collect();
            let Some(last) = batch.last() else {
                return self.finish(progress.notes, &entries).await;
            };
            progress.at = last + 1;
            if self.stop.is_cancelled() || !self.may_go_on(&mut progress, &entries, &batch).await? {
                self.note(progress.notes, &entries).await?;
                return self.leave(&entries).await;
            }
            self.send(&mut entries, &batch, is_internal, &mut progress.notes)
                .await?;
            if self.stop.is_cancelled() || self.lost.is_cancelled() {
                self.note(progress.notes, &entries).await?;
                return self.leave(&entries).await;
            }
        }
    }

    /// Writes down what is done and marks the next batch; of a large task seldom, because it is written whole. `false` if
    /// the task is not to go on.
    async fn may_go_on(&self, progress: &mut Progress, entries: &[Entry], batch: &[usize]) -> Result<bool, StoreError> {
        let now = Instant::now();
        let is_older = |at: Option<Instant>, than: Duration| at.is_none_or(|at| now.duration_since(at) >= than);
        if entries.len() <= SMALL || is_older(progress.written, SELDOM) {
            progress.written = Some(now);
            progress.seen = Some(now);
            return self.mark(std::mem::take(&mut progress.notes), entries, batch).await;
        }
        if is_older(progress.seen, STILL) {
            progress.seen = Some(now);
            let mine = doc! { "_id": self.task, OWNER: self.owner, "status": "Processing" };
            return Ok(self.store.count(Collection::Tasks, mine).await? == 1);
        }
        Ok(true)
    }

    /// Makes the task this node's; `None` if it is not to be worked on any more.
    async fn take(&self) -> Result<Option<Document>, StoreError> {
        let ask = crate::store::FindAndUpdate {
            filter: doc! { "_id": self.task, "status": { "$in": ["Queued", "Processing"] } },
            update: doc! { "$set": { "status": "Processing", OWNER: self.owner } },
            return_new: true,
            ..crate::store::FindAndUpdate::default()
        };
        self.store.find_and_update(Collection::Tasks, ask).await
    }

    /// Finds out what became of those that a node before this one may have sent.
    async fn settle_begun(&self, entries: &mut [Entry]) -> Result<(), JobError> {
        let mut notes = Document::new();
        for entry in entries.iter_mut().filter(|entry| entry.state == State::Begun) {
            match self.earlier(entry).await? {
                // It was marked and never recorded, so nothing of it was sent.
                None => entry.state = State::Waiting,
                Some(note) => {
                    tracing::warn!(
                        task.id = %self.task, tx.id = %entry.tid, status = note.tstatus,
                        "Transaction {} was being rerun when its node died; it is not sent again", entry.tid
                    );
                    entry.state = note.state();
                    note.write(entry.at, &mut notes);
                }
            }
        }
        if !notes.is_empty() {
            self.note(notes, entries).await?;
        }
        Ok(())
    }

    /// How an earlier try of this entry ended; `None` if nothing was sent.
    async fn earlier(&self, entry: &Entry) -> Result<Option<Note>, JobError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let by_id = doc! { "_id": entry.child };
            let Some(child) = self.store.one(Collection::Transactions, by_id).await? else {
                return Ok(None);
            };
            // Its node may be alive after all, or its death is not yet certain.
            let is_open = child.contains_key(record::OWNER);
            if is_open && (self.stop.is_cancelled() || self.lost.is_cancelled()) {
                return Err("it is for another node to find out how a rerun ended".into());
            }
            if is_open && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(GLANCE).await;
                continue;
            }
            if let Ok(parent) = ObjectId::parse_str(&entry.tid) {
                self.store.apply(record::link(parent, entry.child)).await?;
            }
            return Ok(Some(note_of_earlier(entry, &child, is_open)));
        }
    }

    /// Writes down what is done and marks the next batch; `false` if the task is not to go on.
    async fn mark(&self, notes: Document, entries: &[Entry], batch: &[usize]) -> Result<bool, StoreError> {
        let marks: Document = batch
            .iter()
            .map(|&at| (format!("transactions.{at}.tstatus"), Bson::from("Processing")))
            .collect();
        let mut writes = self.notes(notes, entries);
        writes.push(update(
            doc! { "_id": self.task, OWNER: self.owner, "status": "Processing" },
            doc! { "$set": marks },
        ));
        let outcome = self.store.write(&writes).await?.pop();
        Ok(outcome.transpose()?.is_some_and(|written| written.matched == 1))
    }

    async fn note(&self, notes: Document, entries: &[Entry]) -> Result<(), StoreError> {
        for outcome in self.store.write(&self.notes(notes, entries)).await? {
            outcome?;
        }
        Ok(())
    }

    /// What is done, whatever became of the task meanwhile.
    fn notes(&self, mut notes: Document, entries: &[Entry]) -> Vec<Write> {
        if notes.is_empty() {
            return vec![];
        }
        let left = waiting(entries).count();
        notes.insert("remainingTransactions", i32::try_from(left).unwrap_or(i32::MAX));
        vec![update(
            doc! { "_id": self.task, OWNER: self.owner },
            doc! { "$set": notes },
        )]
    }

    /// Sends a batch; adds to what is to be written down.
    async fn send(
        &self,
        entries: &mut [Entry],
        batch: &[usize],
        is_internal: bool,
        notes: &mut Document,
    ) -> Result<(), JobError> {
        let mut running: Vec<_> = Vec::with_capacity(batch.len());
        for &at in batch {
            let entry = entries[at].clone();
            running.push(async move { (at, self.rerun(&entry, is_internal).await) });
        }
        let mut ended = stream::iter(running).buffer_unordered(CONCURRENT);
        let mut failure = None;
        while let Some((at, outcome)) = ended.next().await {
            match outcome {
                Ok(note) => {
                    entries[at].state = note.state();
                    note.write(at, notes);
                }
                // Its mark stays: whoever goes on finds out whether it was sent.
                Err(error) => failure = Some(error),
            }
        }
        drop(ended);
        match failure {
            None => Ok(()),
            Some(error) => {
                self.note(std::mem::take(notes), entries).await?;
                Err(error)
            }
        }
    }

    async fn rerun(&self, entry: &Entry, is_internal: bool) -> Result<Note, JobError> {
        let tid = &entry.tid;
        let parent = match ObjectId::parse_str(tid) {
            Ok(id) => self.store.one(Collection::Transactions, doc! { "_id": id }).await?,
            Err(_) => None,
        };
        let Some(parent) = parent else {
            return Ok(Note::failed(format!("Error: Transaction {tid} could not be found")));
        };
        if !parent.get_bool("canRerun").unwrap_or(false) {
            return Ok(Note::failed(format!(
                "Error: Transaction {tid} {}",
                RerunError::NotEnough
            )));
        }
        if is_internal && !self.is_still_retried(&parent).await? {
            return Ok(Note::failed(format!(
                "Error: Transaction {tid} is not retried: its channel does not retry any more"
            )));
        }
        let mut pause = GLANCE;
        loop {
            let pipeline = Arc::clone(self.pipeline);
            match pipeline.rerun(&parent, entry.child, Some(self.task)).await {
                Ok(rerun) => return Ok(Note::of(entry.child, rerun)),
                Err(RerunError::Doubled) => {
                    let note = self.earlier(entry).await?;
                    return note.ok_or_else(|| "a rerun was there and is gone".into());
                }
                Err(error) if !error.is_temporary() => {
                    return Ok(Note::failed(format!("Error: Transaction {tid} {error}")));
                }
                Err(error) if self.stop.is_cancelled() || self.lost.is_cancelled() => return Err(Box::new(error)),
                Err(error) => {
                    tracing::warn!(tx.id = %tid, %error, "Transaction {tid} waits to be rerun");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
            }
        }
    }

    /// False once the channel, or its retrying, was switched off: then what was queued is let go.
    async fn is_still_retried(&self, parent: &Document) -> Result<bool, StoreError> {
        let channel = parent.get("channelID").cloned().unwrap_or(Bson::Null);
        let retrying = doc! { "_id": channel, "autoRetryEnabled": true, "status": { "$in": ["enabled", Bson::Null] } };
        Ok(self.store.count(Collection::Channels, retrying).await? > 0)
    }

    /// Nothing is left to be sent.
    async fn finish(&self, notes: Document, entries: &[Entry]) -> Result<(), JobError> {
        let is_pending = entries.iter().any(|entry| entry.state == State::Pending);
        let (status, date) = match is_pending {
            true => ("Pending Async", Bson::Null),
            false => ("Completed", Bson::DateTime(self.clock.date())),
        };
        let mut writes = self.notes(notes, entries);
        let end = doc! { "status": status, "completedDate": date, "remainingTransactions": 0 };
        writes.push(update(
            doc! { "_id": self.task, OWNER: self.owner, "status": "Processing" },
            doc! { "$set": end, "$unset": { OWNER: "" } },
        ));
        let outcomes: Vec<Written> = self.store.write(&writes).await?.into_iter().collect::<Result<_, _>>()?;
        if outcomes.last().is_some_and(|written| written.matched == 1) {
            tracing::info!(task.id = %self.task, status, "Rerun task {} is {status}", self.task);
            return Ok(());
        }
        self.leave(entries).await
    }

    /// The task was paused, cancelled or deleted, or this node stops: others may decide about it.
    async fn leave(&self, entries: &[Entry]) -> Result<(), JobError> {
        let filter = doc! { "_id": self.task, OWNER: self.owner };
        self.store
            .update(Collection::Tasks, filter, doc! { "$unset": { OWNER: "" } })
            .await?;
        let left = waiting(entries).count();
        tracing::info!(task.id = %self.task, left, "Rerun task {} is put down with {left} transactions to go", self.task);
        Ok(())
    }
}

impl Note {
    fn of(child: ObjectId, rerun: Rerun) -> Self {
        let tstatus = match rerun.answered {
            202 => "Processing",
            _ => "Completed",
        };
        Self {
            tstatus,
            rerun: Some((child, rerun.status)),
            error: None,
        }
    }

    fn failed(error: String) -> Self {
        Self {
            tstatus: "Failed",
            rerun: None,
            error: Some(error),
        }
    }

    fn state(&self) -> State {
        match self.tstatus {
            "Processing" => State::Pending,
            _ => State::Done,
        }
    }

    fn write(self, at: usize, into: &mut Document) {
        let mut put = |name: &str, value: Bson| into.insert(format!("transactions.{at}.{name}"), value);
        put("tstatus", self.tstatus.into());
        if let Some((child, status)) = self.rerun {
            put("rerunID", child.to_hex().into());
            put("rerunStatus", status.into());
        }
        if let Some(error) = self.error {
            put("error", error.into());
        }
    }
}

/// What is known of a rerun that was sent before this node held the task.
fn note_of_earlier(entry: &Entry, child: &Document, is_open: bool) -> Note {
    let status = child.get_str("status").ok().and_then(Status::named);
    let status = status.unwrap_or(Status::Failed);
    let has_response = child.get_document("response").is_ok();
    let is_in_doubt = is_open || (status == Status::Failed && !has_response);
    let error = is_in_doubt.then(|| {
        format!(
            "Error: The node that reran transaction {} died before its outcome was known; \
             transaction {} may have reached its destination and is not sent again",
            entry.tid, entry.child
        )
    });
    let tstatus = match status {
        _ if is_in_doubt => "Failed",
        Status::PendingAsync => "Processing",
        _ => "Completed",
    };
    Note {
        tstatus,
        rerun: Some((entry.child, status)),
        error,
    }
}

fn waiting(entries: &[Entry]) -> impl Iterator<Item = usize> {
    entries
        .iter()
        .filter(|entry| entry.state == State::Waiting)
        .map(|entry| entry.at)
}

fn update(filter: Document, update: Document) -> Write {
    Write::Update {
        of: Collection::Tasks,
        filter,
        update,
        many: false,
        upsert: false,
    }
}

fn entries(task: &Document) -> Vec<Entry> {
    let list = task.get_array("transactions").map_or(&[][..], Vec::as_slice);
    let made = task.get_datetime("created").map_or(0, |date| date.timestamp_millis());
    let id = task.get_object_id("_id").unwrap_or_default();
    let read = |(at, entry): (usize, &Bson)| {
        let empty = Document::new();
        let entry = entry.as_document().unwrap_or(&empty);
        let tid = entry.get_str("tid").unwrap_or_default().to_owned();
        Entry {
            state: state(entry),
            child: child_id(id, made, at, &tid),
            at,
            tid,
        }
    };
    list.iter().enumerate().map(read).collect()
}

fn state(entry: &Document) -> State {
    let is_known = entry.get_str("rerunID").is_ok_and(|id| !id.is_empty());
    match entry.get_str("tstatus") {
        Ok("Completed" | "Failed") => State::Done,
        Ok("Processing") if is_known => State::Pending,
        Ok("Processing") => State::Begun,
        // OpenHIM noted what it had sent before it noted that it was done.
        _ if is_known => State::Done,
        _ => State::Waiting,
    }
}

/// The id of the rerun at this place of a task: the same on every node. Its time is the task's.
fn child_id(task: ObjectId, made: i64, at: usize, tid: &str) -> ObjectId {
    let seconds = u32::try_from(made / 1000).unwrap_or_default();
    let mut digest = sha2::Sha256::new();
    digest.update(task.bytes());
    digest.update((at as u64).to_be_bytes());
    digest.update(tid);
    let digest = digest.finalize();
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&seconds.to_be_bytes());
    bytes[4..].copy_from_slice(&digest[..8]);
    ObjectId::from_bytes(bytes)
}

/// The ids that a task's reruns have or will have.
#[cfg(test)]
pub(super) fn children(task: &Document) -> Vec<ObjectId> {
    entries(task).into_iter().map(|entry| entry.child).collect()
}
