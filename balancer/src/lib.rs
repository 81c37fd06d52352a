//! A load balancer that knows nothing of OpenHIM.
//!
//! [`Balancer::start`] takes a [`Config`], binds, and serves until it is told to stop. The way of a connection:
//! [`listen`] accepts it on one of the data threads, [`l4`] admits it, has a backend chosen by [`schedule`] among those of
//! the [`snapshot`], connects, and [`relay`] carries its bytes. The way of a change: [`control`] reads
//! [`config`]uration, files, names and the results of [`health`] probes, decides in [`control::state`], and publishes.
//!
//! Data threads never wait for the control task, and it never touches a connection's bytes.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};
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

pub use config::{Config, Problems};
pub use control::Bound;
pub use control::admin::{AdminError, Answer, call, reads_input};
pub use control::ports::BindError;
pub use metrics::Report;

use control::admin::AdminSocket;
use control::sources::{self, Sources};
use control::state::State;
use control::{Control, Inbox, Message, Page, Ports, ports};
use listen::Thread;
use log::{Form, Journal, Writer};
use plan::LogFormat;
use service::Gate;
use socket::FileBudget;

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
        let (sources, warnings) = sources::load(config, &HashMap::new())
            .await
            .map_err(StartError::Config)?;
        for warning in warnings.iter() {
            tracing::warn!("{warning}");
        }
        let process = sources.plan.process.clone();
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = process.threads.unwrap_or_else(processors);
        let fresh = Ports::default()
            .bind_missing(&ports::wanted(&sources.services()), threads)
            .map_err(StartError::Bind)?;
        let page = process.metrics.map(bind_page).transpose()?;
        let admin = AdminSocket::bind(&process.admin)?;
        let admin_path = admin.as_ref().map(|socket| socket.path().to_owned());
        let metrics = page.as_ref().and_then(|listener| listener.local_addr().ok());

        // A drop of the handle is a hard shutdown too.
        let dropped = shutdown.hard.child_token();
        let shutdown = Shutdown {
            soft: shutdown.soft,
            hard: dropped.clone(),
        };
        let (inbox, messages) = control::inbox();
        let (ready_sender, ready) = watch::channel(false);
        let (ended_sender, ended) = watch::channel(false);
        let (bound_sender, bound) = oneshot::channel();
        let to_control = inbox.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            let inbox = to_control.clone();
            runtime.block_on(async move {
                let serving = assemble(sources, threads, fresh, shutdown, to_control, ready_sender);
                let (control, writer, failed) = match serving {
                    Ok(parts) => parts,
                    Err(error) => return drop(bound_sender.send(Err(error))),
                };
                let page = page.map(|listener| Page::new(listener, inbox)).transpose();
                let page = match page {
                    Ok(page) => page.map(|page| tokio::spawn(page.run())),
                    Err(error) => return drop(bound_sender.send(Err(error))),
                };
                let admin = admin.map(|socket| tokio::spawn(socket.run(control.inbox.clone())));
                let _ = bound_sender.send(Ok(control.ports.bound()));
                control.run(messages, failed).await;
                for helper in page.into_iter().chain(admin) {
                    helper.abort();
                    // Awaited, so that the control socket is gone when the end is told.
                    let _ = helper.await;
                }
                drop(writer);
                ended_sender.send_replace(true);
            });
        })?;
        let addresses = bound
            .await
            .map_err(|_| std::io::Error::other("the control thread ended"))??;
        Ok(Self {
            addresses,
            metrics,
            admin: admin_path,
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

fn bind_page(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| StartError::Metrics { address, source })
}

type Parts = (Control, Option<Writer>, mpsc::Receiver<backend::connect::Report>);

/// Makes everything that serves, out of what was bound.
fn assemble(
    sources: Sources,
    threads: usize,
    fresh: ports::Fresh,
    shutdown: Shutdown,
    inbox: Inbox,
    ready: watch::Sender<bool>,
) -> std::io::Result<Parts> {
    let budget = FileBudget::of(socket::raise_file_limit(), threads);
    relay::limit_pipes(budget.pipes);
    let form = form(sources.plan.process.log);
    let threads = (0..threads)
        .map(|index| Thread::start(index, form.map(|form| Arc::new(Journal::new(form, wall_clock)))))
        .collect::<std::io::Result<Vec<_>>>()?;
    let journals: Vec<_> = threads.iter().filter_map(|thread| thread.journal.clone()).collect();
    let writer = form.map(|_| Writer::start(journals, std::io::stdout())).transpose()?;
    // Failed connects come in bursts; what does not fit is not needed.
    let (reports, failed) = mpsc::channel(1024);
    let mut control = Control {
        state: State::new(reports),
        sources,
        threads,
        ports: Ports::default(),
        gate: Arc::new(Gate::new(budget.connections)),
        natural_limit: budget.connections,
        inbox,
        shutdown,
        ready,
        chance: rand::random::<f64>,
    };
    control.begin(fresh);
    Ok((control, writer, failed))
}

fn form(format: LogFormat) -> Option<Form> {
    match format {
        LogFormat::Json => Some(Form::Json),
        LogFormat::Text => Some(Form::Text),
        LogFormat::Off => None,
        LogFormat::Auto if std::io::IsTerminal::is_terminal(&std::io::stdout()) => Some(Form::Text),
        LogFormat::Auto => Some(Form::Json),
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where the log learns the time")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
