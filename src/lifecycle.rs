//! From start to exit: signals, the service manager, and the two ways to stop.
//!
//! | signal | effect |
//! |---|---|
//! | `SIGTERM`, `SIGINT` | soft stop: no new work, what runs may finish; after the grace period a hard stop |
//! | the same again | exit at once |
//! | `SIGHUP` | [`Service::reload`] |
//! | `SIGUSR2` | [`Service::upgrade`] |
//!
//! The service manager hears `READY=1` when the service says that it is up, and the watchdog's pings from the very loop
//! that answers signals.

use std::future::Future;
use std::io;
use std::process;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// What runs between start and exit.
pub(crate) trait Service: Clone + Send + Sync + 'static {
    /// Takes up new settings; work in hand goes on.
    fn reload(&self) -> impl Future<Output = ()> + Send;

    /// Hands over to a new copy of the program. Its process id, once it serves: this one then ends like after a soft stop.
    fn upgrade(&self) -> impl Future<Output = Option<u32>> + Send;

    /// Ends when the service has stopped, by itself or because it was told to.
    fn wait(&self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// How a start ended.
pub(crate) enum Start<T> {
    Up(T),
    /// A signal came first.
    Interrupted,
}

/// The signals of the process and the tokens that carry them on.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// Stop taking new work.
    pub(crate) soft: CancellationToken,
    /// Drop everything.
    pub(crate) hard: CancellationToken,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Lifecycle {
    /// Takes over the process's signals.
    ///
    /// # Errors
    /// The kernel's, when handlers cannot be installed.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a start, which a stop signal ends.
    pub(crate) async fn start<T>(&mut self, starting: impl Future<Output = T>) -> Start<T> {
        let started = tokio::select! {
            started = starting => Some(started),
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
        };
        match started {
            Some(started) => Start::Up(started),
            None => {
                self.soft.cancel();
                self.hard.cancel();
                Start::Interrupted
            }
        }
    }

    /// Answers signals until the service has ended. After a stop signal it gets `grace` to finish its work.
    ///
    /// # Errors
    /// The service's own.
    pub(crate) async fn supervise(mut self, service: impl Service, grace: Duration) -> anyhow::Result<()> {
        let changes = TaskTracker::new();
        let (succeeded, mut successor) = mpsc::channel(1);
        let mut watchdog = Watchdog::start();
        let mut deadline = None;
        let ended = service.wait();
        tokio::pin!(ended);
        tell(&[NotifyState::Ready]);
        loop {
            tokio::select! {
                outcome = &mut ended => return outcome,
                _ = self.terminate.recv() => self.stop(&mut deadline, grace),
                _ = self.interrupt.recv() => self.stop(&mut deadline, grace),
                _ = self.hangup.recv(), if changes.is_empty() => {
                    let service = service.clone();
                    changes.spawn(async move { reload(&service).await });
                }
                _ = self.upgrade.recv(), if changes.is_empty() && !self.soft.is_cancelled() => {
                    let (service, succeeded) = (service.clone(), succeeded.clone());
                    changes.spawn(async move {
                        if let Some(id) = service.upgrade().await {
                            let _ = succeeded.send(id).await;
                        }
                    });
                }
                Some(id) = successor.recv() => self.retire(id, &mut deadline, grace),
                () = at(deadline), if !self.hard.is_cancelled() => {
                    warn!("The grace period of {} s is over, dropping what still runs", grace.as_secs());
                    self.hard.cancel();
                }
                () = watchdog.due() => tell(&[NotifyState::Watchdog]),
            }
        }
    }

    fn stop(&self, deadline: &mut Option<Instant>, grace: Duration) {
        if self.soft.is_cancelled() {
            warn!("Told to stop a second time, leaving at once");
            process::exit(1);
        }
        info!(
            "Stopping: no new work is taken, what runs has {} s to finish",
            grace.as_secs()
        );
        tell(&[NotifyState::Stopping]);
        self.soft.cancel();
        *deadline = Some(Instant::now() + grace);
    }

    /// A soft stop of this process, while the service goes on in another.
    fn retire(&self, successor: u32, deadline: &mut Option<Instant>, grace: Duration) {
        info!(
            "Process {successor} has taken over; what runs here has {} s to finish",
            grace.as_secs()
        );
        tell(&[NotifyState::MainPid(successor)]);
        self.soft.cancel();
        deadline.get_or_insert_with(|| Instant::now() + grace);
    }
}

/// Names the process that this one must not outlive.
pub(crate) const PARENT_VARIABLE: &str = "OPENHIM_PARENT";

/// A child of `demo` ends with it, however that ends.
pub(crate) fn follow_parent() {
    let Some(parent) = std::env::var(PARENT_VARIABLE)
        .ok()
        .and_then(|id| id.parse::<i32>().ok())
    else {
        return;
    };
    let set = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    let actual = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
    if set.is_ok() && actual.is_some_and(|actual| actual.get() != parent) {
        process::exit(1);
    }
}

async fn reload(service: &impl Service) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
    service.reload().await;
    tell(&[NotifyState::Ready]);
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Tells the service manager, if there is one.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "The service manager could not be told");
    }
}

/// Pings at half the interval that the service manager asks for.
struct Watchdog(Option<Interval>);

impl Watchdog {
    fn start() -> Self {
        Self(sd_notify::watchdog_enabled().map(|limit| {
            let mut ticks = interval((limit / 2).max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        }))
    }

    async fn due(&mut self) {
        match &mut self.0 {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
