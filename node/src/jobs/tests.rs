use std::sync::atomic::{AtomicUsize, Ordering};

use bson::Bson;

use super::*;
use crate::clock::ManualClock;
use crate::config;
use crate::jobs::auto_retry::AutoRetry;
use crate::jobs::body_cull::BodyCull;
use crate::store::sqlite::{SqliteOptions, SqliteStore};

const NOW: Millis = 1_795_348_800_000;
const DAY: Millis = 86_400_000;

struct Fixture {
    _folder: tempfile::TempDir,
    store: SharedStore,
    clock: Arc<ManualClock>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = SqliteStore::open(folder.path().join("t.db"), SqliteOptions::default()).expect("a store");
        Self {
            _folder: folder,
            store,
            clock: Arc::new(ManualClock::at(NOW)),
        }
    }

    fn leases(&self, node: &str) -> Leases {
        Leases::new(Arc::clone(&self.store), Arc::clone(&self.clock) as _, node)
    }

    fn supervise(&self, node: &str, job: &Arc<Counted>, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
        let job = Arc::clone(job) as Arc<dyn Job>;
        let wanted = Box::new(move || vec![Arc::clone(&job)]);
        let mut supervisor = Supervisor::new(
            Arc::clone(&self.store),
            Arc::clone(&self.clock) as _,
            self.leases(node),
            wanted,
        );
        supervisor.patience = Duration::from_millis(300);
        tokio::spawn(Arc::new(supervisor).serve(stop.clone()))
    }

    async fn insert(&self, into: Collection, document: Document) {
        self.store.insert(into, document).await.expect("inserted");
    }

    async fn transaction(&self, id: ObjectId) -> Document {
        self.store
            .one(Collection::Transactions, doc! {"_id": id})
            .await
            .expect("an answer")
            .expect("it is there")
    }
}

fn run_at(started: Millis) -> Run {
    Run {
        started,
        previous: None,
        data: doc! {},
    }
}

/// A job that counts its runs, and how many were at work at once.
#[derive(Debug, Default)]
struct Counted {
    runs: AtomicUsize,
    at_work: AtomicUsize,
    overlapped: AtomicUsize,
}

#[async_trait]
impl Job for Counted {
    fn name(&self) -> &str {
        "count"
    }

    fn interval(&self) -> &str {
        "1 minute"
    }

    async fn run(&self, run: Run) -> Result<Document, JobError> {
        self.overlapped
            .fetch_max(self.at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.at_work.fetch_sub(1, Ordering::SeqCst);
        self.runs.fetch_add(1, Ordering::SeqCst);
        let seen = run.data.get_i32("seen").unwrap_or(0);
        Ok(doc! { "seen": seen + 1 })
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_job_runs_once_in_a_cluster_and_again_when_it_is_due() {
    let fixture = Fixture::new();
    let (job, stop) = (Arc::new(Counted::default()), CancellationToken::new());
    let nodes: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|node| fixture.supervise(node, &job, &stop))
        .collect();

    until("the first run", async || job.runs.load(Ordering::SeqCst) == 1).await;
    for minute in 1..=3 {
        fixture.clock.advance(60_000);
        until("the next run", async || job.runs.load(Ordering::SeqCst) == minute + 1).await;
    }
    // Every node looks at least once more, and must leave the job alone.
    tokio::time::sleep(2 * TICK).await;

    assert_eq!(job.runs.load(Ordering::SeqCst), 4);
    assert_eq!(job.overlapped.load(Ordering::SeqCst), 1);
    let known = fixture
        .store
        .all(Collection::AgendaJobs, Find::default())
        .await
        .expect("an answer");
    assert_eq!(known.len(), 1, "one document whatever the number of nodes");
    assert_eq!(
        known[0].get_document("data").ok(),
        Some(&doc! {"seen": 4}),
        "each run got what the one before returned"
    );
    stop.cancel();
    for node in nodes {
        node.await.expect("no panic");
    }
}

#[tokio::test]
async fn a_clock_that_jumps_neither_doubles_nor_skips() {
    let fixture = Fixture::new();
    let (job, stop) = (Arc::new(Counted::default()), CancellationToken::new());
    let node = fixture.supervise("a", &job, &stop);
    until("the first run", async || job.runs.load(Ordering::SeqCst) == 1).await;

    fixture.clock.advance(30 * DAY);
    until("one run for all that were missed", async || {
        job.runs.load(Ordering::SeqCst) == 2
    })
    .await;
    // Put back a little, as time servers do: the due time stays what it is.
    fixture.clock.advance(-30_000);
    tokio::time::sleep(3 * TICK).await;
    assert_eq!(job.runs.load(Ordering::SeqCst), 2, "the run was");
    fixture.clock.advance(90_000);
    until("the next run", async || job.runs.load(Ordering::SeqCst) == 3).await;

    // Put back far: the next run is a minute away, not twenty days, and not now.
    fixture.clock.advance(-20 * DAY);
    let now = fixture.clock.now();
    until("a due time that is out of reach is put right", async || {
        let known = fixture.store.one(Collection::AgendaJobs, doc! {"name": "count"}).await;
        let known = known.expect("an answer").expect("it is known");
        known.get_datetime("nextRunAt").ok() == Some(&date(now + 60_000))
    })
    .await;
    assert_eq!(job.runs.load(Ordering::SeqCst), 3);
    fixture.clock.advance(60_000);
    until("the run after it", async || job.runs.load(Ordering::SeqCst) == 4).await;
    stop.cancel();
    node.await.expect("no panic");
}

#[tokio::test]
async fn a_node_whose_clock_is_behind_leaves_the_others_due_times_alone() {
    let fixture = Fixture::new();
    let (job, stop) = (Arc::new(Counted::default()), CancellationToken::new());
    let ahead = fixture.supervise("ahead", &job, &stop);
    let behind = Fixture {
        clock: Arc::new(ManualClock::at(NOW - 600_000)),
        store: Arc::clone(&fixture.store),
        _folder: tempfile::tempdir().expect("a temporary folder"),
    };
    until("the first run", async || job.runs.load(Ordering::SeqCst) == 1).await;
    let patient = Supervisor::new(
        Arc::clone(&behind.store),
        Arc::clone(&behind.clock) as _,
        behind.leases("behind"),
        Box::new({
            let job = Arc::clone(&job);
            move || vec![Arc::clone(&job) as Arc<dyn Job>]
        }),
    );
    let behind_node = tokio::spawn(Arc::new(patient).serve(stop.clone()));

    tokio::time::sleep(REFRESH + 2 * TICK).await;

    assert_eq!(job.runs.load(Ordering::SeqCst), 1);
    stop.cancel();
    for node in [ahead, behind_node] {
        node.await.expect("no panic");
    }
}

#[tokio::test]
async fn a_lease_is_one_owners_until_it_is_released_or_runs_out() {
    let fixture = Fixture::new();
    let term = Duration::from_millis(500);
    let (here, there) = (
        fixture.leases("here").lasting(term),
        fixture.leases("there").lasting(term),
    );

    let lease = here.acquire("work").await.expect("an answer").expect("free");
    assert!(there.acquire("work").await.expect("an answer").is_none(), "it is held");
    lease.release().await;
    let lease = there.acquire("work").await.expect("an answer").expect("given back");
    drop(lease); // as if its node had died
    let died = tokio::time::Instant::now();
    fixture.clock.advance(30 * DAY);
    assert!(
        here.acquire("work").await.expect("an answer").is_none(),
        "a clock that jumps takes nothing away"
    );
    until("it is taken over", async || {
        here.acquire("work").await.expect("an answer").is_some()
    })
    .await;
    assert!(died.elapsed() >= term, "not before its term is over");
}

#[tokio::test]
async fn a_lease_that_is_renewed_stays_and_one_that_was_taken_is_lost() {
    let fixture = Fixture::new();
    let term = Duration::from_millis(400);
    let (here, there) = (
        fixture.leases("here").lasting(term),
        fixture.leases("there").lasting(term),
    );
    let lease = here.acquire("work").await.expect("an answer").expect("free");
    let lost = lease.lost();
    for _ in 0..30 {
        assert!(there.acquire("work").await.expect("an answer").is_none());
        tokio::time::sleep(term / 10).await;
    }
    assert!(!lost.is_cancelled());

    let stolen = doc! { "$set": { "owner": "somebody else" } };
    fixture
        .store
        .update(Collection::Leases, doc! {"_id": "work"}, stolen)
        .await
        .expect("stolen");

    tokio::time::timeout(Duration::from_secs(10), lost.cancelled())
        .await
        .expect("its holder is told");
}

fn aged(channel: ObjectId, id: ObjectId, age: Millis) -> Document {
    let at = DateTime::from_millis(NOW - age);
    let exchange = |body: &str| doc! { "body": body, "timestamp": at };
    doc! {
        "_id": id, "channelID": channel, "status": "Successful", "canRerun": true,
        "request": { "method": "POST", "path": "/x", "body": "in", "timestamp": at },
        "response": { "status": 200, "body": "out", "timestamp": at },
        "routes": [{ "name": "r", "response": exchange("route"), "orchestrations": [{ "request": exchange("deep") }] }],
        "orchestrations": [{ "name": "o", "request": exchange("o"), "response": exchange("o") }],
    }
}

fn has_body_anywhere(value: &Bson) -> bool {
    match value {
        Bson::Document(document) => document
            .iter()
            .any(|(key, value)| key == "body" || has_body_anywhere(value)),
        Bson::Array(list) => list.iter().any(has_body_anywhere),
        _ => false,
    }
}

#[tokio::test]
async fn culling_takes_every_old_body_of_the_channel_and_nothing_else() {
    let fixture = Fixture::new();
    let (channel, other) = (ObjectId::new(), ObjectId::new());
    fixture
        .insert(
            Collection::Channels,
            doc! { "_id": channel, "name": "culled", "urlPattern": "x", "maxBodyAgeDays": 2 },
        )
        .await;
    fixture
        .insert(
            Collection::Channels,
            doc! { "_id": other, "name": "kept", "urlPattern": "y" },
        )
        .await;
    let [old, young, foreign] = [ObjectId::new(), ObjectId::new(), ObjectId::new()];
    for (of, id, age) in [
        (channel, old, 3 * DAY),
        (channel, young, DAY),
        (other, foreign, 9 * DAY),
    ] {
        fixture.insert(Collection::Transactions, aged(of, id, age)).await;
    }
    let job = BodyCull::job(Arc::clone(&fixture.store), &config::Config::defaults().body_cull).expect("switched on");

    job.run(run_at(NOW)).await.expect("a run");

    let culled = fixture.transaction(old).await;
    assert!(!has_body_anywhere(&Bson::Document(culled.clone())), "{culled}");
    assert_eq!(
        culled.get_bool("canRerun").ok(),
        Some(false),
        "without its body it cannot be sent again"
    );
    assert_eq!(
        culled.get_document("response").and_then(|r| r.get_i32("status")).ok(),
        Some(200)
    );
    assert_eq!(fixture.transaction(young).await, aged(channel, young, DAY));
    assert_eq!(fixture.transaction(foreign).await, aged(other, foreign, 9 * DAY));
    let noted = fixture
        .store
        .one(Collection::Channels, doc! {"_id": channel})
        .await
        .expect("an answer")
        .expect("there");
    assert_eq!(
        noted.get_datetime("lastBodyCleared").ok(),
        Some(&DateTime::from_millis(NOW))
    );

    // The day after, what was young is old enough: culling goes on after its first run.
    job.run(run_at(NOW + 2 * DAY)).await.expect("a run");
    assert!(!has_body_anywhere(&Bson::Document(fixture.transaction(young).await)));
}

#[tokio::test]
async fn culling_goes_through_many_of_which_several_came_at_the_same_moment() {
    let fixture = Fixture::new();
    let channel = ObjectId::new();
    let document = doc! { "_id": channel, "name": "c", "urlPattern": "x", "maxBodyAgeDays": 2 };
    fixture.insert(Collection::Channels, document).await;
    let ids: Vec<ObjectId> = (0..90).map(|_| ObjectId::new()).collect();
    for (number, id) in ids.iter().enumerate() {
        let at_once = number / 45 * 45;
        let age = 3 * DAY + at_once as Millis;
        fixture.insert(Collection::Transactions, aged(channel, *id, age)).await;
    }

    let job = BodyCull::job(Arc::clone(&fixture.store), &config::Config::defaults().body_cull).expect("switched on");
    job.run(run_at(NOW)).await.expect("a run");

    for id in ids {
        assert!(!has_body_anywhere(&Bson::Document(fixture.transaction(id).await)));
    }
}

#[tokio::test]
async fn culling_leaves_alone_what_is_older_than_the_last_run_of_openhim() {
    let fixture = Fixture::new();
    let channel = ObjectId::new();
    let cleared = DateTime::from_millis(NOW - 4 * DAY);
    let document =
        doc! { "_id": channel, "name": "c", "urlPattern": "x", "maxBodyAgeDays": 2, "lastBodyCleared": cleared };
    fixture.insert(Collection::Channels, document).await;
    let [before, between] = [ObjectId::new(), ObjectId::new()];
    fixture
        .insert(Collection::Transactions, aged(channel, before, 5 * DAY))
        .await;
    fixture
        .insert(Collection::Transactions, aged(channel, between, 3 * DAY))
        .await;

    let job = BodyCull::job(Arc::clone(&fixture.store), &config::Config::defaults().body_cull).expect("switched on");
    job.run(run_at(NOW)).await.expect("a run");

    assert_eq!(fixture.transaction(before).await, aged(channel, before, 5 * DAY));
    assert!(!has_body_anywhere(&Bson::Document(fixture.transaction(between).await)));
}

impl Fixture {
    async fn queue(&self, channel: ObjectId, age: Millis, attempt: Option<i32>) -> ObjectId {
        let id = ObjectId::new();
        let at = DateTime::from_millis(NOW - age);
        let mut transaction =
            doc! { "_id": id, "channelID": channel, "status": "Failed", "request": { "timestamp": at } };
        if let Some(attempt) = attempt {
            transaction.insert("autoRetryAttempt", attempt);
            transaction.insert("autoRetry", true);
        }
        self.insert(Collection::Transactions, transaction).await;
        let entry = doc! { "_id": ObjectId::new(), "transactionID": id, "channelID": channel, "requestTimestamp": at };
        self.insert(Collection::AutoRetries, entry).await;
        id
    }

    async fn retrying_channel(&self, period: i32) -> ObjectId {
        let id = ObjectId::new();
        let channel = doc! {
            "_id": id, "name": id.to_hex(), "urlPattern": "x", "status": "enabled",
            "autoRetryEnabled": true, "autoRetryPeriodMinutes": period,
        };
        self.insert(Collection::Channels, channel).await;
        id
    }

    async fn tasks(&self) -> Vec<Vec<String>> {
        let tasks = self
            .store
            .all(Collection::Tasks, Find::default())
            .await
            .expect("an answer");
        let tid = |entry: &Bson| {
            entry
                .as_document()
                .and_then(|entry| entry.get_str("tid").ok())
                .unwrap_or("")
                .to_owned()
        };
        tasks
            .iter()
            .map(|task| {
                task.get_array("transactions")
                    .expect("a list")
                    .iter()
                    .map(tid)
                    .collect()
            })
            .collect()
    }

    async fn waiting(&self) -> u64 {
        self.store
            .count(Collection::AutoRetries, doc! {})
            .await
            .expect("an answer")
    }
}

const MINUTE: Millis = 60_000;

#[tokio::test]
async fn retries_wait_for_their_period_and_become_one_task() {
    let fixture = Fixture::new();
    let (quick, slow) = (fixture.retrying_channel(1).await, fixture.retrying_channel(60).await);
    let due = fixture.queue(quick, 0, None).await;
    let also_due = fixture.queue(slow, 59 * MINUTE, None).await;
    fixture.queue(slow, 58 * MINUTE, None).await;

    let data = AutoRetry::job(Arc::clone(&fixture.store)).run(run_at(NOW)).await;

    assert!(data.is_ok());
    let tasks = fixture.tasks().await;
    assert_eq!(tasks.len(), 1);
    let mut queued = tasks[0].clone();
    queued.sort();
    let mut expected = vec![due.to_hex(), also_due.to_hex()];
    expected.sort();
    assert_eq!(queued, expected);
    assert_eq!(fixture.waiting().await, 1, "what is not due stays");
}

#[tokio::test]
async fn a_destination_that_stays_down_gets_one_probe_and_longer_pauses() {
    let fixture = Fixture::new();
    let channel = fixture.retrying_channel(1).await;
    for _ in 0..20 {
        fixture.queue(channel, 2 * MINUTE, Some(3)).await;
    }
    fixture.queue(channel, 30 * MINUTE, Some(9)).await;
    let job = AutoRetry::job(Arc::clone(&fixture.store));

    job.run(run_at(NOW)).await.expect("a run");
    assert_eq!(fixture.tasks().await.concat().len(), 1, "one probe, not twenty-one");

    job.run(run_at(NOW)).await.expect("a run");
    assert_eq!(
        fixture.tasks().await.concat().len(),
        1,
        "the others wait four minutes after their third attempt"
    );
    // A quarter more at most, by chance.
    job.run(run_at(NOW + 2 * MINUTE)).await.expect("a run");
    assert_eq!(fixture.tasks().await.concat().len(), 2);
}

#[tokio::test]
async fn what_a_dead_run_had_claimed_is_finished_and_not_doubled() {
    let fixture = Fixture::new();
    let channel = fixture.retrying_channel(1).await;
    let transaction = fixture.queue(channel, MINUTE, None).await;
    let claim = doc! { "$set": { "openhimTask": ObjectId::new() } };
    fixture
        .store
        .update(Collection::AutoRetries, doc! {}, claim)
        .await
        .expect("claimed");
    let job = AutoRetry::job(Arc::clone(&fixture.store));

    job.run(run_at(NOW)).await.expect("a run");
    job.run(run_at(NOW)).await.expect("a run");

    assert_eq!(fixture.tasks().await, vec![vec![transaction.to_hex()]]);
    assert_eq!(fixture.waiting().await, 0);
}

#[tokio::test]
async fn switching_retries_off_drains_the_queue() {
    let fixture = Fixture::new();
    let channel = fixture.retrying_channel(60).await;
    fixture.queue(channel, 20 * MINUTE, None).await;
    fixture.queue(channel, 5 * MINUTE, None).await;
    let off = doc! { "$set": { "autoRetryEnabled": false } };
    fixture
        .store
        .update(Collection::Channels, doc! {}, off)
        .await
        .expect("changed");

    AutoRetry::job(Arc::clone(&fixture.store))
        .run(run_at(NOW))
        .await
        .expect("a run");

    assert_eq!(fixture.tasks().await, Vec::<Vec<String>>::new());
    assert_eq!(
        fixture.waiting().await,
        1,
        "the fresh one can still be seen for a while"
    );
}
