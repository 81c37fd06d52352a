//! Connections to backends, kept for the next request.
//!
//! A pool belongs to one instance. A connection serves one exchange at a time and comes back when its answer was read
//! whole. Before it is used again it is checked: closed by the backend, idle for too long, or opened under other
//! certificates, it is dropped. A request that hyper gives back without having written a byte of it goes to another
//! connection; any other failure is the route's failure, because the backend may have acted on what it got.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use super::error::RouteError;
use super::link::{Link, Wire};
use super::payload::OutBody;
use crate::tables::Target;

/// Backends built on Node.js close after five idle seconds; a request must not cross that.
const KEEP: Duration = Duration::from_secs(4);
/// Idle connections kept for one target.
const KEPT_PER_TARGET: usize = 256;

/// A connection that is ready for a request.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) sender: SendRequest<OutBody>,
    pub(super) link: Arc<Link>,
    tls: Option<Arc<ClientConfig>>,
    /// Never used before.
    pub(super) is_fresh: bool,
}

#[derive(Debug)]
struct Idle {
    lease: Lease,
    until: Instant,
}

/// Idle connections by target.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<Target, Vec<Idle>>>,
}

impl Pool {
    /// An idle connection, the youngest first; `None` if there is none to trust.
    pub(super) fn take(&self, target: &Target, tls: Option<&Arc<ClientConfig>>) -> Option<Lease> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(target)?;
        let now = Instant::now();
        while let Some(Idle { mut lease, until }) = kept.pop() {
            if until <= now {
                // The rest is older.
                kept.clear();
                break;
            }
            let has_same_trust = match (&lease.tls, tls) {
                (None, None) => true,
                (Some(then), Some(now)) => Arc::ptr_eq(then, now),
                _ => false,
            };
            if has_same_trust && lease.sender.is_ready() && !lease.link.is_stale() {
                lease.is_fresh = false;
                return Some(lease);
            }
        }
        idle.remove(target);
        None
    }

    /// Keeps a connection whose answer was read whole; `keep` is the time that its backend announced.
    pub(super) fn put(self: &Arc<Self>, target: &Target, mut lease: Lease, keep: Option<Duration>) {
        if lease.sender.is_closed() {
            return;
        }
        if lease.sender.is_ready() {
            self.store(target, lease, keep);
            return;
        }
        // The connection has still to notice that its answer is complete.
        let (pool, target) = (Arc::clone(self), target.clone());
        tokio::spawn(async move {
            if tokio::time::timeout(KEEP, lease.sender.ready())
                .await
                .is_ok_and(|outcome| outcome.is_ok())
            {
                pool.store(&target, lease, keep);
            }
        });
    }

    fn store(&self, target: &Target, lease: Lease, keep: Option<Duration>) {
        let until = Instant::now() + keep.map_or(KEEP, |keep| keep.min(KEEP));
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match idle.get_mut(target) {
            Some(kept) => {
                if kept.len() >= KEPT_PER_TARGET {
                    kept.remove(0);
                }
                kept.push(Idle { lease, until });
            }
            None => {
                idle.insert(target.clone(), vec![Idle { lease, until }]);
            }
        }
    }

    /// Drops what was idle for too long, so that a quiet node holds no dead connections.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, kept| {
            kept.retain(|idle| idle.until > now && !idle.lease.sender.is_closed());
            !kept.is_empty()
        });
    }
}

/// Opens a connection; `limit` is the time in which nothing may happen.
pub(super) async fn connect(
    target: &Target,
    tls: Option<Arc<ClientConfig>>,
    limit: Duration,
) -> Result<Lease, RouteError> {
    match tokio::time::timeout(limit, open(target, tls)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(RouteError::Silent(limit)),
    }
}

async fn open(target: &Target, tls: Option<Arc<ClientConfig>>) -> Result<Lease, RouteError> {
    let stream = reach(target).await?;
    let _ = stream.set_nodelay(true);
    let link = Link::new(stream);
    let wire = Wire(Arc::clone(&link));
    let sender = match &tls {
        None => handshake(wire).await?,
        Some(config) => handshake(secure(target, Arc::clone(config), wire).await?).await?,
    };
    Ok(Lease {
        sender,
        link,
        tls,
        is_fresh: true,
    })
}

/// Speaks TLS on an open connection.
pub(super) async fn secure(
    target: &Target,
    config: Arc<ClientConfig>,
    wire: Wire,
) -> Result<TlsStream<Wire>, RouteError> {
    let name = ServerName::try_from(target.host.to_string())
        .map_err(|_| RouteError::Misconfigured(format!("`{}` is not a host name", target.host)))?;
    let connecting = TlsConnector::from(config).connect(name, wire);
    connecting.await.map_err(|error| tls_error(&error))
}

async fn handshake<S>(stream: S) -> Result<SendRequest<OutBody>, RouteError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| RouteError::of_exchange(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "A connection to a backend ended");
        }
    });
    Ok(sender)
}

/// Connects to the first address that takes the connection, IPv4 first as Node.js does.
pub(super) async fn reach(target: &Target) -> Result<TcpStream, RouteError> {
    let mut failure = None;
    for address in resolve(target).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => failure = Some(RouteError::Connect { address, source }),
        }
    }
    Err(failure.unwrap_or_else(|| RouteError::Resolve {
        code: "ENOTFOUND",
        host: target.host.clone(),
    }))
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, RouteError> {
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, target.port)]);
    }
    let found = tokio::net::lookup_host((&*target.host, target.port)).await;
    let mut addresses: Vec<_> = found
        .map_err(|error| RouteError::Resolve {
            code: resolve_code(&error),
            host: target.host.clone(),
        })?
        .collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    Ok(addresses)
}

fn resolve_code(error: &io::Error) -> &'static str {
    // The resolver's own code is lost on the way; its text is the C library's.
    if error.to_string().contains("Temporary failure") {
        "EAI_AGAIN"
    } else {
        "ENOTFOUND"
    }
}

/// OpenSSL's words where there are some that operators know.
fn tls_error(error: &io::Error) -> RouteError {
    use rustls::CertificateError;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    RouteError::Tls(match inner {
        Some(rustls::Error::InvalidCertificate(problem)) => match problem {
            CertificateError::UnknownIssuer => "unable to verify the first certificate".into(),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate has expired".into(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "certificate is not yet valid".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("Hostname/IP does not match certificate's altnames: {problem}")
            }
            other => format!("certificate not accepted: {other}"),
        },
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "Client network socket disconnected before secure TLS connection was established".into()
        }
        None => error.to_string(),
    })
}
