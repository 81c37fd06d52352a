//! Serving: the present certificate for every handshake, and a judgement of the client's.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use super::handshake;
use super::{Keystore, KeystoreError};
use crate::clock::Millis;
use crate::crypto::chain::{self, Purpose};

/// Whom clients' certificates have to lead to.
pub(super) struct Judge {
    /// The trusted list, judged leniently.
    anchors: Vec<CertificateDer<'static>>,
    /// The trusted list and the public roots, judged strictly.
    strict: Arc<dyn ClientCertVerifier>,
}

impl Judge {
    pub(super) fn new(anchors: Vec<CertificateDer<'static>>) -> Result<Self, KeystoreError> {
        let mut roots = public_roots();
        // What the strict verifier cannot read is the lenient one's alone.
        roots.add_parsable_certificates(anchors.iter().cloned());
        let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { anchors, strict })
    }

    /// True if the certificates, leaf first, lead to a trusted one and are in force.
    pub(super) fn trusts(&self, presented: &[CertificateDer<'_>], now: Millis) -> bool {
        let Some((leaf, intermediates)) = presented.split_first() else {
            return false;
        };
        chain::verify(presented, &self.anchors, Purpose::Client, now).is_ok()
            || self
                .strict
                .verify_client_cert(leaf, intermediates, unix_time(now))
                .is_ok()
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge")
            .field("anchors", &self.anchors.len())
            .finish_non_exhaustive()
    }
}

pub(super) fn public_roots() -> RootCertStore {
    RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    }
}

/// The cryptography that all connections use.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn unix_time(now: Millis) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.max(0) as u64))
}

/// A configuration that serves with whatever certificate is present.
pub(super) fn config(present: Arc<ArcSwap<Keystore>>, asks: bool) -> Result<Arc<ServerConfig>, KeystoreError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match asks {
        true => builder.with_client_cert_verifier(Arc::new(AnyClient { algorithms })),
        false => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Present(present)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Answers every handshake with the present certificate.
struct Present(Arc<ArcSwap<Keystore>>);

impl ResolvesServerCert for Present {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().identity))
    }
}

impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Present")
    }
}

/// Takes any client and any certificate of which the client has the key.
#[derive(Debug)]
struct AnyClient {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: a client then offers whatever it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        handshake::verify_tls12(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        handshake::verify_tls13(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
