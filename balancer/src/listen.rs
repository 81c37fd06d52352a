//! Data threads and their accept loops.
//!
//! Each thread has a runtime of its own, and for each address of each service a listener of its own; the kernel spreads
//! connections over them. A listener lives as long as its address is configured: reloads never close and reopen it, so
//! that no waiting connection is lost.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::l4::sessions::Sessions;
use crate::l4::{self, Door, flows};
use crate::l7;
use crate::log::Journal;
use crate::plan::Mode;
use crate::service::{Gate, Place, ServiceState};
use crate::socket::{self, Listening};

/// Pause after an accept that failed for want of something, so that the lack can end.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// How often an idle data thread wakes.
const TICK: Duration = Duration::from_millis(500);

/// One data thread.
#[derive(Debug)]
pub struct Thread {
    handle: Handle,
    stop: CancellationToken,
    join: Option<JoinHandle<()>>,
    /// Its live connections.
    pub sessions: Arc<Sessions>,
    /// Its log; `None` when that is off.
    pub journal: Option<Arc<Journal>>,
    /// Its connections.
    tasks: TaskTracker,
}

impl Thread {
    /// Starts a thread that has nothing to do yet.
    ///
    /// # Errors
    /// The system has no thread or no event queue to give.
    pub fn start(index: usize, journal: Option<Arc<Journal>>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let join = std::thread::Builder::new()
            .name(format!("data-{index}"))
            .spawn(move || {
                runtime.block_on(async {
                    tokio::spawn(tick());
                    stopped.cancelled().await;
                });
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle,
            stop,
            join: Some(join),
            sessions: Arc::default(),
            journal,
            tasks: TaskTracker::new(),
        })
    }

    /// Serves what comes in on `listener` for `service` until `closed`; connections go on after that, datagram flows do
    /// not.
    ///
    /// # Errors
    /// The listener cannot be registered with the thread's event queue.
    pub fn open(
        &self,
        listener: Listener,
        service: &Arc<ServiceState>,
        all: &Arc<Gate>,
        closed: CancellationToken,
    ) -> io::Result<()> {
        let _guard = self.handle.enter();
        let door = || {
            Arc::new(Door::new(
                Arc::clone(service),
                Arc::clone(&self.sessions),
                self.journal.clone(),
            ))
        };
        let all = Arc::clone(all);
        match listener {
            Listener::Tcp(listener) => {
                let accepting = Accepting {
                    listener: TcpListener::from_std(listener)?,
                    service: Arc::clone(service),
                    behind: match service.live.load().service.mode {
                        Mode::Tcp | Mode::Udp => Behind::Connections(door()),
                        Mode::Http => Behind::Requests(self.requests(service, &closed)),
                    },
                    all,
                    tasks: self.tasks.clone(),
                };
                self.handle.spawn(accepting.run(closed));
            }
            Listener::Udp(socket) => {
                let name = Arc::clone(&service.name);
                let serving = flows::serve(socket, door(), all);
                self.handle.spawn(async move {
                    if let Some(Err(error)) = closed.run_until_cancelled_owned(serving).await {
                        tracing::error!(service = %name, %error, "Cannot receive datagrams any more");
                    }
                });
            }
        }
        Ok(())
    }

    fn requests(&self, service: &Arc<ServiceState>, closed: &CancellationToken) -> Arc<l7::Door> {
        let (sessions, journal) = (Arc::clone(&self.sessions), self.journal.clone());
        let door = l7::Door::new(Arc::clone(service), sessions, journal, closed.clone());
        self.handle.spawn(door.sweep());
        door
    }

    /// Connections under way, also those that have no backend yet.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.tasks.len()
    }
}

/// A timer that is due before those of connects. Tokio interrupts its own sleep whenever a timer becomes the next one due,
/// which else each connect's would be.
async fn tick() {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(join) = self.join.take() {
            let _ = join.join();
        }
    }
}

/// A socket that clients come in by.
#[derive(Debug)]
pub enum Listener {
    /// For connections.
    Tcp(std::net::TcpListener),
    /// For datagrams.
    Udp(std::net::UdpSocket),
}

impl Listener {
    fn new(mode: Mode, address: SocketAddr) -> io::Result<Self> {
        let options = Listening {
            reuse_port: true,
            ..Listening::default()
        };
        match mode {
            Mode::Tcp | Mode::Http => socket::listen(address, options).map(Self::Tcp),
            Mode::Udp => socket::listen_datagrams(address, true).map(Self::Udp),
        }
    }

    /// Takes over a socket that somebody else has bound.
    ///
    /// # Errors
    /// It is not a socket of that kind.
    pub fn adopt(mode: Mode, socket: OwnedFd) -> io::Result<Self> {
        match mode {
            Mode::Tcp | Mode::Http => {
                let listener = std::net::TcpListener::from(socket);
                socket::adopt(&listener, Listening::default())?;
                Ok(Self::Tcp(listener))
            }
            Mode::Udp => {
                let socket = std::net::UdpSocket::from(socket);
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(socket))
            }
        }
    }

    /// What comes in by it.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self {
            Self::Tcp(_) => Mode::Tcp,
            Self::Udp(_) => Mode::Udp,
        }
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// It is not a socket.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }

    /// The same socket once more.
    ///
    /// # Errors
    /// Too many open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Udp(socket) => socket.try_clone().map(Self::Udp),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// Binds an address once for each of `threads`.
///
/// # Errors
/// The address is in use, or not ours to use.
pub fn bind(mode: Mode, address: SocketAddr, threads: usize) -> io::Result<Vec<Listener>> {
    refuse_to_share(mode, address)?;
    let first = Listener::new(mode, address)?;
    complete(mode, vec![first], threads)
}

/// Adds to sockets that are bound already, until there is one for each of `threads`.
///
/// # Errors
/// There is none to begin with, or no more can be had.
pub fn complete(mode: Mode, mut listeners: Vec<Listener>, threads: usize) -> io::Result<Vec<Listener>> {
    let address = listeners.first().ok_or(io::ErrorKind::InvalidInput)?.address()?;
    while listeners.len() < threads {
        // One that was bound by somebody who did not mean to share its address can still be shared itself.
        let next = Listener::new(mode, address).or_else(|_| listeners[0].try_clone())?;
        listeners.push(next);
    }
    Ok(listeners)
}

/// Fails if someone else listens there. Sharing the port is for our own threads; a second balancer, started by mistake,
/// would otherwise take half of the connections.
fn refuse_to_share(mode: Mode, address: SocketAddr) -> io::Result<()> {
    let kind = match mode {
        Mode::Tcp | Mode::Http => Type::STREAM,
        Mode::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier life in TIME_WAIT do not count.
    socket.set_reuse_address(mode != Mode::Udp)?;
    socket.bind(&address.into())
}

/// The accept loop of one listener.
struct Accepting {
    listener: TcpListener,
    service: Arc<ServiceState>,
    behind: Behind,
    all: Arc<Gate>,
    tasks: TaskTracker,
}

/// What connections are taken for.
enum Behind {
    /// Bytes.
    Connections(Arc<Door>),
    /// HTTP requests.
    Requests(Arc<l7::Door>),
}

impl Accepting {
    async fn run(self, closed: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = closed.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                // Without room this one waits here, and those behind it in the kernel.
                Ok((client, peer)) => self.take(client, peer).await,
                Err(error) => refuse(&self.service, &error).await,
            }
        }
        // Who came before the end is served: closing would reset what waits in the kernel.
        while let Some(Ok((client, peer))) = now_or_never(self.listener.accept()).await {
            self.take(client, peer).await;
        }
    }

    async fn take(&self, client: TcpStream, peer: SocketAddr) {
        self.service.counters.accepted.add(1);
        let places = enter(&self.service, &self.all).await;
        match &self.behind {
            Behind::Connections(door) => self.tasks.spawn(l4::serve(Arc::clone(door), client, peer, places)),
            Behind::Requests(door) => self.tasks.spawn(l7::serve(Arc::clone(door), client, peer, places)),
        };
    }
}

/// What a future gives if it does not have to wait for it.
async fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        it = future => Some(it),
        () = std::future::ready(()) => None,
    }
}

/// Waits for room in the process and in the service; who has to wait is said once.
async fn enter(service: &ServiceState, all: &Arc<Gate>) -> (Place, Place) {
    let say = |whose: &str, gate: &Gate| {
        let limit = gate.limit();
        tracing::warn!(service = %service.name, limit, "Not accepting: {whose} has its {limit} connections");
    };
    let of_all = all.enter(|| say("the balancer", all)).await;
    let of_service = service.gate.enter(|| say("the service", &service.gate)).await;
    (of_all, of_service)
}

async fn refuse(service: &ServiceState, error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    service.counters.accept_errors.add(1);
    if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        return;
    }
    tracing::error!(service = %service.name, %error, "Could not accept; trying again in a moment");
    tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
}
