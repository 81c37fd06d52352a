//! The one thread that writes.
//!
//! It takes whatever waits in its queue, up to [`LARGEST_GROUP`] requests, into one transaction; a request is answered
//! when the commit that holds it is on disk. A write that fails alone (a duplicate key, say) leaves the others of its
//! group in place, because each document is written by a single statement,
//! or fails with its whole group.

use std::sync::Arc;
use std::thread;

use bson::{DateTime, Document};
use rusqlite::{Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::change::{self, Change};
use super::connection::Database;
use super::query::Query;
use super::readers::closed;
use super::{error, sweep};
use crate::clock::Clock;
use crate::store::query::Update;
use crate::store::{Result, StoreError, Written};

/// Requests in one transaction, at most.
const LARGEST_GROUP: usize = 256;
/// Requests that may wait in the queue before callers do.
const QUEUE: usize = 1024;

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Request {
    Write(Vec<Result<Change>>, oneshot::Sender<Result<Vec<Result<Written>>>>),
    FindAndUpdate(Box<FindAndUpdate>, oneshot::Sender<Result<Option<Document>>>),
    /// One piece of cleaning up; answers how many documents it removed.
    Sweep(Arc<sweep::Piece>, oneshot::Sender<Result<u64>>),
    /// Give some free pages back to the disk; answers whether there are more.
    Shrink(oneshot::Sender<Result<bool>>),
    /// Write everything into the file itself and end.
    Close(oneshot::Sender<()>),
}

/// Changes the first match and answers with it.
#[derive(Debug)]
pub(super) struct FindAndUpdate {
    pub(super) query: Query,
    pub(super) update: Update,
    pub(super) upsert: bool,
    pub(super) return_new: bool,
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub(super) struct Writer(mpsc::Sender<Request>);

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(super) fn start(database: Database, clock: Arc<dyn Clock>, log_bytes: Option<u64>) -> std::io::Result<Self> {
        let (sender, requests) = mpsc::channel(QUEUE);
        let thread = Thread {
            database,
            clock,
            log: sweep::LogCap::new(log_bytes),
        };
        thread::Builder::new()
            .name("store-write".into())
            .spawn(move || thread.serve(requests))?;
        Ok(Self(sender))
    }

    /// Hands a request over and waits for its answer.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(request(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }

    /// The same from a thread that may block.
    pub(super) fn ask_blocking<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0.blocking_send(request(reply)).map_err(|_| closed())?;
        answer.blocking_recv().map_err(|_| closed())
    }
}

struct Thread {
    database: Database,
    clock: Arc<dyn Clock>,
    log: sweep::LogCap,
}

/// An answer that is sent when the commit is done.
enum Answer {
    Write(Vec<Result<Written>>),
    Document(Result<Option<Document>>),
    Removed(u64),
    Shrunk(bool),
}

impl Request {
    /// Answers who asked; who does not wait any more is passed over.
    fn answer(self, outcome: Result<Answer>) {
        match (self, outcome) {
            (Self::Write(_, reply), Ok(Answer::Write(written))) => drop(reply.send(Ok(written))),
            (Self::Write(_, reply), Err(failure)) => drop(reply.send(Err(failure))),
            (Self::FindAndUpdate(_, reply), Ok(Answer::Document(document))) => drop(reply.send(document)),
            (Self::FindAndUpdate(_, reply), Err(failure)) => drop(reply.send(Err(failure))),
            (Self::Sweep(_, reply), Ok(Answer::Removed(count))) => drop(reply.send(Ok(count))),
            (Self::Sweep(_, reply), Err(failure)) => drop(reply.send(Err(failure))),
            (Self::Shrink(reply), Ok(Answer::Shrunk(has_more))) => drop(reply.send(Ok(has_more))),
            (Self::Shrink(reply), Err(failure)) => drop(reply.send(Err(failure))),
            _ => {}
        }
    }
}

impl Thread {
    fn serve(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut group = vec![first];
            while group.len() < LARGEST_GROUP
                && let Ok(request) = requests.try_recv()
            {
                group.push(request);
            }
            let closing = group.iter().position(|request| matches!(request, Request::Close(_)));
            let farewell = closing.map(|place| group.swap_remove(place));
            let has_shrunk = group.iter().any(|request| matches!(request, Request::Shrink(_)));
            self.commit(group);
            if has_shrunk {
                // The file itself gets shorter when the log is carried into it.
                let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
                let _ = self.database.connection.query_row(checkpoint, [], |_| Ok(()));
            }
            if let Some(Request::Close(reply)) = farewell {
                requests.close();
                let mut rest = Vec::new();
                while let Ok(request) = requests.try_recv() {
                    rest.push(request);
                }
                self.commit(rest);
                let _ = self
                    .database
                    .connection
                    .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
                drop(self.database);
                let _ = reply.send(());
                return;
            }
        }
    }

    /// Writes a group in one transaction and answers. If that fails as a whole, each request gets its own try.
    fn commit(&mut self, group: Vec<Request>) {
        match self.transact(&group) {
            Ok(answers) => {
                for (request, answer) in group.into_iter().zip(answers) {
                    request.answer(Ok(answer));
                }
            }
            Err(failure) if group.len() == 1 || matches!(failure, StoreError::Unavailable(_)) => {
                for request in group {
                    request.answer(Err(error::again(&failure)));
                }
            }
            Err(_) => {
                for request in group {
                    let alone = [request];
                    let outcome = self.transact(&alone).map(|mut answers| answers.pop());
                    let [request] = alone;
                    match outcome {
                        Ok(Some(answer)) => request.answer(Ok(answer)),
                        Ok(None) => request.answer(Err(closed())),
                        Err(failure) => request.answer(Err(failure)),
                    }
                }
            }
        }
    }

    fn transact(&mut self, group: &[Request]) -> Result<Vec<Answer>> {
        let Self { database, clock, log } = self;
        let transaction =
            Transaction::new_unchecked(&database.connection, TransactionBehavior::Immediate).map_err(sqlite)?;
        let now = DateTime::from_millis(clock.now());
        let mut answers = Vec::with_capacity(group.len());
        for request in group.iter() {
            answers.push(perform(database, log, request, now)?);
        }
        log.trim_when_due(database).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
        Ok(answers)
    }
}

fn perform(database: &Database, log: &mut sweep::LogCap, request: &Request, now: DateTime) -> Result<Answer> {
    match request {
        Request::Write(changes, _) => changes
            .iter()
            .map(|change| match change {
                Ok(change) => {
                    log.note(change);
                    own_failure(change.apply(database, now))
                }
                Err(refused) => Ok(Err(error::again(refused))),
            })
            .collect::<Result<_>>()
            .map(Answer::Write),
        Request::FindAndUpdate(ask, _) => {
            own_failure(change::find_and_update(database, ask, now)).map(Answer::Document)
        }
        Request::Sweep(piece, _) => piece.perform(database, now).map_err(sqlite).map(Answer::Removed),
        Request::Shrink(_) => sweep::shrink(database).map_err(sqlite).map(Answer::Shrunk),
        Request::Close(_) => Ok(Answer::Removed(0)),
    }
}

/// Tells a write's own failure, which the others of the group do not feel, from one of the database.
fn own_failure<T>(outcome: Result<T, change::Failure>) -> Result<Result<T>> {
    match outcome {
        Ok(done) => Ok(Ok(done)),
        Err(change::Failure::Own(failure)) => Ok(Err(failure)),
        Err(change::Failure::Database(failure)) => Err(error::of(&failure)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn sqlite(failure: rusqlite::Error) -> StoreError {
    error::of(&failure)
}
