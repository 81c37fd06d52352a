//! The order of the stages, written once for each entry: router, rerun, TCP, polling.

pub mod jwt;
pub mod rewrite;
