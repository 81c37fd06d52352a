//! The one task that may change anything: wishes in, difference, snapshots out.
//!
//! It owns the [`State`], which decides, and carries out what that says: it binds and closes listeners, sends
//! probes, ends connections, reads files. Everyone else sends it a [`Message`] and reads what it publishes.

pub mod admin;
mod commands;
pub mod discover;
mod edits;
pub mod inherit;
pub mod launch;
mod page;
pub mod ports;
mod report;
pub mod sources;
pub mod state;
pub mod watch;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch as channel};

use crate::Shutdown;
use crate::backend::connect::{Report as Failed, connect};
use crate::config::Problems;
use crate::health::{self, Failure};
use crate::l4::sessions::Why;
use crate::listen::Thread;
use crate::metrics::Report;
use crate::plan::Endpoint;
use crate::relay::Peer;
use crate::service::Gate;
use crate::socket::{FirstBytes, Source};
use crate::tls::client::Secured;

pub use commands::Order;
use discover::lookup::NameServers;
use discover::{Due, Names, Outcome, Resolver};
use inherit::{HandOver, Inherited};
pub use page::Page;
pub use ports::{Bound, Ports};
use report::Observed;
use sources::Sources;
use state::{Effect, State, Target};
use watch::Watch;

/// Messages that may wait for the control task.
const INBOX: usize = 256;
/// How often rates are taken and counters of long connections brought up to date.
const SAMPLE: Duration = Duration::from_secs(1);

/// What others want of the control task.
#[derive(Debug)]
pub enum Message {
    /// Read everything anew.
    Reload(oneshot::Sender<Result<(), Problems>>),
    /// Tell how things are.
    Report(oneshot::Sender<Box<Report>>),
    /// Give all sockets, and what is known, for another process.
    HandOver(oneshot::Sender<std::io::Result<HandOver>>),
    /// A probe has ended.
    Probed(Target, Result<(), Failure>),
    /// A trial has ended.
    Tried(Target, Result<(), Failure>),
    /// Do what an operator says; words that take time are done before this is sent.
    Order(Box<Order>, oneshot::Sender<Result<String, String>>),
    /// A name server has answered, or not.
    Resolved(Endpoint, Outcome),
    /// Tell what an operator's name stands for.
    Resolve(Endpoint, oneshot::Sender<Outcome>),
    /// Everything was read anew.
    Loaded(
        Box<Result<(Sources, Problems), Problems>>,
        Option<oneshot::Sender<Result<(), Problems>>>,
    ),
}

/// The line to the control task.
pub type Inbox = mpsc::Sender<Message>;

/// A line to a control task that is still to be made.
#[must_use]
pub fn inbox() -> (Inbox, mpsc::Receiver<Message>) {
    mpsc::channel(INBOX)
}

/// What the control task is made of.
#[derive(Debug)]
pub struct Control {
    /// Decides.
    pub state: State,
    /// Says what should be.
    pub sources: Sources,
    /// Decides what backends that are names stand for.
    pub names: Names,
    /// Asks for them.
    pub resolver: Arc<dyn Resolver>,
    /// Data threads.
    pub threads: Vec<Thread>,
    /// Listeners.
    pub ports: Ports,
    /// The gate of the process.
    pub gate: Arc<Gate>,
    /// Ceiling of connections when none is configured.
    pub natural_limit: usize,
    /// To itself, for tasks it starts.
    pub inbox: Inbox,
    /// The listener of metrics and status page.
    pub page: Option<std::net::TcpListener>,
    /// The process before this one, which waits to hear that this one is ready.
    pub predecessor: Option<inherit::Predecessor>,
    /// When to end.
    pub shutdown: Shutdown,
    /// Told when the first round of checks is over.
    pub ready: channel::Sender<bool>,
    /// Draws from 0 to 1.
    pub chance: fn() -> f64,
}

impl Control {
    /// Runs until the balancer has ended: a soft shutdown was asked for and everything is drained, or a hard one.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Message>, mut failed: mpsc::Receiver<Failed>) {
        let (ring, mut rings) = mpsc::channel(1);
        let mut watch = Watch::new(ring);
        watch.set(self.sources.files());
        let mut observed = Observed::new(Instant::now());
        let mut looks = Looks::new();
        let mut sample = tokio::time::interval(SAMPLE);
        sample.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = Stopping {
            shutdown: self.shutdown.clone(),
            stage: Stage::Running,
        };
        self.act();
        loop {
            let next = [self.state.next_poll(Instant::now()), self.names.next_poll()];
            let next = next
                .into_iter()
                .flatten()
                .min()
                .unwrap_or_else(|| Instant::now() + SAMPLE);
            tokio::select! {
                Some(message) = messages.recv() => self.take(message, &mut watch, &mut observed),
                Some(report) = failed.recv() => self.state.connect_failed(report, Instant::now()),
                () = tokio::time::sleep_until(next.into()) => {}
                _ = sample.tick() => observed.sample(&self, Instant::now()),
                Some(()) = rings.recv() => looks.soon(),
                () = looks.due() => self.look(&mut watch, &mut looks, &mut observed),
                () = stopping.step() => if stopping.carry_on(&mut self) { break },
            }
            self.act();
        }
    }

    /// Carries out what the state wants done now.
    fn act(&mut self) {
        self.follow_names(Instant::now());
        for effect in self.state.poll(Instant::now()) {
            self.perform(effect);
        }
        if !*self.ready.borrow() && self.state.is_first_round_over() {
            self.ready.send_replace(true);
            if let Some(predecessor) = self.predecessor.take() {
                predecessor.release();
            }
        }
    }

    fn perform(&self, effect: Effect) {
        let inbox = self.inbox.clone();
        match effect {
            Effect::Probe { target, check, tls } => {
                tokio::spawn(async move {
                    let result = health::probe(target.address, &check, tls.as_ref()).await;
                    let _ = inbox.send(Message::Probed(target, result)).await;
                });
            }
            Effect::Try { target, limit, tls } => {
                tokio::spawn(async move {
                    let result = attempt(target.address, limit, tls).await.map_err(Failure::unreachable);
                    let _ = inbox.send(Message::Tried(target, result)).await;
                });
            }
            Effect::End { service, address, why } => {
                self.end_sessions(&service, address, why);
            }
        }
    }

    /// Ends the live connections of a backend; says how many.
    fn end_sessions(&self, service: &str, address: SocketAddr, why: Why) -> usize {
        let is_meant =
            |it: &crate::l4::sessions::Session| &*it.service.name == service && it.backend().address == address;
        self.threads
            .iter()
            .map(|thread| thread.sessions.end(why, is_meant))
            .sum()
    }

    fn take(&mut self, message: Message, watch: &mut Watch, observed: &mut Observed) {
        let now = Instant::now();
        match message {
            Message::Reload(answer) => self.load(Some(answer)),
            Message::Report(answer) => {
                self.settle();
                let _ = answer.send(Box::new(observed.report(self, now)));
            }
            Message::Order(order, answer) => {
                let result = self.obey(*order, observed, now);
                watch.set(self.sources.files());
                let _ = answer.send(result);
            }
            Message::HandOver(answer) => {
                let _ = answer.send(self.hand_over());
            }
            Message::Probed(target, result) => {
                if let Some(effect) = self.state.probed(&target, result, now, (self.chance)()) {
                    self.perform(effect);
                }
            }
            Message::Tried(target, result) => self.state.tried(&target, result, now),
            Message::Resolved(endpoint, outcome) => self.resolved(endpoint, outcome, now),
            Message::Resolve(endpoint, answer) => {
                let asking = self.resolver.ask(&endpoint);
                tokio::spawn(async move { answer.send(asking.await) });
            }
            Message::Loaded(result, answer) => {
                let result = (*result).and_then(|(mut sources, warnings)| {
                    sources.inherit_edits(&self.sources);
                    self.adopt(sources)?;
                    for warning in warnings.iter() {
                        tracing::warn!("{warning}");
                    }
                    Ok(())
                });
                watch.set(self.sources.files());
                observed.reloaded(&result);
                if let Some(answer) = answer {
                    let _ = answer.send(result);
                }
            }
        }
    }

    /// Reads everything anew, in a task of its own: a name server may take its time.
    fn load(&self, answer: Option<oneshot::Sender<Result<(), Problems>>>) {
        let (inbox, config, names) = (
            self.inbox.clone(),
            self.sources.config.clone(),
            self.sources.names.clone(),
        );
        let (resolver, asked, tls) = (
            Arc::clone(&self.resolver),
            self.sources.plan.process.resolver.clone(),
            self.sources.tls.clone(),
        );
        tokio::spawn(async move {
            let result = match config.reread() {
                Ok(config) => {
                    let others = config.check().map(|it| it.plan.process.resolver);
                    match others.ok().filter(|others| *others != asked) {
                        // The new file's names are for the new file's name servers.
                        Some(others) => sources::load(config, &names, &tls, &NameServers::new(others)).await,
                        None => sources::load(config, &names, &tls, &*resolver).await,
                    }
                }
                Err(problems) => Err(problems),
            };
            let _ = inbox.send(Message::Loaded(Box::new(result), answer)).await;
        });
    }

    fn hand_over(&self) -> std::io::Result<HandOver> {
        let page = self.page.as_ref().map(std::net::TcpListener::try_clone).transpose()?;
        let members = self
            .state
            .services()
            .iter()
            .flat_map(|entry| entry.members.iter().map(move |it| (entry, it)));
        let staying = members.filter(|(entry, member)| !entry.is_leaving && member.leaves_by.is_none());
        let backends = staying.map(|(entry, member)| inherit::KnownBackend {
            service: entry.service.name.to_string(),
            address: member.address(),
            health: member.machine.health().clone(),
            duty: member.duty,
        });
        let known = inherit::Known {
            backends: backends.collect(),
            edits: self.sources.edits.clone(),
            names: self.sources.names.clone().into_iter().collect(),
        };
        Ok(HandOver {
            sockets: self.ports.sockets()?,
            page,
            known,
        })
    }

    /// Makes these sources the ones that count: all of it, or nothing.
    fn adopt(&mut self, sources: Sources) -> Result<(), Problems> {
        let wanted = ports::wanted(&sources.services());
        let bound = self
            .ports
            .bind_missing(&wanted, self.threads.len(), &mut Inherited::default())
            .map_err(ports::as_problems)?;
        let (before, process) = (&self.sources.plan.process, &sources.plan.process);
        if before.resolver != process.resolver {
            self.resolver = Arc::new(NameServers::new(process.resolver.clone()));
        }
        for key in process.fixed_until_restart(before) {
            tracing::warn!("`{key}` was changed; that takes a restart, all else is in force");
        }
        self.sources = sources;
        self.apply();
        self.open(bound);
        tracing::info!("Configuration applied");
        Ok(())
    }

    /// Makes the listeners what the sources say.
    fn open(&mut self, bound: ports::Fresh) {
        let wanted = ports::wanted(&self.sources.services());
        self.ports.change(&wanted, bound, |want, socket, thread, closed| {
            match self.state.service(&want.service) {
                Some(entry) => {
                    self.threads[thread % self.threads.len()].open(socket, &entry.shared, &self.gate, closed)
                }
                None => Ok(()),
            }
        });
    }

    /// Tells the state what should be now.
    fn apply(&mut self) {
        self.gate
            .set_limit(self.sources.plan.process.maxconn.unwrap_or(self.natural_limit));
        let now = Instant::now();
        self.names.set_hold(self.sources.plan.process.resolver_hold);
        self.names.watch(self.sources.endpoints(), &self.sources.names, now);
        self.state.apply(self.sources.wishes(), now);
    }

    fn look(&mut self, watch: &mut Watch, looks: &mut Looks, observed: &mut Observed) {
        let (changed, is_unsettled) = watch.look();
        looks.looked(is_unsettled);
        if changed.is_empty() {
            return;
        }
        if changed
            .iter()
            .any(|path| Some(path.as_path()) == self.sources.config.file())
        {
            self.load(None);
            return;
        }
        let lists = self.sources.backends_files();
        let (lists, certificates): (Vec<_>, Vec<_>) = changed.into_iter().partition(|path| lists.contains(path));
        for path in lists {
            self.reread_backends(&path, observed);
        }
        if !certificates.is_empty() {
            self.reread_certificates(&certificates, observed);
        }
    }

    /// Takes over certificates and keys that changed, each service's as a whole; bad ones leave what was.
    fn reread_certificates(&mut self, changed: &[std::path::PathBuf], observed: &mut Observed) {
        let (good, problems) = self.sources.reread_certificates(changed);
        if !good.is_empty() {
            self.apply();
            tracing::info!(services = %good.join(", "), "Certificates applied; connections under way go on with those before");
        }
        observed.reloaded(&if problems.is_empty() { Ok(()) } else { Err(problems) });
    }

    /// Takes over a backends file that changed; a bad one leaves what was.
    fn reread_backends(&mut self, path: &Path, observed: &mut Observed) {
        let mut sources = self.sources.clone();
        let result = sources::read_backends(path).map(|list| sources.set_file(path, &list));
        match &result {
            // What a new name stands for is asked before those it may replace go.
            Ok(()) if sources.endpoints().iter().any(|it| !self.names.has(it)) => self.load(None),
            Ok(()) => {
                self.sources = sources;
                self.apply();
                tracing::info!(file = %path.display(), "Backends file applied");
                observed.reloaded(&result);
            }
            Err(_) => observed.reloaded(&result),
        }
    }

    /// Asks for names whose time has come, and forgets what is too old.
    fn follow_names(&mut self, now: Instant) {
        for due in self.names.poll(now) {
            match due {
                Due::Ask(endpoint) => {
                    let (inbox, asking) = (self.inbox.clone(), self.resolver.ask(&endpoint));
                    tokio::spawn(async move {
                        let outcome = asking.await;
                        let _ = inbox.send(Message::Resolved(endpoint, outcome)).await;
                    });
                }
                Due::Expired(endpoint) => {
                    let hold = self.sources.plan.process.resolver_hold;
                    tracing::error!("{endpoint} could not be resolved for {hold:?}: it stands for nothing any more");
                    self.sources.names.remove(&endpoint);
                    self.apply();
                }
            }
        }
    }

    /// Takes over what a name stands for now; one that cannot be resolved keeps what it stood for.
    fn resolved(&mut self, endpoint: Endpoint, outcome: Outcome, now: Instant) {
        let was_failing = self.names.standing(&endpoint).is_some_and(|it| it.why.is_some());
        if let Err(error) = &outcome
            && !was_failing
        {
            match self.sources.names.get(&endpoint).map_or(0, Vec::len) {
                0 => tracing::warn!("{endpoint} cannot be resolved now, it stands for no backend: {error}"),
                kept => tracing::warn!("{endpoint} cannot be resolved now, its last {kept} addresses stay: {error}"),
            }
        } else if outcome.is_ok() && was_failing {
            tracing::info!("{endpoint} can be resolved again");
        }
        if let Some(targets) = self.names.answered(&endpoint, outcome, now) {
            let addresses: Vec<SocketAddr> = targets.iter().map(|it| it.address).collect();
            tracing::info!("{endpoint} is now {addresses:?}");
            self.sources.names.insert(endpoint, targets);
            self.apply();
        }
    }

    /// Brings the counters of backends and services up to date.
    fn settle(&self) {
        self.threads.iter().for_each(|thread| thread.sessions.settle());
    }

    /// Connections under way, also those that have no backend yet.
    fn connections(&self) -> usize {
        self.threads.iter().map(Thread::connections).sum()
    }
}

/// Connects as a client's connection would be, and leaves at once.
async fn attempt(address: SocketAddr, limit: Duration, tls: Option<Secured>) -> Result<(), String> {
    let stream = connect(address, Source::Any, FirstBytes::NotYet, limit).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let Some(tls) = tls else {
        crate::socket::reset_on_close(&stream);
        return Ok(());
    };
    let stream = tls.begin(address, stream, limit).await;
    let stream = stream.map_err(|error| format!("TLS failed: {error}"))?;
    stream.socket().into_iter().for_each(crate::socket::reset_on_close);
    Ok(())
}

/// When to look at the watched files next.
struct Looks {
    at: tokio::time::Instant,
}

impl Looks {
    fn new() -> Self {
        Self {
            at: tokio::time::Instant::now() + watch::UNHEARD,
        }
    }

    async fn due(&self) {
        tokio::time::sleep_until(self.at).await;
    }

    fn soon(&mut self) {
        self.at = self.at.min(tokio::time::Instant::now() + watch::SETTLE);
    }

    fn looked(&mut self, is_unsettled: bool) {
        let pause = if is_unsettled { watch::SETTLE } else { watch::UNHEARD };
        self.at = tokio::time::Instant::now() + pause;
    }
}

/// The end, step by step: no new connections; wait for the live ones; end those that are left.
struct Stopping {
    shutdown: Shutdown,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Running,
    Draining { until: tokio::time::Instant },
    Ending { until: tokio::time::Instant },
}

impl Stopping {
    /// How often it is looked whether the last connection has ended.
    const LOOK: Duration = Duration::from_millis(20);
    /// How long connections that were ended may take to notice.
    const LAST: Duration = Duration::from_secs(1);

    /// Completes when there is something to do about the end.
    async fn step(&self) {
        match self.stage {
            Stage::Running => tokio::select! {
                () = self.shutdown.soft.cancelled() => {}
                () = self.shutdown.hard.cancelled() => {}
            },
            Stage::Draining { .. } => tokio::select! {
                () = tokio::time::sleep(Self::LOOK) => {}
                () = self.shutdown.hard.cancelled() => {}
            },
            Stage::Ending { .. } => tokio::time::sleep(Self::LOOK).await,
        }
    }

    /// Does it; true if the balancer may end.
    fn carry_on(&mut self, control: &mut Control) -> bool {
        let now = tokio::time::Instant::now();
        let is_hard = self.shutdown.hard.is_cancelled();
        match self.stage {
            Stage::Running => {
                control.ports.close_all();
                let drain = control
                    .sources
                    .plan
                    .services
                    .iter()
                    .map(|service| service.timeouts.drain)
                    .max();
                let drain = if is_hard {
                    Duration::ZERO
                } else {
                    drain.unwrap_or_default()
                };
                tracing::info!("Stopping: {} connections have {drain:?} to end", control.connections());
                self.stage = Stage::Draining { until: now + drain };
            }
            Stage::Draining { until } if until <= now || is_hard => {
                let ended: usize = control
                    .threads
                    .iter()
                    .map(|it| it.sessions.end(Why::Shutdown, |_| true))
                    .sum();
                if ended > 0 {
                    tracing::warn!("Ended {ended} connections that were still under way");
                }
                self.stage = Stage::Ending {
                    until: now + Self::LAST,
                };
            }
            Stage::Ending { until } if until <= now => return true,
            Stage::Draining { .. } | Stage::Ending { .. } => {}
        }
        control.connections() == 0
    }
}
