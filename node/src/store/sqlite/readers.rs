//! Threads that answer queries, each with a connection of its own.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use async_trait::async_trait;
use bson::RawDocumentBuf;
use tokio::sync::oneshot;

use super::connection::Database;
use super::error;
use super::query::{self, Helping, Query, Rest};
use crate::store::{Cursor, Result, Source, StoreError};

type Job = Box<dyn FnOnce(&Database) + Send>;

/// The threads' common queue.
#[derive(Debug)]
pub(super) struct Readers {
    /// None once the store is closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
}

impl Readers {
    /// Starts one thread for each connection.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(super) fn start(connections: Vec<Database>) -> std::io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for (number, database) in connections.into_iter().enumerate() {
            let jobs = Arc::clone(&jobs);
            thread::Builder::new()
                .name(format!("store-read-{number}"))
                .spawn(move || serve(&jobs, &database))?;
        }
        Ok(Self {
            jobs: Mutex::new(Some(sender)),
        })
    }

    /// Runs `job` on one of the threads. The job is told when nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Database, query::Abandoned<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |database| {
            if !reply.is_closed() {
                let result = job(database, &|| reply.is_closed());
                let _ = reply.send(result.map_err(|error| error::of(&error)));
            }
        });
        let queued = match &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(jobs) => jobs.send(job).is_ok(),
            None => false,
        };
        if !queued {
            return Err(closed());
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Lets the threads end once they have done what is queued.
    pub(super) fn close(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".into())
}

fn serve(jobs: &Mutex<mpsc::Receiver<Job>>, database: &Database) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(database),
            Err(mpsc::RecvError) => return,
        }
    }
}

/// Starts a query and hands out a cursor that fetches the rest when it is asked to.
pub(super) async fn find(readers: &Arc<Readers>, query: Query) -> Result<Cursor> {
    let query = Arc::new(query);
    let Helping { documents, rest } = readers
        .run(move |database, abandoned| query::start(database, query, abandoned))
        .await?;
    let source = rest.map(|rest| {
        Box::new(Pending {
            readers: Arc::clone(readers),
            rest: Some(rest),
        }) as Box<dyn Source>
    });
    Ok(Cursor::new(documents, source))
}

#[derive(Debug)]
struct Pending {
    readers: Arc<Readers>,
    rest: Option<Rest>,
}

#[async_trait]
impl Source for Pending {
    async fn more(&mut self) -> Result<Option<Vec<RawDocumentBuf>>> {
        let Some(rest) = self.rest.take() else {
            return Ok(None);
        };
        let Helping { documents, rest } = self
            .readers
            .run(move |database, abandoned| query::next(database, rest, abandoned))
            .await?;
        self.rest = rest;
        Ok(Some(documents))
    }
}
