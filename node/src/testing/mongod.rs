//! A real MongoDB server for one test, in a folder of its own on a free port.

#![expect(clippy::expect_used, reason = "a test can't go on without its server")]

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; it ends with this value.
#[derive(Debug)]
pub struct Mongod {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    replica_set: Option<&'static str>,
    child: Child,
}

impl Mongod {
    /// Starts a single server. `None`, with a printed line, if this machine has none; a failure instead if
    /// `OPENHIM_TEST_PARTS` is `required`.
    pub fn start() -> Option<Self> {
        Self::launch(None)
    }

    /// Starts a replica set of one, not yet initiated: see [`Self::initiate`].
    pub fn start_replica_set() -> Option<Self> {
        Self::launch(Some("rs0"))
    }

    fn launch(replica_set: Option<&'static str>) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let program = program()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("openhim-mongod-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the server");
        let port = free_port();
        let child = spawn(&program, &folder, port, replica_set);
        let server = Self {
            program,
            folder,
            port,
            replica_set,
            child,
        };
        server.wait();
        Some(server)
    }

    /// The address, for instance `127.0.0.1:40123`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A connection string for the database `name`.
    pub fn url(&self, name: &str) -> String {
        let set = self
            .replica_set
            .map_or(String::new(), |set| format!("?replicaSet={set}"));
        format!("mongodb://{}/{name}{set}", self.address())
    }

    /// Makes the replica set elect its only member; returns when it may be written to.
    pub async fn initiate(&self) {
        initiate(std::slice::from_ref(self)).await;
    }

    /// The server's own administration, whatever part it plays.
    pub async fn admin(&self) -> mongodb::Database {
        let url = format!(
            "mongodb://{}/?directConnection=true&serverSelectionTimeoutMS=2000",
            self.address()
        );
        let client = mongodb::Client::with_uri_str(url).await.expect("a client");
        client.database("admin")
    }

    /// True if it may be written to.
    pub async fn is_primary(&self) -> bool {
        let hello = self.admin().await.run_command(bson::doc! {"hello": 1}).await;
        hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
    }

    /// Stops it in the middle of what it does; connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let told = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(
            told.is_ok_and(|status| status.success()),
            "the server cannot be told {name}"
        );
    }

    /// Ends the server without a word, as a crash does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same data and port.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.program, &self.folder, self.port, self.replica_set);
        self.wait();
    }

    fn wait(&self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < deadline, "mongod does not answer");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Several servers that keep the same documents; they end with this value.
#[derive(Debug)]
pub struct ReplicaSet {
    pub members: Vec<Mongod>,
}

impl ReplicaSet {
    /// Starts `count` servers and has them elect one; `None` as [`Mongod::start`] says.
    pub async fn start(count: usize) -> Option<Self> {
        let members = (0..count)
            .map(|_| Mongod::start_replica_set())
            .collect::<Option<Vec<_>>>()?;
        initiate(&members).await;
        Some(Self { members })
    }

    /// A connection string for the database `name`.
    pub fn url(&self, name: &str) -> String {
        let hosts: Vec<_> = self.members.iter().map(Mongod::address).collect();
        format!("mongodb://{}/{name}?replicaSet=rs0", hosts.join(","))
    }

    /// The place of the member that may be written to, waited for.
    pub async fn primary(&self) -> usize {
        primary(&self.members).await
    }
}

async fn initiate(members: &[Mongod]) {
    let list: Vec<_> = (0_i32..)
        .zip(members)
        .map(|(number, member)| bson::doc! {"_id": number, "host": member.address()})
        .collect();
    let settings = bson::doc! {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500};
    let set = bson::doc! {"_id": "rs0", "members": list, "settings": settings};
    let admin = members.first().expect("a member").admin().await;
    admin
        .run_command(bson::doc! {"replSetInitiate": set})
        .await
        .expect("the replica set starts");
    primary(members).await;
}

async fn primary(members: &[Mongod]) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (place, member) in members.iter().enumerate() {
            if member.is_primary().await {
                return place;
            }
        }
        assert!(Instant::now() < deadline, "no primary was elected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(program: &Path, folder: &Path, port: u16, replica_set: Option<&str>) -> Child {
    let mut command = Command::new(program);
    command
        .arg("--dbpath")
        .arg(folder)
        .args(["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25", "--port"])
        .arg(port.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(set) = replica_set {
        command.args(["--replSet", set]);
    }
    command.spawn().expect("mongod starts")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its number").port()
}

/// Where the server's program is: `OPENHIM_TEST_MONGOD`, else `tests/.parts/mongod`.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("OPENHIM_TEST_MONGOD").map(PathBuf::from);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/.parts/mongod");
    let found = named.into_iter().chain([kept]).find(|path| path.is_file());
    if found.is_none() {
        let required = std::env::var("OPENHIM_TEST_PARTS").is_ok_and(|value| value == "required");
        assert!(
            !required,
            "this test needs mongod: set OPENHIM_TEST_MONGOD or put it at tests/.parts/mongod"
        );
        eprintln!("skipped: no mongod (set OPENHIM_TEST_MONGOD)");
    }
    found
}
