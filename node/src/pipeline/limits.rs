//! Ceilings that protect the node: messages under way, and requests per second of one client or channel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::oid::ObjectId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{Admitted, Refused, Rejection};
use crate::config::Limits;

/// How long a message waits for one of the others to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Names whose rate is remembered; beyond, those that were quiet are forgotten.
const REMEMBERED: usize = 10_000;

/// A message's place among those under way.
#[derive(Debug, Default)]
pub struct Slot(#[expect(dead_code, reason = "held until the message has ended")] Option<OwnedSemaphorePermit>);

/// Counts the messages of all instances.
#[derive(Debug)]
pub struct Gatekeeper {
    places: Option<Arc<Semaphore>>,
    clients: Rates,
    channels: Rates,
}

impl Gatekeeper {
    /// As the settings say; 0 means no limit.
    pub fn new(limits: &Limits) -> Self {
        Self {
            places: (limits.concurrent_transactions > 0).then(|| {
                Arc::new(Semaphore::new(
                    limits.concurrent_transactions.min(Semaphore::MAX_PERMITS),
                ))
            }),
            clients: Rates::new(limits.client_requests_per_second),
            channels: Rates::new(limits.channel_requests_per_second),
        }
    }

    /// Gives a message its place.
    ///
    /// # Errors
    /// Its client or channel asks for too much, or no place became free in time.
    pub(super) async fn admit(&self, mut it: Admitted) -> Result<Box<Admitted>, Box<Refused>> {
        let is_within =
            it.client.is_none_or(|client| self.clients.take(client)) && self.channels.take(it.channel.channel.id);
        if !is_within {
            return Err(it.received.refused(Rejection::TooMany));
        }
        if let Some(places) = &self.places {
            let place = match Arc::clone(places).try_acquire_owned() {
                Ok(place) => Ok(Ok(place)),
                Err(_) => tokio::time::timeout(PATIENCE, Arc::clone(places).acquire_owned()).await,
            };
            match place {
                Ok(Ok(place)) => it.slot = Slot(Some(place)),
                _ => return Err(it.received.refused(Rejection::Busy)),
            }
        }
        Ok(Box::new(it))
    }

    /// A place for a message that has time: one that nobody waits for.
    pub(super) async fn place(&self) -> Slot {
        match &self.places {
            Some(places) => Slot(Arc::clone(places).acquire_owned().await.ok()),
            None => Slot::default(),
        }
    }
}

/// Requests per second by name: a bucket of one second's worth that refills steadily.
#[derive(Debug)]
struct Rates {
    per_second: f64,
    buckets: Mutex<HashMap<ObjectId, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Rates {
    fn new(per_second: u32) -> Self {
        Self {
            per_second: f64::from(per_second),
            buckets: Mutex::default(),
        }
    }

    /// Takes one request; `false` if there was none left.
    fn take(&self, name: ObjectId) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() > REMEMBERED {
            buckets.retain(|_, bucket| now.duration_since(bucket.at) < Duration::from_secs(1));
        }
        let bucket = buckets.entry(name).or_insert(Bucket {
            left: self.per_second,
            at: now,
        });
        let refilled = bucket.left + now.duration_since(bucket.at).as_secs_f64() * self.per_second;
        bucket.left = refilled.min(self.per_second);
        bucket.at = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_a_seconds_worth_and_refills() {
        let rates = Rates::new(2);
        let name = ObjectId::from_bytes([1; 12]);

        assert_eq!(
            [rates.take(name), rates.take(name), rates.take(name)],
            [true, true, false]
        );
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!([rates.take(name), rates.take(name)], [true, false]);
        assert!(rates.take(ObjectId::from_bytes([2; 12])));
    }

    #[test]
    fn no_rate_is_no_limit() {
        let rates = Rates::new(0);

        assert!((0..1000).all(|_| rates.take(ObjectId::from_bytes([1; 12]))));
    }
}
