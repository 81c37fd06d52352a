//! The control socket: one command a connection, over a Unix socket that only its owner may use.
//!
//! The client sends a line with the words of a command, as a JSON list or with spaces between them, then whatever the
//! command reads from standard input, and finishes. The answer is a line `ok` or `error`, then text.

use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};

use super::{Inbox, Message, Order};
use crate::plan::Admin;

/// Operators at the same time.
const OPERATORS: usize = 16;
/// Longest command with its input.
const LONGEST: u64 = 4 << 20;
/// How long a command may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer may take: a reload waits for name servers.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Name of the socket in its folder.
const NAME: &str = "balancer.sock";

/// The control socket, listening. Its file is removed when it is dropped, unless another balancer has taken its place.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
    identity: (u64, u64),
    listener: StdListener,
}

/// The control socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the control socket {}; another path or `off` can be set", path.display())]
pub struct AdminError {
    path: PathBuf,
    source: io::Error,
}

impl AdminSocket {
    /// Makes the socket that the configuration asks for. Without a configured path, and none that can be had, there is
    /// none. A successor takes the place of the balancer before.
    ///
    /// # Errors
    /// A configured path cannot be had.
    pub fn bind(admin: &Admin, is_successor: bool) -> Result<Option<Self>, AdminError> {
        match admin {
            Admin::Off => Ok(None),
            Admin::Path(path) => Self::at(path, is_successor).map(Some).map_err(|source| AdminError {
                path: path.clone(),
                source,
            }),
            Admin::Default => {
                for path in default_paths() {
                    match Self::at(&path, is_successor) {
                        Ok(socket) => return Ok(Some(socket)),
                        Err(error) => tracing::debug!(path = %path.display(), %error, "Not the control socket"),
                    }
                }
                tracing::warn!("No control socket: none of the usual places can be had; `admin` sets another");
                Ok(None)
            }
        }
    }

    fn at(path: &Path, is_successor: bool) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        if !is_successor && StdStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another balancer answers there",
            ));
        }
        Self::replace(path)
    }

    /// Makes the socket also where another balancer has one.
    fn replace(path: &Path) -> io::Result<Self> {
        // Bound under another name and renamed, so that there is never a moment without a socket.
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", std::process::id()));
        let new = path.with_file_name(name);
        let _ = std::fs::remove_file(&new);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Before it is bound: the file never has other rights than these.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        socket.bind(&SockAddr::unix(&new)?)?;
        let listening = socket.listen(16).and_then(|()| socket.set_nonblocking(true));
        let identity = listening
            .and_then(|()| identity(&new))
            .and_then(|it| std::fs::rename(&new, path).map(|()| it));
        let identity = identity.inspect_err(|_| drop(std::fs::remove_file(&new)))?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            listener: socket.into(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers until it is dropped. Call it inside a runtime.
    pub async fn run(self, inbox: Inbox) {
        let listener = match self.listener.try_clone().and_then(UnixListener::from_std) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "The control socket does not work"),
        };
        let operators = Arc::new(Semaphore::new(OPERATORS));
        loop {
            let Ok(permit) = Arc::clone(&operators).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let inbox = inbox.clone();
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, &inbox).await {
                            tracing::debug!(%error, "An operator's connection failed");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "Could not accept an operator");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|it| it == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Where the socket is when nothing is configured, best first.
#[must_use]
pub fn default_paths() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    let folders = [Some(PathBuf::from("/run")), variable("XDG_RUNTIME_DIR"), state];
    folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join("openhim").join(NAME))
        .collect()
}

async fn converse(mut stream: UnixStream, inbox: &Inbox) -> io::Result<()> {
    let mut asked = Vec::new();
    let mut bounded = (&mut stream).take(LONGEST);
    tokio::time::timeout(PATIENCE, bounded.read_to_end(&mut asked))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    let answer = match read(&asked) {
        Ok(order) => carry_out(order, inbox).await,
        Err(error) => Err(error),
    };
    let (word, text) = match answer {
        Ok(text) => ("ok", text),
        Err(text) => ("error", text),
    };
    stream.write_all(format!("{word}\n{text}").as_bytes()).await?;
    stream.shutdown().await
}

fn read(asked: &[u8]) -> Result<Order, String> {
    let text = std::str::from_utf8(asked).map_err(|_| "the command is not text".to_owned())?;
    let (line, input) = text.split_once('\n').unwrap_or((text, ""));
    let words: Vec<String> = if line.starts_with('[') {
        serde_json::from_str(line).map_err(|_| "the command is not a list of words".to_owned())?
    } else {
        line.split_whitespace().map(str::to_owned).collect()
    };
    Order::parse(&words, input)
}

async fn carry_out(mut order: Order, inbox: &Inbox) -> Result<String, String> {
    if order == Order::Reload {
        let (sender, receiver) = oneshot::channel();
        let _ = inbox.send(Message::Reload(sender)).await;
        let result = tokio::time::timeout(ANSWER_WITHIN, receiver).await;
        return match result {
            Ok(Ok(Ok(()))) => Ok("applied\n".into()),
            Ok(Ok(Err(problems))) => Err(format!("{problems}\nnothing was changed")),
            Ok(Err(_)) | Err(_) => Err("no answer".into()),
        };
    }
    if let Some(name) = order.name().cloned() {
        let (sender, receiver) = oneshot::channel();
        let _ = inbox.send(Message::Resolve(name.clone(), sender)).await;
        let outcome = receiver.await.map_err(|_| "the balancer is stopping".to_owned())?;
        let answer = outcome.map_err(|error| format!("`{name}` cannot be resolved: {error}"))?;
        if let Order::Ipvs(_, targets) = &mut order {
            *targets = answer.targets;
        }
    }
    let (sender, receiver) = oneshot::channel();
    let _ = inbox.send(Message::Order(Box::new(order), sender)).await;
    receiver
        .await
        .unwrap_or_else(|_| Err("the balancer is stopping".into()))
}

/// What a balancer answered to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// False if nothing was done.
    pub is_ok: bool,
    /// What it said.
    pub text: String,
}

/// True for commands that read from standard input.
#[must_use]
pub fn reads_input(words: &[String]) -> bool {
    words.iter().any(|word| word == "-R" || word == "--restore")
}

/// Sends a command to a running balancer and waits for its answer. Without a path, the usual places are tried.
///
/// # Errors
/// Nobody answers there.
pub fn call(socket: Option<&Path>, words: &[String], input: &str) -> io::Result<Answer> {
    let paths = socket.map_or_else(default_paths, |path| vec![path.to_owned()]);
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for path in &paths {
        match StdStream::connect(path) {
            Ok(stream) => return ask(stream, words, input),
            // A socket that is there but not ours says more than one that is not there.
            Err(error) if failure.kind() == io::ErrorKind::NotFound => failure = error,
            Err(_) => {}
        }
    }
    let places: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    Err(io::Error::new(
        failure.kind(),
        format!("no balancer answers at {}: {failure}", places.join(" or ")),
    ))
}

fn ask(mut stream: StdStream, words: &[String], input: &str) -> io::Result<Answer> {
    stream.set_read_timeout(Some(ANSWER_WITHIN + PATIENCE))?;
    let line = serde_json::to_string(words)?;
    stream.write_all(format!("{line}\n{input}").as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (word, text) = text.split_once('\n').unwrap_or((&text, ""));
    match word {
        "ok" | "error" => Ok(Answer {
            is_ok: word == "ok",
            text: text.to_owned(),
        }),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "what answers there is not a balancer",
        )),
    }
}
