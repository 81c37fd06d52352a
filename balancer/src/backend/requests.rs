//! What became of requests, and how long they took.

use std::time::Duration;

use super::Counter;

/// Upper bounds of the histogram's buckets, in microseconds; above the last there is one more.
pub const BOUNDS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// Counts of requests.
#[derive(Debug, Default)]
pub struct Requests {
    /// By first digit of the status; first those that got no answer.
    classes: [Counter; 6],
    buckets: [Counter; BOUNDS.len() + 1],
    micros: Counter,
    /// Sent again after an attempt that came to nothing.
    pub retried: Counter,
    /// Given up because the client was gone.
    pub client_gone: Counter,
    /// Answered with 429.
    pub limited: Counter,
    /// Answered with 101: another protocol was spoken from there on.
    pub tunnels: Counter,
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RequestCounts {
    /// By first digit of the status; first those that got no answer.
    pub classes: [u64; 6],
    /// By duration; see [`BOUNDS`].
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Time of all of them.
    pub micros: u64,
    /// Sent again.
    pub retried: u64,
    /// Given up because the client was gone.
    pub client_gone: u64,
    /// Answered with 429.
    pub limited: u64,
    /// Answered with 101: another protocol was spoken from there on.
    pub tunnels: u64,
}

impl Requests {
    /// Counts one that has ended; `status` is 0 if nobody got an answer.
    pub fn add(&self, status: u16, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.classes[usize::from(status / 100).min(5)].add(1);
        self.buckets[bucket].add(1);
        self.micros.add(micros);
        if status == 101 {
            self.tunnels.add(1);
        }
    }

    /// What they are now.
    #[must_use]
    pub fn counts(&self) -> RequestCounts {
        RequestCounts {
            classes: std::array::from_fn(|index| self.classes[index].get()),
            buckets: std::array::from_fn(|index| self.buckets[index].get()),
            micros: self.micros.get(),
            retried: self.retried.get(),
            client_gone: self.client_gone.get(),
            limited: self.limited.get(),
            tunnels: self.tunnels.get(),
        }
    }
}

impl RequestCounts {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.classes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_class_and_by_duration() {
        let requests = Requests::default();

        requests.add(204, Duration::from_micros(500));
        requests.add(503, Duration::from_secs(60));
        requests.add(0, Duration::from_micros(501));

        let counts = requests.counts();
        assert_eq!(counts.classes, [1, 0, 1, 0, 0, 1]);
        assert_eq!((counts.buckets[0], counts.buckets[1], counts.buckets[14]), (1, 1, 1));
        assert_eq!((counts.total(), counts.micros), (3, 60_001_001));
    }
}
