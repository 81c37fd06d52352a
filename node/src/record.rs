//! Keeps the transaction log.
