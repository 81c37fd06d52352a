//! Hashes, tokens and PEM: leaves without I/O.
