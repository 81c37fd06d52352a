//! PROXY protocol versions 1 and 2: parse and write, no I/O.
//!
//! A listener that expects a header reads into a buffer and calls [`parse`] until it is complete; whoever connects to a
//! backend writes one with [`v1::write`] or [`v2::write`] in front of the client's bytes. Parsing is strict, looks at no
//! more than [`MAX_LENGTH`] bytes and never at a byte behind the header.
//!
//! This module never decides whether a peer may be believed.

pub mod tlv;
pub mod v1;
pub mod v2;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use tlv::Tlvs;

/// Longest header that is read. The protocol would allow 64 KiB; what real proxies send, a client certificate
/// included, fits many times.
pub const MAX_LENGTH: usize = 16 * 1024;

/// What a header says about the connection it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The proxy speaks for itself, as in a health check: the connection's own addresses hold.
    Local,
    /// For somebody whose address is not told: the connection's own addresses hold.
    Unknown,
    /// For a TCP client.
    Tcp {
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// For a UDP client.
    Udp {
        source: SocketAddr,
        destination: SocketAddr,
    },
}

impl Claim {
    /// The client's address and the one it connected to, if they are told.
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        match *self {
            Self::Tcp { source, destination } | Self::Udp { source, destination } => Some((source, destination)),
            Self::Local | Self::Unknown => None,
        }
    }
}

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    pub claim: Claim,
    /// Bytes of the header; what follows is the client's.
    pub length: usize,
    /// Version 2's extensions; empty in version 1.
    pub tlvs: Tlvs<'a>,
}

/// How far parsing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    Complete(Header<'a>),
    /// At least this many more bytes belong to the header; never zero. Who reads no more than that never takes a byte
    /// of the client's.
    Incomplete(usize),
}

/// Why bytes are not a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("does not begin with a PROXY protocol signature")]
    Signature,
    #[error("PROXY v1 line is longer than 107 bytes or has no end")]
    LineLength,
    #[error("PROXY v1 line is malformed")]
    Line,
    #[error("PROXY v1 address or port is malformed")]
    LineAddress,
    #[error("PROXY v2 version or command {0:#04x} is not known")]
    Command(u8),
    #[error("PROXY v2 address family {0:#04x} is not known")]
    Family(u8),
    #[error("PROXY v2 header is too short for its addresses")]
    Addresses,
    #[error("PROXY header of {0} bytes is longer than is accepted")]
    TooLong(usize),
    #[error("PROXY v2 extension is malformed")]
    Tlv,
    #[error("PROXY v2 checksum does not match")]
    Checksum,
}

/// Parses the header at the start of `bytes`, of either version.
pub fn parse(bytes: &[u8]) -> Result<Progress<'_>, HeaderError> {
    if starts_like(bytes, &v2::SIGNATURE) && !bytes.is_empty() {
        v2::parse(bytes)
    } else if starts_like(bytes, v1::SIGNATURE) {
        v1::parse(bytes)
    } else {
        Err(HeaderError::Signature)
    }
}

/// True when `bytes` and `signature` agree as far as both go.
fn starts_like(bytes: &[u8], signature: &[u8]) -> bool {
    let length = bytes.len().min(signature.len());
    bytes[..length] == signature[..length]
}

/// Both addresses in one family, which is all a header can hold: IPv4 if both are, an IPv4 address in IPv6's clothes
/// beside an IPv6 one.
fn one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    match (canonical(source), canonical(destination)) {
        (SocketAddr::V4(v4), v6 @ SocketAddr::V6(_)) => ((v4.ip().to_ipv6_mapped(), v4.port()).into(), v6),
        (v6 @ SocketAddr::V6(_), SocketAddr::V4(v4)) => (v6, (v4.ip().to_ipv6_mapped(), v4.port()).into()),
        alike => alike,
    }
}
