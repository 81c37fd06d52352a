//! Slows down guessing of passwords.
//!
//! Only failures count, per client address and e-mail, and per address over all e-mails. Who knows the password and
//! does not mistype it twenty times a minute never meets this. Memory is bounded; it is not shared between nodes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::api::error::Refusal;
use crate::clock::Millis;

const WINDOW: Millis = 60_000;
/// Failures of one address on one e-mail within the window.
const PER_ACCOUNT: u32 = 20;
/// Failures of one address within the window.
const PER_ADDRESS: u32 = 200;
/// Counters kept; past that, old ones are dropped.
const MOST_COUNTERS: usize = 20_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(IpAddr, Option<String>);

#[derive(Clone, Copy, Debug)]
struct Failures {
    since: Millis,
    count: u32,
}

/// Failed logins of the last minute.
#[derive(Debug, Default)]
pub(in crate::api) struct LoginLimit(Mutex<HashMap<Key, Failures>>);

impl LoginLimit {
    /// Refuses an attempt if too many before it have failed.
    pub(in crate::api) fn check(&self, now: Millis, address: IpAddr, email: &str) -> Result<(), Refusal> {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = |key: &Key, most: u32| -> Option<Millis> {
            let failures = counters.get(key)?;
            let left = failures.since + WINDOW - now;
            (failures.count >= most && left > 0).then_some(left)
        };
        let wait =
            left(&Key(address, Some(account(email))), PER_ACCOUNT).or_else(|| left(&Key(address, None), PER_ADDRESS));
        match wait {
            None => Ok(()),
            Some(millis) => Err(Refusal::TooManyLogins {
                retry_after_seconds: (millis as u64).div_ceil(1000),
            }),
        }
    }

    /// Counts a failure.
    pub(in crate::api) fn failed(&self, now: Millis, address: IpAddr, email: &str) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counters.len() >= MOST_COUNTERS {
            counters.retain(|_, failures| now - failures.since < WINDOW);
        }
        if counters.len() >= MOST_COUNTERS {
            counters.clear();
        }
        for key in [Key(address, Some(account(email))), Key(address, None)] {
            let failures = counters.entry(key).or_insert(Failures { since: now, count: 0 });
            if now - failures.since >= WINDOW {
                *failures = Failures { since: now, count: 0 };
            }
            failures.count = failures.count.saturating_add(1);
        }
    }

    /// Forgets the failures of an account after a success.
    pub(in crate::api) fn succeeded(&self, address: IpAddr, email: &str) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters.remove(&Key(address, Some(account(email))));
    }
}

/// The e-mail as a key, cut so that a hostile one takes no room.
fn account(email: &str) -> String {
    email.chars().take(254).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn guessing_is_stopped_for_the_account_and_only_for_a_minute() {
        let limit = LoginLimit::default();
        for at in 0..20 {
            assert!(limit.check(at, HERE, "root@openhim.org").is_ok());
            limit.failed(at, HERE, "Root@openhim.org");
        }

        assert!(matches!(
            limit.check(20, HERE, "root@openhim.org"),
            Err(Refusal::TooManyLogins {
                retry_after_seconds: 60
            })
        ));
        assert!(limit.check(20, HERE, "other@openhim.org").is_ok());
        assert!(limit.check(WINDOW, HERE, "root@openhim.org").is_ok());
    }

    #[test]
    fn guessing_many_accounts_is_stopped_for_the_address() {
        let limit = LoginLimit::default();
        for n in 0..200 {
            limit.failed(0, HERE, &format!("user{n}"));
        }
        assert!(limit.check(1, HERE, "somebody").is_err());
        assert!(limit.check(1, "10.0.0.1".parse().unwrap(), "somebody").is_ok());
    }

    #[test]
    fn a_success_forgets_the_failures_before_it() {
        let limit = LoginLimit::default();
        for _ in 0..19 {
            limit.failed(0, HERE, "a");
        }
        limit.succeeded(HERE, "a");
        limit.failed(0, HERE, "a");
        assert!(limit.check(1, HERE, "a").is_ok());
    }

    #[test]
    fn counters_stay_bounded() {
        let limit = LoginLimit::default();
        for n in 0..2 * MOST_COUNTERS {
            limit.failed(0, HERE, &format!("user{n}"));
        }
        assert!(limit.0.lock().unwrap().len() <= MOST_COUNTERS);
    }
}
