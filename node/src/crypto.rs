//! Hashes, tokens and certificates: leaves without I/O.
//!
//! [`password`] checks what clients and users prove themselves with, [`token`] signs and compares, [`certificate`] and
//! [`private_key`] read and make what TLS needs, [`chain`] says whether a certificate leads to one that is trusted.
//! Nothing here logs, and no error text contains a secret.

pub mod certificate;
pub mod chain;
pub mod digest;
pub mod password;
pub mod private_key;
pub mod token;
