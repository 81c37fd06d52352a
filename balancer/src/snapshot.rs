//! What the data path reads of a service: one immutable table behind an atomic pointer.
//!
//! The control task publishes; a connection loads once and keeps what it loaded. Which backends may be used, their
//! weights and all policies change together, so that nobody sees half a change.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::backend::BackendState;
use crate::plan::{ClientIp, Schedule, Service};
use crate::schedule::{Member, Table, member_key};
use crate::tls::Material;

/// The current value of something that is replaced as a whole.
#[derive(Debug)]
pub struct Live<T>(ArcSwap<T>);

impl<T> Live<T> {
    /// Starts with this value.
    pub fn new(value: T) -> Self {
        Self(ArcSwap::from_pointee(value))
    }

    /// The value as it is now.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Replaces it for everyone who loads from now on.
    pub fn publish(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

/// One service at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows by one with each publication for the service.
    pub version: u64,
    /// Its policies.
    pub service: Arc<Service>,
    /// What it has of TLS.
    pub tls: Material,
    /// Who may be chosen.
    pub primary: Pool,
    /// Who may be chosen when no primary can take the client.
    pub backup: Pool,
    /// True while someone who may turn out to be healthy has not been checked yet: worth waiting for.
    pub is_pending: bool,
}

impl Snapshot {
    /// Everybody who may be chosen.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.primary.candidates.iter().chain(&self.backup.candidates)
    }
}

/// Backends to choose among, and what the schedule has worked out about them.
#[derive(Debug)]
pub struct Pool {
    /// In the order of the configuration.
    pub candidates: Vec<Candidate>,
    /// Picks places in that list.
    pub table: Table,
}

impl Pool {
    /// Prepares to choose among these.
    #[must_use]
    pub fn new(schedule: Schedule, candidates: Vec<Candidate>) -> Self {
        let members: Vec<Member> = candidates
            .iter()
            .map(|it| Member {
                key: it.key,
                weight: it.weight,
            })
            .collect();
        Self {
            table: Table::new(schedule, &members),
            candidates,
        }
    }
}

/// A backend that may be chosen.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its identity and counters.
    pub state: Arc<BackendState>,
    /// Who it is, for the schedules.
    pub key: u64,
    /// Its share at this moment, never 0.
    pub weight: u32,
    /// Ceiling of its connections; `u32::MAX` is none.
    pub limit: u32,
    /// How it learns the client's address.
    pub client_ip: ClientIp,
    /// Its name, if it was configured by one.
    pub host: Option<Arc<str>>,
}

impl Candidate {
    /// A backend with this share and these limits.
    #[must_use]
    pub fn new(state: Arc<BackendState>, weight: u32, limit: u32, client_ip: ClientIp) -> Self {
        Self {
            key: member_key(state.address),
            state,
            weight,
            limit,
            client_ip,
            host: None,
        }
    }

    /// The same, known by this name.
    #[must_use]
    pub fn called(mut self, host: Option<Arc<str>>) -> Self {
        self.host = host;
        self
    }

    /// True if nothing about it differs.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
            && (self.weight, self.limit, self.client_ip) == (other.weight, other.limit, other.client_ip)
            && self.host == other.host
    }
}
