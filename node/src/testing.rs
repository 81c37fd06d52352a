//! What tests need of a node: builders and fakes (feature `testing`).

pub mod mongod;
