//! The router's HTTP and HTTPS listeners: connections in, one call of the pipeline for each request.
//!
//! A connection is kept alive for five idle seconds. Header bytes, header count and the time that a header takes are
//! bounded; what breaks a bound or the grammar is answered (400, 414, 431) and the connection closed. A client may close
//! its sending side and still gets its answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::connection::{Guarded, Rewound, Vitals, Watched};
use super::preface;
use crate::cluster::Presence;
use crate::config::Limits;
use crate::keystore::LiveKeystore;
use crate::pipeline::{Entrance, Peer, Pipeline};

/// An idle connection is closed after this time; clients are told so.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a TLS handshake may take.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(15);
/// Pause when the process has run out of file descriptors.
pub(super) const EXHAUSTED: Duration = Duration::from_millis(50);

/// How connections are encrypted and whom their certificates identify.
#[derive(Clone, Debug)]
pub struct Tls {
    pub keystore: Arc<LiveKeystore>,
    /// Follows the keystore by itself.
    pub config: Arc<ServerConfig>,
}

/// What one instance's listeners share.
#[derive(Debug)]
pub struct Acceptor {
    pub pipeline: Arc<Pipeline>,
    pub trusted_proxies: Vec<IpNet>,
    pub limits: Limits,
    /// Connections that the process may have; `None` for no limit.
    pub permits: Option<Arc<Semaphore>>,
    pub tracker: TaskTracker,
    pub presence: Arc<Presence>,
    /// No new connections; those that are open end with their present request.
    pub stop: CancellationToken,
}

/// What a new connection gets for its first request when the node or the instance stops.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

impl Acceptor {
    /// Accepts until told to stop. With `tls`, connections are HTTPS.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: Option<Tls>, entrance: Entrance) {
        loop {
            let permit = tokio::select! {
                () = self.stop.cancelled() => return,
                permit = self.permit() => permit,
            };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    self.presence.arrived();
                    let connection = Arc::clone(&self).connection(stream, address, tls.clone(), entrance, permit);
                    self.tracker.spawn(connection);
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    warn!(%error, "Connections wait: accepting failed");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }

    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        match &self.permits {
            Some(permits) => Arc::clone(permits).acquire_owned().await.ok(),
            None => None,
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        tls: Option<Tls>,
        entrance: Entrance,
        _permit: Option<OwnedSemaphorePermit>,
    ) {
        let Some((stream, mut peer)) = self.welcome(stream, address).await else {
            return;
        };
        match tls {
            None => self.requests(stream, peer, entrance).await,
            Some(Tls { keystore, config }) => {
                let acceptor = TlsAcceptor::from(config);
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
                        peer.certificate = keystore.client_certificate(presented).map(Arc::new);
                        self.requests(stream, peer, entrance).await;
                    }
                    Ok(Err(error)) => debug!(%error, peer = %address, "A TLS handshake failed"),
                    Err(_) => debug!(peer = %address, "A TLS handshake took too long"),
                }
            }
        }
    }

    /// Who has connected, as a trusted proxy tells it; `None` if the connection began badly or the node stops.
    pub(super) async fn welcome(
        &self,
        mut stream: TcpStream,
        address: SocketAddr,
    ) -> Option<(Rewound<TcpStream>, Peer)> {
        // Answers are written whole; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let mut peer = Peer {
            address: address.ip().to_canonical(),
            is_trusted: preface::is_trusted(&self.trusted_proxies, address),
            certificate: None,
        };
        let mut first = bytes::Bytes::new();
        if peer.is_trusted {
            let preface = tokio::select! {
                () = self.stop.cancelled() => return None,
                preface = preface::read(&mut stream) => preface,
            };
            match preface {
                Ok(preface) => {
                    first = preface.rest;
                    if let Some(client) = preface.client {
                        peer.address = client.ip().to_canonical();
                        peer.is_trusted = preface::is_trusted(&self.trusted_proxies, client);
                    }
                }
                Err(error) => {
                    debug!(%error, peer = %address, "A connection began badly");
                    return None;
                }
            }
        }
        Some((Rewound::new(first, stream), peer))
    }

    async fn requests<S>(&self, stream: S, peer: Peer, entrance: Entrance)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let vitals = Vitals::new();
        let peer = Arc::new(peer);
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&vitals)));
        let has_begun = AtomicBool::new(false);
        let service = service_fn(|request: http::Request<Incoming>| {
            has_begun.store(true, Ordering::Relaxed);
            let in_flight = vitals.request();
            let pipeline = Arc::clone(&self.pipeline);
            let peer = Arc::clone(&peer);
            async move {
                let mut answer = pipeline.request(entrance, request, peer).await;
                if self.stop.is_cancelled() {
                    answer.headers_mut().remove("keep-alive");
                    answer
                        .headers_mut()
                        .insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer.map(|body| Guarded::new(body, in_flight)))
            }
        });
        let connection = self.builder().serve_connection(io, service);
        tokio::pin!(connection);
        let idle = tokio::time::sleep(KEEP_ALIVE);
        tokio::pin!(idle);
        let stopping = self.stop.cancelled();
        tokio::pin!(stopping);
        let last_call = tokio::time::sleep(KEEP_ALIVE);
        tokio::pin!(last_call);
        let (mut is_ending, mut is_called) = (false, false);
        loop {
            tokio::select! {
                biased;
                outcome = connection.as_mut() => {
                    if let Err(error) = outcome {
                        debug!(%error, "A connection ended early");
                    }
                    return;
                }
                () = stopping.as_mut(), if !is_ending && !is_called => {
                    is_called = true;
                    // Who has just come has a request on the way, and would see its connection end without an answer.
                    let patience = if has_begun.load(Ordering::Relaxed) { Duration::ZERO } else { FIRST_REQUEST };
                    last_call.as_mut().reset(tokio::time::Instant::now() + patience);
                }
                () = last_call.as_mut(), if is_called && !is_ending => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = idle.as_mut(), if !is_ending => match vitals.idle_at(KEEP_ALIVE) {
                    Some(at) => idle.as_mut().reset(at),
                    None => {
                        is_ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                },
            }
        }
    }

    fn builder(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .half_close(true)
            .keep_alive(true)
            .timer(TokioTimer::new())
            .max_headers(self.limits.header_count.max(1))
            .max_buf_size(self.limits.header_bytes.max(8192));
        if self.limits.header_timeout_millis > 0 {
            builder.header_read_timeout(Duration::from_millis(self.limits.header_timeout_millis));
        }
        builder
    }
}

/// Errors of `accept` that say something about one connection and nothing about the next.
pub(super) fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
