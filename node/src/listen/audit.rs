//! The audit repository's listeners: syslog by UDP, TCP and TLS.
//!
//! A datagram is a message. On a connection, each message has its length in front (RFC 5425); a frame may be cut
//! anywhere and several may come at once. Nothing is ever answered. What cannot be framed ends its connection; memory,
//! connections and the length of a message are bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use socket2::{SockAddr, SockRef, Socket};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{BindError, preface};
use crate::audit::repository::Intake;
use crate::wire::syslog_frame::Decoder;

/// Bytes of one message.
const LONGEST: usize = 1 << 20;
/// Connections at the same time, over each transport.
const CONNECTIONS: usize = 256;
/// What the kernel is asked to keep of datagrams while the repository is busy.
const UDP_BUFFER: usize = 16 << 20;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Pause when the process has run out of file descriptors.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Binds the UDP port, with as large a buffer as the kernel gives.
///
/// # Errors
/// The address is in use or is not ours.
pub fn bind_udp(address: SocketAddr) -> Result<std::net::UdpSocket, BindError> {
    let bound = || -> io::Result<std::net::UdpSocket> {
        let socket = Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::DGRAM,
            Some(socket2::Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // The kernel gives what `net.core.rmem_max` allows.
        let _ = SockRef::from(&socket).set_recv_buffer_size(UDP_BUFFER);
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(address))?;
        Ok(socket.into())
    };
    bound().map_err(|source| BindError {
        what: "audit UDP",
        address,
        source,
    })
}

/// Takes datagrams until told to stop.
pub async fn serve_udp(socket: UdpSocket, intake: Intake, stop: CancellationToken) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((length, _)) => {
                if !intake.take(Bytes::copy_from_slice(&buffer[..length])).await {
                    return;
                }
            }
            // An unreachable peer of an answer that was never sent, at most.
            Err(error) => {
                debug!(%error, "An audit datagram could not be received");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

/// Takes connections.
#[derive(Debug)]
pub struct Acceptor {
    intake: Intake,
    trusted_proxies: Vec<IpNet>,
    /// With it, connections are TLS; a client's certificate is asked for, and none is required.
    tls: Option<Arc<ServerConfig>>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Acceptor {
    /// For one port.
    pub fn new(
        intake: Intake,
        trusted_proxies: Vec<IpNet>,
        tls: Option<Arc<ServerConfig>>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            intake,
            trusted_proxies,
            tls,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            stop,
        })
    }

    /// Accepts until told to stop, then ends the connections.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let connections = TaskTracker::new();
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                break;
            };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let acceptor = Arc::clone(&self);
                    connections.spawn(async move {
                        if let Err(error) = acceptor.connection(stream, peer).await {
                            debug!(%error, %peer, "An audit connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "Audit connections wait: accepting failed");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }

    async fn connection(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let mut first = Bytes::new();
        if preface::is_trusted(&self.trusted_proxies, peer) {
            first = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                preface = preface::read(&mut stream) => preface?.rest,
            };
        }
        let stream = super::connection::Rewound::new(first, stream);
        match &self.tls {
            None => self.messages(stream).await,
            Some(config) => {
                let accepted = TlsAcceptor::from(Arc::clone(config)).accept(stream);
                let stream = tokio::time::timeout(HANDSHAKE, accepted)
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                self.messages(stream).await
            }
        }
    }

    async fn messages(&self, mut stream: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut decoder = Decoder::new(LONGEST);
        let mut buffer = BytesMut::with_capacity(16 << 10);
        loop {
            let read = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                read = stream.read_buf(&mut buffer) => read?,
            };
            if read == 0 {
                return match decoder.is_between_messages() {
                    true => Ok(()),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            decoder.push(&buffer);
            buffer.clear();
            loop {
                match decoder.message() {
                    Ok(Some(message)) if message.is_empty() => {}
                    Ok(Some(message)) => {
                        if !self.intake.take(message).await {
                            return Ok(());
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        warn!(%error, "An audit connection is closed: {error}");
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
