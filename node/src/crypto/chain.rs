//! Whether a certificate leads to one that is trusted, judged as leniently as OpenSSL judges.
//!
//! The certificates of this field were made by hand, from tutorials: version 1, self-signed with `CA:TRUE` and used by a
//! client, without any extension. Rust's strict verifier refuses them all. It is asked first by those who call this
//! ([`crate::keystore`]); what follows is for the certificates that an administrator has put into the trusted list.
//! Dates, signatures, the right to issue, path lengths, critical extensions and extended key usage are checked.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{X509Certificate, X509Extension};
use x509_parser::time::ASN1Time;

use super::certificate::parse;
use crate::clock::Millis;

/// Certificates from leaf to anchor.
const MAX_DEPTH: usize = 10;

/// Signatures that are checked before giving up.
const MAX_SIGNATURES: usize = 40;

/// What the leaf is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Client,
    Server,
}

/// Why a chain is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("the certificate is not readable")]
    Unreadable,
    #[error("the certificate is expired or not yet valid")]
    Date,
    #[error("the certificate is not meant for this use")]
    Purpose,
    #[error("the certificate has a critical extension that is not understood")]
    Critical,
    #[error("the certificate does not lead to a trusted one")]
    Untrusted,
}

/// Checks that the first certificate of `presented` is good for `purpose` at `now` and leads, by others of `presented`,
/// to one of `anchors` or is one itself.
///
/// # Errors
/// It is not; the error says why as far as one reason can be named.
pub fn verify(
    presented: &[CertificateDer<'_>],
    anchors: &[CertificateDer<'_>],
    purpose: Purpose,
    now: Millis,
) -> Result<(), ChainError> {
    let (leaf, intermediates) = presented.split_first().ok_or(ChainError::Unreadable)?;
    let leaf = parse(leaf).map_err(|_| ChainError::Unreadable)?;
    let search = Search {
        anchors: parse_all(anchors),
        intermediates: parse_all(intermediates),
        purpose,
        now: ASN1Time::from_timestamp(now.div_euclid(1000)).map_err(|_| ChainError::Date)?,
    };
    search.check(&leaf)?;
    if search.anchors.iter().any(|anchor| anchor.as_raw() == leaf.as_raw()) {
        return Ok(());
    }
    match search.leads_to_anchor(&leaf, 0, &mut 0) {
        true => Ok(()),
        false => Err(ChainError::Untrusted),
    }
}

fn parse_all<'a>(certificates: &'a [CertificateDer<'_>]) -> Vec<X509Certificate<'a>> {
    certificates.iter().filter_map(|der| parse(der).ok()).collect()
}

struct Search<'a> {
    anchors: Vec<X509Certificate<'a>>,
    intermediates: Vec<X509Certificate<'a>>,
    purpose: Purpose,
    now: ASN1Time,
}

impl Search<'_> {
    /// What every certificate of a chain has to fulfil.
    fn check(&self, certificate: &X509Certificate<'_>) -> Result<(), ChainError> {
        if !certificate.validity().is_valid_at(self.now) {
            return Err(ChainError::Date);
        }
        let is_unclear = |extension: &X509Extension<'_>| match extension.parsed_extension() {
            // Not evaluated here, so whoever restricts names is left to the strict verifier.
            ParsedExtension::NameConstraints(_) => true,
            parsed => extension.critical && !is_understood(parsed),
        };
        if certificate.extensions().iter().any(is_unclear) {
            return Err(ChainError::Critical);
        }
        match certificate.extended_key_usage() {
            Ok(None) => Ok(()),
            Ok(Some(usage)) => match self.purpose {
                Purpose::Client if usage.value.client_auth || usage.value.any => Ok(()),
                Purpose::Server if usage.value.server_auth || usage.value.any => Ok(()),
                _ => Err(ChainError::Purpose),
            },
            Err(_) => Err(ChainError::Unreadable),
        }
    }

    /// Looks for an issuer among the anchors, then among what was presented; `below` counts the issuers so far.
    fn leads_to_anchor(&self, certificate: &X509Certificate<'_>, below: usize, signatures: &mut usize) -> bool {
        let mut has_issued = |issuer: &X509Certificate<'_>| {
            issuer.subject().as_raw() == certificate.issuer().as_raw()
                && may_issue(issuer, below)
                && self.check(issuer).is_ok()
                && has_signed(issuer, certificate, signatures)
        };
        if self.anchors.iter().any(&mut has_issued) {
            return true;
        }
        if below + 2 > MAX_DEPTH {
            return false;
        }
        let issuers: Vec<_> = self.intermediates.iter().filter(|issuer| has_issued(issuer)).collect();
        issuers.into_iter().any(|issuer| {
            issuer.as_raw() != certificate.as_raw() && self.leads_to_anchor(issuer, below + 1, signatures)
        })
    }
}

fn has_signed(issuer: &X509Certificate<'_>, certificate: &X509Certificate<'_>, signatures: &mut usize) -> bool {
    *signatures += 1;
    *signatures <= MAX_SIGNATURES && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

/// True if the certificate may issue others, with `below` issuers between it and the leaf.
fn may_issue(issuer: &X509Certificate<'_>, below: usize) -> bool {
    let may_sign = match issuer.key_usage() {
        Ok(Some(usage)) => Some(usage.value.key_cert_sign()),
        Ok(None) => None,
        Err(_) => return false,
    };
    match issuer.basic_constraints() {
        Ok(Some(constraints)) => {
            let length = constraints.value.path_len_constraint;
            constraints.value.ca && may_sign != Some(false) && length.is_none_or(|length| below <= length as usize)
        }
        // Version 1 knows no constraints: a self-issued one counts as an authority.
        Ok(None) if issuer.extensions().is_empty() => issuer.subject().as_raw() == issuer.issuer().as_raw(),
        Ok(None) => may_sign == Some(true),
        Err(_) => false,
    }
}

/// True for extensions that are checked here or need no check.
fn is_understood(extension: &ParsedExtension<'_>) -> bool {
    matches!(
        extension,
        ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::CertificatePolicies(_)
            | ParsedExtension::NSCertType(_)
    )
}

#[cfg(test)]
mod tests {
    use super::super::certificate::chain_from_pem;
    use super::*;

    /// 2030-01-01.
    const NOW: Millis = 1_893_456_000_000;
    const ROOT: &str = include_str!("testdata/ca.pem");
    const SUB: &str = include_str!("testdata/sub.pem");
    const LEAF: &str = include_str!("testdata/leaf.pem");
    const VERSION_1: &str = include_str!("testdata/v1.pem");
    const SERVER_ONLY: &str = include_str!("testdata/serveronly.pem");
    const ISSUED_BY_LEAF: &str = include_str!("testdata/issued-by-leaf.pem");
    const SELF_SIGNED: &str = include_str!("testdata/ec-cert.pem");

    fn client(presented: &[&str], anchors: &[&str]) -> Result<(), ChainError> {
        at(NOW, Purpose::Client, presented, anchors)
    }

    fn at(now: Millis, purpose: Purpose, presented: &[&str], anchors: &[&str]) -> Result<(), ChainError> {
        let read = |pems: &[&str]| chain_from_pem(&pems.concat()).unwrap_or_default();
        verify(&read(presented), &read(anchors), purpose, now)
    }

    #[test]
    fn a_leaf_leads_to_its_root_by_what_was_presented() {
        assert_eq!(client(&[LEAF, SUB], &[SELF_SIGNED, ROOT]), Ok(()));
        assert_eq!(client(&[LEAF, SELF_SIGNED, SUB, ROOT], &[ROOT]), Ok(()));
        assert_eq!(client(&[LEAF], &[SUB]), Ok(()));
        assert_eq!(client(&[LEAF], &[ROOT]), Err(ChainError::Untrusted));
        assert_eq!(client(&[LEAF, SUB], &[]), Err(ChainError::Untrusted));
        assert_eq!(client(&[LEAF, SUB, ROOT], &[SELF_SIGNED]), Err(ChainError::Untrusted));
        assert_eq!(client(&[], &[ROOT]), Err(ChainError::Unreadable));
    }

    #[test]
    fn certificates_as_tutorials_make_them_are_accepted() {
        assert_eq!(client(&[VERSION_1], &[ROOT]), Ok(()));
        assert_eq!(client(&[SELF_SIGNED], &[SELF_SIGNED]), Ok(()));
    }

    #[test]
    fn who_is_no_authority_cannot_issue() {
        assert_eq!(
            client(&[ISSUED_BY_LEAF, LEAF, SUB], &[ROOT]),
            Err(ChainError::Untrusted)
        );
        assert_eq!(client(&[ISSUED_BY_LEAF], &[LEAF]), Err(ChainError::Untrusted));
    }

    #[test]
    fn dates_count_for_the_whole_chain() {
        assert_eq!(at(0, Purpose::Client, &[VERSION_1], &[ROOT]), Err(ChainError::Date));
        assert_eq!(
            at(9_000_000_000_000, Purpose::Client, &[SELF_SIGNED], &[SELF_SIGNED]),
            Err(ChainError::Date)
        );
    }

    #[test]
    fn a_certificate_for_servers_is_none_for_clients() {
        assert_eq!(client(&[SERVER_ONLY], &[ROOT]), Err(ChainError::Purpose));
        assert_eq!(at(NOW, Purpose::Server, &[SERVER_ONLY], &[ROOT]), Ok(()));
    }

    #[test]
    fn a_forged_signature_leads_nowhere() {
        let mut forged = chain_from_pem(VERSION_1).unwrap()[0].to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let anchors = chain_from_pem(ROOT).unwrap();

        assert_eq!(
            verify(&[forged.into()], &anchors, Purpose::Client, NOW),
            Err(ChainError::Untrusted)
        );
    }
}
