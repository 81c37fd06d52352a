//! The balancer with real sockets: scripted clients and backends on both ends.

mod ctl;
mod health;
mod identity;
mod l4;
mod messages;
mod page;
mod process;
mod reload;
mod support;
mod trouble;
mod udp;
