//! A load balancer that knows nothing of OpenHIM.
//!
//! [`Balancer::start`] takes a [`Config`], binds, and serves until it is told to stop. The way of a connection:
//! [`listen`] accepts it on one of the data threads, [`l4`] admits it, has a backend chosen by [`schedule`] among those of
//! the [`snapshot`], connects, and [`relay`] carries its bytes. The way of a change: [`control`] reads
//! [`config`]uration, files, names and the results of [`health`] probes, decides in [`control::state`], and publishes.
//!
//! Data threads never wait for the control task, and it never touches a connection's bytes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

pub mod backend;
pub mod config;
pub mod control;
pub mod health;
pub mod ipvsadm;
pub mod l4;
pub mod l7;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod plan;
pub mod proxy_protocol;
pub mod relay;
pub mod schedule;
pub mod service;
pub mod snapshot;
pub mod socket;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;

pub use config::{Config, Problems};
pub use control::Bound;
pub use control::admin::{AdminError, Answer, call, reads_input};
pub use control::inherit::UpgradeError;
pub use control::ports::BindError;
pub use metrics::Report;

use control::launch::Launch;
use control::{Inbox, Message, inherit};

/// How the balancer is told to stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Accept nothing more, let what is under way end, then stop.
    pub soft: CancellationToken,
    /// Stop now.
    pub hard: CancellationToken,
}

/// Why a balancer did not start. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(Problems),
    /// An address of a service cannot be listened on.
    #[error("{}", list(.0))]
    Bind(Vec<BindError>),
    /// The control socket cannot be made.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The address of metrics and status page cannot be listened on.
    #[error("cannot listen on {address} for metrics and the status page; another address or `off` can be set")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The system gave no thread, file or event queue.
    #[error("cannot start")]
    System(#[from] std::io::Error),
}

fn list(errors: &[BindError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A running balancer. Dropping it stops it at once.
#[derive(Debug)]
pub struct Balancer {
    addresses: Vec<Bound>,
    metrics: Option<SocketAddr>,
    admin: Option<PathBuf>,
    inbox: Inbox,
    ready: watch::Receiver<bool>,
    ended: watch::Receiver<bool>,
    dropped: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Balancer {
    /// Checks the configuration, binds, and starts to serve. Backends get traffic as soon as their first check passed.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config, shutdown: Shutdown) -> Result<Self, StartError> {
        let launch = Launch::prepare(config).await?;
        let (metrics, admin) = (launch.page_address(), launch.admin_path().map(Path::to_owned));
        // A drop of the handle is a hard shutdown too.
        let dropped = shutdown.hard.child_token();
        let shutdown = Shutdown {
            soft: shutdown.soft,
            hard: dropped.clone(),
        };
        let (inbox, messages) = control::inbox();
        let (ready_sender, ready) = watch::channel(false);
        let (ended_sender, ended) = watch::channel(false);
        let (begun_sender, begun) = oneshot::channel();
        let to_control = inbox.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            runtime.block_on(async move {
                match launch.begin(shutdown, to_control, messages, ready_sender) {
                    Ok(running) => {
                        let _ = begun_sender.send(Ok(running.control.ports.bound()));
                        running.run().await;
                    }
                    Err(error) => drop(begun_sender.send(Err(error))),
                }
                ended_sender.send_replace(true);
            });
        })?;
        let addresses = begun
            .await
            .map_err(|_| std::io::Error::other("the control thread ended"))??;
        Ok(Self {
            addresses,
            metrics,
            admin,
            inbox,
            ready,
            ended,
            dropped,
            thread: Some(thread),
        })
    }

    /// The addresses it listened on at start, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[Bound] {
        &self.addresses
    }

    /// The address of metrics and status page.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// The control socket.
    #[must_use]
    pub fn admin_path(&self) -> Option<&Path> {
        self.admin.as_deref()
    }

    /// Completes when every backend was checked once.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        // It can only fail when the balancer has ended, and then nobody waits for it to begin.
        let _ = ready.wait_for(|is_ready| *is_ready).await;
    }

    /// Reads everything anew.
    ///
    /// # Errors
    /// All problems; nothing has changed then.
    pub async fn reload(&self) -> Result<(), Problems> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.inbox.send(Message::Reload(sender)).await;
        // No answer means that it is ending: what is written does not matter any more.
        receiver.await.unwrap_or(Ok(()))
    }

    /// Starts another program, usually a newer version of this one, with the same arguments, and gives it all sockets and
    /// what is known. Returns its process id as soon as it serves; then this balancer should be told to stop, which
    /// leaves to its connections the time to drain. No connection is refused meanwhile.
    ///
    /// # Errors
    /// It did not come to serve. It has been ended then, and this balancer goes on.
    pub async fn upgrade(&self, command: std::process::Command) -> Result<u32, UpgradeError> {
        let ended = || std::io::Error::other("this balancer is ending");
        let (sender, receiver) = oneshot::channel();
        let _ = self.inbox.send(Message::HandOver(sender)).await;
        let everything = receiver.await.map_err(|_| UpgradeError::HandOver(ended()))?;
        let everything = everything.map_err(UpgradeError::HandOver)?;
        let upgrading = tokio::task::spawn_blocking(move || inherit::upgrade(command, &everything));
        upgrading.await.map_err(|_| UpgradeError::HandOver(ended()))?
    }

    /// How things are; `None` when it has ended.
    pub async fn report(&self) -> Option<Report> {
        let (sender, receiver) = oneshot::channel();
        self.inbox.send(Message::Report(sender)).await.ok()?;
        receiver.await.ok().map(|report| *report)
    }

    /// Completes when it has ended.
    pub async fn wait(&self) {
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(|has_ended| *has_ended).await;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.dropped.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
