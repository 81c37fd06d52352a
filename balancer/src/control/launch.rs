//! From a configuration to a control task that runs: first everything is had, then anything begins.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, watch};

use super::admin::AdminSocket;
use super::discover::Names;
use super::discover::lookup::NameServers;
use super::inherit::{Inherited, KnownBackend};
use super::sources::{self, Known, Sources};
use super::state::State;
use super::{Control, Inbox, Message, Page, Ports, ports};
use crate::backend::connect::Report as Failed;
use crate::config::Config;
use crate::listen::Thread;
use crate::log::{Form, Journal, Writer};
use crate::plan::LogFormat;
use crate::service::Gate;
use crate::socket::{self, FileBudget};
use crate::{Shutdown, StartError, relay};

/// Failed connects that may wait to be told; they come in bursts, and what does not fit is not needed.
const FAILED: usize = 1024;

/// Everything that is bound and read, and nothing that runs.
#[derive(Debug)]
pub struct Launch {
    sources: Sources,
    threads: usize,
    fresh: ports::Fresh,
    page: Option<TcpListener>,
    admin: Option<AdminSocket>,
    known: Vec<KnownBackend>,
    predecessor: Option<super::inherit::Predecessor>,
}

impl Launch {
    /// Reads, resolves and binds.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind then.
    pub async fn prepare(config: Config) -> Result<Self, StartError> {
        let asked = config.check().map_err(StartError::Config)?.plan.process.resolver;
        let (mut sources, warnings) = sources::load(config, &Known::new(), &HashMap::new(), &NameServers::new(asked))
            .await
            .map_err(StartError::Config)?;
        for warning in warnings.iter() {
            tracing::warn!("{warning}");
        }
        let mut inherited = Inherited::from_environment();
        let known = inherited.known.take().unwrap_or_default();
        sources.inherit(known.edits, known.names);
        let process = &sources.plan.process;
        let threads = process
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let wanted = ports::wanted(&sources.services());
        let fresh = Ports::default()
            .bind_missing(&wanted, threads, &mut inherited)
            .map_err(StartError::Bind)?;
        let page = process
            .metrics
            .map(|address| page(address, inherited.page.take()))
            .transpose()?;
        let admin = AdminSocket::bind(&process.admin, inherited.predecessor.is_some())?;
        let (known, predecessor) = (known.backends, inherited.predecessor);
        Ok(Self {
            sources,
            threads,
            fresh,
            page,
            admin,
            known,
            predecessor,
        })
    }

    /// The address of metrics and status page.
    #[must_use]
    pub fn page_address(&self) -> Option<SocketAddr> {
        self.page.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The control socket.
    #[must_use]
    pub fn admin_path(&self) -> Option<&Path> {
        self.admin.as_ref().map(AdminSocket::path)
    }

    /// Starts threads and tasks. Call it inside the runtime of the control task.
    ///
    /// # Errors
    /// The system gave no thread, file or event queue.
    pub fn begin(
        mut self,
        shutdown: Shutdown,
        inbox: Inbox,
        messages: mpsc::Receiver<Message>,
        ready: watch::Sender<bool>,
    ) -> io::Result<Running> {
        let budget = FileBudget::of(socket::raise_file_limit(), self.threads);
        relay::limit_pipes(budget.pipes);
        let form = form(self.sources.plan.process.log);
        let journal = || form.map(|form| Arc::new(Journal::new(form, wall_clock)));
        let threads = (0..self.threads)
            .map(|index| Thread::start(index, journal()))
            .collect::<io::Result<Vec<_>>>()?;
        let journals: Vec<_> = threads.iter().filter_map(|thread| thread.journal.clone()).collect();
        let writer = form.map(|_| Writer::start(journals, io::stdout())).transpose()?;
        let (reports, failed) = mpsc::channel(FAILED);
        let page = self.page.as_ref().map(TcpListener::try_clone).transpose()?;
        let page = page.map(|listener| Page::new(listener, inbox.clone())).transpose()?;
        let mut helpers = tokio::task::JoinSet::new();
        if let Some(page) = page {
            helpers.spawn(page.run());
        }
        if let Some(admin) = self.admin.take() {
            helpers.spawn(admin.run(inbox.clone()));
        }
        let mut control = Control {
            state: State::new(reports),
            names: Names::new(self.sources.plan.process.resolver_hold),
            resolver: Arc::new(NameServers::new(self.sources.plan.process.resolver.clone())),
            sources: self.sources,
            threads,
            ports: Ports::default(),
            gate: Arc::new(Gate::new(budget.connections)),
            natural_limit: budget.connections,
            inbox,
            page: self.page,
            predecessor: self.predecessor,
            shutdown,
            ready,
            chance: rand::random::<f64>,
        };
        control.apply();
        for known in self.known {
            control
                .state
                .inherit(&known.service, known.address, known.health, known.duty, Instant::now());
        }
        control.open(self.fresh);
        Ok(Running {
            control,
            writer,
            helpers,
            messages,
            failed,
        })
    }
}

/// A balancer that serves.
#[derive(Debug)]
pub struct Running {
    /// The control task.
    pub control: Control,
    writer: Option<Writer>,
    helpers: tokio::task::JoinSet<()>,
    messages: mpsc::Receiver<Message>,
    failed: mpsc::Receiver<Failed>,
}

impl Running {
    /// Runs to the end.
    pub async fn run(mut self) {
        self.control.run(self.messages, self.failed).await;
        // Waited for, so that the control socket is gone when the end is told.
        self.helpers.shutdown().await;
        drop(self.writer);
    }
}

fn page(address: SocketAddr, inherited: Option<TcpListener>) -> Result<TcpListener, StartError> {
    let is_same = |listener: &TcpListener| listener.local_addr().is_ok_and(|it| it == address);
    let bind = || {
        let listener = inherited
            .filter(is_same)
            .map_or_else(|| TcpListener::bind(address), Ok)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| StartError::Metrics { address, source })
}

fn form(format: LogFormat) -> Option<Form> {
    match format {
        LogFormat::Json => Some(Form::Json),
        LogFormat::Text => Some(Form::Text),
        LogFormat::Combined => Some(Form::Combined),
        LogFormat::Haproxy => Some(Form::Haproxy),
        LogFormat::Off => None,
        LogFormat::Auto if io::IsTerminal::is_terminal(&io::stdout()) => Some(Form::Text),
        LogFormat::Auto => Some(Form::Json),
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where the log learns the time")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
