//! Keys from a key server, kept until a token names one that is not among them.
//!
//! A token with a new key is good at once, so an unknown key has the set loaded again; but only a few times in a row, and
//! then once in a while, however many tokens name unknown keys, and by one request at a time. A server that fails leaves
//! the keys that are there in place.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::uri::{Scheme, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::Jwk;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tracing::{debug, warn};

use super::is_public;
use crate::clock::{Clock, Millis};

/// Gives the TLS configuration of the moment; `None` if there is none.
pub type TlsSource = Arc<dyn Fn() -> Option<Arc<ClientConfig>> + Send + Sync>;

/// Between two loads that unknown keys cause, in milliseconds, once there were many of them.
const REST: Millis = 10_000;

/// Loads in a row.
const BURST: Millis = 5;

/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a key set.
const MAX_SET: usize = 1 << 20;

/// Keys of a key set.
const MAX_KEYS: usize = 1000;

/// Why the keys were not loaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the key server's address is not one")]
    Address,
    #[error("the key server cannot be reached over TLS: no certificate store")]
    NoTls,
    #[error("the key server did not answer in time")]
    Silent,
    #[error("the key server cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the key server answered {0}")]
    Status(http::StatusCode),
    #[error("the key server's answer is no key set")]
    NotKeys,
}

type Keys = HashMap<String, DecodingKey>;

/// The keys of one server.
pub(super) struct KeyServer {
    address: String,
    keys: ArcSwap<Keys>,
    /// When each load so far has had its rest; held while the server is asked.
    rested: Mutex<Millis>,
    clock: Arc<dyn Clock>,
    tls: TlsSource,
}

impl fmt::Debug for KeyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl KeyServer {
    pub(super) fn new(address: &str, clock: Arc<dyn Clock>, tls: TlsSource) -> Self {
        Self {
            address: address.to_owned(),
            keys: ArcSwap::default(),
            rested: Mutex::new(Millis::MIN),
            clock,
            tls,
        }
    }

    /// Loads the keys.
    pub(super) async fn load(&self) -> Result<(), FetchError> {
        let mut rested = self.rested.lock().await;
        let now = self.clock.now();
        *rested = now.max(*rested).min(now + BURST * REST) + REST;
        self.replace().await
    }

    /// The key of this id; an unknown one is asked for, unless the server was asked too often lately.
    pub(super) async fn key(&self, id: &str) -> Option<DecodingKey> {
        if let Some(key) = self.keys.load().get(id) {
            return Some(key.clone());
        }
        let mut rested = self.rested.lock().await;
        // Another request may have loaded it meanwhile.
        if let Some(key) = self.keys.load().get(id) {
            return Some(key.clone());
        }
        let now = self.clock.now();
        // A clock that was set back leaves the rests of a burst at most.
        let until = now.max(*rested).min(now + BURST * REST);
        if until - now > (BURST - 1) * REST {
            return None;
        }
        *rested = until + REST;
        if let Err(error) = self.replace().await {
            warn!(%error, "The keys that tokens are verified with could not be loaded");
        }
        self.keys.load().get(id).cloned()
    }

    async fn replace(&self) -> Result<(), FetchError> {
        let fetched = tokio::time::timeout(TIMEOUT, fetch(&self.address, &self.tls)).await;
        let keys = read(&fetched.map_err(|_| FetchError::Silent)??)?;
        debug!(keys = keys.len(), "Loaded the keys that tokens are verified with");
        self.keys.store(Arc::new(keys));
        Ok(())
    }
}

/// The usable keys of a set. One that cannot be read does not stop the others.
fn read(body: &[u8]) -> Result<Keys, FetchError> {
    let set: Value = serde_json::from_slice(body).map_err(|_| FetchError::NotKeys)?;
    let list = set.get("keys").and_then(Value::as_array).ok_or(FetchError::NotKeys)?;
    let usable = |key: &Value| {
        let is_for_signing = key.get("use").is_none_or(|purpose| purpose == "sig");
        let id = key.get("kid").and_then(Value::as_str).filter(|_| is_for_signing)?;
        let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
        let key = DecodingKey::from_jwk(&jwk).ok().filter(is_public)?;
        Some((id.to_owned(), key))
    };
    Ok(list.iter().take(MAX_KEYS).filter_map(usable).collect())
}

async fn fetch(address: &str, tls: &TlsSource) -> Result<Bytes, FetchError> {
    let uri: Uri = address.parse().map_err(|_| FetchError::Address)?;
    let host = uri.host().ok_or(FetchError::Address)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_secured = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        _ => return Err(FetchError::Address),
    };
    let port = uri.port_u16().unwrap_or(if is_secured { 443 } else { 80 });
    let stream = TcpStream::connect((bare, port)).await.map_err(unreachable)?;
    if !is_secured {
        return get(stream, &uri).await;
    }
    let config = tls().ok_or(FetchError::NoTls)?;
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| FetchError::Address)?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(unreachable)?;
    get(stream, &uri).await
}

async fn get<S>(stream: S, uri: &Uri) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(unreachable)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = http::Request::get(path)
        .header(http::header::HOST, host)
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(unreachable)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_SET).collect().await;
        Ok(body.map_err(FetchError::Unreachable)?.to_bytes())
    };
    // The connection has to be driven while the answer is awaited; it ends when the sender is gone.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

fn unreachable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchError {
    FetchError::Unreachable(error.into())
}
