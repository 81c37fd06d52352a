//! Does it answer a GET with an expected status?

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::tcp;
use crate::health::Failure;
use crate::plan::{Check, CheckKind};

pub(super) async fn probe(address: SocketAddr, check: &Check) -> Result<(), Failure> {
    let stream = tcp::connect(address).await?;
    if check.kind == CheckKind::Http {
        return ask(stream, address, check).await;
    }
    let name = match &check.host {
        Some(host) => ServerName::try_from(host.clone()).map_err(|_| Failure::answered("check_host is not a name")),
        None => Ok(ServerName::from(address.ip())),
    }?;
    let failed = |error: std::io::Error| Failure::answered(format!("TLS with {address} failed: {error}"));
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
    let made = if insecure {
        LAX.get_or_init(lax)
    } else {
        STRICT.get_or_init(strict)
    };
    made.clone().map_err(Failure::answered)
}

fn strict() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this machine has no trusted certificates; install ca-certificates or set check_insecure".into());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn lax() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier = Arc::new(AnyCertificate(provider));
    Ok(Arc::new(
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth(),
    ))
}

/// For `check_insecure`: a check asks whether a node works, and sends it nothing that must stay secret.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
