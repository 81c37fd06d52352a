//! Much at once: storms, thousands at rest, readers that stop, and too few files for all of it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::messages::{Load, Taker, failures, thread};
use super::process::{Process, backends, count};
use super::support::{Backend, Client, list, within};
use crate::support::{SOON, eventually, free_port};

fn listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_connect_at_once_stay_and_are_served() {
    const MANY: usize = 3000;
    let files = openhim_balancer::socket::raise_file_limit();
    if files < 8192 {
        return crate::support::parts::skip("permission to open 8192 files");
    }
    let all = [Backend::start().await, Backend::start().await];
    let listen = listen();
    let services = format!(
        "  - {{ name: s, listen: '{listen}', backends: [{}] }}\n",
        list(&[&all[0], &all[1]])
    );
    let balancer = tokio::task::spawn_blocking(move || Process::start(&services))
        .await
        .expect("no panic");

    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..MANY {
        storm.spawn(async move {
            let mut client = Client::connect(listen).await;
            client.name().await.expect("a backend");
            client
        });
    }
    let mut clients = Vec::new();
    while let Some(client) = within("the storm", storm.join_next()).await {
        clients.push(client.expect("everyone is served"));
    }

    let report = balancer.report();
    let service = &report["services"][0];
    assert_eq!(count(service, "active"), MANY as u64);
    assert_eq!(
        ["no_backend", "accept_errors", "queue_overflow"].map(|name| count(service, name)),
        [0; 3]
    );
    for (number, client) in clients.iter_mut().enumerate() {
        client.echo(format!("number {number} is still there").as_bytes()).await;
    }
    drop(clients);
    eventually("all have left", || {
        (count(&balancer.report(), "active") == 0).then_some(())
    });
}

/// What a backend without a wish to read, or a client without one, does to memory.
struct Stalled {
    balancer: Process,
    listen: SocketAddr,
    written: Arc<AtomicU64>,
}

/// Longer than all buffers on the way together.
const LONG: usize = 24 << 20;
const FLOWS: usize = 6;

/// Different bytes at every place.
fn byte_at(place: usize) -> u8 {
    let mixed = (place as u64 / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_le_bytes()[place % 8]
}

fn long_text() -> Arc<Vec<u8>> {
    Arc::new((0..LONG).map(byte_at).collect())
}

impl Stalled {
    /// A backend that writes a long text to everyone and reads nothing.
    fn start(text: &Arc<Vec<u8>>) -> Self {
        let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = backend.local_addr().expect("bound");
        let (listen, written) = (listen(), Arc::new(AtomicU64::new(0)));
        let (text, count) = (Arc::clone(text), Arc::clone(&written));
        std::thread::spawn(move || {
            for mut stream in backend.incoming().flatten() {
                let (text, count) = (Arc::clone(&text), Arc::clone(&count));
                std::thread::spawn(move || {
                    for part in text.chunks(64 * 1024) {
                        if stream.write_all(part).is_err() {
                            return;
                        }
                        count.fetch_add(part.len() as u64, Ordering::Relaxed);
                    }
                    let _ = stream.shutdown(Shutdown::Write);
                    let _ = stream.read(&mut [0]);
                });
            }
        });
        let services = format!("  - {{ name: s, listen: '{listen}', check: none, backends: ['{address}'] }}\n");
        Self {
            balancer: Process::start(&services),
            listen,
            written,
        }
    }

    fn memory(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.balancer.running.id());
        let text = std::fs::read_to_string(path).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
        let kibibytes = line.expect("a line").trim().trim_end_matches(" kB");
        kibibytes.parse::<u64>().expect("a number") * 1024
    }

    /// Waits until the writers do not come any further.
    fn until_it_stands(&self) -> u64 {
        let deadline = Instant::now() + SOON;
        loop {
            let before = self.written.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(400));
            if before > 0 && self.written.load(Ordering::Relaxed) == before {
                return before;
            }
            assert!(Instant::now() < deadline, "nothing holds the writers back");
        }
    }
}

#[test]
fn readers_that_stop_hold_their_writers_back_take_no_memory_and_lose_nothing() {
    let text = long_text();
    let stalled = Stalled::start(&text);
    let before = stalled.memory();
    let connect = || TcpStream::connect(stalled.listen).expect("accepted");
    let mut clients: Vec<TcpStream> = (0..FLOWS).map(|_| connect()).collect();

    let written = stalled.until_it_stands();
    assert!(written < (FLOWS * LONG) as u64, "all of it went somewhere");
    let grown = stalled.memory().saturating_sub(before);
    assert!(grown < 6 << 20, "{FLOWS} stalled flows take {grown} bytes");

    for client in &mut clients {
        client.set_read_timeout(Some(SOON)).expect("an option");
        let mut received = Vec::with_capacity(LONG);
        client.read_to_end(&mut received).expect("a proper end");
        assert!(received == *text, "{} bytes, or other bytes", received.len());
    }
    let report = stalled.balancer.report();
    assert_eq!(count(&report["services"][0], "bytes_out"), (FLOWS * LONG) as u64);
}

#[test]
fn at_the_file_limit_accepting_pauses_and_checks_and_control_go_on() {
    const WAITING: usize = 20;
    let folder = tempfile::tempdir().expect("a folder");
    let start = || Taker::start(Command::new, listen(), folder.path());
    let (mut takers, listen) = ([start(), start()], listen());
    let services = format!(
        "  - {{ name: s, listen: '{listen}', interval: 100ms, backends: ['{}', '{}'] }}\n",
        takers[0].address, takers[1].address
    );
    let few_files = |program: Command| {
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n 200; exec \"$0\" \"$@\""])
            .arg(program.get_program());
        command.args(program.get_args());
        command
    };
    let balancer = Process::start_by(few_files, &services);
    for taker in &takers {
        balancer.until_state(taker.address, "up");
    }
    let limit = usize::try_from(count(&balancer.report(), "limit")).expect("small");
    assert!((20..100).contains(&limit), "{limit} connections with 200 files");

    // Bulk on all of them: there are fewer pipes than flows.
    let load = Load::start(thread, limit, listen, "bulk");
    load.run_on(10 * limit as u64);
    let sent = load.finish();
    let failed = failures(&sent, &takers);
    assert!(failed.is_empty(), "{failed:#?}");

    let told = || {
        let all = balancer.running.stdout.all() + &balancer.running.stderr.all();
        all.matches("Not accepting").count()
    };
    let before = told();
    let connect = |number: usize| {
        let mut stream = TcpStream::connect(listen).expect("the kernel accepts");
        stream.set_read_timeout(Some(SOON)).expect("an option");
        writeln!(stream, "held-{number} 0").expect("sent");
        stream
    };
    let mut clients: Vec<TcpStream> = (0..limit + WAITING).map(connect).collect();
    balancer.until("it is full", |report| count(report, "active") == limit as u64);
    let is_served = |client: &TcpStream| {
        client.set_nonblocking(true).expect("an option");
        let served = client.peek(&mut [0]).is_ok();
        client.set_nonblocking(false).expect("an option");
        served
    };
    eventually("the first are served", || {
        (clients.iter().filter(|it| is_served(it)).count() >= limit).then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(clients.iter().filter(|it| is_served(it)).count(), limit);
    assert_eq!(told(), before + 1, "one line a time that it is full");

    takers[0].kill();
    balancer.until_state(takers[0].address, "down");
    let (served, waiting): (Vec<_>, Vec<_>) = clients.drain(..).partition(is_served);
    drop(served);
    for mut client in waiting {
        let mut answer = vec![0; takers[1].address.to_string().len()];
        client.read_exact(&mut answer).expect("its turn comes");
        assert_eq!(answer, takers[1].address.to_string().as_bytes());
    }
    let report = balancer.report();
    assert_eq!(count(&report["services"][0], "accept_errors"), 0);
    assert!(backends(&report).all(|it| count(it, "connect_timeouts") == 0));
}
