//! Who the client is, when a proxy in front says so, and how backends are told.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::plan::ClientIp;
use crate::proxy_protocol::tlv::{Extensions, kind};
use crate::proxy_protocol::{Claim, HeaderError, Progress, parse, v1, v2};
use crate::relay::{Opening, Peer};
use crate::tls::{End, Facts};

/// How long a proxy may take to send its header, which it has from the start.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who the client is, and what it connected to.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The client's address.
    pub(crate) client: SocketAddr,
    /// The address it connected to; `None` is the connection's own.
    destination: Option<SocketAddr>,
    /// The header that said so, for its extensions.
    header: Vec<u8>,
}

/// Why a peer that must send a PROXY header is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the PROXY header did not come within {PATIENCE:?}")]
    Late,
    #[error("the connection ended before its PROXY header")]
    Ended(#[from] io::Error),
}

impl Identity {
    /// The peer is the client.
    pub(super) fn of_peer(peer: SocketAddr) -> Self {
        Self {
            client: peer,
            destination: None,
            header: Vec::new(),
        }
    }

    /// The peer is a proxy: reads its header, and not a byte of what follows.
    pub(crate) async fn from_header(stream: &mut TcpStream, peer: SocketAddr) -> Result<Self, IdentityError> {
        let mut header = Vec::new();
        let reading = async {
            loop {
                let missing = match parse(&header)? {
                    Progress::Complete(complete) => return Ok::<Claim, IdentityError>(complete.claim),
                    Progress::Incomplete(missing) => missing,
                };
                let start = header.len();
                header.resize(start + missing, 0);
                let length = stream.read(&mut header[start..]).await?;
                header.truncate(start + length);
                if length == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        };
        let claim = tokio::time::timeout(PATIENCE, reading)
            .await
            .map_err(|_| IdentityError::Late)??;
        Ok(match claim.addresses() {
            Some((client, destination)) => Self {
                client,
                destination: Some(destination),
                header,
            },
            None => Self::of_peer(peer),
        })
    }

    /// What a backend is sent first.
    pub(super) fn opening(&self, how: ClientIp, client: &End, facts: Option<&Facts>) -> Opening {
        let mut bytes = Vec::new();
        // A connection whose own address cannot be told any more is about to fail anyway.
        let destination = || {
            self.destination
                .or_else(|| client.socket()?.local_addr().ok())
                .unwrap_or(self.client)
        };
        match how {
            ClientIp::None | ClientIp::Transparent => {}
            ClientIp::ProxyV1 => v1::write(self.client, destination(), &mut bytes),
            ClientIp::ProxyV2 => {
                let claim = Claim::Tcp {
                    source: self.client,
                    destination: destination(),
                };
                match parse(&self.header) {
                    // What this balancer knows itself is nearer than what it was told.
                    _ if facts.is_some() => v2::write(claim, &super::extensions(facts), &mut bytes),
                    // What another proxy said of TLS, names and ids is passed on.
                    Ok(Progress::Complete(header)) => {
                        let told = Extensions {
                            alpn: header.tlvs.get(kind::ALPN),
                            authority: header.tlvs.authority(),
                            unique_id: header.tlvs.unique_id(),
                            ssl: header.tlvs.ssl(),
                            ..Extensions::default()
                        };
                        v2::write(claim, &told, &mut bytes);
                    }
                    _ => v2::write(claim, &Extensions::default(), &mut bytes),
                }
            }
        }
        Opening {
            header_len: bytes.len(),
            bytes,
        }
    }
}
