//! Framings as state machines without I/O, used by listeners and routes.

pub mod hl7;
pub mod mllp;
pub mod proxy;
pub mod syslog_frame;
pub mod tcp_frame;
