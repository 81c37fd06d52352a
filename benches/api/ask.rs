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

/// Bounds on answers, milliseconds.
const INDEXED: u64 = 60;
const SEARCHED: u64 = 600;
const METRICS: u64 = 50;

impl Question {
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Self::selective();
        all.extend(Self::searching());
        all.extend(Self::figures());
        all
    }

    fn of(name: &'static str, bound: u64, target: fn(usize, usize) -> String) -> Self {
        Self {
            name,
            bound: Duration::from_millis(bound),
            target,
        }
    }

    /// What an index answers.
    fn selective() -> Vec<Self> {
        let question = |name, target| Self::of(name, INDEXED, target);
        vec![
            question("unfiltered", |_, _| list(&json!({}), 0)),
            question("unfiltered, some page", |round, _| list(&json!({}), any(round, 50))),
            question("status", |round, _| {
                list(&json!({"status": (STATUSES[round % STATUSES.len()])}), 0)
            }),
            question("channel", |round, _| list(&json!({"channelID": channel(round)}), 0)),
            question("client", |round, _| list(&json!({"clientID": client(round)}), 0)),
            question("time", |round, seed| {
                let from = any(round, seed);
                list(&json!({"request.timestamp": between(from, from + seed / 10)}), 0)
            }),
            question("status and channel", |round, _| {
                list(&json!({"status": "Failed", "channelID": channel(round)}), 0)
            }),
            question("status and client", |round, _| {
                list(
                    &json!({"status": "Completed with error(s)", "clientID": client(round)}),
                    0,
                )
            }),
            question("channel and client", |round, _| {
                list(&json!({"channelID": channel(round), "clientID": client(round)}), 0)
            }),
            question("status, channel, client and time", |round, seed| {
                let from = any(round, seed);
                list(
                    &json!({
                        "status": "Successful", "channelID": seed::id(1, any(round, 3)).to_hex(),
                        "clientID": client(round), "request.timestamp": between(from, from + seed / 10),
                    }),
                    0,
                )
            }),
            question("some channels, as a user sees them", |round, _| {
                let ids: Vec<String> = (0..4)
                    .map(|more| seed::id(1, (round + more) % CHANNELS).to_hex())
                    .collect();
                list(&json!({"channelID": {"$in": ids}}), 0)
            }),
            question("channels with few messages", |_, _| {
                list(
                    &json!({"channelID": {"$in": [seed::id(1, CHANNELS - 1).to_hex(), seed::id(1, 200).to_hex()]}}),
                    0,
                )
            }),
            question("class of status codes", |round, _| {
                list(&json!({"response.status": (["5xx", "2xx", "4xx"][round % 3])}), 0)
            }),
            question("status code", |round, _| {
                list(
                    &json!({"response.status": (["404", "504", "200", "302"][round % 4])}),
                    0,
                )
            }),
            question("was run again", |_, _| {
                list(&json!({"childIDs": "{\"$exists\":true,\"$ne\":[]}"}), 0)
            }),
            question("was not run again", |_, _| {
                list(&json!({"childIDs": "{\"$eq\":[]}"}), 0)
            }),
            question("repeats of one", |round, seed| {
                let parent = any(round, seed) / seed::RERUN * seed::RERUN + seed::RERUN - 2;
                list(&json!({"parentID": seed::transaction_id(parent).to_hex()}), 0)
            }),
            question("what came since, without a limit", |round, seed| {
                let since = json!({"$gte": instant(seed - 10 - any(round, 100))}).to_string();
                let filters = percent_encode(&json!({"request.timestamp": since}).to_string());
                format!("/transactions?filters={filters}")
            }),
            question("count of failed, for a rerun", |_, _| {
                let filters = percent_encode(&json!({"status": "Failed"}).to_string());
                format!("/transactions?filterRepresentation=bulkrerun&filters={filters}")
            }),
            question("one transaction", |round, seed| {
                let id = seed::transaction_id(any(round, seed)).to_hex();
                format!("/transactions/{id}?filterRepresentation=fulltruncate")
            }),
        ]
    }

    /// What many transactions have to be looked at for.
    fn searching() -> Vec<Self> {
        let question = |name, target| Self::of(name, SEARCHED, target);
        vec![
            question("pattern on the path, many match", |_, _| {
                list(&json!({"request.path": "patient/[0-9]+$"}), 0)
            }),
            question("pattern on the path, few match", |round, seed| {
                list(
                    &json!({"request.path": format!("^/c[0-9]+/patient/{}$", any(round, seed))}),
                    0,
                )
            }),
            question("pattern on the path, none matches", |round, _| {
                list(&json!({"request.path": format!("nowhere{round}")}), 0)
            }),
            question("pattern on the path, of a channel", |round, _| {
                list(
                    &json!({"request.path": format!("nowhere{round}"), "channelID": channel(round)}),
                    0,
                )
            }),
            question("pattern on the query, none matches", |round, _| {
                list(&json!({"request.querystring": format!("nowhere{round}")}), 0)
            }),
            question("host, few match", |_, _| {
                list(&json!({"request.host": "old.him.example"}), 0)
            }),
            question("host, none matches", |_, _| {
                list(&json!({"request.host": "no.example"}), 0)
            }),
            question("port, none matches", |_, _| list(&json!({"request.port": "1"}), 0)),
            question("method, none matches", |_, _| {
                list(&json!({"request.method": "PATCH"}), 0)
            }),
            question("property", |round, _| {
                list(&json!({"properties": {"facility": any(round, 100).to_string()}}), 0)
            }),
            question("property, none has it", |_, _| {
                list(&json!({"properties": {"ward": null}}), 0)
            }),
            question("code of a route", |round, _| {
                list(&json!({"routes.response.status": (["5xx", "4xx"][round % 2])}), 0)
            }),
            question("host of a route, none matches", |_, _| {
                list(&json!({"routes.request.host": "no.example"}), 0)
            }),
            question("code of an orchestration", |round, _| {
                list(
                    &json!({"orchestrations.response.status": (["5xx", "4xx"][round % 2])}),
                    0,
                )
            }),
            question("pattern on an orchestration's path", |round, _| {
                list(&json!({"orchestrations.request.path": format!("nowhere{round}")}), 0)
            }),
        ]
    }

    fn figures() -> Vec<Self> {
        let question = |name, target| Self::of(name, METRICS, target);
        vec![
            question("metrics of a day by hour", |round, seed| {
                metrics("/timeseries/hour", any(round, seed), DAY)
            }),
            question("metrics of a month by day", |round, seed| {
                metrics("/timeseries/day", any(round, seed / 2), 30 * DAY)
            }),
            question("metrics of a month by channel", |round, seed| {
                metrics("/channels", any(round, seed / 2), 30 * DAY)
            }),
            question("metrics of one channel, all time", |round, seed| {
                metrics(&format!("/channels/{}", channel(round)), 0, seed)
            }),
            question("metrics of everything by channel", |_, seed| {
                metrics("/channels", 0, seed)
            }),
        ]
    }
}

const STATUSES: [&str; 6] = [
    "Failed",
    "Successful",
    "Completed",
    "Completed with error(s)",
    "Processing",
    "Pending Async",
];

/// Transactions in a day.
const DAY: usize = (86_400_000 / PACE) as usize;

fn channel(round: usize) -> String {
    seed::id(1, any(round, CHANNELS)).to_hex()
}

fn client(round: usize) -> String {
    seed::id(2, any(round, CLIENTS)).to_hex()
}

fn metrics(path: &str, from: usize, length: usize) -> String {
    let (from, to) = (instant(from), instant(from + length));
    format!("/metrics{path}?startDate=%22{from}%22&endDate=%22{to}%22")
}

/// What a list without a limit was.
pub(crate) struct Listed {
    pub(crate) documents: usize,
    pub(crate) bytes: usize,
    pub(crate) took: Duration,
    /// When its first bytes came.
    pub(crate) first: Duration,
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
        let mut first = None;
        self.read(|part| {
            first.get_or_insert_with(|| started.elapsed());
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
            first: first.unwrap_or_default(),
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
