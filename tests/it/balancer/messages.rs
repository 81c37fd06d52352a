//! Messages through the balancer, each on a connection of its own, and backends in processes of their own that take them
//! and write down which ones.
//!
//! A message is a line with its name and length, then its bytes; the answer is a line with the backend's name, then the
//! same bytes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Tells this test binary, started once more, what to listen on and where to write.
const VARIABLE: &str = "OPENHIM_TEST_TAKES_MESSAGES";
/// Longest message.
const LONGEST: usize = 300_000;
/// A client that heard nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(40);

/// Bytes without a period: any piece that is lost, doubled or out of place shows.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..LONGEST / 4).flat_map(|_| next().to_le_bytes()).collect()
});

/// A backend that can be killed and stopped.
pub(crate) struct Taker {
    child: Child,
    pub(crate) address: SocketAddr,
    book: PathBuf,
}

impl Taker {
    /// Starts one; `here` makes the command of a program at its place in the network.
    pub(crate) fn start(here: impl Fn(PathBuf) -> Command, address: SocketAddr, folder: &Path) -> Self {
        let book = folder.join(address.to_string());
        let child = here(std::env::current_exe().expect("this program"))
            .args(["--exact", "balancer::messages::takes_messages_if_told_to"])
            .env(VARIABLE, format!("{address} {}", book.display()))
            .stdout(Stdio::null())
            .spawn()
            .expect("this program starts once more");
        Self { child, address, book }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("the process is there");
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Names of the messages that it, or one before it at this address, took.
    pub(crate) fn taken(&self) -> Vec<String> {
        let book = std::fs::read_to_string(&self.book).unwrap_or_default();
        book.lines().map(str::to_owned).collect()
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Not a test by itself: what [`Taker`] starts.
#[test]
fn takes_messages_if_told_to() {
    let Ok(told) = std::env::var(VARIABLE) else {
        return;
    };
    let (address, book) = told.split_once(' ').expect("an address and a path");
    let listener = TcpListener::bind(address).expect("a free address");
    let book = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(book)
        .expect("a book");
    for stream in listener.incoming().flatten() {
        let (book, name) = (book.try_clone().expect("the book"), address.to_owned());
        std::thread::spawn(move || serve(&stream, &name, &book));
    }
}

fn serve(mut stream: &TcpStream, name: &str, mut book: &std::fs::File) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.starts_with("GET ") {
            return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        let (message, length) = line.trim_end().split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        let mut body = vec![0; length.parse().map_err(|_| io::ErrorKind::InvalidData)?];
        reader.read_exact(&mut body)?;
        book.write_all(format!("{message}\n").as_bytes())?;
        stream.write_all(format!("{name}\n").as_bytes())?;
        stream.write_all(&body)?;
    }
}

/// What became of a message.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) name: String,
    /// Who took it, or what went wrong.
    pub(crate) by: Result<SocketAddr, String>,
    pub(crate) took: Duration,
    /// Bytes that went out and came back.
    pub(crate) bytes: (u64, u64),
}

/// Sends one message and reads its answer.
pub(crate) fn send(to: SocketAddr, name: String, length: usize) -> Sent {
    let begun = Instant::now();
    let mut bytes = (0, 0);
    let by = converse(to, &name, length, &mut bytes).map_err(|error| error.to_string());
    Sent {
        name,
        by,
        took: begun.elapsed(),
        bytes,
    }
}

fn converse(to: SocketAddr, name: &str, length: usize, bytes: &mut (u64, u64)) -> io::Result<SocketAddr> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let body = &BYTES[length % 1000..][..length];
    let head = format!("{name} {length}\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    // Half of them finish before the answer comes, which must not shorten it.
    if length.is_multiple_of(2) {
        stream.shutdown(std::net::Shutdown::Write)?;
    }
    bytes.0 = (head.len() + length) as u64;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let by = line
        .trim_end()
        .parse()
        .map_err(|_| io::Error::other(format!("the answer began with {line:?}")))?;
    let mut back = vec![0; length];
    reader.read_exact(&mut back)?;
    if back != body {
        return Err(io::Error::other("other bytes came back"));
    }
    // Fails where both sides have finished already.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest)?;
    if !rest.is_empty() {
        return Err(io::Error::other("more came back than was sent"));
    }
    bytes.1 = (line.len() + length) as u64;
    Ok(by)
}

/// Clients that send one message after the other until told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Vec<Sent>>>,
}

/// Work for one client.
pub(crate) type Work = Box<dyn FnOnce() -> Vec<Sent> + Send>;

impl Load {
    /// Starts `workers` clients; `here` starts a thread at their place in the network.
    pub(crate) fn start(
        here: impl Fn(Work) -> JoinHandle<Vec<Sent>>,
        workers: usize,
        to: SocketAddr,
        name: &str,
    ) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let worker = |number: usize| {
            let (stop, done, name) = (Arc::clone(&stop), Arc::clone(&done), format!("{name}-{number}"));
            here(Box::new(move || {
                let mut all = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let count = all.len();
                    // Mostly small, some big enough to be spliced.
                    let length = if count % 8 == 7 {
                        LONGEST - 1000 - count
                    } else {
                        count % 3000
                    };
                    all.push(send(to, format!("{name}-{count}"), length));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                all
            }))
        };
        let workers = (0..workers).map(worker).collect();
        Self { stop, done, workers }
    }

    /// Lets `count` more messages pass.
    pub(crate) fn run_on(&self, count: u64) {
        let goal = self.done.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + Duration::from_secs(90);
        while self.done.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < deadline, "the load stands still");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the load.
    pub(crate) fn finish(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |worker: JoinHandle<Vec<Sent>>| worker.join().expect("no panic");
        self.workers.into_iter().flat_map(join).collect()
    }
}

/// A thread right here.
pub(crate) fn thread(work: Work) -> JoinHandle<Vec<Sent>> {
    std::thread::spawn(work)
}

/// The messages that failed, after checking that no message was delivered twice, and that each that was answered was
/// delivered to whoever answered it.
pub(crate) fn failures<'a>(sent: &'a [Sent], takers: &[Taker]) -> Vec<&'a Sent> {
    let mut taken = std::collections::HashMap::new();
    for taker in takers {
        for name in taker.taken() {
            let twice = taken.insert(name, taker.address);
            assert_eq!(twice, None, "a message was delivered twice");
        }
    }
    let (good, bad): (Vec<_>, Vec<_>) = sent.iter().partition(|it| it.by.is_ok());
    for message in good {
        let by = message.by.as_ref().expect("good");
        assert_eq!(taken.get(&message.name), Some(by), "{} was not delivered", message.name);
    }
    bad
}
