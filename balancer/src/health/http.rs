//! Does it answer a GET with an expected status?

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::tcp;
use crate::health::Failure;
use crate::plan::{Check, CheckKind};
use crate::tls::FileError;
use crate::tls::client::{self, Secured};

pub(super) async fn probe(address: SocketAddr, check: &Check, secured: Option<&Secured>) -> Result<(), Failure> {
    let stream = tcp::connect(address).await?;
    let failed = |error: std::io::Error| Failure::answered(format!("TLS with {address} failed: {error}"));
    if let Some(secured) = secured {
        let stream = secured.begin(address, stream, check.timeout).await.map_err(failed)?;
        return ask(stream, address, check).await;
    }
    if check.kind == CheckKind::Http {
        return ask(stream, address, check).await;
    }
    let name = match &check.host {
        Some(host) => ServerName::try_from(host.clone()).map_err(|_| Failure::answered("check_host is not a name")),
        None => Ok(ServerName::from(address.ip())),
    }?;
    let stream = TlsConnector::from(tls(check.insecure)?)
        .connect(name, stream)
        .await
        .map_err(failed)?;
    ask(stream, address, check).await
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    address: SocketAddr,
    check: &Check,
) -> Result<(), Failure> {
    let failed = |error: hyper::Error| Failure::answered(format!("no HTTP answer from {address}: {error}"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let host = check.host.clone().unwrap_or_else(|| address.to_string());
    let request = Request::get(&check.path)
        .header("host", host)
        .header("user-agent", concat!("openhim-balancer/", env!("CARGO_PKG_VERSION")))
        .header("accept", "*/*")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::answered(format!("the check cannot be asked: {error}")))?;
    // The status is all that counts: the body is dropped with the connection. One that has ended may have answered.
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut response => response,
        _ = connection => response.await,
    };
    let response = response.map_err(failed)?;
    let status = response.status().as_u16();
    if check.expect.iter().any(|range| range.contains(&status)) {
        return Ok(());
    }
    Err(Failure::answered(format!("GET {} answered {status}", check.path)))
}

/// The configurations for TLS: they cost a look at the system's certificates, so each is made once.
fn tls(insecure: bool) -> Result<Arc<ClientConfig>, Failure> {
    static STRICT: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    static LAX: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let strict = || client::of_the_system().and_then(client::strict);
    let text = |error: FileError| error.to_string();
    let made = if insecure {
        LAX.get_or_init(|| client::lax().map(Arc::new).map_err(text))
    } else {
        STRICT.get_or_init(|| strict().map(Arc::new).map_err(text))
    };
    made.clone().map_err(Failure::answered)
}
