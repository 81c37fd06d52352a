//! A name server on loopback, over UDP and TCP, that answers what a test tells it to.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// Most bytes of an answer over UDP; longer ones are cut, as the protocol says.
const MOST_UDP: usize = 1232;

/// Kind of record, as it is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Service.
    Srv,
}

/// What is answered to a question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Records and their time to live in seconds; none is an empty answer.
    Records(u32, Vec<Data>),
    /// Failure, with the code of the protocol: 2 is SERVFAIL, 3 NXDOMAIN, 5 REFUSED.
    Code(u8),
    /// Nothing at all.
    Silence,
    /// The same after a while.
    Late(Duration, Box<Reply>),
    /// Over UDP only the word that it is too long; over TCP the whole.
    Truncated(Box<Reply>),
    /// Bytes that are no answer.
    Garbage,
}

/// The data of one record.
#[derive(Clone, Debug)]
pub enum Data {
    /// For [`Kind::A`] and [`Kind::Aaaa`].
    Address(IpAddr),
    /// For [`Kind::Srv`]: priority, weight, port, target.
    Service(u16, u16, u16, String),
}

#[derive(Debug, Default)]
struct Script {
    replies: HashMap<(String, Kind), Reply>,
    asked: HashMap<(String, Kind), usize>,
    asked_by_tcp: usize,
}

/// The server; it ends when dropped.
#[derive(Debug)]
pub struct NameServer {
    /// Where it listens, over UDP and over TCP.
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    _tasks: JoinSet<io::Result<()>>,
}

impl NameServer {
    /// Starts one that knows no name.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> io::Result<Self> {
        let script = Arc::new(Mutex::new(Script::default()));
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let address = tcp.local_addr()?;
        let udp = UdpSocket::bind(address).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), Arc::clone(&script)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&script)));
        Ok(Self {
            address,
            script,
            _tasks: tasks,
        })
    }

    /// Sets what is answered. A name of which nothing is set does not exist; of a name of which something is set, all
    /// other kinds are empty.
    pub fn set(&self, name: &str, kind: Kind, reply: Reply) {
        lock(&self.script).replies.insert((name.to_lowercase(), kind), reply);
    }

    /// Sets the IPv4 addresses of a name.
    pub fn set_addresses(&self, name: &str, time_to_live: u32, addresses: &[IpAddr]) {
        let data = addresses.iter().map(|it| Data::Address(*it)).collect();
        self.set(name, Kind::A, Reply::Records(time_to_live, data));
    }

    /// Forgets a name.
    pub fn forget(&self, name: &str) {
        lock(&self.script).replies.retain(|(it, _), _| it != name);
    }

    /// How often that was asked.
    #[must_use]
    pub fn asked(&self, name: &str, kind: Kind) -> usize {
        let key = (name.to_lowercase(), kind);
        lock(&self.script).asked.get(&key).copied().unwrap_or(0)
    }

    /// How many questions came over TCP.
    #[must_use]
    pub fn asked_by_tcp(&self) -> usize {
        lock(&self.script).asked_by_tcp
    }
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve_udp(socket: Arc<UdpSocket>, script: Arc<Mutex<Script>>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut answers = JoinSet::new();
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        let (query, socket, script) = (buffer[..length].to_vec(), Arc::clone(&socket), Arc::clone(&script));
        answers.spawn(async move {
            if let Some(answer) = answer(&query, &script, false).await {
                let _ = socket.send_to(&answer, peer).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Mutex<Script>>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await?;
        let script = Arc::clone(&script);
        connections.spawn(async move {
            loop {
                let length = stream.read_u16().await?;
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await?;
                if let Some(answer) = answer(&query, &script, true).await {
                    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
                    stream.write_u16(length).await?;
                    stream.write_all(&answer).await?;
                }
            }
            #[expect(unreachable_code, reason = "names the type")]
            Ok::<(), io::Error>(())
        });
    }
}

/// The bytes to send for a question, if any.
async fn answer(query: &[u8], script: &Mutex<Script>, is_tcp: bool) -> Option<Vec<u8>> {
    let (name, kind, question_end) = question(query)?;
    let mut reply = {
        let mut script = lock(script);
        *script.asked.entry((name.clone(), kind)).or_default() += 1;
        script.asked_by_tcp += usize::from(is_tcp);
        let is_known = script.replies.keys().any(|(it, _)| *it == name);
        let unset = if is_known {
            Reply::Records(0, Vec::new())
        } else {
            Reply::Code(3)
        };
        script.replies.get(&(name, kind)).cloned().unwrap_or(unset)
    };
    loop {
        match reply {
            Reply::Records(time_to_live, data) => {
                let whole = message(query, question_end, 0, time_to_live, &data)?;
                if is_tcp || whole.len() <= MOST_UDP {
                    return Some(whole);
                }
                return cut(query, question_end);
            }
            Reply::Code(code) => return message(query, question_end, code, 0, &[]),
            Reply::Silence => return None,
            Reply::Garbage => return Some(query[..question_end.min(query.len() - 1)].to_vec()),
            Reply::Late(time, then) => {
                tokio::time::sleep(time).await;
                reply = *then;
            }
            Reply::Truncated(_) if !is_tcp => return cut(query, question_end),
            Reply::Truncated(whole) => reply = *whole,
        }
    }
}

/// Name and kind that are asked for, and where the question ends.
fn question(query: &[u8]) -> Option<(String, Kind, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = match query.get(at..at + 2)? {
        [0, 1] => Kind::A,
        [0, 28] => Kind::Aaaa,
        [0, 33] => Kind::Srv,
        _ => return None,
    };
    Some((labels.join("."), kind, at + 4))
}

fn cut(query: &[u8], question_end: usize) -> Option<Vec<u8>> {
    let mut answer = message(query, question_end, 0, 0, &[])?;
    answer[2] |= 0x02;
    Some(answer)
}

fn message(query: &[u8], question_end: usize, code: u8, time_to_live: u32, data: &[Data]) -> Option<Vec<u8>> {
    let mut out = query.get(..2)?.to_vec();
    out.extend([0x81, 0x80 | code, 0, 1]);
    out.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    out.extend([0; 4]);
    out.extend(query.get(12..question_end)?);
    for record in data {
        let (kind, bytes) = match record {
            Data::Address(IpAddr::V4(ip)) => (1_u16, ip.octets().to_vec()),
            Data::Address(IpAddr::V6(ip)) => (28, ip.octets().to_vec()),
            Data::Service(priority, weight, port, target) => {
                let mut bytes = [priority, weight, port]
                    .iter()
                    .flat_map(|it| it.to_be_bytes())
                    .collect::<Vec<u8>>();
                for label in target.split('.').filter(|it| !it.is_empty()) {
                    bytes.push(u8::try_from(label.len()).ok()?);
                    bytes.extend(label.as_bytes());
                }
                bytes.push(0);
                (33, bytes)
            }
        };
        // The name is the one in the question.
        out.extend([0xC0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(time_to_live.to_be_bytes());
        out.extend(u16::try_from(bytes.len()).ok()?.to_be_bytes());
        out.extend(bytes);
    }
    Some(out)
}
