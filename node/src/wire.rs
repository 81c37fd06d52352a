//! Framings as state machines without I/O, used by listeners and routes.

pub mod proxy;
