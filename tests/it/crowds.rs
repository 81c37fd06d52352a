//! Thousands of connections that do nothing or next to nothing: others do not feel them, and memory stays bounded.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use openhim_node::testing::backend;

use crate::support::backend::host;
use crate::support::eventually;
use crate::support::node::{Node, node};

/// Connections of each kind.
const CROWD: usize = 1000;
/// What the node may hold for each of them on the average, KiB: most of it for a message whose body has begun.
const EACH: u64 = 48;
const CLINIC: Option<(&str, &str)> = Some(("clinic", "secret"));

/// What a connection that never comes to the point has said.
#[derive(Clone, Copy)]
enum Said {
    Nothing,
    /// Goes on by a byte now and then.
    HalfAHead,
    HalfABody,
}

impl Said {
    fn beginning(self) -> &'static [u8] {
        match self {
            Self::Nothing => b"",
            Self::HalfAHead => b"GET /x HTTP/1.1\r\nhost: h\r\nx-slow: ",
            Self::HalfABody => b"POST /x HTTP/1.1\r\nhost: h\r\nauthorization: Basic Y2xpbmljOnNlY3JldA==\r\ncontent-length: 100000\r\n\r\nhalf",
        }
    }

    fn next(self) -> &'static [u8] {
        match self {
            Self::Nothing => b"",
            Self::HalfAHead | Self::HalfABody => b"z",
        }
    }
}

/// The slowest of some requests.
fn slowest(node: &Node) -> Duration {
    let ask = |_| {
        let begun = Instant::now();
        assert_eq!(node.send("/x", CLINIC, "{}").unwrap().status, 200);
        begun.elapsed()
    };
    (0..50).map(ask).max().unwrap()
}

#[test]
fn thousands_of_slow_connections_move_nobody_and_cost_little() {
    let quick = host(backend().answers(200, "ok"));
    // Long enough that all of them are there at once.
    let node = node().set("limits.headerTimeoutMillis", "60000").start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/x", "clinics", &quick);
    let alone = slowest(&node);
    let before = node.memory("VmRSS");
    let over = Arc::new(AtomicBool::new(false));
    let crowd: Vec<_> = [Said::Nothing, Said::HalfAHead, Said::HalfABody]
        .into_iter()
        .map(|said| {
            let mut streams: Vec<TcpStream> = (0..CROWD)
                .map(|_| {
                    let mut stream = TcpStream::connect(node.http()).unwrap();
                    stream.write_all(said.beginning()).unwrap();
                    stream
                })
                .collect();
            let over = Arc::clone(&over);
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    for stream in &mut streams {
                        let _ = stream.write_all(said.next());
                    }
                    thread::sleep(Duration::from_millis(250));
                }
            })
        })
        .collect();

    let crowded = slowest(&node);
    let grown = node.memory("VmRSS").saturating_sub(before);

    over.store(true, Ordering::Relaxed);
    for kind in crowd {
        kind.join().unwrap();
    }
    assert!(
        crowded < alone * 3 + Duration::from_secs(1),
        "{crowded:?} instead of {alone:?}"
    );
    let most = EACH * 3 * CROWD as u64;
    assert!(grown < most, "{grown} KiB for {} connections", 3 * CROWD);
    eventually("the node serves as before", || {
        (node.send("/x", CLINIC, "{}").ok()?.status == 200).then_some(())
    });
}

#[test]
fn who_does_not_finish_a_head_is_gone_in_time_and_every_transaction_comes_to_an_end() {
    let quick = host(backend().answers(200, "ok"));
    let node = node().set("limits.headerTimeoutMillis", "1000").start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/x", "clinics", &quick);
    assert_eq!(node.send("/x", CLINIC, "{}").unwrap().status, 200);
    // Some begin a message and go.
    for _ in 0..20 {
        let mut stream = TcpStream::connect(node.http()).unwrap();
        stream.write_all(Said::HalfABody.beginning()).unwrap();
    }
    let ended = Arc::new(Mutex::new(0));
    let slow: Vec<_> = (0..100)
        .map(|_| {
            let (address, ended) = (node.http(), Arc::clone(&ended));
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(Said::HalfAHead.beginning()).unwrap();
                let begun = Instant::now();
                // A byte now and then does not buy more time.
                while stream.write_all(b"z").is_ok() && begun.elapsed() < Duration::from_secs(15) {
                    thread::sleep(Duration::from_millis(100));
                }
                *ended.lock().unwrap() += usize::from(begun.elapsed() < Duration::from_secs(15));
            })
        })
        .collect();

    for slow in slow {
        slow.join().unwrap();
    }

    assert_eq!(*ended.lock().unwrap(), 100);
    eventually("every transaction has come to an end", || {
        let stored = node.transactions();
        (!stored.is_empty() && stored.iter().all(|tx| tx["status"] != "Processing")).then_some(())
    });
}
