//! Nodes that are killed at any moment, while reruns, retries and mails are under way: nothing is lost, nothing runs
//! twice without saying so, and nobody has to repair anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use openhim_node::clock::{Clock, SystemClock};
use openhim_node::store::mongo::{MongoOptions, MongoStore};
use openhim_node::store::sqlite::{SqliteOptions, SqliteStore};
use openhim_node::store::{Collection, Find, SharedStore};
use openhim_node::testing::backend;
use openhim_node::testing::mongod::Mongod;
use rustix::process::Signal;

use crate::support::backend::{Hosted, host};
use crate::support::node::{Node, node};

/// Messages that are sent again, tasks that do it, and mails that wait.
const MESSAGES: usize = 24;
const TASKS: usize = 3;
const MAILS: usize = 12;
/// Kills.
const ROUNDS: usize = 8;
/// A dead node's work is taken over within 30 s; some more for what is left of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Chance with a seed that is printed, so that a failure can be had again.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let named = std::env::var("OPENHIM_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = named.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761);
        say(&format!("seed {seed}; set OPENHIM_TEST_SEED to repeat"));
        Self(seed | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[expect(clippy::print_stdout, reason = "the seed has to be seen")]
fn say(text: &str) {
    println!("{text}");
}

/// A mail server that takes its time, and counts.
struct Post {
    port: u16,
    subjects: Arc<Mutex<Vec<String>>>,
}

fn post() -> Post {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let subjects = Arc::<Mutex<Vec<String>>>::default();
    let taken = Arc::clone(&subjects);
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let taken = Arc::clone(&taken);
            thread::spawn(move || take_mail(socket, &taken));
        }
    });
    Post { port, subjects }
}

fn take_mail(socket: std::net::TcpStream, taken: &Mutex<Vec<String>>) {
    let Ok(mut writer) = socket.try_clone() else { return };
    let mut subject = String::new();
    let mut in_data = false;
    let _ = writer.write_all(b"220 ready\r\n");
    for line in BufReader::new(socket).lines().map_while(Result::ok) {
        let answer: &[u8] = match line.as_str() {
            "." => {
                in_data = false;
                taken.lock().unwrap().push(std::mem::take(&mut subject));
                thread::sleep(Duration::from_millis(800));
                b"250 taken\r\n"
            }
            _ if in_data => {
                if let Some(text) = line.strip_prefix("Subject: ") {
                    subject = text.to_owned();
                }
                continue;
            }
            "DATA" => {
                in_data = true;
                b"354 go on\r\n"
            }
            line if line.starts_with("EHLO") => b"250-post\r\n250 AUTH PLAIN LOGIN\r\n",
            line if line.starts_with("AUTH") => b"235 welcome\r\n",
            _ => b"250 fine\r\n",
        };
        if writer.write_all(answer).is_err() {
            return;
        }
    }
}

/// What both nodes share, as the test sees it.
struct Scene {
    runtime: tokio::runtime::Runtime,
    store: SharedStore,
    url: String,
    _folder: tempfile::TempDir,
    _mongod: Option<Mongod>,
}

impl Scene {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shared.db");
        let store: SharedStore = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
        Self {
            runtime: tokio::runtime::Runtime::new().unwrap(),
            store,
            url: format!("sqlite://{}", path.display()),
            _folder: folder,
            _mongod: None,
        }
    }

    fn mongo() -> Option<Self> {
        let mongod = Mongod::start()?;
        let url = mongod.url("openhim");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let connecting = MongoStore::connect(&url, None, MongoOptions::default());
        let store: SharedStore = runtime.block_on(connecting).unwrap();
        Some(Self {
            runtime,
            store,
            url,
            _folder: tempfile::tempdir().unwrap(),
            _mongod: Some(mongod),
        })
    }

    fn all(&self, from: Collection, filter: Document) -> Vec<Document> {
        self.runtime.block_on(self.store.all(from, Find::by(filter))).unwrap()
    }

    fn insert(&self, into: Collection, document: Document) {
        self.runtime.block_on(self.store.insert(into, document)).unwrap();
    }

    fn node(&self, mail_port: u16) -> Node {
        node()
            .set("store.url", &self.url)
            .set("rerun.processor.pollPeriodMillis", "100")
            .set("email.nodemailer.service", "")
            .set("email.nodemailer.host", "127.0.0.1")
            .set("email.nodemailer.port", &mail_port.to_string())
            .set("email.nodemailer.secure", "false")
            .set("email.nodemailer.ignoreTLS", "true")
            .set("email.fromAddress", "him@example.org")
            .start()
    }

    fn channel(&self, path: &str, port: u16, more: Document) -> ObjectId {
        let id = ObjectId::new();
        let mut channel = doc! {
            "_id": id, "name": path, "urlPattern": format!("^{path}$"), "methods": ["POST"], "authType": "public",
            "status": "enabled", "routes": [{
                "_id": ObjectId::new(), "name": "primary", "type": "http", "host": "127.0.0.1", "port": i32::from(port),
                "primary": true, "status": "enabled",
            }],
        };
        channel.extend(more);
        self.insert(Collection::Channels, channel);
        id
    }

    fn mail(&self, number: usize) {
        self.insert(
            Collection::Outbox,
            doc! {
                "_id": ObjectId::new(), "state": "waiting", "attempts": 0, "created": SystemClock.date(),
                "nextAt": DateTime::from_millis(0),
                "message": { "to": "a@example.org", "subject": format!("mail {number}"), "text": "t", "html": "h" },
            },
        );
    }

    fn task(&self, tids: &[String]) {
        let entries: Vec<Document> = tids
            .iter()
            .map(|tid| doc! { "_id": ObjectId::new(), "tid": tid, "tstatus": "Queued" })
            .collect();
        let count = i32::try_from(tids.len()).unwrap();
        self.insert(
            Collection::Tasks,
            doc! {
                "_id": ObjectId::new(), "status": "Queued", "transactions": entries, "created": SystemClock.date(),
                "user": "root@openhim.org", "remainingTransactions": count, "totalTransactions": count, "batchSize": 2,
            },
        );
    }
}

fn hex(document: &Document, field: &str) -> Option<String> {
    document.get_object_id(field).ok().map(|id| id.to_hex())
}

fn kill_nodes_at_random(scene: &Scene) {
    let mut dice = Dice::new();
    let post = post();
    let destination = host(backend().after(Duration::from_millis(250)));
    let channel = scene.channel("/x", destination.address().port(), doc! {});
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let retrying = scene.channel(
        "/dead",
        dead,
        doc! { "autoRetryEnabled": true, "autoRetryPeriodMinutes": 1, "autoRetryMaxAttempts": 3 },
    );
    (0..MAILS).for_each(|number| scene.mail(number));
    let mut nodes = [scene.node(post.port), scene.node(post.port)];
    let router = &nodes[0];
    for number in 0..MESSAGES {
        eventually_sent(router, "/x", number, 200);
    }
    for number in 0..4 {
        eventually_sent(router, "/dead", number, 500);
    }
    let tids = originals(scene, channel);
    assert_eq!(tids.len(), MESSAGES);
    let failed = originals(scene, retrying);
    (0..TASKS).for_each(|_| scene.task(&tids));
    scene.task(&failed);

    for _ in 0..ROUNDS {
        thread::sleep(Duration::from_millis(50 + dice.below(700)));
        let victim = usize::try_from(dice.below(2)).unwrap();
        nodes[victim].running.signal(Signal::KILL);
        nodes[victim].running.exit();
        nodes[victim].start_again();
    }

    let deadline = Instant::now() + PATIENCE;
    loop {
        let unfinished = scene.all(
            Collection::Tasks,
            doc! { "user": "root@openhim.org", "status": { "$ne": "Completed" } },
        );
        if unfinished.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "tasks that did not end: {unfinished:?}");
        thread::sleep(Duration::from_millis(200));
    }
    every_rerun_is_accounted_for(scene, &destination);
    every_mail_is_accounted_for(scene, &post);
    no_attempt_was_made_twice(scene, retrying);
    let [first, second] = nodes;
    drop((first, second));
    scene.runtime.block_on(scene.store.close());
}

fn eventually_sent(node: &Node, path: &str, number: usize, status: u16) {
    let answer = node.send(path, None, &format!("message {number}"));
    assert_eq!(answer.unwrap().status, status, "{path}");
}

/// The ids of a channel's messages, once their end is stored.
fn originals(scene: &Scene, channel: ObjectId) -> Vec<String> {
    let closed = doc! { "channelID": channel, "parentID": { "$exists": false } };
    crate::support::eventually("the messages are closed", || {
        let all = scene.all(Collection::Transactions, closed.clone());
        let is_closed = |tx: &Document| !tx.contains_key("openhimNode");
        all.iter()
            .all(is_closed)
            .then(|| all.iter().filter_map(|tx| hex(tx, "_id")).collect())
    })
}

fn every_rerun_is_accounted_for(scene: &Scene, destination: &Hosted) {
    let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
    for seen in destination.seen() {
        *arrived
            .entry(seen.header("x-openhim-transactionid").unwrap().to_owned())
            .or_default() += 1;
    }
    for (id, count) in &arrived {
        assert_eq!(*count, 1, "transaction {id} arrived {count} times");
    }
    let mut reported = BTreeSet::new();
    let mut in_doubt = 0;
    // Retries that the nodes make by themselves may go on meanwhile.
    for task in scene.all(Collection::Tasks, doc! { "user": "root@openhim.org" }) {
        for entry in task
            .get_array("transactions")
            .unwrap()
            .iter()
            .filter_map(Bson::as_document)
        {
            let child = entry
                .get_str("rerunID")
                .unwrap_or_else(|_| panic!("no rerun in {entry}"))
                .to_owned();
            match entry.get_str("tstatus").unwrap() {
                "Completed" => {}
                "Failed" => {
                    assert!(entry.get_str("error").unwrap().contains("may have reached"), "{entry}");
                    in_doubt += 1;
                }
                other => panic!("{other} in {entry}"),
            }
            assert!(reported.insert(child.clone()), "{child} is in two places");
            let stored = scene.all(
                Collection::Transactions,
                doc! { "_id": ObjectId::parse_str(&child).unwrap() },
            );
            assert_eq!(stored.len(), 1, "{child}");
            if entry.get_str("rerunStatus").ok() == Some("Successful") {
                assert_eq!(
                    arrived.get(&child),
                    Some(&1),
                    "{child} is successful and did not arrive"
                );
            }
            let parent = ObjectId::parse_str(entry.get_str("tid").unwrap()).unwrap();
            let parent = scene.all(Collection::Transactions, doc! { "_id": parent });
            let children = parent[0].get_array("childIDs").unwrap();
            assert!(
                children
                    .iter()
                    .filter_map(Bson::as_object_id)
                    .any(|id| id.to_hex() == child),
                "{child} is not linked"
            );
        }
    }
    // Whatever arrived is an original or a rerun that its task tells of.
    let originals: BTreeSet<String> = scene
        .all(Collection::Transactions, doc! { "parentID": { "$exists": false } })
        .iter()
        .filter_map(|tx| hex(tx, "_id"))
        .collect();
    for id in arrived.keys() {
        assert!(
            originals.contains(id) || reported.contains(id),
            "{id} arrived and nobody tells of it"
        );
    }
    say(&format!(
        "{} reruns, {in_doubt} of them in doubt and reported",
        reported.len()
    ));
}

fn every_mail_is_accounted_for(scene: &Scene, post: &Post) {
    let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
    for subject in post.subjects.lock().unwrap().iter() {
        *arrived.entry(subject.clone()).or_default() += 1;
    }
    for (subject, count) in &arrived {
        assert_eq!(*count, 1, "{subject} was sent {count} times");
    }
    let kept = scene.all(Collection::Outbox, doc! {});
    assert_eq!(kept.len(), MAILS);
    let unsent = kept
        .iter()
        .filter(|mail| mail.get_str("state").ok() != Some("sent"))
        .count();
    assert!(arrived.len() + unsent >= MAILS, "a mail is neither sent nor kept");
    assert!(!arrived.is_empty(), "mails were on their way while nodes were killed");
    say(&format!("{} mails arrived, {unsent} are kept", arrived.len()));
}

/// Each attempt of a chain has at most one attempt after it, besides those that a task asked for.
fn no_attempt_was_made_twice(scene: &Scene, channel: ObjectId) {
    let attempts = doc! { "channelID": channel, "autoRetryAttempt": { "$exists": true } };
    let mut after: BTreeMap<(String, String), usize> = BTreeMap::new();
    for attempt in scene.all(Collection::Transactions, attempts) {
        let headers = attempt
            .get_document("request")
            .unwrap()
            .get_document("headers")
            .unwrap();
        let task = headers.get_str("taskid").unwrap_or_default().to_owned();
        *after.entry((hex(&attempt, "parentID").unwrap(), task)).or_default() += 1;
    }
    for ((parent, task), count) in after {
        assert_eq!(count, 1, "{parent} was tried {count} times by task {task}");
    }
}

#[test]
fn killed_nodes_lose_nothing_and_double_nothing_on_the_embedded_store() {
    kill_nodes_at_random(&Scene::sqlite());
}

#[test]
fn killed_nodes_lose_nothing_and_double_nothing_on_mongodb() {
    if let Some(scene) = Scene::mongo() {
        kill_nodes_at_random(&scene);
    }
}
