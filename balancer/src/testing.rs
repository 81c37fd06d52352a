//! Scripted peers for tests, of this crate and of others.

pub mod name_server;
