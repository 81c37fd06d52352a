//! Instances: threads that carry messages.
//!
//! Each has a runtime of its own, accepts on sockets of its own and keeps connections to backends of its own; what they
//! share is in [`Parts`]. One that dies is started again while the others serve. A renewed instance first starts its
//! successor on the same sockets and then carries what it has to the end.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::audit::Auditor;
use crate::clock::Clock;
use crate::cluster::Presence;
use crate::config::Limits;
use crate::keystore::LiveKeystore;
use crate::listen::Bound;
use crate::listen::doors::Doors;
use crate::listen::http::{Acceptor, Tls};
use crate::metrics::prometheus::Prometheus;
use crate::pipeline::{Authenticator, Entrance, ErrandQueue, Gatekeeper, Pipeline, RuleBook, Settings};
use crate::record::Recorder;
use crate::route::Router;
use crate::store::SharedStore;
use crate::tables::Keeper;

/// Pause before a dead instance is started again.
const BREATH: Duration = Duration::from_millis(100);

/// What instances are made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) http: Option<Bound>,
    pub(super) https: Option<Bound>,
    pub(super) rerun: Option<Bound>,
    pub(super) polling: Option<Bound>,
    pub(super) doors: watch::Receiver<Doors>,
    pub(super) errands: ErrandQueue,
    pub(super) kafka_brokers: String,
    pub(super) store: SharedStore,
    pub(super) tables: Arc<Keeper>,
    pub(super) keystore: Arc<LiveKeystore>,
    /// Clients over TLS are asked for a certificate.
    pub(super) asks_for_certificates: bool,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) gatekeeper: Arc<Gatekeeper>,
    pub(super) recorder: Recorder,
    pub(super) prometheus: Arc<Prometheus>,
    pub(super) auditor: Auditor,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    pub(super) rules: Arc<RuleBook>,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) limits: Limits,
    pub(super) permits: Option<Arc<Semaphore>>,
    pub(super) presence: Arc<Presence>,
    /// The whole node stops.
    pub(super) stop: CancellationToken,
    pub(super) hard: CancellationToken,
    /// How long messages under way may take when their instance ends.
    pub(super) grace: Duration,
}

impl Parts {
    /// The stages, with connections to backends of their own. What it carries is counted by `tracker`.
    pub(super) fn pipeline(&self, stop: &CancellationToken, tracker: &TaskTracker) -> Arc<Pipeline> {
        let router = Router::new(Arc::clone(&self.keystore), &self.kafka_brokers);
        tokio::spawn(router.clone().sweep(stop.clone()));
        let (recorder, courier) = self.recorder.at_home();
        tokio::spawn(courier.run());
        Arc::new(Pipeline {
            store: Arc::clone(&self.store),
            tables: Arc::clone(&self.tables),
            authenticator: Arc::clone(&self.authenticator),
            gatekeeper: Arc::clone(&self.gatekeeper),
            recorder,
            prometheus: Arc::clone(&self.prometheus),
            router,
            auditor: self.auditor.clone(),
            clock: Arc::clone(&self.clock),
            settings: self.settings.clone(),
            rules: Arc::clone(&self.rules),
            tracker: tracker.clone(),
        })
    }
}

/// All instances of a node.
#[derive(Debug)]
pub(super) struct Fleet {
    instances: Mutex<Vec<JoinHandle<()>>>,
    /// One for each instance: renews it.
    controls: Vec<Control>,
}

#[derive(Debug)]
struct Control {
    renew: tokio::sync::mpsc::Sender<oneshot::Sender<()>>,
    #[cfg(any(test, feature = "testing"))]
    crash: Arc<std::sync::Mutex<CancellationToken>>,
}

impl Fleet {
    /// Starts `count` instances; when this resolves, all accept.
    pub(super) async fn start(parts: Parts, count: usize) -> io::Result<Self> {
        let parts = Arc::new(parts);
        let mut controls = Vec::with_capacity(count);
        let mut instances = Vec::with_capacity(count);
        for at in 0..count {
            let crash = CancellationToken::new();
            let first = Instance::start(Arc::clone(&parts), at, crash.clone()).await?;
            let (renew, orders) = tokio::sync::mpsc::channel(1);
            let crash = Arc::new(std::sync::Mutex::new(crash));
            let guard = Guard {
                parts: Arc::clone(&parts),
                at,
                orders,
                crash: Arc::clone(&crash),
            };
            instances.push(tokio::spawn(guard.watch(first)));
            controls.push(Control {
                renew,
                #[cfg(any(test, feature = "testing"))]
                crash,
            });
        }
        Ok(Self {
            instances: Mutex::new(instances),
            controls,
        })
    }

    /// Renews one instance after the other.
    pub(super) async fn renew(&self) {
        for control in &self.controls {
            let (done, renewed) = oneshot::channel();
            if control.renew.send(done).await.is_ok() {
                let _ = renewed.await;
            }
        }
    }

    /// Waits until every instance has ended.
    pub(super) async fn stop(&self) {
        for instance in self.instances.lock().await.drain(..) {
            let _ = instance.await;
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn crash(&self, at: usize) {
        if let Some(control) = self.controls.get(at) {
            control
                .crash
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .cancel();
        }
    }
}

/// Looks after one instance: the task that starts it again or renews it.
struct Guard {
    parts: Arc<Parts>,
    at: usize,
    orders: tokio::sync::mpsc::Receiver<oneshot::Sender<()>>,
    crash: Arc<std::sync::Mutex<CancellationToken>>,
}

impl Guard {
    async fn watch(mut self, first: Instance) {
        let mut present = first;
        let mut leaving = TaskTracker::new();
        loop {
            tokio::select! {
                () = present.ended() => {
                    if self.parts.stop.is_cancelled() {
                        break;
                    }
                    error!(worker = self.at + 1, "worker {} died; it is started again", self.at + 1);
                    match self.successor().await {
                        Some(successor) => present = successor,
                        None => break,
                    }
                }
                order = self.orders.recv() => {
                    let Some(done) = order else { continue };
                    if let Some(successor) = self.successor().await {
                        let mut old = std::mem::replace(&mut present, successor);
                        old.stop.cancel();
                        leaving.spawn(async move { old.ended().await });
                        info!(worker = self.at + 1, "worker {} renewed", self.at + 1);
                    }
                    let _ = done.send(());
                }
            }
        }
        leaving = std::mem::take(&mut leaving);
        leaving.close();
        leaving.wait().await;
    }

    /// A new instance on the same sockets; `None` when the node stops first.
    async fn successor(&self) -> Option<Instance> {
        loop {
            let crash = CancellationToken::new();
            match Instance::start(Arc::clone(&self.parts), self.at, crash.clone()).await {
                Ok(instance) => {
                    *self.crash.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = crash;
                    return Some(instance);
                }
                Err(error) => warn!(%error, worker = self.at + 1, "worker {} could not be started", self.at + 1),
            }
            tokio::select! {
                () = self.parts.stop.cancelled() => return None,
                () = tokio::time::sleep(BREATH) => {}
            }
        }
    }
}

/// One thread.
struct Instance {
    stop: CancellationToken,
    /// Resolves when the thread is gone, however it went.
    gone: oneshot::Receiver<()>,
}

impl Instance {
    /// Starts the thread and waits until it accepts.
    async fn start(parts: Arc<Parts>, at: usize, crash: CancellationToken) -> io::Result<Self> {
        let stop = parts.stop.child_token();
        let (up, ready) = oneshot::channel();
        let (alive, gone) = oneshot::channel::<()>();
        let stopping = stop.clone();
        thread::Builder::new()
            .name(format!("worker{}", at + 1))
            .spawn(move || {
                // Dropped when the thread ends, also by a panic.
                let _alive = alive;
                serve(&parts, at, &stopping, &crash, up);
            })?;
        match ready.await {
            Ok(outcome) => outcome.map(|()| Self { stop, gone }),
            Err(_) => Err(io::Error::other("the thread died at once")),
        }
    }

    async fn ended(&mut self) {
        let _ = (&mut self.gone).await;
    }
}

fn serve(
    parts: &Arc<Parts>,
    at: usize,
    stop: &CancellationToken,
    crash: &CancellationToken,
    up: oneshot::Sender<io::Result<()>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = up.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let tracker = TaskTracker::new();
        match accept(parts, at, stop, &tracker) {
            Ok(()) => {
                let _ = up.send(Ok(()));
            }
            Err(error) => {
                let _ = up.send(Err(error));
                return;
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = crash.cancelled() => panic!("the instance was told to crash"),
        }
        tracker.close();
        tokio::select! {
            () = tracker.wait() => {}
            () = parts.hard.cancelled() => {}
            () = tokio::time::sleep(parts.grace) => {
                warn!(worker = at + 1, "Messages under way did not end in time; they are given up");
            }
        }
    });
    // Blocking work (a slow hash, a name that does not resolve) must not keep the thread.
    runtime.shutdown_background();
}

/// Starts everything that runs on an instance.
fn accept(parts: &Arc<Parts>, at: usize, stop: &CancellationToken, tracker: &TaskTracker) -> io::Result<()> {
    let pipeline = parts.pipeline(stop, tracker);
    tracker.spawn(Arc::clone(&pipeline).do_errands(parts.errands.clone(), stop.clone()));
    let acceptor = Arc::new(Acceptor {
        pipeline,
        trusted_proxies: parts.trusted_proxies.clone(),
        limits: parts.limits.clone(),
        permits: parts.permits.clone(),
        presence: Arc::clone(&parts.presence),
        tracker: tracker.clone(),
        stop: stop.clone(),
    });
    let tls = Tls {
        keystore: Arc::clone(&parts.keystore),
        config: match parts.asks_for_certificates {
            true => parts.keystore.server_config(),
            false => parts.keystore.plain_server_config(),
        },
    };
    for (bound, tls, entrance) in [
        (&parts.http, None, Entrance::Public),
        (&parts.https, Some(tls), Entrance::Public),
        (&parts.rerun, None, Entrance::Rerun),
        (&parts.polling, None, Entrance::Polling),
    ] {
        if let Some(bound) = bound {
            let listener = TcpListener::from_std(bound.socket(at)?)?;
            tracker.spawn(Arc::clone(&acceptor).serve(listener, tls, entrance));
        }
    }
    let channels = acceptor.serve_channels(parts.doors.clone(), at, parts.keystore.server_config());
    tracker.spawn(channels);
    Ok(())
}
