//! Server identity and trusted certificates: builds TLS configurations and swaps them while serving.
//!
//! The stored document becomes a [`Keystore`], an immutable snapshot; [`LiveKeystore`] shows the present one to listeners
//! and routes. [`mod@start`] makes the document on a first start and reads certificate files, [`mod@follow`] watches the store.
//!
//! A client certificate is asked for and never required: a handshake succeeds without one and with an unknown one, and
//! [`LiveKeystore::client_certificate`] says afterwards whom it identifies. A key that does not fit its certificate is
//! never put to use; what served before goes on serving.

mod client;
mod follow;
mod handshake;
mod server;
mod start;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use tracing::warn;

pub use self::follow::{follow, refresh};
pub use self::start::{StartError, start, watch_files};
use crate::clock::Clock;
use crate::crypto::certificate::{self, Certificate, CertificateError};
use crate::crypto::private_key::{self, KeyError};
use crate::model::keystore::Keystore as Stored;

/// Why a keystore cannot be put to use.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    #[error("the keystore has no certificate")]
    NoCertificate,
    #[error("the keystore has no private key")]
    NoKey,
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    #[error("the keystore's certificate cannot be used: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the keystore's private key cannot be used: {0}")]
    Key(#[from] KeyError),
    /// A route names a certificate that is not, or no longer, in the trusted list.
    #[error("the keystore has no trusted certificate with the id {0}")]
    UnknownTrusted(ObjectId),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// One trusted certificate, read.
#[derive(Clone, Debug)]
struct Trusted {
    id: Option<ObjectId>,
    /// As stored, which may be a chain; the first is the certificate.
    chain: Vec<CertificateDer<'static>>,
    shown: Certificate,
}

/// One moment's keystore.
#[derive(Debug)]
pub struct Keystore {
    identity: Arc<CertifiedKey>,
    trusted: Vec<Trusted>,
    judge: server::Judge,
    clients: client::Configs,
}

impl Keystore {
    /// Reads the stored keystore. A trusted certificate that cannot be read is passed over with a warning.
    ///
    /// # Errors
    /// Certificate and key are missing, unreadable, or do not belong together.
    pub fn from_stored(stored: &Stored) -> Result<Self, KeystoreError> {
        Self::build(identity(stored)?, stored)
    }

    fn build(identity: Arc<CertifiedKey>, stored: &Stored) -> Result<Self, KeystoreError> {
        let trusted = trusted(stored);
        let anchors: Vec<_> = trusted.iter().map(|trusted| trusted.chain[0].clone()).collect();
        Ok(Self {
            judge: server::Judge::new(anchors)?,
            clients: client::Configs::default(),
            identity,
            trusted,
        })
    }

    /// Fingerprint, common name and issuer's common name of the trusted certificates with this common name.
    pub fn trusted_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (String, String, String)> + 'a {
        let named = self.trusted.iter().map(|trusted| &trusted.shown);
        named.filter(move |shown| shown.common_name == name).map(|shown| {
            let shown = shown.clone();
            (shown.fingerprint, shown.common_name, shown.issuer_common_name)
        })
    }

    /// How a route connects: with the node's own certificate on offer, trusting only the certificate of the id `pinned`,
    /// or the public roots.
    ///
    /// # Errors
    /// There is no trusted certificate of this id.
    pub fn client_config(&self, pinned: Option<ObjectId>) -> Result<Arc<ClientConfig>, KeystoreError> {
        let chain = match pinned {
            None => None,
            Some(id) => {
                let trusted = self.trusted.iter().find(|trusted| trusted.id == Some(id));
                Some(&trusted.ok_or(KeystoreError::UnknownTrusted(id))?.chain)
            }
        };
        self.clients.get(&self.identity, pinned, chain)
    }

    /// How audit messages are sent: with the node's own certificate on offer, trusting whoever answers, as OpenHIM does.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn unverified_client_config(&self) -> Result<Arc<ClientConfig>, KeystoreError> {
        client::unverified(&self.identity)
    }
}

/// A client that presented a certificate which is trusted and in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// SHA-1, upper-case pairs joined by colons.
    pub fingerprint: String,
    /// Common name.
    pub subject: String,
    /// Common name of the issuer.
    pub issuer: String,
}

/// The present keystore and the configurations that listeners share.
#[derive(Debug)]
pub struct LiveKeystore {
    present: Arc<ArcSwap<Keystore>>,
    clock: Arc<dyn Clock>,
    /// Asks for a client certificate.
    asking: Arc<ServerConfig>,
    plain: Arc<ServerConfig>,
}

impl LiveKeystore {
    /// Shows `keystore` until the first [`LiveKeystore::update`].
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(keystore: Keystore, clock: Arc<dyn Clock>) -> Result<Self, KeystoreError> {
        let present = Arc::new(ArcSwap::from_pointee(keystore));
        Ok(Self {
            asking: server::config(Arc::clone(&present), true)?,
            plain: server::config(Arc::clone(&present), false)?,
            present,
            clock,
        })
    }

    /// The keystore of this moment.
    pub fn load(&self) -> Arc<Keystore> {
        self.present.load_full()
    }

    /// Puts another keystore to use for all new connections. If certificate and key cannot be used, the present pair
    /// stays and only the trusted list changes.
    ///
    /// # Errors
    /// Certificate and key cannot be used.
    pub fn update(&self, stored: &Stored) -> Result<(), KeystoreError> {
        match Keystore::from_stored(stored) {
            Ok(keystore) => {
                self.present.store(Arc::new(keystore));
                Ok(())
            }
            Err(error) => {
                let identity = Arc::clone(&self.load().identity);
                self.present.store(Arc::new(Keystore::build(identity, stored)?));
                Err(error)
            }
        }
    }

    /// How a listener serves that wants to know its clients' certificates: TLS 1.2 and up, HTTP/1.1, a certificate asked
    /// for and not required. It follows every update by itself.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.asking)
    }

    /// How a listener serves that does not ask for certificates. It follows every update by itself.
    pub fn plain_server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.plain)
    }

    /// Whom a connection's certificates, leaf first, identify; `None` if they lead to no trusted one.
    pub fn client_certificate(&self, presented: &[CertificateDer<'_>]) -> Option<ClientCertificate> {
        let leaf = presented.first()?;
        if !self.load().judge.trusts(presented, self.clock.now()) {
            return None;
        }
        let shown = Certificate::from_der(leaf).ok()?;
        Some(ClientCertificate {
            fingerprint: shown.fingerprint,
            subject: shown.common_name,
            issuer: shown.issuer_common_name,
        })
    }

    /// As [`Keystore::client_config`], of this moment.
    ///
    /// # Errors
    /// There is no trusted certificate of this id.
    pub fn client_config(&self, pinned: Option<ObjectId>) -> Result<Arc<ClientConfig>, KeystoreError> {
        self.load().client_config(pinned)
    }
}

/// Certificate chain and key of the stored keystore, if they belong together.
///
/// # Errors
/// They are missing, unreadable, or do not belong together.
pub fn check_pair(stored: &Stored) -> Result<(), KeystoreError> {
    identity(stored).map(drop)
}

fn identity(stored: &Stored) -> Result<Arc<CertifiedKey>, KeystoreError> {
    let cert = stored.cert.as_ref().ok_or(KeystoreError::NoCertificate)?;
    let chain = certificate::chain_from_pem(&cert.data)?;
    let key = stored.key.as_ref().ok_or(KeystoreError::NoKey)?;
    let passphrase = stored.passphrase.as_ref().map(|passphrase| passphrase.expose());
    let key = private_key::from_pem(key.expose(), passphrase)?;
    if !private_key::fits(&key, &chain[0])? {
        return Err(KeystoreError::Mismatch);
    }
    Ok(Arc::new(CertifiedKey::new(chain, any_supported_type(&key)?)))
}

fn trusted(stored: &Stored) -> Vec<Trusted> {
    let read = |cert: &crate::model::keystore::TrustedCert| {
        let chain = certificate::chain_from_pem(&cert.info.data)?;
        Ok(Trusted {
            id: cert.id,
            shown: Certificate::from_der(&chain[0])?,
            chain,
        })
    };
    let mut trusted = Vec::with_capacity(stored.ca.len());
    for cert in &stored.ca {
        match read(cert) {
            Ok(cert) => trusted.push(cert),
            Err::<_, CertificateError>(error) => {
                warn!(%error, cert.name = %cert.info.common_name, "A trusted certificate cannot be read");
            }
        }
    }
    trusted
}

/// What is stored of a certificate: the fields of its subject, its validity, its text and its fingerprint.
///
/// # Errors
/// The text holds no readable certificate.
pub fn cert_document(pem: &str) -> Result<Document, CertificateError> {
    let cert = Certificate::from_pem(pem)?;
    Ok(doc! {
        "country": cert.country,
        "state": cert.state,
        "locality": cert.locality,
        "organization": cert.organization,
        "organizationUnit": cert.organization_unit,
        "commonName": cert.common_name,
        "emailAddress": cert.email_address,
        "validity": {
            "start": DateTime::from_millis(cert.not_before),
            "end": DateTime::from_millis(cert.not_after),
        },
        "data": pem,
        "fingerprint": cert.fingerprint,
    })
}
