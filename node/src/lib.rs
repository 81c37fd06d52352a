//! The mediator: it authenticates, routes and records every message, as OpenHIM core 8.5.0 does.
//!
//! A message enters through [`listen`], passes the stages of [`pipeline`], is carried by [`route`] and kept by
//! [`record`]. [`tables`] is what the hot path reads; [`api`] and [`jobs`] change what [`store`] holds and never touch a
//! message in flight. [`app`] puts it together.

pub mod api;
pub mod app;
pub mod audit;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod crypto;
pub mod events;
pub mod jobs;
pub mod keystore;
pub mod listen;
pub mod logs;
pub mod mediators;
pub mod metadata;
pub mod metrics;
pub mod model;
pub mod moving;
pub mod notify;
pub mod pattern;
pub mod pipeline;
pub mod record;
pub mod route;
pub mod store;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod upgrade;
pub mod users;
pub mod wire;
