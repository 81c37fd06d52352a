//! The balancer with real sockets: scripted clients and backends on both ends.

mod changes;
mod ctl;
mod health;
mod http;
mod identity;
mod journal;
mod l4;
mod limits;
mod messages;
mod names;
mod page;
mod process;
mod reload;
mod support;
mod tls;
mod transparent;
mod trouble;
mod udp;
mod upgrade;
