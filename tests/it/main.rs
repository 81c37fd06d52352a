//! The one integration binary: the program as its users meet it, with real parts on the other side.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod balancer;
mod cli;
mod clients;
mod config;
mod crowds;
mod demo;
mod environment;
mod faults;
mod guide;
mod http;
mod kafka;
mod large;
mod layers;
mod lifecycle;
mod lists;
mod logs;
mod mails;
mod moving;
mod polling;
mod road;
mod secured;
mod sockets;
mod store_trouble;
mod support;
mod tcp;
