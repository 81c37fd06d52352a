//! The writer: gathers what many messages report into one write, then tells those who wait.
//!
//! It is the only task that writes transactions of the data path, so that the reports of one message are stored in the
//! order in which they were made. While one batch is on its way the next one gathers: the busier the node, the fewer
//! commits a message costs. A store that is away is tried again until it is back; nothing that was taken is dropped,
//! and what may wait is bounded by bytes, at the door ([`Queue::admit`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bson::RawDocumentBuf;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, info, warn};

use super::courier::{Courier, Home, Told};
use crate::metrics::{self, Sample};
use crate::store::{SharedStore, StoreError, Write, Written, decode};

/// Reports at which a batch is full; those that came together with its last one still belong to it.
const BATCH_ENTRIES: usize = 256;
/// Bytes at which a batch is full.
const BATCH_BYTES: usize = 16 << 20;
/// How long a report that nobody waits for may wait for company: the more of them share a commit, the less each costs.
const LINGER: Duration = Duration::from_millis(25);
/// Pause before the first and before each later attempt to reach a store that is away.
const RETRY: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

/// What became of a report.
pub(super) type Outcome = Result<(), StoreError>;

/// One report of one message: writes that belong together, in order.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) writes: Vec<Write>,
    /// What the report occupies in memory, roughly.
    pub(super) bytes: usize,
    /// Where the outcome of the first write goes. A report that somebody waits for is written at once.
    pub(super) waiter: Option<oneshot::Sender<Outcome>>,
    /// Who passes the outcome on to the waiter.
    pub(super) home: Option<Home>,
    /// The first report of its message: it does not wait for the reports of others that came before it.
    pub(super) overtakes: bool,
    /// Counted together with those of the whole batch.
    pub(super) sample: Option<Sample>,
}

/// Reports that travel together.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) entries: Vec<Entry>,
    /// Who passes their outcomes on; `None`: each is told at once.
    pub(super) home: Option<Home>,
}

/// The door to the writer.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    sender: mpsc::UnboundedSender<Parcel>,
    /// Where the reports of an instance are gathered.
    courier: Option<mpsc::UnboundedSender<Entry>>,
    waiting: Arc<Waiting>,
}

/// Bytes that wait for the store.
#[derive(Debug)]
struct Waiting {
    bytes: AtomicUsize,
    limit: usize,
    room: Notify,
}

impl Waiting {
    fn has_room(&self) -> bool {
        self.limit == 0 || self.bytes.load(Ordering::Acquire) < self.limit
    }

    fn release(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if self.limit != 0 && before >= self.limit {
            self.room.notify_waiters();
        }
    }
}

impl Queue {
    /// The door and the writer behind it; `limit` in bytes, 0 means none.
    pub(super) fn new(limit: usize, store: SharedStore) -> (Self, Writer) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting {
            bytes: AtomicUsize::new(0),
            limit,
            room: Notify::new(),
        });
        let writer = Writer {
            store,
            receiver,
            waiting: Arc::clone(&waiting),
        };
        let door = Self {
            sender,
            courier: None,
            waiting,
        };
        (door, writer)
    }

    /// The same door with a courier of its own.
    pub(super) fn with_courier(&self) -> (Self, Courier) {
        let (reports, courier) = Courier::new(self.sender.clone());
        let door = Self {
            courier: Some(reports),
            ..self.clone()
        };
        (door, courier)
    }

    /// Waits until a new message may report; `false` if there was no room for `patience`.
    pub(super) async fn admit(&self, patience: Duration) -> bool {
        if self.waiting.has_room() {
            return true;
        }
        let deadline = Instant::now() + patience;
        loop {
            let room = self.waiting.room.notified();
            if self.waiting.has_room() {
                return true;
            }
            if timeout_at(deadline, room).await.is_err() {
                return self.waiting.has_room();
            }
        }
    }

    /// Hands a report over. The end of a message is always taken: it lets go of more than it brings.
    ///
    /// # Errors
    /// The writer has stopped; the report is given back.
    pub(super) fn push(&self, entry: Entry) -> Result<(), Entry> {
        let bytes = entry.bytes;
        self.waiting.bytes.fetch_add(bytes, Ordering::AcqRel);
        let entry = match &self.courier {
            // One that is gone has handed over all it had.
            Some(courier) => match courier.send(entry) {
                Ok(()) => return Ok(()),
                Err(refused) => refused.0,
            },
            None => entry,
        };
        let parcel = Parcel {
            entries: vec![entry],
            home: None,
        };
        self.sender.send(parcel).map_err(|mut refused| {
            self.waiting.release(bytes);
            refused.0.entries.pop().unwrap_or_default()
        })
    }

    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.bytes.load(Ordering::Acquire)
    }
}

/// The task behind the door. It ends when every [`Queue`] is gone and everything taken is stored.
#[derive(Debug)]
pub struct Writer {
    store: SharedStore,
    receiver: mpsc::UnboundedReceiver<Parcel>,
    waiting: Arc<Waiting>,
}

impl Writer {
    pub const NAME: &'static str = "transaction writer";

    /// Writes until there is nobody left who could report.
    pub async fn run(mut self) {
        let mut pending = Pending::default();
        let mut arrived = Vec::with_capacity(BATCH_ENTRIES);
        loop {
            let is_over = match pending.due {
                None => self.receiver.recv_many(&mut arrived, BATCH_ENTRIES).await == 0,
                // Nothing came in time: what waits is due.
                Some(due) => timeout_at(due, self.receiver.recv_many(&mut arrived, BATCH_ENTRIES)).await == Ok(0),
            };
            pending.take(&mut arrived);
            let entries = pending.give(is_over);
            if !entries.is_empty() {
                let bytes = entries.iter().map(|entry| entry.bytes).sum();
                self.write(entries).await;
                self.waiting.release(bytes);
            }
            if is_over {
                return;
            }
        }
    }

    async fn write(&self, entries: Vec<Entry>) {
        let mut batch = Vec::with_capacity(entries.len() * 4);
        let mut waiters = Vec::with_capacity(entries.len());
        let mut samples = Vec::with_capacity(entries.len());
        for mut entry in entries {
            if let Some(waiter) = entry.waiter {
                waiters.push((batch.len(), waiter, entry.home));
            }
            samples.extend(entry.sample);
            batch.append(&mut entry.writes);
        }
        batch.extend(metrics::upserts(&samples));
        let mut outcomes = self.persist(batch).await;
        let mut posts: Vec<(Home, Vec<Told>)> = Vec::new();
        for (at, waiter, home) in waiters {
            let outcome = match outcomes.get_mut(at) {
                Some(outcome) => std::mem::replace(outcome, Ok(Written::default())).map(drop),
                None => Err(StoreError::Other("the store answered less than it was asked".into())),
            };
            let Some(home) = home else {
                // Whoever waited may have given up; what it reported is stored all the same.
                let _ = waiter.send(outcome);
                continue;
            };
            match posts.iter_mut().find(|(other, _)| other.same_channel(&home)) {
                Some((_, told)) => told.push((waiter, outcome)),
                None => posts.push((home, vec![(waiter, outcome)])),
            }
        }
        for (home, told) in posts {
            // An instance that is gone waits for nothing.
            let _ = home.send(told);
        }
    }

    /// Writes a batch however long the store is away. What was written is not written again.
    async fn persist(&self, batch: Vec<Write>) -> Vec<Result<Written, StoreError>> {
        let mut outcomes: Vec<Option<Result<Written, StoreError>>> = batch.iter().map(|_| None).collect();
        let mut places: Vec<usize> = (0..batch.len()).collect();
        let mut rest = batch;
        let mut pause = RETRY.0;
        let mut is_repeated = false;
        while !rest.is_empty() {
            let (mut answers, mut failure) = match self.store.write(&rest).await {
                Ok(answers) => (answers, None),
                Err(error) if error.is_temporary() => (vec![], Some(error)),
                Err(error) => {
                    warn!(%error, batch.writes = rest.len(), "The store refused a batch; trying its writes one by one");
                    (self.persist_singly(&rest).await, None)
                }
            };
            if is_repeated {
                forgive_own_duplicates(&rest, &mut answers);
            }
            self.settle_failures(&rest, &mut answers).await;
            answers.resize_with(rest.len(), || Err(StoreError::Unavailable(String::new())));
            let (mut later, mut later_places) = (Vec::new(), Vec::new());
            for ((write, place), answer) in rest.into_iter().zip(places).zip(answers) {
                match answer {
                    Err(error) if error.is_temporary() => {
                        failure.get_or_insert(error);
                        later.push(write);
                        later_places.push(place);
                    }
                    answer => outcomes[place] = Some(answer),
                }
            }
            (rest, places) = (later, later_places);
            match failure {
                Some(error) => {
                    if !is_repeated {
                        warn!(%error, batch.writes = rest.len(), "The store does not take transactions; they wait");
                    }
                    is_repeated = true;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
                None if is_repeated => info!("The store is back"),
                None => {}
            }
        }
        let lost = || Err(StoreError::Other("the store answered less than it was asked".into()));
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(lost))
            .collect()
    }

    /// One bad write must not take the others of its batch with it.
    async fn persist_singly(&self, batch: &[Write]) -> Vec<Result<Written, StoreError>> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for write in batch {
            outcomes.push(self.persist_one(write).await);
        }
        forgive_own_duplicates(batch, &mut outcomes);
        outcomes
    }

    async fn persist_one(&self, write: &Write) -> Result<Written, StoreError> {
        let mut pause = RETRY.0;
        loop {
            match self.store.apply(write.clone()).await {
                Err(error) if error.is_temporary() => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
                outcome => return outcome,
            }
        }
    }

    /// What the store finds too large is stored without what made it so: a message must reach its final status.
    async fn settle_failures(&self, batch: &[Write], outcomes: &mut [Result<Written, StoreError>]) {
        for (write, outcome) in batch.iter().zip(outcomes) {
            let Err(error) = outcome else { continue };
            if error.is_temporary() {
                continue;
            }
            error!(%error, collection = collection(write), "A part of a transaction could not be stored");
            if matches!(error, StoreError::TooLarge)
                && let Some(slim) = slimmed(write)
            {
                *outcome = self.persist_one(&slim).await;
            }
        }
    }
}

/// Reports that were taken and are not written yet.
#[derive(Default)]
struct Pending {
    /// First reports of messages, to be written at once.
    first: Vec<Entry>,
    /// All others, in the order in which they were made.
    later: Vec<Entry>,
    bytes: usize,
    /// Somebody waits for one of `later`.
    is_awaited: bool,
    /// When `later` is to be written whatever comes.
    due: Option<Instant>,
}

impl Pending {
    fn take(&mut self, arrived: &mut Vec<Parcel>) {
        let entries = arrived.drain(..).flat_map(|parcel| {
            let home = parcel.home;
            parcel.entries.into_iter().map(move |mut entry| {
                entry.home = home.clone().filter(|_| entry.waiter.is_some());
                entry
            })
        });
        for entry in entries {
            if entry.overtakes {
                self.first.push(entry);
                continue;
            }
            self.bytes += entry.bytes;
            self.is_awaited |= entry.waiter.is_some();
            self.due.get_or_insert_with(|| Instant::now() + LINGER);
            self.later.push(entry);
        }
    }

    /// What is to be written now.
    fn give(&mut self, everything: bool) -> Vec<Entry> {
        let mut batch = std::mem::take(&mut self.first);
        let is_due = self.is_awaited
            || self.later.len() >= BATCH_ENTRIES
            || self.bytes >= BATCH_BYTES
            || self.due.is_some_and(|due| due <= Instant::now());
        if everything || is_due {
            batch.append(&mut self.later);
            (self.bytes, self.is_awaited, self.due) = (0, false, None);
        }
        batch
    }
}

/// A batch that is written again after an unclear answer finds what the first attempt had stored.
fn forgive_own_duplicates(batch: &[Write], outcomes: &mut [Result<Written, StoreError>]) {
    for (write, outcome) in batch.iter().zip(outcomes) {
        let is_ours = matches!(write, Write::Insert { .. } | Write::InsertRaw { .. });
        if is_ours && outcome.as_ref().is_err_and(StoreError::is_duplicate) {
            *outcome = Ok(Written {
                modified: 1,
                ..Written::default()
            });
        }
    }
}

/// The same report without bodies, headers and what mediators added.
fn slimmed(write: &Write) -> Option<Write> {
    match write {
        Write::Set { of, id, set, unset } => {
            let mut set = decode(set).ok()?;
            for heavy in ["orchestrations", "properties", "routes"] {
                set.remove(heavy);
            }
            if let Ok(response) = set.get_document_mut("response") {
                response.remove("headers");
                response.insert("body", "");
            }
            Some(Write::Set {
                of: *of,
                id: *id,
                set: Arc::new(RawDocumentBuf::try_from(&set).ok()?),
                unset,
            })
        }
        _ => None,
    }
}

fn collection(write: &Write) -> &'static str {
    match write {
        Write::Insert { into: of, .. }
        | Write::InsertRaw { into: of, .. }
        | Write::Set { of, .. }
        | Write::Update { of, .. }
        | Write::Replace { of, .. }
        | Write::Delete { from: of, .. } => of.name(),
    }
}

/// Waits for an outcome, but not for ever.
pub(super) async fn outcome_within(patience: Duration, receiver: oneshot::Receiver<Outcome>) -> Option<Outcome> {
    match timeout(patience, receiver).await {
        Ok(Ok(outcome)) => Some(outcome),
        Ok(Err(_)) => Some(Err(StoreError::Unavailable("the writer has stopped".into()))),
        Err(_) => None,
    }
}
