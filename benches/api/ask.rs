//! The console's questions, and the connection they are asked over.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::seed::{self, CHANNELS, CLIENTS, FIRST, PACE};

/// A request of the console, with other values in each round.
pub(crate) struct Question {
    pub(crate) name: &'static str,
    pub(crate) bound: Duration,
    target: fn(usize, usize) -> String,
}

fn list(filters: &Value, page: usize) -> String {
    let filters = percent_encode(&filters.to_string());
    format!("/transactions?filterLimit=100&filterPage={page}&filterRepresentation=simple&filters={filters}")
}

/// A pseudo-random number below `most`.
fn any(round: usize, most: usize) -> usize {
    (round.wrapping_mul(0x9E37_79B9) >> 8) % most.max(1)
}

fn instant(number: usize) -> String {
    let millis = FIRST + number as i64 * PACE;
    let date = chrono::DateTime::from_timestamp_millis(millis).expect("a date");
    date.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn between(from: usize, to: usize) -> String {
    json!({"$gte": instant(from), "$lte": instant(to)}).to_string()
}

impl Question {
    pub(crate) fn all() -> Vec<Self> {
        let ms = Duration::from_millis;
        let question = |name, bound, target| Self {
            name,
            bound: ms(bound),
            target,
        };
        vec![
            question("unfiltered", 60, |_, _| list(&json!({}), 0)),
            question("unfiltered, some page", 60, |round, _| list(&json!({}), any(round, 50))),
            question("status", 60, |round, _| {
                let status = [
                    "Failed",
                    "Successful",
                    "Completed",
                    "Completed with error(s)",
                    "Processing",
                ][round % 5];
                list(&json!({"status": status}), 0)
            }),
            question("channel", 60, |round, _| {
                list(&json!({"channelID": seed::id(1, any(round, CHANNELS)).to_hex()}), 0)
            }),
            question("client", 60, |round, _| {
                list(&json!({"clientID": seed::id(2, any(round, CLIENTS)).to_hex()}), 0)
            }),
            question("time", 60, |round, seed| {
                let from = any(round, seed);
                list(&json!({"request.timestamp": between(from, from + seed / 10)}), 0)
            }),
            question("status and channel", 60, |round, _| {
                let channel = seed::id(1, any(round, CHANNELS)).to_hex();
                list(&json!({"status": "Failed", "channelID": channel}), 0)
            }),
            question("status, channel, client and time", 60, |round, seed| {
                let from = any(round, seed);
                list(
                    &json!({
                        "status": "Successful", "channelID": seed::id(1, any(round, 3)).to_hex(),
                        "clientID": seed::id(2, any(round, CLIENTS)).to_hex(),
                        "request.timestamp": between(from, from + seed / 10),
                    }),
                    0,
                )
            }),
            question("some channels, as a user sees them", 60, |round, _| {
                let ids: Vec<String> = (0..4)
                    .map(|more| seed::id(1, (round + more) % CHANNELS).to_hex())
                    .collect();
                list(&json!({"channelID": {"$in": ids}}), 0)
            }),
            question("a channel with few messages", 60, |_, _| {
                list(
                    &json!({"channelID": {"$in": [seed::id(1, CHANNELS - 1).to_hex(), seed::id(1, 200).to_hex()]}}),
                    0,
                )
            }),
            question("class of status codes", 600, |round, _| {
                let class = ["5xx", "2xx", "4xx"][round % 3];
                list(&json!({"response.status": class}), 0)
            }),
            question("pattern on the path, many match", 600, |_, _| {
                list(&json!({"request.path": "patient/[0-9]+$"}), 0)
            }),
            question("pattern on the path, few match", 600, |round, seed| {
                list(
                    &json!({"request.path": format!("^/c[0-9]+/patient/{}$", any(round, seed))}),
                    0,
                )
            }),
            question("pattern on the path, none matches", 600, |round, _| {
                list(&json!({"request.path": format!("nowhere{round}")}), 0)
            }),
            question("count of failed, for a rerun", 60, |_, _| {
                let filters = percent_encode(&json!({"status": "Failed"}).to_string());
                format!("/transactions?filterRepresentation=bulkrerun&filters={filters}")
            }),
            question("metrics of a day by hour", 50, |round, seed| {
                let from = any(round, seed);
                let (from, to) = (instant(from), instant(from + 17_280));
                format!("/metrics/timeseries/hour?startDate=%22{from}%22&endDate=%22{to}%22")
            }),
            question("metrics of everything by channel", 50, |_, seed| {
                let (from, to) = (instant(0), instant(seed));
                format!("/metrics/channels?startDate=%22{from}%22&endDate=%22{to}%22")
            }),
        ]
    }
}

/// What a list without a limit was.
pub(crate) struct Listed {
    pub(crate) documents: usize,
    pub(crate) bytes: usize,
    pub(crate) took: Duration,
}

/// A kept-alive connection of somebody who is logged in.
pub(crate) struct Asker(BufReader<TcpStream>);

impl Asker {
    pub(crate) fn connect(api: SocketAddr) -> Self {
        let socket = TcpStream::connect(api).expect("the API");
        socket.set_nodelay(true).expect("a socket option");
        Self(BufReader::new(socket))
    }

    /// Asks once; the answer has to be 200 and a list, or a count.
    pub(crate) fn time(&mut self, question: &Question, round: usize, seed: usize) -> Duration {
        let target = (question.target)(round, seed);
        let started = Instant::now();
        self.send(&target);
        let mut body = Vec::new();
        self.read(|part| body.extend_from_slice(part));
        let took = started.elapsed();
        assert!(matches!(body.first(), Some(b'[' | b'{')), "{target}");
        took
    }

    /// Lists every transaction with its bodies.
    pub(crate) fn list_everything(&mut self) -> Listed {
        let started = Instant::now();
        self.send("/transactions?filterRepresentation=full");
        let (mut bytes, mut documents, mut tail) = (0, 0, Vec::new());
        self.read(|part| {
            bytes += part.len();
            tail.extend_from_slice(part);
            documents += count(&tail);
            let keep = tail.len().min(MARK.len() - 1);
            tail.drain(..tail.len() - keep);
        });
        Listed {
            documents,
            bytes,
            took: started.elapsed(),
        }
    }

    fn send(&mut self, target: &str) {
        let login = base64::engine::general_purpose::STANDARD.encode("root@openhim.org:openhim-password");
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {login}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).expect("the node reads");
    }

    fn read(&mut self, mut part: impl FnMut(&[u8])) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).expect("the node answers") > 0, "cut off");
        }
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if let Some(length) = length {
            self.take(length.trim().parse().expect("a length"), &mut part);
            return;
        }
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a chunk");
            let length = usize::from_str_radix(line.trim(), 16).expect("a chunk's length");
            self.take(length, &mut part);
            self.0.read_line(&mut line).expect("a chunk's end");
            if length == 0 {
                return;
            }
        }
    }

    fn take(&mut self, mut length: usize, part: &mut impl FnMut(&[u8])) {
        let mut buffer = vec![0; 256 << 10];
        while length > 0 {
            let most = length.min(buffer.len());
            let read = self.0.read(&mut buffer[..most]).expect("the answer goes on");
            assert!(read > 0, "cut off");
            part(&buffer[..read]);
            length -= read;
        }
    }
}

/// Every seeded transaction has it once.
const MARK: &[u8] = b"\"resourceType\\\":\\\"Patient\\\"";

fn count(text: &[u8]) -> usize {
    text.windows(MARK.len()).filter(|window| *window == MARK).count()
}

/// The most memory that the process ever had.
pub(crate) fn peak_kib(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn percent_encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
