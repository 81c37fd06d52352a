//! Who is measured: nginx, and nodes with their stores, each on a processor of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use serde_json::{Value, json};

use crate::case::{Case, Client, Setting, Store};
use crate::load::Round;
use crate::plain_http::{self, Tls};
use crate::support::{Process, free_port, wait_for};
use crate::{LOAD_CPU, PROXY_CPU};

const ROOT: Option<(&str, &str)> = Some(("root@openhim.org", "openhim-password"));

/// One who is measured, and what was.
pub(crate) struct Candidate {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<rustls::ClientConfig>,
    pub(crate) channels: usize,
    pub(crate) used: usize,
    pub(crate) rounds: Vec<Round>,
    _database: Option<Process>,
}

/// What of TLS all candidates of a case share: the same certificate and key, the same client.
struct Material {
    certificate: String,
    key: String,
    client: Tls,
}

impl Material {
    fn fresh() -> Self {
        let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let key = rcgen::KeyPair::generate().expect("a key");
        Self {
            certificate: parameters.self_signed(&key).expect("a certificate").pem(),
            key: key.serialize_pem(),
            client: Tls::with_fresh_certificate("bench"),
        }
    }

    fn config(&self, client: Client) -> Option<rustls::ClientConfig> {
        let mut config = rustls::ClientConfig::clone(&self.client.config());
        config.resumption = Resumption::disabled();
        (client != Client::Basic).then_some(config)
    }
}

/// Starts nginx and the nodes of a case whose name contains `only`.
pub(crate) fn start(case: &Case, only: &str, binary: &Path, folder: &Path, backend: SocketAddr) -> Vec<Candidate> {
    let material = Material::fresh();
    let mut candidates = vec![nginx(case, &material, folder, backend)];
    for setting in case.candidates.iter().filter(|setting| setting.name.contains(only)) {
        let own = folder.join(setting.name.replace([',', ' '], ""));
        std::fs::create_dir_all(&own).expect("a writable folder");
        let (url, database) = match setting.store {
            Store::Sqlite => (format!("sqlite://{}/openhim.db", own.display()), None),
            Store::Mongo => {
                let Some(mongod) = mongod() else {
                    println!("{}: no mongod, left out", setting.name);
                    continue;
                };
                let (database, port) = start_database(&mongod, &own);
                (format!("mongodb://127.0.0.1:{port}/openhim"), Some(database))
            }
        };
        candidates.push(node(case, setting, &material, binary, &url, backend, database));
    }
    candidates
}

/// nginx as a plain reverse proxy with kept-alive connections to the backend, one worker, bodies in memory.
fn nginx(case: &Case, material: &Material, folder: &Path, backend: SocketAddr) -> Candidate {
    let port = free_port();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a writable folder");
    write("server.pem", &material.certificate);
    write("server.key", &material.key);
    write("clients.pem", material.client.certificate_pem());
    let folder_name = folder.display();
    let tls = match case.client {
        Client::Basic => String::new(),
        Client::Certificate | Client::NewCertificate => format!(
            "ssl_certificate {folder_name}/server.pem; ssl_certificate_key {folder_name}/server.key;
             ssl_client_certificate {folder_name}/clients.pem; ssl_verify_client on;"
        ),
    };
    let ssl = if tls.is_empty() { "" } else { " ssl" };
    let text = format!(
        "daemon off; worker_processes 1; pid {folder_name}/nginx.pid; error_log /dev/null;
         events {{ worker_connections 4096; }}
         http {{
           access_log off; client_body_temp_path {folder_name}/body; proxy_temp_path {folder_name}/proxy;
           fastcgi_temp_path {folder_name}/f; uwsgi_temp_path {folder_name}/u; scgi_temp_path {folder_name}/s;
           keepalive_requests 10000000; client_max_body_size 0; client_body_buffer_size 256k;
           proxy_buffer_size 16k; proxy_buffers 16 16k; proxy_max_temp_file_size 0;
           upstream backend {{ server {backend}; keepalive 256; keepalive_requests 10000000; }}
           server {{ listen 127.0.0.1:{port}{ssl}; {tls}
             location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}"
    );
    write("nginx.conf", &text);
    let mut command = Command::new("nginx");
    command.arg("-c").arg(folder.join("nginx.conf")).arg("-p").arg(folder);
    let process = Process::start(command, PROXY_CPU);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    wait_for(address);
    Candidate {
        name: "nginx, plain reverse proxy",
        process,
        address,
        tls: material.config(case.client),
        channels: 1,
        used: 1,
        rounds: vec![],
        _database: None,
    }
}

fn node(
    case: &Case,
    setting: &Setting,
    material: &Material,
    binary: &Path,
    store: &str,
    backend: SocketAddr,
    database: Option<Process>,
) -> Candidate {
    let [http, https, api] = [(); 3].map(|()| free_port());
    let mut command = Command::new(binary);
    command.arg("node");
    for setting in [
        format!("store.url={store}"),
        format!("store.durability={}", setting.durability),
        "bindAddress=127.0.0.1".to_owned(),
        format!("router.httpPort={http}"),
        format!("router.httpsPort={https}"),
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
    let api = SocketAddr::from((Ipv4Addr::LOCALHOST, api));
    wait_for(api);
    set_up(api, setting.channels, material, backend);
    let port = if case.client == Client::Basic { http } else { https };
    let candidate = Candidate {
        name: setting.name,
        process,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: material.config(case.client),
        channels: setting.channels,
        used: setting.used,
        rounds: vec![],
        _database: database,
    };
    wait_until_served(&candidate, &material.client);
    candidate
}

/// A client that is known by password and certificate, its channels, and the same server certificate as nginx has.
fn set_up(api: SocketAddr, channels: usize, material: &Material, backend: SocketAddr) {
    let ask = |path: &str, body: Value| {
        let anonymous = Tls::anonymous();
        let answer =
            plain_http::request(api, Some(&anonymous), "POST", path, ROOT, &body.to_string()).expect("the API");
        assert_eq!(answer.status, 201, "{path}: {}", answer.body);
    };
    let client = json!({
        "clientID": "bench", "name": "Bench", "roles": ["benches"], "passwordAlgorithm": "sha512",
        "passwordSalt": "salt", "passwordHash": sha512_hex("benchsalt"),
        "certFingerprint": material.client.fingerprint(),
    });
    let channels: Vec<Value> = (0..channels)
        .map(|number| {
            json!({
                "name": format!("Bench {number}"), "urlPattern": format!("^/bench/{number}/.*$"), "methods": ["POST"],
                "type": "http", "authType": "private", "allow": ["benches"],
                "routes": [{ "name": "backend", "host": backend.ip().to_string(), "port": backend.port(), "primary": true,
                             "type": "http" }],
            })
        })
        .collect();
    ask("/clients", client);
    for part in channels.chunks(100) {
        ask("/metadata", json!({ "Channels": part }));
    }
    ask(
        "/keystore/ca/cert",
        json!({ "cert": material.client.certificate_pem() }),
    );
    ask("/keystore/cert", json!({ "cert": material.certificate }));
    ask("/keystore/key", json!({ "key": material.key }));
}

fn sha512_hex(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha512::digest(text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Waits until the last of the channels, and the client's way of being known, are in force.
fn wait_until_served(candidate: &Candidate, client: &Tls) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let path = format!("/bench/{}/Patient", candidate.channels - 1);
    let tls = candidate.tls.is_some().then_some(client);
    let login = tls.is_none().then_some(("bench", "bench"));
    let served = || plain_http::request(candidate.address, tls, "POST", &path, login, "{}");
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

fn start_database(mongod: &Path, folder: &Path) -> (Process, u16) {
    let port = free_port();
    let mut command = Command::new(mongod);
    command
        .arg("--dbpath")
        .arg(folder)
        .args(["--bind_ip", "127.0.0.1", "--port", &port.to_string()]);
    let process = Process::start(command, LOAD_CPU);
    wait_for(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    (process, port)
}
