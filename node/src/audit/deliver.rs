//! Where audit records go: into the store, or to an audit repository by UDP, TCP or TLS.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bson::Document;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

use crate::config::AuditEvents;
use crate::store::{SharedStore, StoreError};

/// Longest wait for a repository.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gives the client configuration of the moment: the keystore's certificate may change while the node runs.
pub type TlsSource = Arc<dyn Fn() -> Option<Arc<rustls::ClientConfig>> + Send + Sync>;

/// One record, in both forms.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) message: String,
    pub(super) document: Document,
}

/// Why records were not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliveryError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("audit repository: {0}")]
    Network(#[from] io::Error),
    #[error("audit repository did not answer in time")]
    Timeout,
    #[error("the keystore has no usable certificate for the audit repository")]
    NoTls,
    #[error("invalid audit event interface '{0}'")]
    UnknownInterface(String),
    #[error("unable to record audit event: missing config.auditing.auditEvents")]
    NoSettings,
}

/// Delivers envelopes as `auditing.auditEvents` says.
pub(super) struct Delivery {
    settings: Option<AuditEvents>,
    store: SharedStore,
    tls: TlsSource,
}

impl Delivery {
    pub(super) fn new(settings: Option<AuditEvents>, store: SharedStore, tls: TlsSource) -> Self {
        Self { settings, store, tls }
    }

    pub(super) async fn deliver(&self, envelopes: Vec<Envelope>) -> Result<(), DeliveryError> {
        if envelopes.is_empty() {
            return Ok(());
        }
        let Some(settings) = &self.settings else {
            return Err(DeliveryError::NoSettings);
        };
        if settings.interface == "internal" {
            let records = envelopes.into_iter().map(|envelope| envelope.document).collect();
            return Ok(super::keep(&*self.store, records).await?);
        }
        let send = async {
            for envelope in &envelopes {
                self.send(settings, &envelope.message).await?;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, send)
            .await
            .unwrap_or(Err(DeliveryError::Timeout))
    }

    async fn send(&self, settings: &AuditEvents, message: &str) -> Result<(), DeliveryError> {
        let peer = (settings.host.as_str(), settings.port);
        match settings.interface.as_str() {
            "udp" => send_datagram(peer, message).await?,
            "tcp" => send_framed(TcpStream::connect(peer).await?, message).await?,
            "tls" => {
                let config = (self.tls)().ok_or(DeliveryError::NoTls)?;
                let name = ServerName::try_from(settings.host.clone())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                let stream = TcpStream::connect(peer).await?;
                send_framed(TlsConnector::from(config).connect(name, stream).await?, message).await?;
            }
            other => return Err(DeliveryError::UnknownInterface(other.to_owned())),
        }
        Ok(())
    }
}

async fn send_datagram(peer: (&str, u16), message: &str) -> io::Result<()> {
    let target = tokio::net::lookup_host(peer)
        .await?
        .next()
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.send_to(message.as_bytes(), target).await?;
    Ok(())
}

/// Length in bytes, a blank, the message.
async fn send_framed(mut stream: impl AsyncWrite + Unpin, message: &str) -> io::Result<()> {
    stream.write_all(format!("{} ", message.len()).as_bytes()).await?;
    stream.write_all(message.as_bytes()).await?;
    stream.shutdown().await
}
