//! HTTP/2 as bytes: what its rules forbid, what wears others out, and what must not become another request on its way to
//! a backend that speaks HTTP/1.1.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::peers::{Act, Backend, OK, Running, balancer, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Error codes (RFC 9113, section 7).
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
/// Both are allowed where a frame has a wrong size (RFC 9113, section 5.4).
const SIZE: &[u32] = &[FRAME_SIZE_ERROR, PROTOCOL_ERROR];
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header line, neither compressed nor remembered (RFC 7541, section 6.2.2).
fn line(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match text.len() {
            length @ 0..127 => bytes.push(length as u8),
            length => {
                bytes.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    bytes.push(128 | (rest % 128) as u8);
                    rest /= 128;
                }
                bytes.push(rest as u8);
            }
        }
        bytes.extend_from_slice(text);
    }
    bytes
}

fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let lines = lines
        .iter()
        .map(|(name, value)| line(name.as_bytes(), value.as_bytes()));
    lines.collect::<Vec<_>>().concat()
}

fn get(path: &str) -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
    ])
}

fn post() -> Vec<u8> {
    block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
    ])
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The error that it tells of.
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

struct Client(TcpStream);

impl Client {
    /// Says hello.
    async fn new(balancer: &Running) -> Self {
        let mut client = Self(balancer.connect().await.stream);
        client.send(PREFACE).await;
        client.send(&frame(SETTINGS, 0, 0, b"")).await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        // Who breaks the rules may have been left already.
        let _ = within("sending", self.0.write_all(bytes)).await;
    }

    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within("a frame", self.0.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        within("a frame", self.0.read_exact(&mut payload)).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..].try_into().expect("four bytes")),
            payload,
        })
    }

    /// The next frame of one of these kinds; `None` at the end.
    async fn until(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    /// Gets an answer to a request of its own, all of it.
    async fn is_served(&mut self, stream: u32) {
        self.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/")))
            .await;
        loop {
            let frame = self.next().await.expect("the connection stands");
            if frame.stream == stream {
                assert_ne!(frame.kind, RST_STREAM, "{}", frame.code());
                if frame.flags & END_STREAM != 0 {
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_preface_that_is_none_is_refused() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[]).await;
    for preface in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let answer = balancer.talk(preface).await;
        assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    }
    assert!(backend.seen().is_empty());
}

#[tokio::test]
async fn who_breaks_a_rule_of_frames_is_told_which_and_left() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[]).await;
    let whole = END_HEADERS | END_STREAM;
    let settings = |id: u16, value: u32| {
        let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
        frame(SETTINGS, 0, 0, &payload)
    };
    let window = |stream: u32, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    for (what, bytes, codes) in [
        ("a frame larger than agreed", frame(DATA, 0, 1, &[0; 16_385]), SIZE),
        ("a short PING", frame(PING, 0, 0, &[0; 7]), SIZE),
        ("a PING on a stream", frame(PING, 0, 1, &[0; 8]), &[PROTOCOL_ERROR]),
        ("short SETTINGS", frame(SETTINGS, 0, 0, &[0; 5]), SIZE),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, b""), &[PROTOCOL_ERROR]),
        ("an acknowledgment with content", frame(SETTINGS, 1, 0, &[0; 6]), SIZE),
        (
            "a window beyond 31 bits",
            settings(4, 1 << 31),
            &[FLOW_CONTROL_ERROR, PROTOCOL_ERROR],
        ),
        ("frames of one byte", settings(5, 1), &[PROTOCOL_ERROR]),
        ("push of 2", settings(2, 2), &[PROTOCOL_ERROR]),
        (
            "a stream of ours",
            frame(HEADERS, whole, 2, &get("/")),
            &[PROTOCOL_ERROR],
        ),
        (
            "a request on stream 0",
            frame(HEADERS, whole, 0, &get("/")),
            &[PROTOCOL_ERROR],
        ),
        ("DATA on stream 0", frame(DATA, 0, 0, b"x"), &[PROTOCOL_ERROR]),
        ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), &[PROTOCOL_ERROR]),
        ("a window of an idle stream", window(1, 1), &[PROTOCOL_ERROR]),
        ("a window by nothing", window(0, 0), &[PROTOCOL_ERROR]),
        (
            "a window that overflows",
            window(0, i32::MAX as u32),
            &[FLOW_CONTROL_ERROR],
        ),
        ("a short window", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), SIZE),
        (
            "a reset of an idle stream",
            frame(RST_STREAM, 0, 1, &[0; 4]),
            &[PROTOCOL_ERROR],
        ),
        ("a short reset", frame(RST_STREAM, 0, 1, &[0; 3]), SIZE),
        (
            "a priority on stream 0",
            frame(PRIORITY, 0, 0, &[0; 5]),
            &[PROTOCOL_ERROR],
        ),
        (
            "a promise",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
            &[PROTOCOL_ERROR],
        ),
        (
            "a continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &get("/")),
            &[PROTOCOL_ERROR],
        ),
        (
            "another frame within a head",
            [frame(HEADERS, END_STREAM, 1, &get("/")), frame(PING, 0, 0, &[0; 8])].concat(),
            &[PROTOCOL_ERROR],
        ),
        (
            "a head that goes on elsewhere",
            [
                frame(HEADERS, END_STREAM, 1, &get("/")),
                frame(CONTINUATION, END_HEADERS, 3, b""),
            ]
            .concat(),
            &[PROTOCOL_ERROR],
        ),
        (
            "padding longer than its frame",
            frame(DATA, PADDED, 1, &[9, 0]),
            &[PROTOCOL_ERROR],
        ),
        (
            "a line that nobody knows",
            frame(HEADERS, whole, 1, &[0xff, 0xff, 0xff, 0x7f]),
            &[COMPRESSION_ERROR, PROTOCOL_ERROR],
        ),
        (
            "a line cut short",
            frame(HEADERS, whole, 1, &[0, 5, b'x']),
            &[COMPRESSION_ERROR, PROTOCOL_ERROR],
        ),
    ] {
        let mut client = Client::new(&balancer).await;
        client.send(&bytes).await;
        let goodbye = client
            .until(&[GOAWAY])
            .await
            .unwrap_or_else(|| panic!("{what}: no GOAWAY"));
        assert!(codes.contains(&goodbye.code()), "{what}: {}", goodbye.code());
        assert!(client.until(&[]).await.is_none(), "{what}");
    }
    assert_eq!(backend.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn a_stream_that_was_used_is_not_used_again() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[]).await;
    for (stream, kind, payload) in [(1, HEADERS, get("/again")), (3, DATA, b"more".to_vec())] {
        let mut client = Client::new(&balancer).await;
        client.is_served(3).await;

        client
            .send(&frame(kind, END_HEADERS | END_STREAM, stream, &payload))
            .await;

        let told = client.until(&[GOAWAY, RST_STREAM]).await.expect("a word about it");
        assert!(
            [PROTOCOL_ERROR, STREAM_CLOSED].contains(&told.code()),
            "{}",
            told.code()
        );
    }
    assert_eq!(backend.lines(), ["GET / HTTP/1.1", "GET / HTTP/1.1"]);
}

#[tokio::test]
async fn a_window_that_is_broken_costs_its_stream_alone() {
    let backend = Backend::start(|it| match it.line() {
        "POST / HTTP/1.1" => Act::Stall,
        _ => Act::Say(OK),
    })
    .await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = Client::new(&balancer).await;

    client.send(&frame(HEADERS, END_HEADERS, 1, &post())).await;
    client
        .send(&frame(WINDOW_UPDATE, 0, 1, &(i32::MAX as u32).to_be_bytes()))
        .await;

    let told = client.until(&[GOAWAY, RST_STREAM]).await.expect("a word about it");
    assert_eq!(
        (told.kind, told.stream, told.code()),
        (RST_STREAM, 1, FLOW_CONTROL_ERROR)
    );
    client.is_served(3).await;
}

#[tokio::test]
async fn who_sends_more_than_the_window_is_not_heard() {
    let backend = Backend::start(|_| Act::Stall).await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = Client::new(&balancer).await;
    client.send(&frame(HEADERS, END_HEADERS, 1, &post())).await;
    let piece = frame(DATA, 0, 1, &[0; 16_384]);

    let mut sent = 0;
    while sent < 64 << 20 {
        match tokio::time::timeout(Duration::from_secs(5), client.0.write_all(&piece)).await {
            Ok(Ok(())) => sent += piece.len(),
            Ok(Err(_)) | Err(_) => break,
        }
    }

    // Either the connection is over, or the stream is and what still comes for it is thrown away.
    match client.until(&[GOAWAY, RST_STREAM]).await {
        Some(told) => assert_eq!(told.code(), FLOW_CONTROL_ERROR),
        None => assert!(sent < 64 << 20, "everything was taken"),
    }
}

#[tokio::test]
async fn streams_that_are_given_up_at_once_are_not_carried_out_without_end() {
    let backend = Backend::start(|_| Act::SayLater(Duration::from_millis(100), OK)).await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = Client::new(&balancer).await;

    let mut bytes = Vec::new();
    for stream in (1..20_000_u32).step_by(2) {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/")));
        bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    client.send(&bytes).await;

    let told = client.until(&[GOAWAY]).await;
    if let Some(told) = told {
        assert_eq!(told.code(), ENHANCE_YOUR_CALM);
    }
    assert!(backend.seen().len() < 500, "{} requests", backend.seen().len());
    within("an end of the work", async {
        while balancer.balancer.report().await.expect("runs").services[0].backends[0].active > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    Client::new(&balancer).await.is_served(1).await;
}

#[tokio::test]
async fn a_head_without_end_is_not_kept() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[]).await;
    let piece = line(b"x-more", &[b'x'; 16_000]);
    for next in [frame(CONTINUATION, 0, 1, &piece), frame(CONTINUATION, 0, 1, b"")] {
        let mut client = Client::new(&balancer).await;
        client.send(&frame(HEADERS, END_STREAM, 1, &get("/"))).await;

        let mut sent = 0;
        while sent < 64 << 20 {
            match tokio::time::timeout(Duration::from_secs(5), client.0.write_all(&next.repeat(64))).await {
                Ok(Ok(())) => sent += next.len() * 64,
                Ok(Err(_)) | Err(_) => break,
            }
        }

        assert!(sent < 64 << 20, "everything was taken");
    }
    assert!(backend.seen().is_empty());
    Client::new(&balancer).await.is_served(1).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_the_connection_stands() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[("max-header-bytes", "8192")]).await;
    let mut client = Client::new(&balancer).await;

    let mut head = get("/");
    head.extend(line(b"x-large", &[b'x'; 10_000]));
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await;

    let told = client
        .until(&[GOAWAY, RST_STREAM, HEADERS])
        .await
        .expect("a word about it");
    assert!(told.stream == 1 && told.kind != GOAWAY, "{}", told.kind);
    client.is_served(3).await;
    assert_eq!(backend.lines(), ["GET / HTTP/1.1"]);
}

#[tokio::test]
async fn questions_that_nobody_reads_the_answers_to_are_not_taken_without_end() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[]).await;
    for question in [
        frame(PING, 0, 0, b"are you?"),
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
    ] {
        let mut client = Client::new(&balancer).await;
        let many = question.repeat(4096);

        let mut sent = 0;
        while sent < 256 << 20 {
            match tokio::time::timeout(Duration::from_secs(1), client.0.write_all(&many)).await {
                Ok(Ok(())) => sent += many.len(),
                Ok(Err(_)) | Err(_) => break,
            }
        }

        assert!(sent < 256 << 20, "everything was taken");
        Client::new(&balancer).await.is_served(1).await;
    }
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_takes_no_new_ones() {
    let backend = Backend::start(|it| match it.line() {
        "GET /slow HTTP/1.1" => Act::SayLater(Duration::from_millis(400), OK),
        _ => Act::Say(OK),
    })
    .await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = Client::new(&balancer).await;
    client
        .send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/slow")))
        .await;
    within("the request", async {
        while balancer.balancer.report().await.expect("runs").services[0].backends[0].active == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    balancer.shutdown.soft.cancel();

    let goodbye = client.until(&[GOAWAY]).await.expect("a goodbye");
    assert_eq!(goodbye.code(), 0);
    // A good client says that it has heard: then it is told the last stream that counts.
    let (mut has_answer, mut last) = (false, u32::MAX);
    while let Some(it) = client.next().await {
        match it.kind {
            PING if it.flags & 1 == 0 => client.send(&frame(PING, 1, 0, &it.payload)).await,
            GOAWAY => last = u32::from_be_bytes(it.payload[..4].try_into().expect("four bytes")),
            DATA => has_answer |= it.stream == 1 && it.payload == b"ok",
            _ => {}
        }
    }
    assert!(has_answer);
    assert_eq!(last, 1);
    within("the end", balancer.balancer.wait()).await;
}

#[tokio::test]
async fn nothing_in_a_head_of_http_2_becomes_a_line_or_a_request_of_http_1() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[]).await;
    let plain = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
    ];
    let with = |more: &[(&str, &str)]| block(&[&plain[..], more].concat());
    let instead = |name: &str, value: &str| {
        let lines: Vec<_> = plain
            .iter()
            .map(|it| if it.0 == name { (it.0, value) } else { *it })
            .collect();
        block(&lines)
    };
    let without = |name: &str| {
        let lines: Vec<_> = plain.iter().copied().filter(|it| it.0 != name).collect();
        block(&lines)
    };
    for (what, head) in [
        ("a line in a value", with(&[("x", "y\r\nEvil: z")])),
        ("a LF in a value", with(&[("x", "y\nEvil: z")])),
        ("a NUL in a value", with(&[("x", "y\0")])),
        ("a line in a name", with(&[("x: y\r\nevil", "z")])),
        ("a colon in a name", with(&[("x:", "z")])),
        ("a space in a name", with(&[("x y", "z")])),
        ("a capital in a name", with(&[("X", "z")])),
        ("an empty name", with(&[("", "z")])),
        ("a coding", with(&[("transfer-encoding", "chunked")])),
        ("a connection", with(&[("connection", "close")])),
        ("a proxy's connection", with(&[("proxy-connection", "close")])),
        ("an upgrade", with(&[("upgrade", "x")])),
        ("another te", with(&[("te", "gzip")])),
        ("another host", with(&[("host", "b")])),
        ("two hosts", with(&[("host", "a"), ("host", "b")])),
        ("two paths", with(&[(":path", "/x")])),
        ("an unknown word", with(&[(":evil", "z")])),
        (
            "a word behind a line",
            [with(&[("x", "y")]), block(&[(":authority", "b")])].concat(),
        ),
        ("an answer's word", with(&[(":status", "200")])),
        (
            "a line in a method",
            instead(":method", "GET /x HTTP/1.1\r\nHost: a\r\n\r\nGET"),
        ),
        ("an empty method", instead(":method", "")),
        (
            "a line in a path",
            instead(":path", "/ HTTP/1.1\r\nHost: a\r\n\r\nGET /x"),
        ),
        ("a space in a path", instead(":path", "/ HTTP/1.1")),
        ("an empty path", instead(":path", "")),
        ("a path that is a host", instead(":path", "http://b/")),
        ("a line in a host", instead(":authority", "a\r\nEvil: z")),
        ("a path in a host", instead(":authority", "a/x")),
        ("a user in a host", instead(":authority", "me@a")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("no host", without(":authority")),
        ("a tunnel", block(&[(":method", "CONNECT"), (":authority", "a:443")])),
        ("a length that is none", with(&[("content-length", "x")])),
        ("two lengths", with(&[("content-length", "4"), ("content-length", "5")])),
        ("a length that is too long", with(&[("content-length", "5")])),
        ("a length that is too short", with(&[("content-length", "3")])),
    ] {
        let mut client = Client::new(&balancer).await;
        client.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
        client.send(&frame(DATA, END_STREAM, 1, b"evil")).await;

        let told = client.until(&[GOAWAY, RST_STREAM, HEADERS]).await;

        let told = told.unwrap_or_else(|| panic!("{what}: no word about it"));
        // Whatever comes, it is not the backend's 200 (RFC 7541, appendix A: 8).
        assert!(told.kind != HEADERS || told.payload.first() != Some(&0x88), "{what}");
    }
    assert_eq!(backend.lines(), Vec::<String>::new());
}
