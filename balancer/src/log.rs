//! One line a connection, written without ever holding up the connection.
//!
//! Each data thread appends to a buffer of its own; one writer thread empties the buffers a few times a second. When
//! the reader of the log is slower than the connections, lines are dropped and counted, never waited for.

use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::DateTime;

use crate::backend::Counter;

mod request;

pub use request::RequestLine;

/// Bytes that one thread may have waiting to be written.
const BUFFER_MOST: usize = 1 << 20;
/// How often the buffers are emptied.
const EVERY: Duration = Duration::from_millis(50);

/// Form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object.
    Json,
    /// One readable line.
    Text,
    /// NCSA's combined log for requests, [`Form::Text`] for connections.
    Combined,
    /// HAProxy's `httplog` and `tcplog`.
    Haproxy,
}

/// By whose doing a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum By {
    /// The client's.
    Client,
    /// The backend's.
    Backend,
    /// A limit or rule of the balancer.
    Balancer,
    /// An operator's.
    Operator,
}

impl By {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Balancer => "balancer",
            Self::Operator => "operator",
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// By whose doing.
    pub by: By,
    /// A word for it.
    pub word: &'static str,
    /// HAProxy's two letters for it.
    pub code: &'static str,
}

/// One connection, finished.
#[derive(Debug)]
pub struct Line<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// The client's address: by the PROXY header if one was believed.
    pub client: SocketAddr,
    /// The backend that served it.
    pub backend: Option<SocketAddr>,
    /// Time until a backend with room was found.
    pub queue: Duration,
    /// Time until it was connected, failed attempts included.
    pub connect: Duration,
    /// Time from accept to end.
    pub total: Duration,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Backends that were tried in vain.
    pub retries: u32,
    /// How it ended.
    pub end: End,
}

/// The buffer of one thread.
#[derive(Debug)]
pub struct Journal {
    form: Form,
    buffer: Mutex<Buffer>,
    dropped: Counter,
    clock: fn() -> SystemTime,
}

#[derive(Debug, Default)]
struct Buffer {
    text: String,
    /// The second that `stamp` shows.
    second: u64,
    stamp: String,
    /// The same second as NCSA writes it, without a zone.
    clf: String,
}

/// A moment, written in the forms that lines need.
#[derive(Clone, Copy)]
struct Stamp<'a> {
    iso: &'a str,
    clf: &'a str,
    millis: u32,
}

impl Journal {
    /// An empty one.
    #[must_use]
    pub fn new(form: Form, clock: fn() -> SystemTime) -> Self {
        Self {
            form,
            buffer: Mutex::default(),
            dropped: Counter::default(),
            clock,
        }
    }

    /// Appends the line of a connection, or counts it as dropped.
    pub fn write(&self, line: &Line<'_>) {
        self.append(|out, form, stamp| match form {
            Form::Json => json(out, stamp.iso, stamp.millis, line),
            Form::Text | Form::Combined => plain(out, stamp.iso, stamp.millis, line),
            Form::Haproxy => tcplog(out, stamp, line),
        });
    }

    /// Appends the line of a request, or counts it as dropped.
    pub fn write_request(&self, line: &RequestLine<'_>) {
        self.append(|out, form, stamp| request::write(out, form, stamp, line));
    }

    fn append(&self, write: impl FnOnce(&mut String, Form, Stamp<'_>) -> std::fmt::Result) {
        let now = (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut buffer = self.lock();
        if buffer.text.len() > BUFFER_MOST {
            self.dropped.add(1);
            return;
        }
        let Buffer {
            text,
            second,
            stamp,
            clf,
        } = &mut *buffer;
        if *second != now.as_secs() || stamp.is_empty() {
            *second = now.as_secs();
            let time = i64::try_from(*second)
                .ok()
                .and_then(|it| DateTime::from_timestamp(it, 0))
                .unwrap_or_default();
            *stamp = time.format("%Y-%m-%dT%H:%M:%S").to_string();
            *clf = time.format("%d/%b/%Y:%H:%M:%S").to_string();
        }
        let stamp = Stamp {
            iso: stamp,
            clf,
            millis: now.subsec_millis(),
        };
        // Writing into a String cannot fail.
        let _ = write(text, self.form, stamp);
    }

    /// Lines that were dropped because nobody read them fast enough.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// What is waiting to be written.
    fn take(&self, spare: &mut String) {
        spare.clear();
        std::mem::swap(&mut self.lock().text, spare);
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn json(out: &mut String, stamp: &str, millis: u32, line: &Line<'_>) -> std::fmt::Result {
    write!(out, r#"{{"time":"{stamp}.{millis:03}Z","service":"#)?;
    out.push_str(&serde_json::Value::from(line.service).to_string());
    write!(out, r#","client":"{}","backend":"#, line.client)?;
    match line.backend {
        Some(backend) => write!(out, "\"{backend}\"")?,
        None => out.push_str("null"),
    }
    writeln!(
        out,
        r#","queue_ms":{:.3},"connect_ms":{:.3},"total_ms":{:.3},"bytes_in":{},"bytes_out":{},"retries":{},"by":"{}","end":"{}","code":"{}"}}"#,
        millis_of(line.queue),
        millis_of(line.connect),
        millis_of(line.total),
        line.bytes_in,
        line.bytes_out,
        line.retries,
        line.end.by.name(),
        line.end.word,
        line.end.code,
    )
}

fn plain(out: &mut String, stamp: &str, millis: u32, line: &Line<'_>) -> std::fmt::Result {
    write!(out, "{stamp}.{millis:03}Z {} {} -> ", line.service, line.client)?;
    match line.backend {
        Some(backend) => write!(out, "{backend}")?,
        None => out.push('-'),
    }
    writeln!(
        out,
        " {:.1}/{:.1}/{:.1} ms, {} B in, {} B out, {} retries, {} {} by {}",
        millis_of(line.queue),
        millis_of(line.connect),
        millis_of(line.total),
        line.bytes_in,
        line.bytes_out,
        line.retries,
        line.end.code,
        line.end.word,
        line.end.by.name(),
    )
}

/// HAProxy's `tcplog`; what it counts and this balancer does not is 0.
fn tcplog(out: &mut String, stamp: Stamp<'_>, line: &Line<'_>) -> std::fmt::Result {
    let service = line.service;
    write!(
        out,
        "{} [{}.{:03}] {service} {service}/",
        line.client, stamp.clf, stamp.millis
    )?;
    match line.backend {
        Some(backend) => write!(out, "{backend}")?,
        None => out.push_str("<NOSRV>"),
    }
    writeln!(
        out,
        " {}/{}/{} {} {} 0/0/0/0/{} 0/0",
        line.queue.as_millis(),
        line.connect.as_millis(),
        line.total.as_millis(),
        line.bytes_out,
        line.end.code,
        line.retries,
    )
}

fn millis_of(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The thread that empties the buffers. Dropping it writes what is left.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(journals: Vec<Arc<Journal>>, mut to: impl Write + Send + 'static) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
            let mut spare = String::new();
            loop {
                // Looked at first: what was written before the stop is then emptied in this round.
                let is_last = stopping.load(Ordering::Acquire);
                for journal in &journals {
                    journal.take(&mut spare);
                    if !spare.is_empty() {
                        // A reader that went away is no reason to stop serving.
                        let _ = to.write_all(spare.as_bytes());
                    }
                }
                let _ = to.flush();
                if is_last {
                    return;
                }
                std::thread::park_timeout(EVERY);
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_764_072_000_007)
    }

    fn line() -> Line<'static> {
        Line {
            service: "htt\"ps",
            client: SocketAddr::from(([10, 0, 0, 6], 40000)),
            backend: Some(SocketAddr::from(([10, 0, 0, 2], 5000))),
            queue: Duration::ZERO,
            connect: Duration::from_micros(1250),
            total: Duration::from_millis(31),
            bytes_in: 100,
            bytes_out: 2000,
            retries: 1,
            end: End {
                by: By::Client,
                word: "closed",
                code: "--",
            },
        }
    }

    fn written(form: Form, line: &Line<'_>) -> String {
        let journal = Journal::new(form, at_noon);
        journal.write(line);
        let mut text = String::new();
        journal.take(&mut text);
        text
    }

    #[test]
    fn a_json_line_is_json_with_units_in_its_names() {
        let json: serde_json::Value = serde_json::from_str(&written(Form::Json, &line())).expect("json");

        let expected = serde_json::json!({
            "time": "2025-11-25T12:00:00.007Z", "service": "htt\"ps", "client": "10.0.0.6:40000",
            "backend": "10.0.0.2:5000", "queue_ms": 0.0, "connect_ms": 1.25, "total_ms": 31.0, "bytes_in": 100,
            "bytes_out": 2000, "retries": 1, "by": "client", "end": "closed", "code": "--",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_text_line_can_be_read() {
        assert_eq!(
            written(
                Form::Text,
                &Line {
                    backend: None,
                    ..line()
                }
            ),
            "2025-11-25T12:00:00.007Z htt\"ps 10.0.0.6:40000 -> - 0.0/1.2/31.0 ms, 100 B in, 2000 B out, 1 retries, \
             -- closed by client\n"
        );
    }

    #[test]
    fn a_full_buffer_drops_and_counts() {
        let journal = Journal::new(Form::Text, at_noon);

        let lines = BUFFER_MOST / written(Form::Text, &line()).len() + 10;
        (0..lines).for_each(|_| journal.write(&line()));

        assert!((1..=9).contains(&journal.dropped()), "{}", journal.dropped());
    }

    #[test]
    fn dropping_the_writer_writes_what_is_left() {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("no panic").extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (sink, journal) = (Sink::default(), Arc::new(Journal::new(Form::Text, at_noon)));
        let writer = Writer::start(vec![Arc::clone(&journal)], sink.clone()).expect("a thread");

        journal.write(&line());
        drop(writer);

        assert_eq!(
            sink.0.lock().expect("no panic").iter().filter(|b| **b == b'\n').count(),
            1
        );
    }
}
