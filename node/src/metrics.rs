//! Time series of transactions: minute, hour, day.

pub mod prometheus;
