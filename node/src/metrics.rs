//! Time series of transactions: minute, hour, day.
