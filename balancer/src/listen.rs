//! Data threads and their accept loops.
//!
//! Each thread has a runtime of its own, and for each address of each service a listener of its own; the kernel spreads
//! connections over them. A listener lives as long as its address is configured: reloads never close and reopen it, so
//! that no waiting connection is lost.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::l4::choose::Chooser;
use crate::l4::sessions::Sessions;
use crate::l4::{self, Door};
use crate::log::Journal;
use crate::service::{Gate, Place, ServiceState};
use crate::socket::{self, Listening};

/// Pause after an accept that failed for want of something, so that the lack can end.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

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
                runtime.block_on(stopped.cancelled());
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

    /// Accepts on `listener` for `service` until `closed`; connections go on after that.
    ///
    /// # Errors
    /// The listener cannot be registered with the thread's event queue.
    pub fn open(
        &self,
        listener: std::net::TcpListener,
        service: &Arc<ServiceState>,
        all: &Arc<Gate>,
        closed: CancellationToken,
    ) -> io::Result<()> {
        let _guard = self.handle.enter();
        let listener = TcpListener::from_std(listener)?;
        let door = Arc::new(Door {
            service: Arc::clone(service),
            sessions: Arc::clone(&self.sessions),
            journal: self.journal.clone(),
            chooser: Mutex::new(Chooser::new(rand::random())),
        });
        let accepting = accept(listener, door, Arc::clone(all), self.tasks.clone());
        self.handle
            .spawn(async move { closed.run_until_cancelled_owned(accepting).await });
        Ok(())
    }

    /// Connections under way, also those that have no backend yet.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.tasks.len()
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

/// Binds an address once for each of `threads`.
///
/// # Errors
/// The address is in use, or not ours to use.
pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let options = Listening {
        reuse_port: true,
        ..Listening::default()
    };
    refuse_to_share(address)?;
    let first = socket::listen(address, options)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..threads {
        listeners.push(socket::listen(address, options)?);
    }
    Ok(listeners)
}

/// Fails if someone else listens there. Sharing the port is for our own threads; a second balancer, started by mistake,
/// would otherwise take half of the connections.
fn refuse_to_share(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

async fn accept(listener: TcpListener, door: Arc<Door>, all: Arc<Gate>, tasks: TaskTracker) {
    loop {
        match listener.accept().await {
            Ok((client, peer)) => {
                door.service.counters.accepted.add(1);
                // Without room this one waits here, and those behind it in the kernel.
                let places = enter(&door.service, &all).await;
                tasks.spawn(serve(Arc::clone(&door), client, peer, places));
            }
            Err(error) => refuse(&door.service, &error).await,
        }
    }
}

async fn serve(door: Arc<Door>, client: TcpStream, peer: SocketAddr, places: (Place, Place)) {
    l4::serve(door, client, peer).await;
    drop(places);
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
