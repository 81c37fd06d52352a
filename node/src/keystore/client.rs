//! Connecting: what routes offer and whom they trust.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bson::oid::ObjectId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_COMMON_NAME;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::server::{provider, public_roots};
use super::{KeystoreError, handshake};
use crate::crypto::chain::{self, ChainError, Purpose};

/// Configurations by the certificate they pin, made when first asked for.
#[derive(Debug, Default)]
pub(super) struct Configs(Mutex<HashMap<Option<ObjectId>, Arc<ClientConfig>>>);

impl Configs {
    pub(super) fn get(
        &self,
        identity: &Arc<CertifiedKey>,
        pinned: Option<ObjectId>,
        chain: Option<&Vec<CertificateDer<'static>>>,
    ) -> Result<Arc<ClientConfig>, KeystoreError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = known.get(&pinned) {
            return Ok(Arc::clone(config));
        }
        let verifier: Arc<dyn ServerCertVerifier> = match chain {
            None => WebPkiServerVerifier::builder_with_provider(Arc::new(public_roots()), provider())
                .build()
                .map_err(|error| Error::General(error.to_string()))?,
            Some(chain) => Arc::new(Pinned {
                anchors: chain.clone(),
                algorithms: provider().signature_verification_algorithms,
            }),
        };
        let config = build(identity, verifier)?;
        known.insert(pinned, Arc::clone(&config));
        Ok(config)
    }
}

/// Trusts whoever answers.
pub(super) fn unverified(identity: &Arc<CertifiedKey>) -> Result<Arc<ClientConfig>, KeystoreError> {
    build(identity, Arc::new(Anyone::new()))
}

fn build(
    identity: &Arc<CertifiedKey>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, KeystoreError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Own(Arc::clone(identity))));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Offers the node's own certificate to every server that asks.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Trusts servers that lead to one certificate of the trusted list and bear the route's host name.
#[derive(Debug)]
struct Pinned {
    anchors: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented: Vec<_> = std::iter::once(leaf)
            .chain(intermediates)
            .map(|cert| cert.as_ref().into())
            .collect();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_mul(1000);
        chain::verify(&presented, &self.anchors, Purpose::Server, now).map_err(|error| match error {
            ChainError::Unreadable => CertificateError::BadEncoding,
            ChainError::Date => CertificateError::Expired,
            ChainError::Purpose => CertificateError::InvalidPurpose,
            ChainError::Critical => CertificateError::UnhandledCriticalExtension,
            ChainError::Untrusted => CertificateError::UnknownIssuer,
        })?;
        match X509Certificate::from_der(leaf) {
            Ok((_, parsed)) if bears(&parsed, name) => Ok(ServerCertVerified::assertion()),
            Ok(_) => Err(CertificateError::NotValidForName.into()),
            Err(_) => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        handshake::verify_tls12(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        handshake::verify_tls13(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// True if the certificate is for this host: by its alternative names, or by its common name if it has none.
fn bears(certificate: &X509Certificate<'_>, name: &ServerName<'_>) -> bool {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    match name {
        ServerName::IpAddress(address) => {
            let address = IpAddr::from(*address);
            alternatives.iter().any(|alternative| match alternative {
                GeneralName::IPAddress(bytes) => match address {
                    IpAddr::V4(address) => *bytes == address.octets(),
                    IpAddr::V6(address) => *bytes == address.octets(),
                },
                _ => false,
            })
        }
        ServerName::DnsName(host) if alternatives.is_empty() => {
            let mut names = certificate.subject().iter_by_oid(&OID_X509_COMMON_NAME);
            names.any(|common| common.as_str().is_ok_and(|common| matches_host(common, host.as_ref())))
        }
        ServerName::DnsName(host) => alternatives.iter().any(|alternative| match alternative {
            GeneralName::DNSName(pattern) => matches_host(pattern, host.as_ref()),
            _ => false,
        }),
        _ => false,
    }
}

/// Compares host names; a leading `*.` stands for one label.
fn matches_host(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.trim_end_matches('.'), host.trim_end_matches('.'));
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => {
            !label.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

/// Trusts every server.
#[derive(Debug)]
pub(super) struct Anyone {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Anyone {
    pub(super) fn new() -> Self {
        Self {
            algorithms: provider().signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        handshake::verify_tls12(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        handshake::verify_tls13(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_compared_label_by_label() {
        for (pattern, host, expected) in [
            ("him.example", "HIM.example", true),
            ("him.example.", "him.example", true),
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "a.b.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.org", "example.org", false),
            ("*", "localhost", false),
            ("him.example", "xhim.example", false),
        ] {
            assert_eq!(matches_host(pattern, host), expected, "{pattern} {host}");
        }
    }
}
