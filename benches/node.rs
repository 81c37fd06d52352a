//! CPU per transaction of a node beside nginx as a plain reverse proxy, in one run: `cargo bench --bench node`.
//!
//! Small JSON, Basic authentication, one route, a kept-alive connection on both sides. One instance, pinned to a
//! processor of its own; backend and load share the other. The node records every transaction; nginx does nothing of
//! the kind, so the figure says what the whole of the mediator costs in units of the plainest proxy.
//! MongoDB takes part where `tests/.parts/mongod` or `OPENHIM_TEST_MONGOD` names a server.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot set up its parts has nothing to say"
)]

#[path = "../tests/it/support/plain_http.rs"]
#[expect(dead_code, reason = "the benchmark needs only a part of what the tests need")]
mod plain_http;
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use support::{Process, Round, free_port, load, median, start_backend, start_nginx, wait_for};

const CONNECTIONS: usize = 32;
const REQUESTS: usize = 8_000;
const ROUNDS: usize = 5;
const PROXY_CPU: usize = 1;
const BODY: &str = r#"{"resourceType":"Patient","id":"example","active":true,"name":[{"family":"Chalmers"}]}"#;

struct Candidate {
    name: &'static str,
    process: Process,
    address: SocketAddr,
    rounds: Vec<Round>,
    _database: Option<Process>,
}

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"stored\":true}";
    let backend = start_backend(answer.to_vec());
    support::pin(0, 0);

    let port = free_port();
    let nginx = start_nginx(folder.path(), port, backend, PROXY_CPU);
    let mut candidates = vec![Candidate {
        name: "nginx, plain reverse proxy",
        process: nginx,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        rounds: vec![],
        _database: None,
    }];
    for (name, durability) in [
        ("node, SQLite, standard", "standard"),
        ("node, SQLite, strict", "strict"),
    ] {
        let url = format!("sqlite://{}/{durability}/openhim.db", folder.path().display());
        candidates.push(start_node(name, &url, durability, backend, None));
    }
    if let Some(mongod) = mongod() {
        let port = free_port();
        let database = start_database(&mongod, folder.path(), port);
        let url = format!("mongodb://127.0.0.1:{port}/openhim");
        candidates.push(start_node(
            "node, MongoDB, standard",
            &url,
            "standard",
            backend,
            Some(database),
        ));
    }

    let request = request();
    for round in 0..=ROUNDS {
        for candidate in &mut candidates {
            let result = load(&candidate.process, candidate.address, &request, CONNECTIONS, REQUESTS);
            // The first round warms caches and connections.
            if round > 0 {
                candidate.rounds.push(result);
            }
        }
    }
    print_table(&candidates);
}

fn request() -> Vec<u8> {
    let login = base64::engine::general_purpose::STANDARD.encode("bench:bench");
    format!(
        "POST /bench/Patient HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {login}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
    .into_bytes()
}

fn start_node(
    name: &'static str,
    url: &str,
    durability: &str,
    backend: SocketAddr,
    database: Option<Process>,
) -> Candidate {
    let (http, api) = (free_port(), free_port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_openhim-core"));
    command.arg("node");
    for setting in [
        format!("store.url={url}"),
        format!("store.durability={durability}"),
        "bindAddress=127.0.0.1".to_owned(),
        format!("router.httpPort={http}"),
        "router.httpsPort=0".to_owned(),
        format!("api.port={api}"),
        "rerun.httpPort=0".to_owned(),
        "tcpAdapter.httpReceiver.httpPort=0".to_owned(),
        "polling.pollingPort=0".to_owned(),
        "logger.level=error".to_owned(),
        "logger.logToDB=false".to_owned(),
    ] {
        command.arg("--set").arg(setting);
    }
    let process = Process::start(command, PROXY_CPU);
    wait_for(SocketAddr::from((Ipv4Addr::LOCALHOST, api)));
    set_up(SocketAddr::from((Ipv4Addr::LOCALHOST, api)), backend);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, http));
    wait_until_served(address);
    Candidate {
        name,
        process,
        address,
        rounds: vec![],
        _database: database,
    }
}

fn set_up(api: SocketAddr, backend: SocketAddr) {
    let client = serde_json::json!({
        "clientID": "bench", "name": "Bench", "roles": ["benches"], "passwordAlgorithm": "sha512",
        "passwordSalt": "salt", "passwordHash": sha512_hex("benchsalt"),
    });
    let channel = serde_json::json!({
        "name": "Bench", "urlPattern": "^/bench/.*$", "methods": ["POST"], "allow": ["benches"],
        "routes": [{ "name": "backend", "host": backend.ip().to_string(), "port": backend.port(), "primary": true }],
    });
    let root = Some(("root@openhim.org", "openhim-password"));
    for (path, body) in [("/clients", client), ("/channels", channel)] {
        let tls = plain_http::Tls::anonymous();
        let answer = plain_http::request(api, Some(&tls), "POST", path, root, &body.to_string()).expect("the API");
        assert_eq!(answer.status, 201, "{path}: {}", answer.body);
    }
}

fn sha512_hex(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha512::digest(text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn wait_until_served(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let served = || plain_http::request(address, None, "POST", "/bench/x", Some(("bench", "bench")), BODY);
    while served().map(|answer| answer.status).ok() != Some(200) {
        assert!(Instant::now() < deadline, "the channel does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn mongod() -> Option<PathBuf> {
    let named = std::env::var_os("OPENHIM_TEST_MONGOD").map(PathBuf::from);
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.parts/mongod");
    named.or(Some(installed)).filter(|path| path.exists())
}

fn start_database(mongod: &Path, folder: &Path, port: u16) -> Process {
    let data = folder.join("mongo");
    std::fs::create_dir_all(&data).expect("a writable folder");
    let mut command = Command::new(mongod);
    command
        .arg("--dbpath")
        .arg(&data)
        .args(["--bind_ip", "127.0.0.1", "--port", &port.to_string()]);
    let process = Process::start(command, 0);
    wait_for(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    process
}

#[expect(clippy::print_stdout, reason = "a benchmark's table is its output")]
fn print_table(candidates: &[Candidate]) {
    let cpu = |candidate: &Candidate| median(&candidate.rounds.iter().map(|round| round.cpu).collect::<Vec<_>>());
    let nginx = cpu(&candidates[0]).as_secs_f64();
    println!("{REQUESTS} requests a round over {CONNECTIONS} connections, median of {ROUNDS} rounds, interleaved\n");
    println!(
        "{:<28} {:>12} {:>9} {:>12} {:>9}",
        "", "CPU/request", "x nginx", "requests/s", "RSS"
    );
    for candidate in candidates {
        let cpu = cpu(candidate).as_secs_f64();
        let rate = median(&candidate.rounds.iter().map(|round| round.rate).collect::<Vec<_>>());
        println!(
            "{:<28} {:>9.1} µs {:>9.2} {:>12.0} {:>5} MiB",
            candidate.name,
            cpu * 1e6,
            cpu / nginx,
            rate,
            candidate.process.rss_kib() / 1024
        );
    }
}
