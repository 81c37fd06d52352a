//! Mutual TLS: the client that a trustworthy certificate belongs to.

use std::sync::Arc;

use tracing::warn;

use crate::keystore::{ClientCertificate, Keystore};
use crate::tables::{ClientEntry, ClientTable};

/// Issuers that are looked at, so that certificates that sign each other end nowhere.
const DEPTH: usize = 10;

/// Whose certificate may stand for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The presented certificate is the client's.
    Strict,
    /// It, or one of the trusted certificates that it descends from.
    InChain,
}

impl Lookup {
    /// `strict` or `in-chain`; anything else counts as strict.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "in-chain" => Self::InChain,
            "strict" => Self::Strict,
            other => {
                warn!(
                    setting = "tlsClientLookup.type",
                    value = other,
                    "Unknown value; `strict` is in force"
                );
                Self::Strict
            }
        }
    }
}

/// The client of a certificate that was found trustworthy.
pub(super) fn client(
    clients: &ClientTable,
    certificate: &ClientCertificate,
    lookup: Lookup,
    keystore: &Keystore,
) -> Option<Arc<ClientEntry>> {
    let mut links = vec![(
        certificate.fingerprint.clone(),
        certificate.subject.clone(),
        certificate.issuer.clone(),
    )];
    for _ in 0..DEPTH {
        let found = links
            .iter()
            .find_map(|(fingerprint, ..)| clients.by_fingerprint(fingerprint));
        if found.is_some() || lookup == Lookup::Strict {
            return found.cloned();
        }
        let issuers = links.iter().filter(|(_, subject, issuer)| subject != issuer);
        links = issuers
            .flat_map(|(_, _, issuer)| keystore.trusted_named(issuer))
            .collect();
    }
    None
}
