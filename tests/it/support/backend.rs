//! The node's own test backend, on a runtime of its own, for tests that wait by blocking.

use std::ops::Deref;

use openhim_node::testing::{Backend, BackendBuilder, Seen};
use tokio::runtime::{Builder, Runtime};

use super::eventually;

/// A running backend; it is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Hosted {
    backend: Backend,
    _runtime: Runtime,
}

/// Starts it.
pub(crate) fn host(backend: BackendBuilder) -> Hosted {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let backend = runtime.block_on(backend.start());
    Hosted {
        backend,
        _runtime: runtime,
    }
}

impl Hosted {
    /// Waits for the first request.
    pub(crate) fn first(&self) -> Seen {
        eventually("the backend is sent a request", || self.seen().into_iter().next())
    }
}

impl Deref for Hosted {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}
