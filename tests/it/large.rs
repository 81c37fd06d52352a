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

/// A body that is stored whole: as much as one transaction may hold, but for what else is in it.
const STORED: usize = 15_000_000;
/// What the node may grow by while such a body goes through it and into the store, KiB: two
/// copies, and a third that the allocator has not given back yet.
const STORED_GROWTH: u64 = 56 << 10;

/// How much the node grew at most while a request of this size was answered by as much as the path says and recorded,
/// KiB; and what is stored of the bodies, bytes.
fn growth(node: &Node, request: usize, answer: usize) -> (u64, usize) {
    let path = format!("/{request}/{answer}");
    // The highest mark starts anew.
    node.forget_peak();
    let before = node.memory("VmRSS");
    let got = node.send(&path, None, &"x".repeat(request)).unwrap();
    // The answer waits until everything is stored. Looking at it through the API takes memory, too.
    let grown = node.memory("VmHWM").saturating_sub(before);
    assert_eq!((got.status, got.body.len()), (200, answer));
    let recorded = eventually("the transaction is recorded", || {
        let mut all = node.transactions();
        all.retain(|transaction| transaction["request"]["path"] == path && transaction["status"] == "Successful");
        all.pop()
    });
    let length = |part: &str| recorded[part]["body"].as_str().unwrap().len();
    (grown, length("request") + length("response"))
}

#[test]
fn a_body_that_is_stored_whole_is_in_memory_but_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let head = head(&mut reader);
            let length = |after: &str| {
                let digits = head.split(after).nth(1).unwrap().trim_start();
                let end = digits.find(|sign: char| !sign.is_ascii_digit()).unwrap();
                digits[..end].parse::<usize>().unwrap()
            };
            if head.contains("content-length:") {
                std::io::copy(
                    &mut reader.by_ref().take(length("content-length:") as u64),
                    &mut std::io::sink(),
                )
                .unwrap();
            }
            let wanted = head
                .split(' ')
                .nth(1)
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            let mut stream = stream;
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: application/x-y\r\ncontent-length: {wanted}\r\nconnection: close\r\n\r\n").unwrap();
            stream.write_all("y".repeat(wanted).as_bytes()).unwrap();
        }
    });
    let route = json!({"name": "primary", "host": "127.0.0.1", "port": port, "primary": true});
    let channel = json!({"name": "stored", "urlPattern": "^/[0-9]+/[0-9]+$", "methods": ["POST"], "authType": "public",
                         "routes": [route]});

    for (request, answer) in [(STORED, 10), (10, STORED), (STORED / 2, STORED / 2)] {
        let node = node().set("store.durability", "strict").start();
        node.create("/channels", &channel);
        eventually("the channel is in force", || {
            (node.send("/1/1", None, "x").unwrap().status == 200).then_some(())
        });
        let (grown, stored) = growth(&node, request, answer);
        assert!(stored >= STORED, "{stored} bytes are stored");
        assert!(
            grown < STORED_GROWTH,
            "the node grew by {grown} KiB for {request} and {answer} bytes"
        );
    }
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
    node.forget_peak();
    let before = node.memory("VmRSS");

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
    let after = node.memory("VmHWM");
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
