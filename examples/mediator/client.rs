//! One HTTP request at a time, each on a connection of its own, to servers with self-signed certificates.
//!
//! That is what OpenHIM makes for itself on a first start. Do not use this where the network between is not your own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Longest a request may take as a whole.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const LARGEST: usize = 64 * 1024 * 1024;

/// A server and who we are there.
#[derive(Clone)]
pub(crate) struct Target {
    address: String,
    tls: bool,
    authorization: Option<HeaderValue>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Target")
            .field("address", &self.address)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl Target {
    /// `https://host:port`, where any certificate will do, or `http://host:port`.
    ///
    /// # Errors
    /// Anything else.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let target = |address: &str, tls| Self {
            address: address.to_owned(),
            tls,
            authorization: None,
        };
        let parsed = match url.trim_end_matches('/').split_once("://") {
            Some(("https", address)) => Some(target(address, true)),
            Some(("http", address)) => Some(target(address, false)),
            _ => None,
        };
        parsed
            .filter(|target| target.address.contains(':'))
            .ok_or_else(|| format!("`{url}` is not https://host:port"))
    }

    /// Sends HTTP Basic authentication with each request.
    #[must_use]
    pub(crate) fn with_basic(mut self, user: &str, password: &str) -> Self {
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        self.authorization = HeaderValue::from_str(&format!("Basic {encoded}")).ok();
        self
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Sends one request, with a JSON body if there is one.
///
/// # Errors
/// No connection, no TLS, no answer within 30 seconds, or one that is not HTTP.
pub(crate) async fn send(target: &Target, method: Method, path: &str, body: Option<&Value>) -> io::Result<Answer> {
    let request = request(target, method, path, body)?;
    let exchange = async {
        let stream = TcpStream::connect(&target.address).await?;
        stream.set_nodelay(true)?;
        if !target.tls {
            return exchange(stream, request).await;
        }
        let host = target
            .address
            .rsplit_once(':')
            .map_or(target.address.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        exchange(connector()?.connect(name, stream).await?, request).await
    };
    timeout(PATIENCE, exchange)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn request(target: &Target, method: Method, path: &str, body: Option<&Value>) -> io::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, &target.address);
    if let Some(authorization) = &target.authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    request.body(Full::from(body)).map_err(io::Error::other)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> io::Result<Answer> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let talk = async {
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?
            .into_parts();
        let body = Limited::new(body, LARGEST)
            .collect()
            .await
            .map_err(io::Error::other)?
            .to_bytes();
        Ok(Answer {
            status: head.status,
            body,
        })
    };
    let drive = async {
        // An error shows on the other side of the conversation.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = talk => answer,
        () = drive => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

fn connector() -> io::Result<TlsConnector> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes whatever certificate is shown, as long as the server holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
