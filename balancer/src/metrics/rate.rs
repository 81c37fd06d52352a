//! Recent rates from counters that only grow.

use std::time::Instant;

use serde::Serialize;

/// Share of the newest second in the average; the rest is the past.
const NEWEST: f64 = 0.3;

/// What happened in a second, lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// New connections.
    pub connections: f64,
    /// Bytes from clients.
    pub bytes_in: f64,
    /// Bytes to clients.
    pub bytes_out: f64,
}

/// Watches three counters.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    last: (Instant, [u64; 3]),
    rates: [f64; 3],
}

impl Meter {
    /// Starts with what the counters are now: connections, bytes in, bytes out.
    #[must_use]
    pub fn new(now: Instant, counters: [u64; 3]) -> Self {
        Self {
            last: (now, counters),
            rates: [0.0; 3],
        }
    }

    /// Takes what the counters are now; call it about once a second.
    pub fn sample(&mut self, now: Instant, counters: [u64; 3]) {
        let seconds = now.duration_since(self.last.0).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        for (index, rate) in self.rates.iter_mut().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "a rate is an estimate")]
            let newest = counters[index].saturating_sub(self.last.1[index]) as f64 / seconds;
            *rate += (newest - *rate) * NEWEST;
        }
        self.last = (now, counters);
    }

    /// The rates as they are now.
    #[must_use]
    pub fn rates(&self) -> Rates {
        let [connections, bytes_in, bytes_out] = self.rates.map(|rate| if rate < 0.005 { 0.0 } else { rate });
        Rates {
            connections,
            bytes_in,
            bytes_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_steady_flow_shows_its_rate_and_an_end_shows_too() {
        let start = Instant::now();
        let mut meter = Meter::new(start, [1000, 0, 0]);
        for second in 1..=30 {
            meter.sample(start + Duration::from_secs(second), [1000 + 50 * second, 0, 7 * second]);
        }
        let rates = meter.rates();
        assert!(
            (rates.connections - 50.0).abs() < 0.1 && (rates.bytes_out - 7.0).abs() < 0.1,
            "{rates:?}"
        );

        for second in 31..=60 {
            meter.sample(start + Duration::from_secs(second), [2500, 0, 210]);
        }
        assert_eq!(meter.rates(), Rates::default());
    }
}
