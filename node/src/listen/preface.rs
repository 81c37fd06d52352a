//! Who is really calling: the PROXY header that a trusted proxy puts in front of a connection.
//!
//! A trusted peer may send one (version 1 or 2) or none; nobody else is asked. What follows the header, or what turned
//! out not to be one, is given back to be read as usual.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wire::proxy::{self, Parsed};

/// How long a header may take once its first byte is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection's opening.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Preface {
    /// The client that the proxy speaks for; `None` if it speaks for itself.
    pub(super) client: Option<SocketAddr>,
    /// Bytes that were read and are the client's.
    pub(super) rest: Bytes,
}

/// True if `peer` may say for whom it calls.
pub(super) fn is_trusted(proxies: &[IpNet], peer: SocketAddr) -> bool {
    let address = peer.ip().to_canonical();
    proxies.iter().any(|network| network.contains(&address))
}

/// Reads a trusted peer's header, if there is one.
///
/// # Errors
/// The header is malformed or incomplete.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Preface> {
    let mut buffer = BytesMut::with_capacity(256);
    // A connection that was opened ahead of use is silent at first; that is not the header's fault.
    if stream.read_buf(&mut buffer).await? == 0 {
        return Ok(Preface {
            client: None,
            rest: Bytes::new(),
        });
    }
    tokio::time::timeout(PATIENCE, finish(stream, buffer))
        .await
        .unwrap_or_else(|_| Err(invalid("PROXY header did not arrive in time")))
}

async fn finish(stream: &mut (impl AsyncRead + Unpin), mut buffer: BytesMut) -> io::Result<Preface> {
    loop {
        match proxy::parse(&buffer) {
            Ok(Parsed::Header { source, length }) => {
                buffer.advance(length);
                return Ok(Preface {
                    client: source,
                    rest: buffer.freeze(),
                });
            }
            Ok(Parsed::Absent) => {
                return Ok(Preface {
                    client: None,
                    rest: buffer.freeze(),
                });
            }
            Ok(Parsed::Incomplete) => {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Err(invalid("connection ended inside a PROXY header"));
                }
            }
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
