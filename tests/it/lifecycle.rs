//! From start to exit: signals, the service manager, and starts that are refused.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use openhim_node::testing::backend;
use rustix::process::Signal;

use crate::support::backend::host;
use crate::support::node::{Node, Ports, node, send};
use crate::support::plain_http::Tls;
use crate::support::program::{Running, outcome, program};
use crate::support::{SOON, eventually, free_port};

/// The client that tests create.
const CLINIC: Option<(&str, &str)> = Some(("clinic", "secret"));

#[test]
fn a_node_serves_until_it_is_told_to_stop_and_ends_with_zero() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = node().start();
        assert_eq!(node.ask("GET", "/heartbeat", "").status, 200);

        node.running.signal(signal);

        assert_eq!(node.running.exit().code(), Some(0), "{}", node.running.stderr.all());
        assert!(node.send("/heartbeat", None, "").is_err());
    }
}

#[test]
fn console_lines_have_openhims_shape() {
    let mut node = node().cluster("2").start();
    for line in node.running.stdout.all().lines() {
        let mut words = line.splitn(4, ' ');
        let time = words.next().unwrap();
        assert!(
            time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T',
            "{line}"
        );
        let label = words.next().unwrap();
        assert!(label == "[master]" || label.starts_with("[worker"), "{line}");
        assert!(
            ["error:", "warn:", "info:", "debug:"].contains(&words.next().unwrap()),
            "{line}"
        );
    }
    node.running
        .says(&format!("HTTP listening on port {}", node.ports.http));
    node.running.says("Clustering the OpenHIM with 2 workers...");
}

#[test]
fn a_message_under_way_is_answered_and_recorded_before_the_end() {
    let slow = host(backend().answers(200, "late").after(Duration::from_millis(700)));
    let mut node = node().start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/slow", "clinics", &slow);
    let to = node.http();
    let client = thread::spawn(move || send(to, "/slow", CLINIC, ""));
    slow.first();

    node.running.signal(Signal::TERM);

    let answer = client.join().unwrap().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "late"));
    assert_eq!(node.running.exit().code(), Some(0));
    node.start_again();
    assert_eq!(node.recorded(1)[0]["status"], "Successful");
}

#[test]
fn a_second_signal_ends_at_once() {
    let silent = host(backend().never_answers());
    let mut node = node().start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/silent", "clinics", &silent);
    let to = node.http();
    let client = thread::spawn(move || send(to, "/silent", CLINIC, ""));
    silent.first();

    node.running.signal(Signal::TERM);
    node.running.says("Stopping");
    node.running.signal(Signal::TERM);

    assert_eq!(node.running.exit().code(), Some(1));
    assert!(client.join().unwrap().is_err());
}

#[test]
fn a_hangup_renews_the_instances_while_every_request_is_answered() {
    let quick = host(backend().answers(200, "ok"));
    let mut node = node().cluster("2").start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/quick", "clinics", &quick);
    assert_eq!(node.send("/quick", CLINIC, "").unwrap().status, 200);

    for _ in 0..3 {
        node.running.signal(Signal::HUP);
        for _ in 0..30 {
            assert_eq!(node.send("/quick", CLINIC, "").unwrap().status, 200);
        }
    }

    assert_eq!(node.running.ended(), None);
}

/// What the other side of a TLS connection shows of itself.
fn shown_by(address: SocketAddr) -> Option<Vec<u8>> {
    let mut socket = std::net::TcpStream::connect(address).ok()?;
    let name = rustls::pki_types::ServerName::from(address.ip());
    let mut connection = rustls::ClientConnection::new(Tls::anonymous().config(), name).ok()?;
    connection.complete_io(&mut socket).ok()?;
    Some(connection.peer_certificates()?.first()?.to_vec())
}

#[test]
fn a_restart_through_the_api_renews_the_instances_and_refuses_nobody() {
    let quick = host(backend().answers(200, "ok"));
    let mut node = node().cluster("2").start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/quick", "clinics", &quick);
    let uptime = |node: &Node| {
        let heartbeat: serde_json::Value = serde_json::from_str(&node.ask("GET", "/heartbeat", "").body).unwrap();
        heartbeat["master"].as_f64().unwrap()
    };
    let parameters = rcgen::CertificateParams::new(vec!["him.example".to_owned()]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    node.create("/keystore/key", &serde_json::json!({"key": key.serialize_pem()}));
    // Key and certificate do not fit together yet.
    assert_eq!(node.ask("POST", "/restart", "").status, 400);
    node.create("/keystore/cert", &serde_json::json!({"cert": certificate.pem()}));
    let before = uptime(&node);

    let answer = node.ask("POST", "/restart", "");

    assert_eq!((answer.status, answer.body.as_str()), (200, "Server being restarted"));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(node.send("/quick", CLINIC, "").unwrap().status, 200);
    }
    node.running.says("has requested a server restart");
    eventually("the new certificate is in use", || {
        let shown = [shown_by(node.https())?, shown_by(node.api())?];
        shown
            .iter()
            .all(|shown| shown == certificate.der().as_ref())
            .then_some(())
    });
    assert!(uptime(&node) > before + 3.0, "the process counts on");
    assert_eq!(node.running.ended(), None);
}

#[test]
fn the_service_manager_hears_of_start_reload_life_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let hear = |word: &str| {
        eventually(&format!("the service manager hears {word}"), || {
            let mut message = [0; 4096];
            let length = manager.recv(&mut message).unwrap();
            String::from_utf8_lossy(&message[..length]).contains(word).then_some(())
        });
    };
    let builder = node();
    let mut command = builder.command(&Ports::free());
    let mut running = Running::start(command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000"));

    hear("READY=1");
    hear("WATCHDOG=1");
    running.signal(Signal::HUP);
    hear("RELOADING=1");
    hear("READY=1");
    running.signal(Signal::TERM);
    hear("STOPPING=1");
    assert_eq!(running.exit().code(), Some(0));
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_left_behind() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _holder = TcpListener::bind(taken).unwrap();
    let builder = node().set("router.httpPort", &taken.port().to_string());
    let mut command = builder.command(&Ports::free());
    let refused = outcome(&mut command);

    assert_eq!(refused.code, 64, "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stderr.contains(&taken.port().to_string()), "{}", refused.stderr);
    assert!(refused.stderr.to_lowercase().contains("in use"), "{}", refused.stderr);
    let left = std::fs::read_dir(command.get_current_dir().unwrap()).unwrap().count();
    assert_eq!(left, 0, "something was written");
}

#[test]
fn a_store_that_cannot_be_had_is_named_and_the_code_is_64() {
    for (url, told) in [
        ("sqlite:///dev/null/openhim.db", "/dev/null"),
        ("sqlite:///proc/openhim.db", "/proc/openhim.db"),
        (
            "mongodb://127.0.0.1:1/openhim?serverSelectionTimeoutMS=300",
            "127.0.0.1:1",
        ),
        (
            "mongodb://127.0.0.1:1/openhim?noSuchOption=1&serverSelectionTimeoutMS=300",
            "127.0.0.1:1",
        ),
    ] {
        let refused = outcome(&mut node().set("store.url", url).command(&Ports::free()));
        assert_eq!(refused.code, 64, "{url}: {}{}", refused.stdout, refused.stderr);
        assert!(refused.stderr.contains(told), "{url}: {}", refused.stderr);
    }
}

/// A balancer in front of one backend, with its control socket in a folder of the test's.
fn balancer(folder: &Path, backend: SocketAddr) -> (Command, SocketAddr) {
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let file = folder.join("balancer.yaml");
    let text = format!(
        "listen: {listen}\nbackends: [{backend}]\nmetrics: off\nadmin: {}\n",
        folder.join("ctl").display()
    );
    std::fs::write(&file, text).unwrap();
    let mut command = program(["balancer", "--config"]);
    command.arg(file);
    (command, listen)
}

#[test]
fn a_balancer_is_ready_after_its_first_checks_obeys_its_operator_and_ends_with_zero() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let node = host(backend().answers(200, "ok"));
    let (mut command, listen) = balancer(folder.path(), node.address());
    let mut running = Running::start(command.env("NOTIFY_SOCKET", &path));
    let ctl = |words: &[&str]| {
        let socket = folder.path().join("ctl");
        outcome(program(["balancer", "ctl", "--socket"]).arg(socket).args(words))
    };

    let mut message = [0; 256];
    let length = manager.recv(&mut message).unwrap();
    assert!(
        message[..length].starts_with(b"READY=1"),
        "{:?}",
        String::from_utf8_lossy(&message[..length])
    );
    assert_eq!(send(listen, "/", None, "").unwrap().body, "ok");

    let table = ctl(&["-L", "-n"]);
    assert_eq!(table.code, 0, "{}", table.stderr);
    assert!(table.stdout.contains(&node.address().to_string()), "{}", table.stdout);
    let unknown = ctl(&["drain", "10.0.0.99:1"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("10.0.0.99:1"), "{}", unknown.stderr);

    running.signal(Signal::HUP);
    running.says("Configuration applied");
    running.signal(Signal::TERM);
    assert_eq!(running.exit().code(), Some(0), "{}", running.stderr.all());
    let nobody = ctl(&["-L"]);
    assert_eq!(nobody.code, 1);
    assert!(nobody.stderr.contains("no balancer answers at"), "{}", nobody.stderr);
}

#[test]
fn a_balancer_that_cannot_have_its_address_says_who_could_tell() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let refused = outcome(&mut program([
        "balancer",
        "--listen",
        &address,
        "--backends",
        "127.0.0.1:1",
        "--metrics",
        "off",
        "--admin",
        "off",
    ]));
    assert_eq!(refused.code, 64, "{}", refused.stderr);
    assert!(refused.stderr.contains(&address), "{}", refused.stderr);

    let doctor = outcome(&mut program([
        "balancer",
        "doctor",
        "--listen",
        &address,
        "--backends",
        "127.0.0.1:1",
    ]));
    assert_eq!(doctor.code, 1, "{}", doctor.stdout);
    for told in [
        format!("{address} is taken by"),
        "127.0.0.1:1 (traffic): Connection refused".to_owned(),
        "long transfers".to_owned(),
        "files may be open".to_owned(),
        "connections may wait to be accepted".to_owned(),
    ] {
        assert!(doctor.stdout.contains(&told), "no {told} in\n{}", doctor.stdout);
    }
}
