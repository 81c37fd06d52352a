//! How many new connections a second one source may open.
//!
//! Each source has a moment until which its past connections are paid for; one that is too far in the future has to
//! wait. Sources whose moment has passed are as good as unknown, so the table holds only those of the last second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What a source may save up: a second's worth at once.
const BURST: Duration = Duration::from_secs(1);
/// Sources that may be in the table before those whose moment has passed are taken out.
const ROOM: usize = 4096;

/// The sources of one service.
#[derive(Debug)]
pub(super) struct RateLimit {
    cost: Duration,
    paid_until: HashMap<IpAddr, Instant>,
    clean_at: usize,
}

impl RateLimit {
    /// Lets each source open this many connections a second, not zero.
    #[must_use]
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            cost: BURST / per_second.max(1),
            paid_until: HashMap::new(),
            clean_at: ROOM,
        }
    }

    /// The same for another number.
    pub(super) fn set(&mut self, per_second: u32) {
        self.cost = BURST / per_second.max(1);
    }

    /// True if this source may open a connection now; it then has one less.
    pub(super) fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.paid_until.len() >= self.clean_at {
            self.paid_until.retain(|_, until| *until > now);
            self.clean_at = ROOM.max(self.paid_until.len() * 2);
        }
        let until = self.paid_until.entry(source.to_canonical()).or_insert(now);
        let after = (*until).max(now) + self.cost;
        if after > now + BURST {
            return false;
        }
        *until = after;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u16) -> IpAddr {
        IpAddr::from([10, 0, (last >> 8) as u8, last as u8])
    }

    #[test]
    fn a_source_gets_a_seconds_worth_at_once_and_then_its_rate() {
        let (mut limit, start) = (RateLimit::new(10), Instant::now());

        let at_once = (0..50).filter(|_| limit.admit(source(1), start)).count();
        assert_eq!(at_once, 10);
        let later = (0..50)
            .filter(|i| limit.admit(source(1), start + Duration::from_millis(20 * (i + 1))))
            .count();

        assert_eq!(later, 10);
    }

    #[test]
    fn sources_do_not_share() {
        let (mut limit, now) = (RateLimit::new(1), Instant::now());

        assert!(limit.admit(source(1), now) && limit.admit(source(2), now));
        assert!(!limit.admit(source(1), now) && !limit.admit(source(2), now));
    }

    #[test]
    fn the_table_holds_only_sources_of_the_last_second() {
        let (mut limit, start) = (RateLimit::new(5), Instant::now());

        for i in 0..60_000_u16 {
            limit.admit(source(i), start + Duration::from_millis(u64::from(i)));
        }

        assert!(limit.paid_until.len() <= ROOM, "{}", limit.paid_until.len());
    }
}
