//! Who is alive: a pure machine of thresholds, and the probes that feed it.
//!
//! [`HealthMachine`] is told what probes found and says when to ask again; it has no clock, no chance and no socket. The
//! control task owns one for each backend. [`probe`] is one question to one backend.

pub mod http;
pub mod passive;
pub mod tcp;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::{Check, CheckKind};
use crate::tls::client::Secured;

/// What is known of a backend by asking it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// Nothing yet: it gets no traffic.
    Unknown,
    /// It answers.
    Up,
    /// It does not, or not as it should.
    Down(Failure),
}

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// True if nobody could be reached; false if someone answered, but not as expected.
    pub is_unreachable: bool,
    /// For people.
    pub text: String,
}

impl Failure {
    /// Nobody could be reached.
    #[must_use]
    pub fn unreachable(text: impl Into<String>) -> Self {
        Self {
            is_unreachable: true,
            text: text.into(),
        }
    }

    /// Someone answered, but not as expected.
    #[must_use]
    pub fn answered(text: impl Into<String>) -> Self {
        Self {
            is_unreachable: false,
            text: text.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a machine found to have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The backend came up.
    Up,
    /// It went down.
    Down,
}

/// Turns the results of probes into a state, with `rise` and `fall`.
#[derive(Clone, Debug)]
pub struct HealthMachine {
    health: Health,
    /// Results in a row that speak against the state.
    against: u32,
    /// True until the first result.
    is_new: bool,
}

impl HealthMachine {
    /// Before the first probe. Without checks a backend counts as up until a connect to it fails.
    #[must_use]
    pub fn new(check: &Check) -> Self {
        let health = if check.kind == CheckKind::None {
            Health::Up
        } else {
            Health::Unknown
        };
        Self {
            is_new: health == Health::Unknown,
            health,
            against: 0,
        }
    }

    /// With what another process, or an earlier configuration, knew of it.
    #[must_use]
    pub fn with(health: Health) -> Self {
        Self {
            is_new: health == Health::Unknown,
            health,
            against: 0,
        }
    }

    /// What is known.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// True until the first probe has ended.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Takes the result of a probe.
    pub fn observe(&mut self, check: &Check, result: Result<(), Failure>) -> Option<Change> {
        self.is_new = false;
        match (result, &mut self.health) {
            (Ok(()), Health::Up) => self.against = 0,
            (Err(failure), Health::Down(why)) => {
                *why = failure;
                self.against = 0;
            }
            // The first answer settles it: waiting for more would only delay a start.
            (Ok(()), Health::Unknown) => return Some(self.turn(Health::Up)),
            (Err(failure), Health::Unknown) => return Some(self.turn(Health::Down(failure))),
            (Ok(()), Health::Down(_)) => {
                self.against += 1;
                if self.against >= check.rise {
                    return Some(self.turn(Health::Up));
                }
            }
            (Err(failure), Health::Up) => {
                self.against += 1;
                if self.against >= check.fall {
                    return Some(self.turn(Health::Down(failure)));
                }
            }
        }
        None
    }

    fn turn(&mut self, health: Health) -> Change {
        self.against = 0;
        let change = if health == Health::Up { Change::Up } else { Change::Down };
        self.health = health;
        change
    }

    /// Time until the next probe: faster while the state is changing, and spread by `chance` (0 to 1) so that the checks
    /// of many backends do not fall on one moment.
    #[must_use]
    pub fn next_in(&self, check: &Check, chance: f64) -> Duration {
        const SPREAD: f64 = 0.2;
        let is_changing = self.against > 0 || self.is_new;
        let interval = if is_changing {
            check.fast_interval.min(check.interval)
        } else {
            check.interval
        };
        interval.mul_f64(1.0 - SPREAD / 2.0 + SPREAD * chance)
    }
}

/// Asks a backend once, within the check's time limit.
///
/// # Errors
/// Why it does not count as healthy.
pub async fn probe(backend: SocketAddr, check: &Check, tls: Option<&Secured>) -> Result<(), Failure> {
    let address = SocketAddr::new(backend.ip(), check.port.unwrap_or(backend.port()));
    // What is known of a backend's TLS is known of the port that traffic goes to.
    let tls = tls.filter(|_| check.port.is_none());
    let question = async {
        match check.kind {
            CheckKind::None => Ok(()),
            CheckKind::Tcp => tcp::probe(address, tls, check.timeout).await,
            CheckKind::Http | CheckKind::Https => http::probe(address, check, tls).await,
        }
    };
    let silent = || Failure::unreachable(format!("no answer from {address} within {:?}", check.timeout));
    tokio::time::timeout(check.timeout, question)
        .await
        .unwrap_or_else(|_| Err(silent()))
}

#[cfg(test)]
mod tests;
