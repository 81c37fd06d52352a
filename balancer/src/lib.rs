//! A layer-4 and layer-7 load balancer. It knows nothing of OpenHIM.

pub mod backend;
pub mod config;
pub mod control;
pub mod health;
pub mod l4;
pub mod l7;
pub mod listen;
pub mod metrics;
pub mod plan;
pub mod proxy_protocol;
pub mod relay;
pub mod schedule;
pub mod snapshot;
pub mod socket;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
