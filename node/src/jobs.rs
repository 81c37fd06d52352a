//! Work beside the requests: named tasks with a schedule and a lease.

pub mod schedule;
