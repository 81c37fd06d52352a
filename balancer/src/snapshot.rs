//! What the data path reads of a service: one immutable table behind an atomic pointer.
//!
//! The control task publishes; a connection loads once and keeps what it loaded. Which backends may be used, their
//! weights and all policies change together, so that nobody sees half a change.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::backend::BackendState;
use crate::plan::{ClientIp, Service};

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
    /// Grows by one with each publication for the service; tells pickers to prepare anew.
    pub version: u64,
    /// Its policies.
    pub service: Arc<Service>,
    /// Who may be chosen.
    pub primary: Vec<Candidate>,
    /// Who may be chosen when no primary can take the client.
    pub backup: Vec<Candidate>,
}

/// A backend that may be chosen.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its identity and counters.
    pub state: Arc<BackendState>,
    /// Its share at this moment, never 0.
    pub weight: u32,
    /// Ceiling of its connections; `u32::MAX` is none.
    pub limit: u32,
    /// How it learns the client's address.
    pub client_ip: ClientIp,
}
