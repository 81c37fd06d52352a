//! Sockets that come from somebody else: the balancer before, or the service manager.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::messages::{Load, Taker, failures, send, thread};
use super::process::Process;
use crate::support::{SOON, eventually, free_port};

const CLIENTS: usize = 4;

fn taker(folder: &tempfile::TempDir) -> Taker {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let taker = Taker::start(Command::new, address, folder.path());
    eventually("the backend listens", || TcpStream::connect(address).ok());
    taker
}

fn listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// A connection that stays open between messages.
struct Held(BufReader<TcpStream>);

impl Held {
    fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("accepted");
        stream.set_read_timeout(Some(SOON)).expect("an option");
        let mut held = Self(BufReader::new(stream));
        held.says("first");
        held
    }

    fn says(&mut self, name: &str) {
        writeln!(self.0.get_mut(), "held-{name} 0").expect("it stands");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it stands");
        assert!(line.ends_with('\n'), "the answer was {line:?}");
    }

    fn finish(mut self) {
        self.0.get_mut().shutdown(std::net::Shutdown::Write).expect("it stands");
        assert_eq!(self.0.read_to_end(&mut Vec::new()).expect("a proper end"), 0);
    }
}

/// A service manager that listens.
struct Manager {
    path: PathBuf,
    heard: mpsc::Receiver<String>,
}

impl Manager {
    fn new(folder: &tempfile::TempDir) -> Self {
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let (sender, heard) = mpsc::channel();
        // Always listening: who notifies would have to wait otherwise.
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                if text.lines().any(|line| sender.send(line.to_owned()).is_err()) {
                    return;
                }
            }
        });
        Self { path, heard }
    }

    /// Waits for a line that begins like this; returns its rest.
    fn hears(&self, beginning: &str) -> String {
        loop {
            let line = self.heard.recv_timeout(SOON);
            let line = line.unwrap_or_else(|_| panic!("the service manager did not hear {beginning}"));
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.to_owned();
            }
        }
    }

    /// The same, and from now on.
    fn hears_now(&self, beginning: &str) {
        while self.heard.try_recv().is_ok() {}
        self.hears(beginning);
    }
}

/// A process that is not our child; ended with the test.
struct Successor(Pid);

impl Successor {
    fn has_ended(&self) -> bool {
        let path = format!("/proc/{}/stat", self.0.as_raw_nonzero());
        std::fs::read_to_string(path).map_or(true, |text| text.contains(") Z "))
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

#[test]
fn new_programs_take_over_under_load_and_the_old_ones_end_when_their_connections_have() {
    let folder = tempfile::tempdir().expect("a folder");
    let (takers, listen) = ([taker(&folder), taker(&folder), taker(&folder)], listen());
    let manager = Manager::new(&folder);
    let list: Vec<String> = takers.iter().map(|it| it.address.to_string()).collect();
    let services = format!(
        "  - {{ name: s, listen: '{listen}', backends: [{}], interval: 200ms }}\n",
        list.join(", ")
    );
    let mut balancer = Process::start_by(
        |program| {
            let mut command = Command::new("sh");
            // What the manager does: the watchdog is for this very process.
            command.args(["-c", "WATCHDOG_USEC=400000 WATCHDOG_PID=$$ exec \"$0\" \"$@\""]);
            command.arg(program.get_program()).args(program.get_args());
            command.env_clear().env("NOTIFY_SOCKET", &manager.path);
            command
        },
        &services,
    );
    manager.hears("READY=1");
    manager.hears("WATCHDOG=1");
    assert!(balancer.say(&format!("drain {}", takers[2].address)).is_ok);
    let mut held = Held::connect(listen);
    let load = Load::start(thread, CLIENTS, listen, "upgraded");
    load.run_on(50);

    balancer.signal(Signal::USR2);
    let first = Successor(process_id(&manager.hears("MAINPID=")));
    load.run_on(100);
    held.says("second");
    assert_eq!(balancer.running.ended(), None, "it still has a connection");
    let state = |balancer: &Process, backend: &Taker| {
        let report = balancer.report();
        let address = backend.address.to_string();
        let found = super::process::backends(&report).find(|it| it["address"] == *address);
        found.expect("listed")["state"].as_str().expect("a word").to_owned()
    };
    assert_eq!(
        state(&balancer, &takers[2]),
        "drain",
        "what an operator said is known to the new one"
    );
    held.finish();
    let ended = eventually("the old one has ended", || balancer.running.ended());
    assert_eq!(ended.code(), Some(0), "{}", balancer.running.stderr.all());
    manager.hears_now("WATCHDOG=1");

    kill_process(first.0, Signal::USR2).expect("it runs");
    let second = Successor(process_id(&manager.hears("MAINPID=")));
    load.run_on(100);
    eventually("the one between has ended", || first.has_ended().then_some(()));
    let sent = load.finish();

    let failed = failures(&sent, &takers);
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(!second.has_ended());
    assert!(
        balancer
            .metrics()
            .contains("openhim_balancer_connections_total{service=\"s\"}")
    );
    assert_eq!(takers[2].taken().len(), 0, "it was drained all the time");
}

fn process_id(text: &str) -> Pid {
    Pid::from_raw(text.parse().expect("a number")).expect("a process id")
}

#[test]
fn a_new_program_that_cannot_serve_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (takers, listen) = ([taker(&folder)], listen());
    let good = format!(
        "  - {{ name: s, listen: '{listen}', backends: ['{}'] }}\n",
        takers[0].address
    );
    let balancer = Process::start(&good);
    let mut held = Held::connect(listen);

    balancer.configure("  - { name: s, listen: nowhere }\n");
    balancer.signal(Signal::USR2);
    let said = || balancer.running.stdout.all() + &balancer.running.stderr.all();
    eventually("it is told", || {
        said().contains("the new program did not become ready").then_some(())
    });

    held.says("second");
    let sent = send(listen, "after".into(), 1000);
    assert_eq!(sent.by, Ok(takers[0].address));
}

#[test]
fn a_socket_of_the_service_manager_is_used_and_who_waits_there_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let takers = [taker(&folder)];
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let listen = socket.local_addr().expect("bound");
    let early = std::thread::spawn(move || send(listen, "early".into(), 1000));
    let services = format!(
        "  - {{ name: s, listen: '{listen}', backends: ['{}'] }}\n",
        takers[0].address
    );

    let balancer = Process::start_by(
        |program| {
            let mut command = Command::new("sh");
            // What the manager does: the socket is file 3, and these two say so.
            let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
            command.args(["-c", script]).arg(program.get_program());
            command.args(program.get_args());
            command.env_clear().env("PATH", "/usr/bin:/bin");
            command.stdin(Stdio::from(OwnedFd::from(socket)));
            command
        },
        &services,
    );

    assert_eq!(early.join().expect("no panic").by, Ok(takers[0].address));
    assert_eq!(send(listen, "late".into(), 1000).by, Ok(takers[0].address));
    drop(balancer);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(listen).is_ok() {
        assert!(std::time::Instant::now() < deadline, "it outlived its last holder");
    }
}
