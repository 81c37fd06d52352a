//! The balancer with real sockets: scripted clients and backends on both ends.

mod ctl;
mod health;
mod identity;
mod l4;
mod page;
mod reload;
mod support;
mod udp;
