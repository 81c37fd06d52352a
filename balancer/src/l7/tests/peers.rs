//! Clients and backends that say exactly the bytes they are told to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::{Balancer, Config, Shutdown};

pub(super) const DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {DEADLINE:?}"))
}

/// A request as a backend reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// Which of the backend's connections it came by.
    pub(super) connection: usize,
}

impl Seen {
    pub(super) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The value of a field; panics if it is there twice.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.head.lines().skip(1).filter_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        });
        let first = found.next();
        assert_eq!(found.next(), None, "{name} twice in {}", self.head);
        first
    }
}

/// What a backend does once it has read a head.
#[derive(Clone)]
pub(super) enum Act {
    /// Reads the whole request, then says this.
    Say(&'static str),
    /// The same, and ends its side.
    SayAndClose(&'static str),
    /// Says this without reading the body.
    SayAtOnce(&'static str),
    /// Reads the whole request, says this, and resets.
    SayAndReset(&'static str),
    /// Reads the whole request and closes without a word.
    Close,
    /// Reads the whole request, waits, then says this.
    SayLater(Duration, &'static str),
    /// Says the first, reads the body, says the second.
    SayBetween(&'static str, &'static str),
    /// Says this, then sends back what comes.
    Echo(&'static str),
    /// Reads nothing more, ever.
    Stall,
}

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

type Script = Arc<dyn Fn(&Seen) -> Act + Send + Sync>;

pub(super) struct Backend {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections that ended before their request was complete, or while its answer was awaited.
    pub(super) ended: Arc<tokio::sync::Semaphore>,
    task: JoinHandle<()>,
}

impl Backend {
    pub(super) async fn start(script: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let ended = Arc::new(tokio::sync::Semaphore::new(0));
        let (script, theirs, gone): (Script, _, _) = (Arc::new(script), Arc::clone(&seen), Arc::clone(&ended));
        let task = tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((stream, _)) = listener.accept().await {
                connection += 1;
                let (script, theirs, gone) = (Arc::clone(&script), Arc::clone(&theirs), Arc::clone(&gone));
                tokio::spawn(async move {
                    if converse(stream, connection, script, theirs).await.is_err() {
                        gone.add_permits(1);
                    }
                });
            }
        });
        Self {
            address,
            seen,
            ended,
            task,
        }
    }

    pub(super) async fn answering(answer: &'static str) -> Self {
        Self::start(move |_| Act::Say(answer)).await
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(|it| it.line().to_owned()).collect()
    }

    /// Takes no more connections; those that are open stay.
    pub(super) fn refuse(&self) {
        self.task.abort();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(
    mut stream: TcpStream,
    connection: usize,
    script: Script,
    seen: Arc<Mutex<Vec<Seen>>>,
) -> std::io::Result<()> {
    let mut held = Vec::new();
    loop {
        let Some(end) = fill_until(&mut stream, &mut held, |it| position(it, b"\r\n\r\n").map(|at| at + 4)).await?
        else {
            return Ok(());
        };
        let head = String::from_utf8_lossy(&held[..end]).into_owned();
        held.drain(..end);
        let mut it = Seen {
            head,
            body: Vec::new(),
            connection,
        };
        let act = script(&it);
        if let Act::SayAtOnce(text) | Act::SayBetween(text, _) | Act::Echo(text) = act {
            stream.write_all(text.as_bytes()).await?;
        }
        if !matches!(act, Act::Stall | Act::SayAtOnce(_) | Act::Echo(_)) {
            it.body = body(&mut stream, &mut held, &it).await?;
        }
        seen.lock().expect("no panic").push(it);
        match act {
            Act::Say(text) | Act::SayBetween(_, text) => stream.write_all(text.as_bytes()).await?,
            Act::SayAtOnce(_) => {}
            Act::SayAndClose(text) => {
                stream.write_all(text.as_bytes()).await?;
                return stream.shutdown().await;
            }
            Act::SayAndReset(text) => {
                stream.write_all(text.as_bytes()).await?;
                // What was written is read before the reset comes.
                tokio::time::sleep(Duration::from_millis(100)).await;
                crate::socket::reset_on_close(&stream);
                return Ok(());
            }
            Act::Close => return Ok(()),
            Act::SayLater(pause, text) => {
                let mut byte = [0];
                match tokio::time::timeout(pause, stream.read(&mut byte)).await {
                    Ok(_) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    Err(_) => stream.write_all(text.as_bytes()).await?,
                }
            }
            Act::Echo(_) => {
                stream.write_all(&held).await?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await?;
                return to.shutdown().await;
            }
            Act::Stall => std::future::pending().await,
        }
    }
}

async fn body(stream: &mut TcpStream, held: &mut Vec<u8>, request: &Seen) -> std::io::Result<Vec<u8>> {
    let cut = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    if request.field("Transfer-Encoding").is_some() {
        let mut body = Vec::new();
        loop {
            let line = fill_until(stream, held, |it| position(it, b"\r\n").map(|at| at + 2))
                .await?
                .ok_or_else(cut)?;
            let text = String::from_utf8_lossy(&held[..line - 2]).into_owned();
            let size = usize::from_str_radix(text.split(';').next().unwrap_or_default(), 16).expect("a size");
            held.drain(..line);
            if size == 0 {
                let end = fill_until(stream, held, |it| match it.starts_with(b"\r\n") {
                    true => Some(2),
                    false => position(it, b"\r\n\r\n").map(|at| at + 4),
                });
                let end = end.await?.ok_or_else(cut)?;
                held.drain(..end);
                return Ok(body);
            }
            fill_until(stream, held, |it| (it.len() >= size + 2).then_some(0))
                .await?
                .ok_or_else(cut)?;
            body.extend(held.drain(..size));
            held.drain(..2);
        }
    }
    let length = request
        .field("Content-Length")
        .map_or(0, |it| it.parse().expect("a number"));
    fill_until(stream, held, |it| (it.len() >= length).then_some(0))
        .await?
        .ok_or_else(cut)?;
    Ok(held.drain(..length).collect())
}

fn position(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|it| it == what)
}

/// Reads until `found`; `None` if the other side ends before.
async fn fill_until(
    stream: &mut TcpStream,
    held: &mut Vec<u8>,
    found: impl Fn(&[u8]) -> Option<usize>,
) -> std::io::Result<Option<usize>> {
    loop {
        if let Some(at) = found(held) {
            return Ok(Some(at));
        }
        if stream.read_buf(held).await? == 0 {
            return Ok(None);
        }
    }
}

pub(super) struct Running {
    pub(super) balancer: Balancer,
    pub(super) shutdown: Shutdown,
}

/// A balancer in http mode in front of these.
pub(super) async fn balancer(backends: &[&Backend], options: &[(&str, &str)]) -> Running {
    let list: Vec<String> = backends.iter().map(|it| it.address.to_string()).collect();
    let list = list.join(",");
    let base = [
        ("listen", "127.0.0.1:0"),
        ("mode", "http"),
        ("metrics", "off"),
        ("admin", "off"),
        ("log", "off"),
        ("threads", "1"),
        ("check", "none"),
        ("backends", &*list),
    ];
    let given = |name: &str| options.iter().any(|(it, _)| *it == name);
    let all = base
        .into_iter()
        .filter(|(name, _)| !given(name))
        .chain(options.iter().copied());
    serve(Config::from_options(all)).await
}

/// One with these keys in its file, in http mode on one thread.
pub(super) async fn written(keys: &str) -> Running {
    let text =
        format!("threads: 1\nmetrics: off\nadmin: off\nlog: off\nlisten: 127.0.0.1:0\nmode: http\ncheck: none\n{keys}");
    serve(Config::from_text(&text, std::path::Path::new("balancer.yaml")).expect("sound")).await
}

pub(super) async fn serve(config: Config) -> Running {
    let shutdown = Shutdown::default();
    let balancer = Balancer::start(config, shutdown.clone())
        .await
        .expect("the balancer starts");
    within("the first checks", balancer.ready()).await;
    Running { balancer, shutdown }
}

impl Running {
    pub(super) async fn connect(&self) -> Client {
        let address = self.balancer.addresses()[0].address;
        Client {
            stream: within("a connect", TcpStream::connect(address))
                .await
                .expect("accepted"),
            held: Vec::new(),
        }
    }

    /// Sends this on a connection of its own, and reads to the end of it.
    pub(super) async fn talk(&self, text: &str) -> String {
        let mut client = self.connect().await;
        client.send(text).await;
        client.rest().await
    }
}

pub(super) struct Client {
    pub(super) stream: TcpStream,
    held: Vec<u8>,
}

impl Client {
    pub(super) async fn send(&mut self, text: impl AsRef<[u8]>) {
        within("sending", self.stream.write_all(text.as_ref()))
            .await
            .expect("taken");
    }

    /// Reads up to and including this.
    pub(super) async fn until(&mut self, what: &str) -> String {
        let Self { stream, held } = self;
        let found = fill_until(stream, held, |it| {
            position(it, what.as_bytes()).map(|at| at + what.len())
        });
        let end = within(what, found).await.expect("no reset");
        let end = end.unwrap_or_else(|| panic!("{what:?} did not come, only {}", String::from_utf8_lossy(held)));
        String::from_utf8(held.drain(..end).collect()).expect("text")
    }

    /// Reads exactly so much.
    pub(super) async fn take(&mut self, into: &mut [u8]) {
        let held = self.held.len().min(into.len());
        into[..held].copy_from_slice(&self.held[..held]);
        self.held.drain(..held);
        within("a body", self.stream.read_exact(&mut into[held..]))
            .await
            .expect("no reset");
    }

    /// Reads to the end.
    pub(super) async fn rest(&mut self) -> String {
        within("the end", self.end()).await.expect("no reset")
    }

    /// What comes until the end, or that it was no proper one.
    pub(super) async fn end(&mut self) -> std::io::Result<String> {
        while self.stream.read_buf(&mut self.held).await? > 0 {}
        Ok(String::from_utf8(std::mem::take(&mut self.held)).expect("text"))
    }
}
