//! Binds first, serves later: listeners turn bytes into `Received` messages.
