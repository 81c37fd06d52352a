//! The balancer with real sockets: scripted clients and backends on both ends.

mod l4;
mod support;
