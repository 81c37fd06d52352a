//! The guide "Setup a basic cluster", executed: `examples/basic-cluster` on five servers made of network namespaces.
//!
//! One balancer on 10.0.0.1, four nodes on 10.0.0.2 to .5, MongoDB and the mediator on addresses of their own, and the
//! client on 10.0.0.6. The configuration files are the example's own. The load is real: HTTPS with a client
//! certificate, a new connection for each transaction.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::netns::Net;
use crate::support::plain_http::{self, Answer, Tls};

const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 6);
const DATABASE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
const MEDIATOR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 20);
const NODES: [&str; 4] = ["node1", "node2", "node3", "node4"];
const ROOT: (&str, &str) = ("root@openhim.org", "openhim-password");

fn node_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 2 + u8::try_from(index).expect("four nodes"))
}

/// All servers of the guide, running.
struct Site {
    net: Net,
    folder: tempfile::TempDir,
    nodes: Vec<Option<Child>>,
    others: Vec<Child>,
    received: Arc<Mutex<Vec<(IpAddr, String)>>>,
    client: Tls,
}

impl Site {
    fn start(mongod: &Path) -> Self {
        let hosts: Vec<(&str, Vec<Ipv4Addr>)> = std::iter::once(("balancer", vec![BALANCER]))
            .chain(
                NODES
                    .iter()
                    .enumerate()
                    .map(|(index, name)| (*name, vec![node_address(index)])),
            )
            .chain([("client", vec![CLIENT]), ("services", vec![DATABASE, MEDIATOR])])
            .collect();
        let hosts: Vec<(&str, &[Ipv4Addr])> = hosts.iter().map(|(name, list)| (*name, list.as_slice())).collect();
        let net = Net::build(&hosts);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut site = Self {
            net,
            folder,
            nodes: Vec::new(),
            others: Vec::new(),
            received: Arc::default(),
            client: Tls::with_fresh_certificate("clinic"),
        };
        site.start_database(mongod);
        site.start_mediator();
        for index in 0..NODES.len() {
            let node = site.spawn_node(index);
            site.nodes.push(Some(node));
        }
        site.start_balancer();
        site
    }

    fn start_database(&mut self, mongod: &Path) {
        let data = self.folder.path().join("db");
        std::fs::create_dir(&data).expect("a folder for the database");
        let child = self
            .net
            .command("services", mongod)
            .arg("--dbpath")
            .arg(&data)
            .args(["--bind_ip", &DATABASE.to_string(), "--quiet", "--logpath"])
            .arg(self.folder.path().join("mongod.log"))
            .spawn()
            .expect("mongod starts");
        self.others.push(child);
        self.wait_for("services", SocketAddr::from((DATABASE, 27017)));
    }

    /// A backend that remembers who sent what.
    fn start_mediator(&self) {
        let received = Arc::clone(&self.received);
        let _detached = self.net.run_on("services", move || {
            plain_http::serve(SocketAddr::from((MEDIATOR, 3000)), move |peer, path| {
                received.lock().expect("no panic inside").push((peer, path.to_owned()));
                (200, "{\"stored\":true}".to_owned())
            });
        });
        self.wait_for("services", SocketAddr::from((MEDIATOR, 3000)));
    }

    fn spawn_node(&self, index: usize) -> Child {
        let log = std::fs::File::create(self.folder.path().join(format!("{}.log", NODES[index]))).expect("a log file");
        self.net
            .command(NODES[index], env!("CARGO_BIN_EXE_openhim-core"))
            .arg("--cluster=2")
            .arg(format!("--conf={}", self.example("node.yaml").display()))
            .current_dir(self.folder.path())
            .stderr(log.try_clone().expect("a log file"))
            .stdout(log)
            .spawn()
            .expect("a node starts")
    }

    fn start_balancer(&mut self) {
        let original = std::fs::read_to_string(self.example("balancer.yaml")).expect("the example is there");
        let socket = self.folder.path().join("balancer.sock");
        let adapted = original.replace("/run/openhim/balancer.sock", &socket.display().to_string());
        std::fs::write(self.balancer_file(), adapted).expect("a writable folder");
        let log = std::fs::File::create(self.folder.path().join("balancer.log")).expect("a log file");
        let child = self
            .net
            .command("balancer", env!("CARGO_BIN_EXE_openhim-core"))
            .args(["balancer", "--config"])
            .arg(self.balancer_file())
            .stderr(log.try_clone().expect("a log file"))
            .stdout(log)
            .spawn()
            .expect("the balancer starts");
        self.others.push(child);
        self.until("every node is up for the balancer", Duration::from_secs(60), |site| {
            let page = site.balancer_metrics();
            page.matches("openhim_balancer_backend_up{").count() == 12
                && page
                    .lines()
                    .filter(|line| line.starts_with("openhim_balancer_backend_up{"))
                    .all(|l| l.ends_with(" 1"))
        });
    }

    fn balancer_metrics(&self) -> String {
        let ask = || plain_http::get(SocketAddr::from((Ipv4Addr::LOCALHOST, 9101)), "/metrics");
        self.net
            .run_on("balancer", ask)
            .join()
            .expect("no panic")
            .map(|answer| answer.body)
            .unwrap_or_default()
    }

    fn balancer_file(&self) -> PathBuf {
        self.folder.path().join("balancer.yaml")
    }

    fn example(&self, file: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples/basic-cluster")
            .join(file)
    }

    fn wait_for(&self, host: &str, address: SocketAddr) {
        let reach = move || {
            let deadline = Instant::now() + Duration::from_secs(30);
            while std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
                assert!(Instant::now() < deadline, "nothing listens on {address}");
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        self.net
            .run_on(host, reach)
            .join()
            .unwrap_or_else(|_| panic!("{address} did not come up\n{}", self.logs()));
    }

    fn until(&self, what: &str, limit: Duration, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + limit;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "not within {limit:?}: {what}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for name in NODES.iter().copied().chain(["balancer"]) {
            let log = std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            text += &format!(
                "--- {name}\n{}\n",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        text
    }

    /// One call of the management API, through the balancer, from the client's host.
    fn api(&self, method: &'static str, path: &str, body: &str) -> Answer {
        let (path, body) = (path.to_owned(), body.to_owned());
        let call = move || {
            let address = SocketAddr::from((BALANCER, 8080));
            plain_http::request(address, Some(&Tls::anonymous()), method, &path, Some(ROOT), &body)
        };
        self.net
            .run_on("client", call)
            .join()
            .expect("no panic")
            .unwrap_or_else(|error| {
                panic!("the API did not answer: {error}\n{}", self.logs());
            })
    }

    /// A client with a certificate and a channel that only it may use.
    fn set_up(&self) {
        let certificate = serde_json::json!({ "cert": self.client.certificate_pem() }).to_string();
        assert_eq!(self.api("POST", "/keystore/ca/cert", &certificate).status, 201);
        let client = serde_json::json!({
            "clientID": "clinic", "name": "Clinic", "roles": ["clinics"], "certFingerprint": self.client.fingerprint(),
        });
        assert_eq!(self.api("POST", "/clients", &client.to_string()).status, 201);
        assert_eq!(self.create_channel("Guide", "^/guide/.*$", &["clinics"]).status, 201);
        self.until("a transaction passes every node", Duration::from_secs(10), |site| {
            (0..NODES.len()).all(|index| {
                let address = SocketAddr::from((node_address(index), 5000));
                site.send_to(address, "/guide/warm-up")
                    .is_ok_and(|answer| answer.status == 200)
            })
        });
    }

    fn create_channel(&self, name: &str, pattern: &str, allow: &[&str]) -> Answer {
        let channel = serde_json::json!({
            "name": name, "urlPattern": pattern, "methods": ["GET", "POST"], "allow": allow,
            "authType": if allow.is_empty() { "public" } else { "private" },
            "routes": [{ "name": "mediator", "host": MEDIATOR.to_string(), "port": 3000, "primary": true }],
        });
        self.api("POST", "/channels", &channel.to_string())
    }

    fn send_to(&self, address: SocketAddr, path: &str) -> std::io::Result<Answer> {
        let (tls, path) = (self.client.clone(), path.to_owned());
        let send = move || plain_http::request(address, Some(&tls), "POST", &path, None, "{\"patient\":1}");
        self.net.run_on("client", send).join().expect("no panic")
    }

    /// How many of the paths with this prefix came from each node.
    fn received(&self, prefix: &str) -> BTreeMap<IpAddr, usize> {
        let mut counts = BTreeMap::new();
        for (peer, path) in self.received.lock().expect("no panic inside").iter() {
            if path.starts_with(prefix) {
                *counts.entry(*peer).or_default() += 1;
            }
        }
        counts
    }

    /// Transactions with this prefix as the database has them: path to (status, client address), one entry each.
    fn recorded(&self, prefix: &str) -> HashMap<String, Vec<(String, String)>> {
        let prefix = prefix.to_owned();
        self.net
            .run_on("services", move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(recorded_in_mongo(&prefix))
            })
            .join()
            .expect("no panic")
    }

    fn signal(&self, index: usize, signal: &str) {
        // `ip netns exec` replaces itself by the node, so the child's id is the node's.
        let id = self.nodes[index].as_ref().expect("the node runs").id().to_string();
        assert!(
            std::process::Command::new("kill")
                .args([signal, &id])
                .status()
                .expect("kill runs")
                .success()
        );
    }

    fn wait_for_exit(&mut self, index: usize, limit: Duration) -> std::process::ExitStatus {
        let mut child = self.nodes[index].take().expect("the node runs");
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} did not stop within {limit:?}\n{}",
                NODES[index],
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn bring_back(&mut self, index: usize) {
        self.nodes[index] = Some(self.spawn_node(index));
        let label = format!("{}:5000", node_address(index));
        self.until("the node is up again", Duration::from_secs(30), |site| {
            site.balancer_metrics().lines().any(|line| {
                line.starts_with("openhim_balancer_backend_up{") && line.contains(&label) && line.ends_with(" 1")
            })
        });
    }

    fn load(&self, name: &str) -> Load {
        Load::start(self, name)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten().chain(&mut self.others) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn recorded_in_mongo(prefix: &str) -> HashMap<String, Vec<(String, String)>> {
    let client = mongodb::Client::with_uri_str(format!("mongodb://{DATABASE}"))
        .await
        .expect("MongoDB answers");
    let transactions = client.database("openhim").collection::<bson::Document>("transactions");
    let filter = bson::doc! { "request.path": { "$regex": format!("^{prefix}") } };
    let mut cursor = transactions.find(filter).await.expect("a query");
    let mut found: HashMap<String, Vec<(String, String)>> = HashMap::new();
    while cursor.advance().await.expect("documents") {
        let document: bson::Document = cursor.deserialize_current().expect("a document");
        let path = document
            .get_document("request")
            .and_then(|request| request.get_str("path"))
            .expect("a path");
        let status = document.get_str("status").expect("a status").to_owned();
        let address = document.get_str("clientIP").expect("an address").to_owned();
        found.entry(path.to_owned()).or_default().push((status, address));
    }
    found
}

/// A path, and the status that came back for it or why none did.
type Sent = (String, Result<u16, String>);

/// Eight clients that send without a pause until told to stop.
struct Load {
    prefix: String,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Vec<Sent>>>,
}

const WORKERS: usize = 8;

impl Load {
    fn start(site: &Site, name: &str) -> Self {
        let prefix = format!("/guide/{name}/");
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let workers = (0..WORKERS)
            .map(|worker| {
                let (tls, stop, done, prefix) = (
                    site.client.clone(),
                    Arc::clone(&stop),
                    Arc::clone(&done),
                    prefix.clone(),
                );
                site.net.run_on("client", move || {
                    let mut outcomes = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let path = format!("{prefix}{worker}-{}", outcomes.len());
                        let address = SocketAddr::from((BALANCER, 5000));
                        let answer = plain_http::request(address, Some(&tls), "POST", &path, None, "{\"patient\":1}");
                        outcomes.push((
                            path,
                            answer.map(|answer| answer.status).map_err(|error| error.to_string()),
                        ));
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    outcomes
                })
            })
            .collect();
        Self {
            prefix,
            stop,
            done,
            workers,
        }
    }

    /// Lets `count` more requests pass.
    fn run_on(&self, count: u64) {
        let goal = self.done.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.done.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < deadline, "the load stands still");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the load. Answers with the requests that failed, after checking that every other one was delivered once
    /// and recorded once, and that the store has a final status for each it knows.
    fn finish(self, site: &Site, was_killed: bool) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let outcomes: Vec<_> = self
            .workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("no panic"))
            .collect();
        let (good, bad): (Vec<_>, Vec<_>) = outcomes
            .into_iter()
            .partition(|(_, outcome)| matches!(outcome, Ok(200)));
        assert!(good.len() > 100, "too little load to mean anything: {}", good.len());
        let mut deliveries: HashMap<String, usize> = HashMap::new();
        for (_, path) in site.received.lock().expect("no panic inside").iter() {
            *deliveries.entry(path.clone()).or_default() += 1;
        }
        for (path, _) in &good {
            assert_eq!(deliveries.get(path), Some(&1), "{path} must reach the mediator once");
        }
        for (path, _) in &bad {
            assert!(
                deliveries.get(path).copied().unwrap_or(0) <= 1,
                "{path} must not be delivered twice"
            );
        }
        // A node that is killed may take the ends of its latest messages along (`store.durability: standard`), but never
        // their beginnings.
        let unfinished = if was_killed { WORKERS } else { 0 };
        site.until(
            "every answered transaction is recorded",
            Duration::from_secs(15),
            |site| {
                let recorded = site.recorded(&self.prefix);
                let is_recorded_once = |path: &String| recorded.get(path).is_some_and(|list| list.len() == 1);
                let is_successful = |path: &String| recorded.get(path).is_some_and(|list| list[0].0 == "Successful");
                good.iter().all(|(path, _)| is_recorded_once(path))
                    && good.iter().filter(|(path, _)| !is_successful(path)).count() <= unfinished
            },
        );
        bad
    }
}

#[test]
fn the_basic_cluster_guide_works_as_written() {
    if !Net::is_possible() {
        return crate::support::parts::skip("network namespaces (root and the `ip` command)");
    }
    let Some(mongod) = crate::support::parts::mongod() else {
        return;
    };
    let mut site = Site::start(&mongod);
    site.set_up();

    four_hundred_transactions_spread_evenly(&site);
    a_killed_node_fails_only_what_it_had_in_its_hands(&mut site);
    a_stopped_node_fails_nothing(&mut site);
    nodes_join_and_leave_under_load(&site);
    a_new_channel_is_in_force_everywhere(&site);
}

fn four_hundred_transactions_spread_evenly(site: &Site) {
    let (tls, address) = (site.client.clone(), SocketAddr::from((BALANCER, 5000)));
    let send_all = move || {
        for number in 0..400 {
            let path = format!("/guide/spread/{number}");
            let answer = plain_http::request(address, Some(&tls), "POST", &path, None, "{\"patient\":1}");
            assert_eq!(answer.expect("an answer").status, 200, "transaction {number}");
        }
    };
    site.net
        .run_on("client", send_all)
        .join()
        .expect("every transaction is answered");

    let expected: BTreeMap<IpAddr, usize> = (0..4).map(|index| (IpAddr::from(node_address(index)), 100)).collect();
    assert_eq!(site.received("/guide/spread/"), expected);
    site.until("all 400 are recorded", Duration::from_secs(5), |site| {
        site.recorded("/guide/spread/").len() == 400
    });
    for (path, entries) in site.recorded("/guide/spread/") {
        assert_eq!(entries.len(), 1, "{path} must be recorded once");
        assert_eq!(
            entries[0].1,
            CLIENT.to_string(),
            "{path} must have the client's own address"
        );
    }
}

fn a_killed_node_fails_only_what_it_had_in_its_hands(site: &mut Site) {
    let load = site.load("killed");
    load.run_on(200);
    site.signal(2, "-9");
    load.run_on(400);
    let failed = load.finish(site, true);
    assert!(
        failed.len() <= WORKERS,
        "only what was in its hands may fail: {failed:?}\n{}",
        site.logs()
    );
    site.wait_for_exit(2, Duration::from_secs(5));

    site.bring_back(2);
    let load = site.load("back");
    load.run_on(200);
    assert_eq!(load.finish(site, false), [], "nothing fails once it is back");
    let share = site
        .received("/guide/back/")
        .get(&IpAddr::from(node_address(2)))
        .copied()
        .unwrap_or(0);
    assert!(share >= 40, "it gets its share again: {share}");
    site.until("its orphans have a final status", Duration::from_secs(10), |site| {
        site.recorded("/guide/killed/")
            .values()
            .flatten()
            .all(|(status, _)| status != "Processing")
    });
}

fn a_stopped_node_fails_nothing(site: &mut Site) {
    let load = site.load("stopped");
    load.run_on(200);
    site.signal(1, "-TERM");
    let status = site.wait_for_exit(1, Duration::from_secs(30));
    load.run_on(200);
    assert_eq!(
        load.finish(site, false),
        [],
        "a clean stop fails nothing\n{}",
        site.logs()
    );
    assert_eq!(status.code(), Some(0), "a clean stop ends with 0");
    site.bring_back(1);
}

fn nodes_join_and_leave_under_load(site: &Site) {
    let file = std::fs::read_to_string(site.balancer_file()).expect("the file is there");
    let load = site.load("changed");
    load.run_on(100);

    std::fs::write(site.balancer_file(), file.replace(", 10.0.0.5:5000]", "]")).expect("a writable folder");
    site.until("the removed node is gone", Duration::from_secs(15), |site| {
        !site
            .balancer_metrics()
            .lines()
            .any(|l| l.starts_with("openhim_balancer_backend_up{") && l.contains("10.0.0.5:5000"))
    });
    let before = site
        .received("/guide/changed/")
        .get(&IpAddr::from(node_address(3)))
        .copied();
    load.run_on(100);
    let after = site
        .received("/guide/changed/")
        .get(&IpAddr::from(node_address(3)))
        .copied();
    assert_eq!(before, after, "a removed node gets nothing new");

    std::fs::write(site.balancer_file(), &file).expect("a writable folder");
    site.until("the added node gets its share", Duration::from_secs(30), |site| {
        site.received("/guide/changed/")
            .get(&IpAddr::from(node_address(3)))
            .copied()
            > after.map(|count| count + 20)
    });
    assert_eq!(
        load.finish(site, false),
        [],
        "adding and removing fails nothing\n{}",
        site.logs()
    );
}

fn a_new_channel_is_in_force_everywhere(site: &Site) {
    assert_eq!(site.create_channel("New", "^/new$", &[]).status, 201);
    let created = Instant::now();
    for (index, name) in NODES.iter().enumerate() {
        let address = SocketAddr::from((node_address(index), 5000));
        while site.send_to(address, "/new").map(|answer| answer.status).ok() != Some(200) {
            assert!(
                created.elapsed() < Duration::from_millis(1500),
                "{} does not know the channel",
                name
            );
        }
    }
}
