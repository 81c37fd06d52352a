//! Work beside the requests: named jobs, each with a schedule, each run by one node at a time.
//!
//! A [`Supervisor`] on every node looks at the jobs that should exist (which the tables and the settings say) and at
//! what the store knows of them, and runs those that are due under a [`lease`]. What ran, when and how it ended stays in
//! OpenHIM's own collection of jobs. Jobs write tasks and documents; they never call the router's insides.

pub mod alerts;
pub mod auto_retry;
pub mod body_cull;
pub mod lease;
pub mod outbox;
pub mod polling;
pub mod reports;
pub mod rerun;
pub mod retention;
pub mod schedule;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Millis};
use crate::metrics::prometheus::Prometheus;
use crate::store::{Collection, Find, SharedStore, StoreError, Write};
use lease::{Lease, Leases};
use schedule::Schedule;

/// How often the supervisor looks for due jobs.
const TICK: Duration = Duration::from_millis(500);

/// How often it reads what other nodes did.
const REFRESH: Duration = Duration::from_secs(5);

/// A due time that is out of reach is left alone so long at most: another node, whose clock is ahead, may have set it.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What a job reports when it could not do its work.
pub type JobError = Box<dyn std::error::Error + Send + Sync>;

/// One kind of work.
#[async_trait]
pub trait Job: Send + Sync + std::fmt::Debug {
    /// The name in the store, OpenHIM's where OpenHIM has the job.
    fn name(&self) -> &str;

    /// The schedule as it was written: words or cron.
    fn interval(&self) -> &str;

    /// Does the work once. What it returns is handed to the next run as [`Run::data`]. The future is dropped when the
    /// lease is lost or the node stops, so every step must leave the store in a state from which the next run goes on.
    async fn run(&self, run: Run) -> Result<Document, JobError>;
}

/// What a job knows about the run it is in.
#[derive(Clone, Debug)]
pub struct Run {
    /// When this run began.
    pub started: Millis,
    /// When the run before it began.
    pub previous: Option<Millis>,
    /// What the run before it returned.
    pub data: Document,
}

/// The jobs that should exist at this moment.
pub type Wanted = dyn Fn() -> Vec<Arc<dyn Job>> + Send + Sync;

/// Runs the jobs that are due.
pub struct Supervisor {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    leases: Leases,
    wanted: Box<Wanted>,
    prometheus: Arc<Prometheus>,
    patience: Duration,
    running: TaskTracker,
    busy: Arc<std::sync::Mutex<std::collections::HashSet<String>>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Supervisor")
            .field("leases", &self.leases)
            .finish_non_exhaustive()
    }
}

/// What the store knows of a job.
#[derive(Clone, Debug)]
struct Known {
    id: ObjectId,
    interval: String,
    next: Millis,
    last: Option<Millis>,
    data: Document,
    /// Since when it has been due at this time, as far as this node has seen.
    seen: Instant,
}

impl Supervisor {
    /// For the jobs that `wanted` names, asked again and again.
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>, leases: Leases, wanted: Box<Wanted>) -> Self {
        Self {
            store,
            clock,
            leases,
            wanted,
            prometheus: Arc::default(),
            patience: PATIENCE,
            running: TaskTracker::new(),
            busy: Arc::default(),
        }
    }

    /// Counts runs there.
    #[must_use]
    pub fn counting(mut self, prometheus: Arc<Prometheus>) -> Self {
        self.prometheus = prometheus;
        self
    }

    /// Works until told to stop, then waits for the jobs to notice.
    pub async fn serve(self: Arc<Self>, stop: CancellationToken) {
        let mut known: HashMap<String, Known> = HashMap::new();
        let mut refreshed: Option<Instant> = None;
        loop {
            let is_stale = refreshed.is_none_or(|at| at.elapsed() >= REFRESH);
            if is_stale {
                match self.read().await {
                    Ok(read) => known = Known::still(read, &known),
                    Err(error) => tracing::warn!(error = %error, "The jobs' state could not be read"),
                }
                refreshed = Some(Instant::now());
            }
            let wanted = (self.wanted)();
            if is_stale {
                self.forget_polls(&mut known, &wanted).await;
            }
            for job in wanted {
                if let Err(error) = self.consider(&job, &mut known, &stop).await {
                    tracing::warn!(job.name = job.name(), error = %error, "Job {} could not be looked at", job.name());
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(TICK) => {}
            }
        }
        self.running.close();
        self.running.wait().await;
    }

    /// Removes what is known of polls that nobody wants any more.
    async fn forget_polls(&self, known: &mut HashMap<String, Known>, wanted: &[Arc<dyn Job>]) {
        let is_wanted = |name: &str| wanted.iter().any(|job| job.name() == name);
        let unwanted: Vec<_> = known
            .keys()
            .filter(|name| name.starts_with(polling::PREFIX) && !is_wanted(name))
            .cloned()
            .collect();
        if unwanted.is_empty() {
            return;
        }
        let filter = doc! { "name": { "$in": &unwanted } };
        match self.store.delete(Collection::AgendaJobs, filter).await {
            Ok(_) => known.retain(|name, _| !unwanted.contains(name)),
            Err(error) => tracing::debug!(%error, "The polls of former channels could not be removed"),
        }
    }

    async fn read(&self) -> Result<HashMap<String, Known>, StoreError> {
        let documents = self.store.all(Collection::AgendaJobs, Find::default()).await?;
        Ok(documents
            .iter()
            .filter_map(|document| Some((document.get_str("name").ok()?.to_owned(), Known::read(document)?)))
            .collect())
    }

    async fn consider(
        self: &Arc<Self>,
        job: &Arc<dyn Job>,
        known: &mut HashMap<String, Known>,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let Ok(schedule) = Schedule::parse(job.interval()) else {
            return Ok(());
        };
        if self.is_busy(job.name()) {
            return Ok(());
        }
        let now = self.clock.now();
        let state = match known
            .remove(job.name())
            .filter(|state| state.interval == job.interval())
        {
            Some(state) => state,
            None => self.look_up(job.as_ref(), &schedule).await?,
        };
        if state.next > now {
            let state = self.put_right(job.name(), state, &schedule, now).await?;
            known.insert(job.name().to_owned(), state);
            return Ok(());
        }
        self.mark_busy(job.name());
        let (supervisor, job, stop) = (Arc::clone(self), Arc::clone(job), stop.clone());
        self.running.spawn(async move {
            if let Err(error) = supervisor.attempt(&job, &schedule, stop).await {
                tracing::warn!(job.name = job.name(), error = %error, "Job {} could not be run", job.name());
            }
            supervisor.mark_idle(job.name());
        });
        Ok(())
    }

    /// Brings a due time that is out of reach, because the clock has been put back, to where the schedule has it. It is
    /// not due at once: the run that it belongs to has been.
    async fn put_right(&self, name: &str, state: Known, schedule: &Schedule, now: Millis) -> Result<Known, StoreError> {
        let patience = self.patience.min(2 * schedule.step(now));
        if schedule.reaches(state.next, now) || state.seen.elapsed() < patience {
            return Ok(state);
        }
        let next = schedule.next(now, now);
        let as_it_was = doc! { "_id": state.id, "nextRunAt": date(state.next) };
        let put_right = doc! { "$set": { "nextRunAt": date(next) } };
        self.store.update(Collection::AgendaJobs, as_it_was, put_right).await?;
        tracing::warn!(
            job.name = name,
            "Job {name} was due far ahead, at {}: the clock has been put back; it is due at {} now",
            date(state.next),
            date(next)
        );
        Ok(Known {
            next,
            seen: Instant::now(),
            ..state
        })
    }

    /// What the store knows of the job, after making it known or noting its new schedule.
    async fn look_up(&self, job: &dyn Job, schedule: &Schedule) -> Result<Known, StoreError> {
        let found = self
            .store
            .one(Collection::AgendaJobs, doc! { "name": job.name() })
            .await?;
        match found.as_ref().and_then(Known::read) {
            Some(state) if state.interval == job.interval() => Ok(state),
            old => self.register(job, schedule, old).await,
        }
    }

    /// Makes the job known, or notes its new schedule.
    async fn register(&self, job: &dyn Job, schedule: &Schedule, old: Option<Known>) -> Result<Known, StoreError> {
        let next = schedule.first(self.clock.now());
        let id = old.as_ref().map_or_else(|| id_of(job.name()), |old| old.id);
        let update = doc! {
            "$set": { "repeatInterval": job.interval(), "nextRunAt": date(next) },
            "$setOnInsert": { "name": job.name(), "type": "single", "repeatTimezone": bson::Bson::Null, "data": {} },
        };
        let write = Write::Update {
            of: Collection::AgendaJobs,
            filter: doc! { "_id": id },
            update,
            many: false,
            upsert: true,
        };
        self.store.apply(write).await?;
        let (last, data) = old.map_or((None, doc! {}), |old| (old.last, old.data));
        Ok(Known {
            id,
            interval: job.interval().to_owned(),
            next,
            last,
            data,
            seen: Instant::now(),
        })
    }

    /// Runs the job if no other node has it and it is still due.
    async fn attempt(
        &self,
        job: &Arc<dyn Job>,
        schedule: &Schedule,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let Some(lease) = self.leases.acquire(&format!("job:{}", job.name())).await? else {
            return Ok(());
        };
        let outcome = self.run_under(&lease, job, schedule, stop).await;
        lease.release().await;
        outcome
    }

    async fn run_under(
        &self,
        lease: &Lease,
        job: &Arc<dyn Job>,
        schedule: &Schedule,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let found = self
            .store
            .one(Collection::AgendaJobs, doc! { "name": job.name() })
            .await?;
        let Some(state) = found.as_ref().and_then(Known::read) else {
            return Ok(());
        };
        let started = self.clock.now();
        if state.next > started {
            return Ok(()); // another node was faster
        }
        // Noted before the work, so that a run that dies is not taken for one that never was.
        let begun = doc! { "$set": { "lastRunAt": date(started), "lockedAt": date(started) } };
        self.store
            .update(Collection::AgendaJobs, doc! { "_id": state.id }, begun)
            .await?;
        let run = Run {
            started,
            previous: state.last,
            data: state.data,
        };
        let lost = lease.lost();
        let clocked = Instant::now();
        let outcome = tokio::select! {
            outcome = job.run(run) => outcome,
            () = lost.cancelled() => return Ok(()),
            () = stop.cancelled() => return Ok(()),
        };
        let finished = self.clock.now();
        let took = clocked.elapsed();
        self.prometheus.job_ran(job.name(), outcome.is_ok(), took);
        let mut set = doc! { "lastFinishedAt": date(finished), "nextRunAt": date(schedule.next(state.next, finished)) };
        let mut update = doc! { "$unset": { "lockedAt": "" } };
        match outcome {
            Ok(data) => {
                set.insert("data", data);
            }
            Err(error) => {
                tracing::error!(job.name = job.name(), error = %error, "Job {} failed", job.name());
                set.extend(doc! { "failReason": error.to_string(), "failedAt": date(finished) });
                update.insert("$inc", doc! { "failCount": 1 });
            }
        }
        update.insert("$set", set);
        self.store
            .update(Collection::AgendaJobs, doc! { "_id": state.id }, update)
            .await?;
        tracing::debug!(
            job.name = job.name(),
            job.duration_ms = took.as_millis() as u64,
            "Job {} ran",
            job.name()
        );
        Ok(())
    }

    fn is_busy(&self, name: &str) -> bool {
        self.busy
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .contains(name)
    }

    fn mark_busy(&self, name: &str) {
        self.busy
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(name.to_owned());
    }

    fn mark_idle(&self, name: &str) {
        self.busy
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(name);
    }
}

impl Known {
    fn read(document: &Document) -> Option<Self> {
        let millis = |name: &str| document.get_datetime(name).ok().map(|date| date.timestamp_millis());
        Some(Self {
            id: document.get_object_id("_id").ok()?,
            interval: document.get_str("repeatInterval").unwrap_or_default().to_owned(),
            next: millis("nextRunAt").unwrap_or(0),
            last: millis("lastRunAt"),
            data: document.get_document("data").cloned().unwrap_or_default(),
            seen: Instant::now(),
        })
    }

    /// What was read now, with what was seen of it before.
    fn still(mut read: HashMap<String, Self>, before: &HashMap<String, Self>) -> HashMap<String, Self> {
        for (name, state) in &mut read {
            if let Some(before) = before.get(name).filter(|before| before.next == state.next) {
                state.seen = before.seen;
            }
        }
        read
    }
}

/// The same on every node, so that two of them never make the same job twice.
fn id_of(name: &str) -> ObjectId {
    use sha1::Digest as _;
    let digest = sha1::Sha1::digest(name);
    let mut bytes = [0; 12];
    bytes.copy_from_slice(&digest[..12]);
    ObjectId::from_bytes(bytes)
}

fn date(millis: Millis) -> DateTime {
    DateTime::from_millis(millis)
}

#[cfg(test)]
mod tests;
