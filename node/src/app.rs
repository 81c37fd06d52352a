//! Composition root: the only file that names a concrete store; builds everything and starts it in order.
//!
//! Every port is bound first, so that one in use stops the start before anything is written; then store, tables, keystore
//! and people; then what a crash left behind is settled; only then is anything served. Messages run on [`instance`]s, threads of their own; the management API, the writer and the
//! jobs run on the caller's runtime, so that a heavy query never delays a message.

mod instance;
pub mod moving;
mod store;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use self::instance::{Fleet, Parts};
use crate::api;
use crate::audit::repository::Intake;
use crate::audit::{Auditor, Event};
use crate::clock::{Clock, SystemClock};
use crate::cluster::{Member, Presence};
use crate::config::{AuditServer, Config, Protocol};
use crate::events::Normalization;
use crate::jobs::alerts::Alerts;
use crate::jobs::auto_retry::AutoRetry;
use crate::jobs::body_cull::BodyCull;
use crate::jobs::lease::Leases;
use crate::jobs::outbox::{Outbox, SendWaiting};
use crate::jobs::polling::Polls;
use crate::jobs::reports::Reports;
use crate::jobs::rerun::Processor;
use crate::jobs::retention::Retention;
use crate::jobs::{Job, Supervisor};
use crate::keystore::{self, Keystore, KeystoreError, LiveKeystore};
use crate::listen::doors::Doorkeeper;
use crate::listen::{BindError, Bound, audit};
use crate::logs;
use crate::metrics::prometheus::Prometheus;
use crate::notify::{self, Notifier};
use crate::pipeline::jwt::JwtVerifier;
use crate::pipeline::{self, Authenticator, Errands, Gatekeeper, RuleBook};
use crate::record::{Recorder, Writer};
use crate::route::payload::BodyLimits;
use crate::store::{SharedStore, StoreError};
use crate::tables::{self, Keeper, RefreshError};
use crate::upgrade;
use crate::users::{self, UsersError};

const MIB: u64 = 1 << 20;
/// The longest time that messages under way get when the node stops.
const GRACE: Duration = Duration::from_secs(60);
/// What is queued gets this long when nothing else may run any more.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// How a node is told to stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Take nothing new; what is under way ends.
    pub soft: CancellationToken,
    /// Drop what is under way.
    pub hard: CancellationToken,
}

/// Why a node did not start. Nothing is served then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("`store.url` cannot be used: {0}")]
    Url(String),
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    #[error(
        "the store is an unfinished copy of {0}; run `openhim-core migrate` once more, and it goes on where it stopped"
    )]
    HalfCopied(String),
    #[error("channels and clients cannot be read")]
    Tables(#[from] RefreshError),
    #[error("there is no keystore to start with")]
    NoKeystore(#[from] keystore::StartError),
    #[error("the keystore cannot be used")]
    Keystore(#[from] KeystoreError),
    #[error("the first user and roles cannot be made")]
    Users(#[from] UsersError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("an instance cannot be started")]
    Instance(#[source] std::io::Error),
}

/// What the ports of a node are to be; a port that is `None` is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub http: Option<SocketAddr>,
    pub https: Option<SocketAddr>,
    pub api: Option<SocketAddr>,
    /// Internal: a node that cannot have it does without.
    pub rerun: Option<SocketAddr>,
    /// The same.
    pub polling: Option<SocketAddr>,
    pub audit_udp: Option<SocketAddr>,
    pub audit_tls: Option<SocketAddr>,
    pub audit_tcp: Option<SocketAddr>,
}

impl Ports {
    /// As the settings say; a port of 0 means that there is none.
    pub fn of(config: &Config) -> Self {
        let at = |port: u16| (port != 0).then(|| SocketAddr::new(config.bind_address, port));
        let audits = |server: &AuditServer| at(server.port).filter(|_| server.enabled);
        let servers = &config.auditing.servers;
        Self {
            http: at(config.router.http_port),
            https: at(config.router.https_port),
            api: at(config.api.port).filter(|_| config.api.enabled),
            rerun: loopback(&config.rerun.host, config.rerun.http_port).filter(|_| config.rerun.processor.enabled),
            polling: internal(&config.polling.host, config.polling.polling_port).filter(|_| config.polling.enabled),
            audit_udp: audits(&servers.udp),
            audit_tls: audits(&servers.tls),
            audit_tcp: audits(&servers.tcp),
        }
    }
}

/// The address of a port that only this machine is to reach.
fn internal(host: &str, port: u16) -> Option<SocketAddr> {
    let found = (host, port).to_socket_addrs().ok().filter(|_| port != 0);
    found?.min_by_key(SocketAddr::is_ipv6)
}

/// The same, and nobody else: whoever reaches the port is believed.
fn loopback(host: &str, port: u16) -> Option<SocketAddr> {
    let found = internal(host, port)?;
    match found.ip().is_loopback() {
        true => Some(found),
        false => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
    }
}

/// What a node is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub http: Option<SocketAddr>,
    pub https: Option<SocketAddr>,
    pub api: Option<SocketAddr>,
    pub rerun: Option<SocketAddr>,
    pub polling: Option<SocketAddr>,
    pub audit_udp: Option<SocketAddr>,
    pub audit_tls: Option<SocketAddr>,
    pub audit_tcp: Option<SocketAddr>,
}

/// A running node; clones are the same node.
#[derive(Clone, Debug)]
pub struct Node(Arc<Running>);

#[derive(Debug)]
struct Running {
    addresses: Addresses,
    store: SharedStore,
    tables: Arc<Keeper>,
    keystore: Arc<LiveKeystore>,
    fleet: Fleet,
    shutdown: Shutdown,
    presence: Arc<Presence>,
    /// Nothing new is taken: the order to stop was given, and nobody comes any more.
    closing: CancellationToken,
    stopping: Mutex<Option<JoinHandle<()>>>,
}

/// What lives as long as the node, besides its instances.
struct Estate {
    member: Arc<Member>,
    auditor: Auditor,
    writing: JoinHandle<()>,
    auditing: JoinHandle<()>,
    /// Other systems' audit records on their way into the store.
    repository: JoinHandle<()>,
    /// The log's copy in the store.
    logging: Option<JoinHandle<()>>,
    /// What sends messages besides the instances: it ends before the writer does.
    senders: TaskTracker,
    /// Tasks that end when told to.
    tasks: TaskTracker,
}

impl Node {
    /// Starts a node and serves.
    ///
    /// # Errors
    /// The store, a port or the keystore cannot be used.
    pub async fn start(config: Arc<Config>, shutdown: Shutdown) -> Result<Self, StartError> {
        let ports = Ports::of(&config);
        Self::start_on(ports, config, shutdown).await
    }

    /// Starts a node on other ports than the settings name; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_on(ports: Ports, config: Arc<Config>, shutdown: Shutdown) -> Result<Self, StartError> {
        let started = Instant::now();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let instances = config.cluster.map_or(1, crate::config::Cluster::instances);
        info!(instances, "Clustering the OpenHIM with {instances} workers...");
        let bound = Listeners::bind(ports, instances)?;
        let store = store::open(&config, &clock).await?;
        bring_up_to_date(&store, &*clock).await?;
        let stored = keystore::start(&store, &config.certificate_management, &clock).await?;
        let keystore = Arc::new(LiveKeystore::new(Keystore::from_stored(&stored)?, Arc::clone(&clock))?);
        if config.api.enabled {
            users::ensure(&store, config.api.salt).await?;
        }
        let settings = tables::Settings::new(&config.caching, config.limits.pattern_steps);
        let tables = Arc::new(Keeper::open(Arc::clone(&store), settings).await?);
        info!("Starting OpenHIM server on {}...", config.bind_address);
        bound.listen()?;
        let member = Arc::new(Member::new(Arc::clone(&store), Arc::clone(&clock)));
        member.announce().await?;
        member.settle_orphans().await?;

        let (recorder, writer) = Recorder::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            config.store.durability,
            config.limits.queued_record_mb * MIB as usize,
            member.id().to_owned(),
        );
        let audit_tls = Arc::clone(&keystore);
        let (auditor, auditing) = Auditor::new(
            config.auditing.audit_events.clone(),
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::new(move || audit_tls.load().unverified_client_config().ok()),
        );
        let (intake, repository) = Intake::new(Arc::clone(&store), Arc::clone(&clock));
        let estate = Estate {
            repository: tokio::spawn(repository),
            logging: config
                .logger
                .log_to_db
                .then(|| tokio::spawn(logs::open(Arc::clone(&store)))),
            member: Arc::clone(&member),
            auditor: auditor.clone(),
            writing: tokio::spawn(Writer::run(writer)),
            auditing: tokio::spawn(auditing),
            senders: TaskTracker::new(),
            tasks: TaskTracker::new(),
        };
        let prometheus = Arc::new(Prometheus::default());
        let presence = Arc::new(Presence::default());
        let notifier: Arc<dyn notify::Notify> = Arc::new(Notifier::new(
            config.email.as_ref(),
            config.nodemailer.as_ref(),
            &config.sms_gateway,
        ));
        let closing = shutdown.hard.child_token();
        let restart = Arc::new(Notify::new());
        let addresses = bound.addresses();
        let api_socket = bound.api_socket()?;
        let audits = bound.audits.sockets()?;
        let jwt = config.authentication.enable_jwt.then(|| {
            let tls = Arc::clone(&keystore);
            let source = Arc::new(move || tls.client_config(None).ok());
            Arc::new(JwtVerifier::new(&config.authentication.jwt, Arc::clone(&clock), source))
        });
        if let Some(jwt) = jwt.clone() {
            estate.tasks.spawn(async move {
                if let Err(error) = jwt.prepare().await {
                    warn!(%error, "The keys for JSON Web Tokens could not be loaded; they are asked for again when needed");
                }
            });
        }
        let (errands, queue) = Errands::new();
        let (mut doorkeeper, doors) = Doorkeeper::new(Arc::clone(&tables), instances);
        doorkeeper.reconcile().await;
        let parts = Parts {
            http: bound.http,
            https: bound.https,
            rerun: bound.rerun,
            polling: bound.polling,
            doors,
            errands: queue,
            kafka_brokers: config.router.kafka_brokers.clone(),
            store: Arc::clone(&store),
            tables: Arc::clone(&tables),
            keystore: Arc::clone(&keystore),
            asks_for_certificates: config.authentication.enable_mutual_tls,
            authenticator: Arc::new(Authenticator::new(
                config.authentication.clone(),
                &config.tls_client_lookup,
                Arc::clone(&keystore),
                jwt,
            )),
            gatekeeper: Arc::new(Gatekeeper::new(&config.limits)),
            recorder,
            prometheus: Arc::clone(&prometheus),
            auditor: auditor.clone(),
            clock: Arc::clone(&clock),
            settings: pipeline_settings(&config),
            rules: Arc::new(RuleBook::new(
                config.router.external_hostname.clone(),
                config.router.http_port,
                config.router.https_port,
                config.limits.pattern_steps,
            )),
            trusted_proxies: config.trusted_proxies.clone(),
            limits: config.limits.clone(),
            permits: (config.limits.connections > 0)
                .then(|| Arc::new(Semaphore::new(config.limits.connections.min(Semaphore::MAX_PERMITS)))),
            presence: Arc::clone(&presence),
            stop: closing.clone(),
            hard: shutdown.hard.clone(),
            grace: config.router.route_timeout().min(GRACE),
        };
        let leases = Leases::new(Arc::clone(&store), Arc::clone(&clock), member.id());
        let stop = &closing;
        if config.rerun.processor.enabled {
            let pipeline = parts.pipeline(stop, &estate.senders);
            let processor = Processor::new(
                Arc::clone(&store),
                Arc::clone(&clock),
                leases.clone(),
                pipeline,
                &config.rerun,
            );
            estate.senders.spawn(Arc::new(processor).serve(stop.clone()));
        }
        let fleet = Fleet::start(parts, instances).await.map_err(StartError::Instance)?;
        serve_audits(audits, &intake, &config, &keystore, &estate.tasks, stop);
        drop(intake);
        estate.tasks.spawn(Arc::clone(&tables).run(stop.clone()));
        estate.tasks.spawn(doorkeeper.run(stop.clone()));
        estate.tasks.spawn(Arc::clone(&member).run(shutdown.hard.child_token()));
        let follow = keystore::follow(
            Arc::clone(&keystore),
            Arc::clone(&store),
            Duration::from_millis(config.caching.refresh_millis.max(1)),
            stop.clone(),
        );
        estate.tasks.spawn(follow);
        if config.certificate_management.watch_fs_for_cert {
            let settings = config.certificate_management.clone();
            estate
                .tasks
                .spawn(keystore::watch_files(settings, Arc::clone(&store), stop.clone()));
        }
        if let Some(listener) = api_socket {
            let api = api::Api::new(api::Parts {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                settings: api_settings(&config),
                auditor: auditor.clone(),
                prometheus: Arc::clone(&prometheus),
                notifier: Arc::clone(&notifier),
                started,
                restart: Arc::clone(&restart),
                presence: Arc::clone(&presence),
                tables: Arc::clone(&tables),
                keystore: Arc::clone(&keystore),
                errands: errands.clone(),
            });
            let source = Arc::clone(&keystore);
            let tls: Option<api::TlsSource> = match config.api.protocol {
                Protocol::Https => Some(Arc::new(move || source.plain_server_config())),
                Protocol::Http => None,
            };
            estate.tasks.spawn(api::serve(api, listener, tls, stop.clone()));
        }
        let standing = jobs(&config, &store, &notifier, &prometheus, &estate.tasks);
        let polls = config.polling.enabled.then(|| Polls::new(Arc::clone(&tables), errands));
        let supervisor = Supervisor::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            leases,
            Box::new(move || {
                let polls = polls.iter().flat_map(Polls::jobs);
                standing.iter().cloned().chain(polls).collect()
            }),
        );
        let supervisor = supervisor.counting(Arc::clone(&prometheus));
        // Jobs of a node that has just come up wait, as OpenHIM's scheduler does where it polls.
        let delay = match config.polling.enabled {
            true => Duration::from_millis(config.agenda.startup_delay),
            false => Duration::ZERO,
        };
        let starting = stop.clone();
        estate.tasks.spawn(async move {
            let begun = starting.run_until_cancelled(tokio::time::sleep(delay)).await;
            if begun.is_some() {
                Arc::new(supervisor).serve(starting).await;
            }
        });
        for (what, address) in addresses.named() {
            info!(port = address.port(), "{what} listening on port {}", address.port());
        }
        auditor.record(Event::Started).await;
        auditor.flush().await;
        info!("OpenHIM server started: {}", clock.date());
        let node = Self(Arc::new(Running {
            addresses,
            store,
            tables,
            keystore,
            fleet,
            shutdown,
            presence,
            closing,
            stopping: Mutex::new(None),
        }));
        tokio::spawn(node.clone().renew_when_asked(restart));
        let ending = tokio::spawn(Arc::clone(&node.0).end(estate));
        *node.0.stopping.lock().await = Some(ending);
        Ok(node)
    }

    /// What the node is bound to.
    pub fn addresses(&self) -> Addresses {
        self.0.addresses
    }

    /// Where the node keeps its documents.
    pub fn store(&self) -> SharedStore {
        Arc::clone(&self.0.store)
    }

    /// The node's channels and clients.
    pub fn tables(&self) -> Arc<Keeper> {
        Arc::clone(&self.0.tables)
    }

    /// The node's keys and certificates.
    pub fn keystore(&self) -> Arc<LiveKeystore> {
        Arc::clone(&self.0.keystore)
    }

    /// Renews the instances one after the other; no connection is refused meanwhile.
    pub async fn restart(&self) {
        if let Err(error) = self.0.tables.refresh().await {
            warn!(
                error = &error as &dyn std::error::Error,
                "Restarting with channels and clients as they were"
            );
        }
        self.0.fleet.renew().await;
    }

    /// Renews the instances when the management API asks for it.
    async fn renew_when_asked(self, restart: Arc<Notify>) {
        loop {
            tokio::select! {
                () = self.0.shutdown.soft.cancelled() => return,
                () = restart.notified() => self.restart().await,
            }
        }
    }

    /// Waits until the node has stopped: everything under way has ended and is stored.
    pub async fn stopped(&self) {
        let ending = self.0.stopping.lock().await.take();
        if let Some(ending) = ending {
            // A panic there was reported by its hook.
            let _ = ending.await;
        }
    }

    /// Kills an instance as a defect would.
    #[cfg(any(test, feature = "testing"))]
    pub fn crash_instance(&self, at: usize) {
        self.0.fleet.crash(at);
    }
}

/// Makes sure that the store is whole, and does what an older OpenHIM's documents need. As with OpenHIM, an upgrade that
/// fails is reported and does not keep the node from starting.
async fn bring_up_to_date(store: &SharedStore, clock: &dyn Clock) -> Result<(), StartError> {
    if let Some(source) = crate::moving::settle(&**store).await? {
        return Err(StartError::HalfCopied(source));
    }
    let told = |number: usize, step: &'static str| info!("Upgrading the database, step {number}: {step}");
    match upgrade::run(&**store, clock, &told).await {
        Ok(0) => info!("No database upgrades needed"),
        Ok(_) => info!("Completed database upgrade"),
        Err(error) => error!(
            error = &error as &dyn std::error::Error,
            "There was an error upgrading your database; the next start tries again"
        ),
    }
    Ok(())
}

impl Running {
    /// Waits for the order to stop, then ends what runs, in the order in which work flows.
    async fn end(self: Arc<Self>, estate: Estate) {
        self.shutdown.soft.cancelled().await;
        info!("Stopping the OpenHIM server");
        tokio::select! {
            () = self.presence.leave() => {}
            () = self.shutdown.hard.cancelled() => {}
        }
        self.closing.cancel();
        // The instances hold the last ways to the writer; when they are gone it stores what it has and ends.
        self.fleet.stop().await;
        self.senders(&estate.senders).await;
        let is_written = self.last(estate.writing).await;
        if !is_written {
            error!("Transactions that waited for the store could not be stored in time");
        }
        estate.auditor.record(Event::Stopped).await;
        if tokio::time::timeout(LAST_WRITES, estate.auditor.flush()).await.is_err() {
            warn!("Audit records could not be delivered in time");
        }
        estate.tasks.close();
        self.shutdown.hard.cancel();
        if tokio::time::timeout(LAST_WRITES, estate.tasks.wait()).await.is_err() {
            warn!("Some work did not end in time");
        }
        if tokio::time::timeout(LAST_WRITES, estate.repository).await.is_err() {
            warn!("Audit records that were received could not be stored in time");
        }
        if is_written {
            estate.member.leave().await;
        }
        if let Some(logging) = estate.logging {
            logs::close();
            // What is not stored is on standard output.
            let _ = tokio::time::timeout(LAST_WRITES, logging).await;
        }
        estate.auditing.abort();
        self.store.close().await;
        info!("OpenHIM server stopped");
    }

    /// Waits for what sends messages besides the instances, as long as those may take.
    async fn senders(&self, senders: &TaskTracker) {
        senders.close();
        tokio::select! {
            () = senders.wait() => {}
            () = self.shutdown.hard.cancelled() => {}
            () = tokio::time::sleep(GRACE) => warn!("Messages of jobs did not end in time; they are given up"),
        }
    }

    /// Waits for the writer: as long as it takes, but not for long once nothing may run any more.
    async fn last(&self, writing: JoinHandle<()>) -> bool {
        let cut = async {
            self.shutdown.hard.cancelled().await;
            tokio::time::sleep(LAST_WRITES).await;
        };
        tokio::select! {
            outcome = writing => outcome.is_ok(),
            () = cut => false,
        }
    }
}

/// Everything that is bound before anything is served.
#[derive(Debug)]
struct Listeners {
    http: Option<Bound>,
    https: Option<Bound>,
    api: Option<Bound>,
    rerun: Option<Bound>,
    polling: Option<Bound>,
    audits: AuditPorts,
}

/// The audit repository's ports.
#[derive(Debug)]
struct AuditPorts {
    udp: Option<std::net::UdpSocket>,
    tls: Option<Bound>,
    tcp: Option<Bound>,
}

/// The same, ready to be served.
struct AuditSockets {
    udp: Option<tokio::net::UdpSocket>,
    tls: Option<tokio::net::TcpListener>,
    tcp: Option<tokio::net::TcpListener>,
}

impl AuditPorts {
    fn sockets(&self) -> Result<AuditSockets, StartError> {
        let udp = self
            .udp
            .as_ref()
            .map(|socket| tokio::net::UdpSocket::from_std(socket.try_clone()?));
        Ok(AuditSockets {
            udp: udp.transpose().map_err(StartError::Instance)?,
            tls: tokio_socket(self.tls.as_ref())?,
            tcp: tokio_socket(self.tcp.as_ref())?,
        })
    }
}

fn tokio_socket(bound: Option<&Bound>) -> Result<Option<tokio::net::TcpListener>, StartError> {
    let socket = bound.map(|bound| bound.socket(0)).transpose();
    let listener = socket.and_then(|socket| socket.map(tokio::net::TcpListener::from_std).transpose());
    listener.map_err(StartError::Instance)
}

/// Serves the audit repository's ports until `stop`.
fn serve_audits(
    sockets: AuditSockets,
    intake: &Intake,
    config: &Config,
    keystore: &LiveKeystore,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    if let Some(socket) = sockets.udp {
        tasks.spawn(audit::serve_udp(socket, intake.clone(), stop.clone()));
    }
    for (listener, tls) in [(sockets.tcp, None), (sockets.tls, Some(keystore.server_config()))] {
        if let Some(listener) = listener {
            let proxies = config.trusted_proxies.clone();
            let acceptor = audit::Acceptor::new(intake.clone(), proxies, tls, stop.clone());
            tasks.spawn(acceptor.serve(listener));
        }
    }
}

impl Listeners {
    fn bind(ports: Ports, instances: usize) -> Result<Self, BindError> {
        let bind = |what, address: Option<SocketAddr>, count| {
            address.map(|address| Bound::new(what, address, count)).transpose()
        };
        let or_without = |what, address, without: &str| {
            bind(what, address, instances).unwrap_or_else(|error| {
                warn!(error = &error as &dyn std::error::Error, "{without}");
                None
            })
        };
        Ok(Self {
            audits: AuditPorts {
                udp: ports.audit_udp.map(audit::bind_udp).transpose()?,
                tls: bind("audit TLS", ports.audit_tls, 1)?,
                tcp: bind("audit TCP", ports.audit_tcp, 1)?,
            },
            http: bind("HTTP", ports.http, instances)?,
            https: bind("HTTPS", ports.https, instances)?,
            api: bind("API", ports.api, 1)?,
            rerun: or_without(
                "rerun",
                ports.rerun,
                "Transactions are rerun, but not through the rerun port",
            ),
            polling: or_without(
                "polling",
                ports.polling,
                "Channels are polled, but not at the polling port",
            ),
        })
    }

    fn listen(&self) -> Result<(), BindError> {
        let audits = [&self.audits.tls, &self.audits.tcp];
        let all = [&self.http, &self.https, &self.api, &self.rerun, &self.polling]
            .into_iter()
            .chain(audits);
        all.flatten().try_for_each(Bound::listen)
    }

    fn addresses(&self) -> Addresses {
        let address = |bound: &Option<Bound>| bound.as_ref().map(|bound| bound.address);
        Addresses {
            http: address(&self.http),
            https: address(&self.https),
            api: address(&self.api),
            rerun: address(&self.rerun),
            polling: address(&self.polling),
            audit_udp: self.audits.udp.as_ref().and_then(|socket| socket.local_addr().ok()),
            audit_tls: address(&self.audits.tls),
            audit_tcp: address(&self.audits.tcp),
        }
    }

    fn api_socket(&self) -> Result<Option<tokio::net::TcpListener>, StartError> {
        tokio_socket(self.api.as_ref())
    }
}

impl Addresses {
    fn named(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        [
            ("HTTP", self.http),
            ("HTTPS", self.https),
            ("API", self.api),
            ("Rerun HTTP", self.rerun),
            ("POLLING HTTP", self.polling),
            ("Audit UDP", self.audit_udp),
            ("Audit TLS", self.audit_tls),
            ("Audit TCP", self.audit_tcp),
        ]
        .into_iter()
        .filter_map(|(what, address)| address.map(|address| (what, address)))
    }
}

/// The jobs that exist whatever the channels say.
fn jobs(
    config: &Config,
    store: &SharedStore,
    notifier: &Arc<dyn notify::Notify>,
    prometheus: &Arc<Prometheus>,
    tasks: &TaskTracker,
) -> Vec<Arc<dyn Job>> {
    let outbox = Outbox::new(Arc::clone(store), Arc::clone(notifier), tasks.clone());
    let mut jobs: Vec<Arc<dyn Job>> = vec![Arc::new(SendWaiting(Arc::clone(&outbox)))];
    jobs.push(AutoRetry::job(Arc::clone(store)));
    let rule = config.retention.transactions.clone();
    jobs.push(Retention::job(Arc::clone(store), rule, Arc::clone(prometheus)));
    jobs.extend(BodyCull::job(Arc::clone(store), &config.body_cull));
    jobs.extend(Alerts::job(Arc::clone(store), Arc::clone(&outbox), &config.alerts));
    jobs.extend(Reports::jobs(store, &outbox, &config.reports, &config.alerts));
    jobs
}

fn pipeline_settings(config: &Config) -> pipeline::Settings {
    let limits = &config.limits;
    let ceiling = |mb: u64| (mb > 0).then(|| mb * MIB);
    pipeline::Settings {
        trusted_proxies: config.trusted_proxies.clone(),
        stored_bodies_mb: config.api.max_bodies_size_mb,
        marker: config.api.truncate_append.as_str().into(),
        request_body: BodyLimits {
            bytes: ceiling(limits.request_body_mb),
            silence: config.router.route_timeout(),
        },
        response_body: ceiling(limits.response_body_mb),
        match_body: (limits.match_body_mb * MIB) as usize,
        url_bytes: limits.url_bytes,
        route_timeout: config.router.route_timeout(),
        normalization: Normalization::of(&config.events),
        tcp_host: {
            let receiver = &config.tcp_adapter.http_receiver;
            format!("{}:{}", receiver.host, receiver.http_port).into()
        },
        polling_host: format!("{}:{}", config.polling.host, config.polling.polling_port).into(),
    }
}

fn api_settings(config: &Config) -> api::Settings {
    api::Settings {
        api: config.api.clone(),
        authentication: config.authentication.clone(),
        certificate_management: config.certificate_management.clone(),
        events: config.events.clone(),
        rerun: config.rerun.clone(),
        alerts: config.alerts.clone(),
        logger: config.logger.clone(),
        new_user_expiry: config.new_user_expiry.clone(),
        password_reset_expiry: config.user_password_reset_expiry.clone(),
        console_base_url: config.openhim_console_base_url.clone(),
        external_hostname: config.router.external_hostname.clone(),
        header_bytes: config.limits.header_bytes,
    }
}
