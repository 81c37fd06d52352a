//! A closed-loop load: each connection sends the next request when the last one is answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::backend::read_message;
use crate::case::{Case, Client};
use crate::proxies::Candidate;
use crate::support::on_this_thread;

/// What one round of load saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// CPU time of the process under test for each request.
    pub(crate) cpu: Duration,
    /// Requests per second of wall-clock time.
    pub(crate) rate: f64,
    /// Resident memory with all connections open.
    pub(crate) rss_kib: u64,
}

/// Where requests go, and how.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl Target {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(socket),
            Some(tls) => {
                let name = ServerName::from(self.address.ip());
                Box::new(tls.connect(name, socket).await?)
            }
        })
    }
}

/// Sends `total` requests of the case over its connections, and checks that each is answered with 200.
pub(crate) fn run(candidate: &Candidate, case: &Case, total: usize) -> Round {
    let target = Target {
        address: candidate.address,
        tls: candidate.tls.clone().map(|config| TlsConnector::from(Arc::new(config))),
    };
    let messages: Arc<[Vec<u8>]> = case.messages(candidate.channels, candidate.used).into();
    let each = total / case.connections;
    let is_kept = case.client != Client::NewCertificate;
    let (before, started) = (candidate.process.cpu(), Instant::now());
    let rss_kib = on_this_thread(async {
        let local = tokio::task::LocalSet::new();
        let workers: Vec<_> = (0..case.connections)
            .map(|worker| {
                let (target, messages) = (target.clone(), Arc::clone(&messages));
                local.spawn_local(async move {
                    match is_kept {
                        true => kept(&target, &messages, worker, each).await,
                        false => anew(&target, &messages, worker, each).await.map(|()| None),
                    }
                })
            })
            .collect();
        local
            .run_until(async {
                // Connections stay open until all are done and memory was looked at.
                let mut open = Vec::new();
                for worker in workers {
                    open.push(worker.await.expect("no panic").expect("no broken connection"));
                }
                candidate.process.rss_kib()
            })
            .await
    });
    let requests = each * case.connections;
    Round {
        cpu: (candidate.process.cpu() - before) / requests as u32,
        rate: requests as f64 / started.elapsed().as_secs_f64(),
        rss_kib,
    }
}

async fn kept(
    target: &Target,
    messages: &[Vec<u8>],
    worker: usize,
    count: usize,
) -> io::Result<Option<Box<dyn Stream>>> {
    let mut socket = target.connect().await?;
    let mut buffer = Vec::with_capacity(64 * 1024);
    for turn in 0..count {
        ask(
            &mut socket,
            &mut buffer,
            &messages[spread(worker, turn, messages.len())],
        )
        .await?;
    }
    Ok(Some(socket))
}

async fn anew(target: &Target, messages: &[Vec<u8>], worker: usize, count: usize) -> io::Result<()> {
    for turn in 0..count {
        let mut socket = target.connect().await?;
        ask(
            &mut socket,
            &mut Vec::new(),
            &messages[spread(worker, turn, messages.len())],
        )
        .await?;
    }
    Ok(())
}

/// Every channel gets its turn, and neighbours in time are not neighbours in the list.
fn spread(worker: usize, turn: usize, channels: usize) -> usize {
    (worker * 31 + turn * 7919) % channels
}

async fn ask(socket: &mut Box<dyn Stream>, buffer: &mut Vec<u8>, message: &[u8]) -> io::Result<()> {
    socket.write_all(message).await?;
    socket.flush().await?;
    let status = read_message(socket, buffer).await?;
    assert_eq!(status, 200, "every request must be answered");
    Ok(())
}
