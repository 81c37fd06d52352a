//! Begins TLS with backends, and verifies that they are who they should be.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ahead::Ahead;
use super::files::{self, FileError};
use super::provider;
use crate::plan::{BackendTls, ClientIp};
use crate::proxy_protocol::tlv::Extensions;
use crate::proxy_protocol::{Claim, v2};

/// Backends of which sessions are remembered.
const REMEMBERED: usize = 1024;

/// Begins TLS with the backends of one service.
pub struct Connector {
    connector: TlsConnector,
    /// The name that all of them have, if it is configured.
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(plan: &BackendTls) -> Result<Self, FileError> {
        let mut config = if plan.insecure {
            lax()?
        } else {
            let roots = match &plan.ca {
                Some(file) => files::authorities(file)?,
                None => of_the_system()?,
            };
            strict(roots)?
        };
        config.resumption = Resumption::in_memory_sessions(REMEMBERED);
        let name = plan
            .name
            .as_ref()
            .and_then(|name| ServerName::try_from(name.clone()).ok());
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }

    /// Does the handshake with a backend, within a time limit. `host` is what it is called in the configuration, if that
    /// is a name; else its certificate has to be for its address, or for the name that is configured.
    ///
    /// # Errors
    /// It was broken off by either side, the certificate is not what it should be, or it took too long.
    pub async fn connect(
        &self,
        address: SocketAddr,
        host: Option<&str>,
        stream: TcpStream,
        limit: Duration,
    ) -> io::Result<TlsStream<Ahead>> {
        let by_host = || host.and_then(|host| ServerName::try_from(host.trim_end_matches('.').to_owned()).ok());
        let name = self.name.clone().or_else(by_host);
        let name = name.unwrap_or_else(|| ServerName::from(address.ip()));
        let handshake = Box::pin(self.connector.connect(name, Ahead::new(stream)));
        match tokio::time::timeout(limit, handshake).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Trusts these authorities.
///
/// # Errors
/// There is none among them.
pub fn strict(roots: RootCertStore) -> Result<ClientConfig, FileError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let verifier = verifier.map_err(|_| FileError::NoneTrusted)?;
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_webpki_verifier(verifier).with_no_client_auth())
}

/// Trusts everybody.
///
/// # Errors
/// The cryptography cannot do TLS.
pub fn lax() -> Result<ClientConfig, FileError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(AnyCertificate(provider()));
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// The authorities that this machine trusts.
///
/// # Errors
/// It trusts none.
pub fn of_the_system() -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(FileError::NoneTrusted);
    }
    Ok(roots)
}

/// For who said that any certificate will do.
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

/// What a check needs to ask a backend that speaks TLS.
#[derive(Clone, Debug)]
pub struct Secured {
    /// Begins TLS.
    pub connector: Arc<Connector>,
    /// What the backend is called.
    pub host: Option<Arc<str>>,
    /// How it learns the client's address: where by a header, there is one that speaks for nobody.
    pub client_ip: ClientIp,
}

impl Secured {
    /// Does the handshake over a new connection.
    ///
    /// # Errors
    /// As for [`Connector::connect`].
    pub async fn begin(
        &self,
        address: SocketAddr,
        mut stream: TcpStream,
        limit: Duration,
    ) -> io::Result<TlsStream<Ahead>> {
        let mut header = Vec::new();
        match self.client_ip {
            ClientIp::ProxyV1 => header.extend_from_slice(b"PROXY UNKNOWN\r\n"),
            ClientIp::ProxyV2 => v2::write(Claim::Local, &Extensions::default(), &mut header),
            ClientIp::None | ClientIp::Transparent => {}
        }
        stream.write_all(&header).await?;
        self.connector
            .connect(address, self.host.as_deref(), stream, limit)
            .await
    }
}
