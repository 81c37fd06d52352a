//! How long the lists of the console take with many transactions in the store, on both stores:
//! `cargo bench --bench api -- --seed 500000`.
//!
//! A store is seeded, a node is started on it, and each list is asked for again and again over one kept-alive
//! connection, with other values each time. The table shows the time within which 95 of 100 answers came, beside what it
//! should be; and how much memory the node took while everything was listed without a limit.
//! MongoDB takes part where `tests/.parts/mongod` or `OPENHIM_TEST_MONGOD` names a server.
//! `--folder DIR` keeps the stores, so that the next run need not seed them again; `--store sqlite|mongodb` takes one of
//! them, `--only WORDS` the questions whose names contain them, `--node FILE` another binary than the one built for this.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot set up its parts has nothing to say; its table is its output"
)]

#[path = "../support.rs"]
#[expect(dead_code, reason = "one benchmark needs only a part of what all share")]
mod support;

mod ask;
mod seed;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ask::{Asker, Question};
use support::{Process, free_port, wait_for};

/// What can be said on the command line.
struct Options {
    seed: usize,
    rounds: usize,
    folder: PathBuf,
    /// The binary under test.
    node: PathBuf,
    /// `None`: both.
    store: Option<String>,
    /// Part of a question's name.
    only: String,
}

impl Options {
    fn takes(&self, store: &str) -> bool {
        self.store.as_deref().is_none_or(|only| only == store)
    }

    fn questions(&self) -> Vec<Question> {
        let mut all = Question::all();
        all.retain(|question| question.name.contains(&self.only));
        all
    }
}

fn main() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let options = options(temporary.path());
    let mut columns = Vec::new();
    if options.takes("sqlite") {
        columns.push(measure("SQLite", &sqlite(&options), None, &options));
    }
    if options.takes("mongodb")
        && let Some(mongod) = mongod()
    {
        let (server, url) = mongo(&mongod, &options);
        columns.push(measure("MongoDB", &url, Some(server), &options));
    }
    print_table(&columns, &options);
}

fn options(temporary: &Path) -> Options {
    let mut options = Options {
        seed: 50_000,
        rounds: 100,
        folder: temporary.to_owned(),
        node: env!("CARGO_BIN_EXE_openhim-core").into(),
        store: None,
        only: String::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--seed" => options.seed = value().parse().expect("a number of transactions"),
            "--rounds" => options.rounds = value().parse().expect("a number of rounds"),
            "--folder" => options.folder = value().into(),
            "--node" => options.node = value().into(),
            "--store" => options.store = Some(value()),
            "--only" => options.only = value(),
            // What cargo says of itself.
            "--bench" => {}
            other => panic!("{other} is no option; there are --seed --rounds --folder --node --store --only"),
        }
    }
    options
}

/// What one store took.
struct Column {
    store: &'static str,
    /// Median and 95th percentile of each question.
    times: Vec<(Duration, Duration)>,
    listed: Option<ask::Listed>,
    before_kib: u64,
    after_kib: u64,
}

fn measure(store: &'static str, url: &str, _server: Option<Process>, options: &Options) -> Column {
    let (node, api) = start_node(&options.node, url);
    let mut asker = Asker::connect(api);
    let mut times = Vec::new();
    for question in options.questions() {
        let mut took: Vec<Duration> = (0..options.rounds + 3)
            .map(|round| asker.time(&question, round, options.seed))
            .skip(3)
            .collect();
        took.sort();
        times.push((took[took.len() / 2], took[took.len() * 95 / 100]));
    }
    let before_kib = node.rss_kib();
    let listed = options.only.is_empty().then(|| asker.list_everything());
    if let Some(listed) = &listed {
        assert_eq!(listed.documents, options.seed, "everything must be listed");
    }
    Column {
        store,
        times,
        listed,
        before_kib,
        after_kib: ask::peak_kib(node.id()),
    }
}

fn sqlite(options: &Options) -> String {
    let path = options.folder.join("api/openhim.db");
    let url = format!("sqlite://{}", path.display());
    if !path.exists() {
        let store = openhim_node::store::sqlite::SqliteStore::open(&path, Default::default()).expect("a store");
        support::on_this_thread(seed::fill(store, options.seed, "SQLite"));
    }
    url
}

fn mongo(mongod: &Path, options: &Options) -> (Process, String) {
    let data = options.folder.join("api/mongo");
    let is_new = !data.exists();
    std::fs::create_dir_all(&data).expect("a writable folder");
    let port = free_port();
    let mut command = Command::new(mongod);
    command.arg("--dbpath").arg(&data);
    command.args(["--bind_ip", "127.0.0.1", "--port", &port.to_string()]);
    let server = Process::start(command, 0);
    wait_for(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let url = format!("mongodb://127.0.0.1:{port}/openhim");
    if is_new {
        support::on_this_thread(async {
            let store = openhim_node::store::mongo::MongoStore::connect(&url, None, Default::default());
            seed::fill(store.await.expect("a store"), options.seed, "MongoDB").await;
        });
    }
    (server, url)
}

fn mongod() -> Option<PathBuf> {
    let named = std::env::var_os("OPENHIM_TEST_MONGOD").map(PathBuf::from);
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.parts/mongod");
    named.or(Some(installed)).filter(|path| path.exists())
}

fn start_node(binary: &Path, url: &str) -> (Process, SocketAddr) {
    let api = free_port();
    let mut command = Command::new(binary);
    command.arg("node");
    for setting in [
        format!("store.url={url}"),
        "bindAddress=127.0.0.1".to_owned(),
        "api.protocol=http".to_owned(),
        format!("api.port={api}"),
        "router.httpPort=0".to_owned(),
        "router.httpsPort=0".to_owned(),
        "rerun.httpPort=0".to_owned(),
        "tcpAdapter.httpReceiver.httpPort=0".to_owned(),
        "polling.pollingPort=0".to_owned(),
        "logger.level=error".to_owned(),
        "logger.logToDB=false".to_owned(),
    ] {
        command.arg("--set").arg(setting);
    }
    let process = Process::start(command, 1);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, api));
    wait_for(address);
    (process, address)
}

fn print_table(columns: &[Column], options: &Options) {
    let (seed, rounds) = (options.seed, options.rounds);
    println!("{seed} transactions, {rounds} answers to each question; median and 95th percentile, ms\n");
    print!("{:<38} {:>6}", "", "bound");
    for column in columns {
        print!("  {:>18}", column.store);
    }
    println!();
    for (row, question) in options.questions().iter().enumerate() {
        print!("{:<38} {:>6}", question.name, question.bound.as_millis());
        for column in columns {
            let (median, p95) = column.times[row];
            let mark = if p95 > question.bound { " !" } else { "  " };
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            print!("  {:>7.1} {:>7.1}{mark}", ms(median), ms(p95));
        }
        println!();
    }
    for column in columns {
        let Some(listed) = &column.listed else {
            continue;
        };
        println!(
            "\n{}: all {} listed without a limit in {:.1} s, {} MiB, the first bytes after {} ms; memory {} MiB before, {} MiB at most",
            column.store,
            listed.documents,
            listed.took.as_secs_f64(),
            listed.bytes >> 20,
            listed.first.as_millis(),
            column.before_kib >> 10,
            column.after_kib >> 10,
        );
    }
}
