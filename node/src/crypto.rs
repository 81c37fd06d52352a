//! Hashes, tokens and certificates: leaves without I/O.
//!
//! [`password`] checks what clients and users prove themselves with, [`token`] signs and compares, [`certificate`] reads
//! and makes keys and certificates, [`chain`] says whom a certificate chain leads to. Nothing here logs, and no error
//! text contains a secret.

pub mod digest;
pub mod password;
pub mod token;
