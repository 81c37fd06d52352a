//! Whether this node still wants new connections, and how it takes its leave.
//!
//! A balancer in front learns from `/heartbeat` that a node is up. A node that is told to stop therefore first says there
//! that it is leaving, and goes on serving until nobody is sent to it any more: a connection that arrives at a closed
//! port, or waits at one that is about to close, is a message that somebody has to send again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Somebody who asked within this time will ask again.
const INTEREST: Duration = Duration::from_secs(30);
/// What a checker needs to believe it: one interval, and two more of the faster ones that follow a bad answer.
const NOTICE: Duration = Duration::from_secs(4);
/// No new connection for so long means that nobody is sent here any more.
const QUIET: Duration = Duration::from_secs(1);
/// A node that is called without a balancer, or by one that does not look, stops all the same.
const LONGEST: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// The node as others see it.
#[derive(Debug, Default)]
pub struct Presence {
    is_leaving: AtomicBool,
    /// Connections of the router so far.
    arrivals: AtomicU64,
    asked: Mutex<Option<Instant>>,
}

impl Presence {
    /// Notes that a connection arrived.
    pub fn arrived(&self) {
        self.arrivals.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that somebody asked whether the node is up; true if it wants new connections.
    pub fn is_wanted(&self) -> bool {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        !self.is_leaving.load(Ordering::Relaxed)
    }

    /// Says no from now on, and resolves when nobody comes any more: at once if nobody has asked lately.
    pub async fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_none_or(|at| at.elapsed() > INTEREST) {
            return;
        }
        let begun = Instant::now();
        let (mut seen, mut since) = (self.arrivals.load(Ordering::Relaxed), begun);
        while begun.elapsed() < NOTICE || since.elapsed() < QUIET {
            if begun.elapsed() > LONGEST {
                tracing::warn!("New connections still arrive; stopping all the same");
                return;
            }
            tokio::time::sleep(LOOK).await;
            let now = self.arrivals.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn leaving(presence: &Presence) -> Duration {
        let begun = Instant::now();
        presence.leave().await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_nobody_watches_leaves_at_once() {
        let presence = Presence::default();
        assert_eq!(leaving(&presence).await, Duration::ZERO);
        assert!(!presence.is_wanted(), "it has left");

        let presence = Presence::default();
        presence.is_wanted();
        tokio::time::advance(INTEREST + LOOK).await;
        assert_eq!(leaving(&presence).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watched_node_serves_until_nobody_comes_any_more() {
        let presence = Arc::new(Presence::default());
        assert!(presence.is_wanted());
        let others = Arc::clone(&presence);
        let traffic = tokio::spawn(async move {
            for _ in 0..60 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                others.arrived();
            }
        });
        let took = leaving(&presence).await;
        assert!(
            took >= Duration::from_secs(7) && took < Duration::from_secs(8),
            "{took:?}"
        );
        traffic.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_that_does_not_end_is_left_behind() {
        let presence = Arc::new(Presence::default());
        presence.is_wanted();
        let others = Arc::clone(&presence);
        let traffic = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                others.arrived();
            }
        });
        let took = leaving(&presence).await;
        assert!(took < LONGEST + Duration::from_secs(1), "{took:?}");
        traffic.abort();
    }
}
