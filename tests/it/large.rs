//! Bodies that no machine would hold in memory: they flow through the node whole, and the node stays small.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::eventually;
use crate::support::node::{Node, node};

/// Bytes each way.
const SIZE: u64 = 500 << 20;
/// What the node may grow by meanwhile, KiB.
const GROWTH: u64 = 32 << 10;
/// Repeats itself at no power of two, so that a piece that is lost, doubled or moved shows.
const PATTERN: usize = 65_521;

fn pattern() -> Vec<u8> {
    (0..PATTERN).map(|at| b'a' + (at % 23) as u8).collect()
}

fn send(to: &mut impl Write) {
    let (pattern, mut left) = (pattern(), SIZE);
    while left > 0 {
        let count = left.min(PATTERN as u64);
        to.write_all(&pattern[..count as usize])
            .expect("the other side takes everything");
        left -= count;
    }
}

fn receive(from: &mut impl Read) {
    let (pattern, mut left, mut bytes) = (pattern(), SIZE, vec![0; PATTERN]);
    while left > 0 {
        let count = left.min(PATTERN as u64) as usize;
        from.read_exact(&mut bytes[..count]).expect("everything arrives");
        assert!(bytes[..count] == pattern[..count], "other bytes arrived");
        left -= count as u64;
    }
}

/// Reads the head of a message.
fn head(from: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(from.read_line(&mut head).expect("a head"), 0, "{head}");
    }
    head.to_ascii_lowercase()
}

/// Takes bodies whole and answers with as much.
fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::with_capacity(PATTERN, stream.try_clone().unwrap());
            let mut writer = stream;
            let head = head(&mut reader);
            if !head.contains(&format!("content-length: {SIZE}\r\n")) {
                write!(
                    writer,
                    "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
                .unwrap();
                continue;
            }
            receive(&mut reader);
            let kind = "content-type: application/octet-stream\r\nconnection: close";
            write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n{kind}\r\n\r\n").unwrap();
            send(&mut writer);
        }
    });
    port
}

/// A line of what the kernel knows of a process, KiB.
fn memory(node: &Node, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.running.id())).unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    found
        .trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

#[test]
fn half_a_gigabyte_flows_in_and_out_and_the_node_stays_small() {
    let port = backend();
    let node = node().set("api.maxBodiesSizeMB", "1").start();
    let route = json!({"name": "primary", "host": "127.0.0.1", "port": port, "primary": true});
    node.create(
        "/channels",
        &json!({"name": "large", "urlPattern": "^/large$", "methods": ["GET", "POST"], "authType": "public",
                "routes": [route]}),
    );
    eventually("the channel is in force", || {
        (node.send("/large", None, "").unwrap().status == 200).then_some(())
    });
    // The highest mark starts anew.
    std::fs::write(format!("/proc/{}/clear_refs", node.running.id()), "5").unwrap();
    let before = memory(&node, "VmRSS");

    let mut stream = TcpStream::connect(node.http()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(
        stream,
        "POST /large HTTP/1.1\r\nhost: h\r\ncontent-length: {SIZE}\r\n\r\n"
    )
    .unwrap();
    send(&mut stream);
    let mut reader = BufReader::with_capacity(PATTERN, stream);
    let head = head(&mut reader);
    receive(&mut reader);

    assert!(head.starts_with("http/1.1 200"), "{head}");
    let after = memory(&node, "VmHWM");
    assert!(after - before < GROWTH, "the node grew by {} KiB", after - before);
    let recorded = eventually("the transaction is recorded", || {
        let mut all = node.transactions();
        all.retain(|transaction| transaction["request"]["method"] == "POST" && transaction["status"] == "Successful");
        all.pop()
    });
    let kept = recorded["request"]["body"].as_str().unwrap();
    assert!(
        kept.ends_with("[truncated ...]") && kept.len() == 1 << 20,
        "{} bytes kept",
        kept.len()
    );
}
