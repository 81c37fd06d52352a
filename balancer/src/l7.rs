//! The life of an HTTP request on one screen.

pub mod framing;
