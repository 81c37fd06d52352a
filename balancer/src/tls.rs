//! TLS on both sides: ended for clients, begun to backends, and looked at when it only passes through.
//!
//! The control task loads a service's [`Material`] from files and publishes it with the snapshot; all data threads share
//! it, and with it tickets and remembered sessions. A connection keeps what it was begun with. [`hello`] reads the first
//! message of a client whose TLS is not ours to end.
//!
//! Nothing here decides who may come in, or where a connection goes.

pub mod ahead;
pub mod client;
pub mod facts;
pub mod files;
pub mod hello;
pub mod server;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::plan::Service;
use crate::relay::Peer;

use ahead::Ahead;
pub use client::Connector;
pub use facts::{Certificate, Facts};
pub use files::FileError;
pub use server::Terminator;

/// What a service has of TLS, ready for use.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// Ends TLS of clients.
    pub server: Option<Arc<Terminator>>,
    /// Begins TLS with backends.
    pub client: Option<Arc<Connector>>,
}

impl Material {
    /// Loads what a service is configured to have; `before` is what it had, of which tickets go on where they may.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn load(service: &Service, before: Option<&Self>) -> Result<Self, FileError> {
        // A group's clients were let in by the service that it belongs to.
        let server = match (&service.tls, &service.parent) {
            (Some(tls), None) => {
                let before = before.and_then(|it| it.server.as_deref());
                Some(Arc::new(Terminator::load(tls, before)?))
            }
            _ => None,
        };
        let client = service.backend_tls.as_ref().map(Connector::load).transpose()?;
        Ok(Self {
            server,
            client: client.map(Arc::new),
        })
    }

    /// True if it is the very same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let address = |it: &Self| {
            let server = it.server.as_ref().map(Arc::as_ptr);
            (server, it.client.as_ref().map(Arc::as_ptr))
        };
        address(self) == address(other)
    }
}

impl PartialEq for Material {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other)
    }
}

/// The cryptography that everything here uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// One end of a flow of which at least one end is encrypted.
#[derive(Debug)]
pub enum End {
    /// As it is.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<Ahead>>),
}

impl End {
    fn inner(&mut self) -> Pin<&mut (dyn Both + '_)> {
        match self {
            Self::Plain(stream) => Pin::new(stream),
            Self::Tls(stream) => Pin::new(&mut **stream),
        }
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_read(cx, into)
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().inner().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_shutdown(cx)
    }
}

impl Peer for End {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(stream) => stream.get_ref().0.socket(),
        }
    }

    fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }
}
