//! Certificates: reading what is shown and compared of them, and making self-signed ones.

use std::net::IpAddr;

use rcgen::{CertificateParams, DnType, DnValue, KeyPair, RsaKeySize, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha1::Digest as _;
use time::OffsetDateTime;
use x509_parser::oid_registry::{self, Oid};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::clock::Millis;

/// Certificates that one PEM text may hold; more are not read.
const MAX_CERTIFICATES: usize = 64;

/// How long a made certificate is valid unless told otherwise.
const DEFAULT_DAYS: u32 = 365;

/// The longest validity that is made: a hundred years.
const MAX_DAYS: u32 = 36_525;

const MILLIS_PER_DAY: i64 = 86_400_000;

/// Object identifier of `emailAddress` in a subject.
const EMAIL_ADDRESS: [u64; 7] = [1, 2, 840, 113_549, 1, 9, 1];

/// Why a certificate cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("no certificate in PEM form found")]
    Missing,
    #[error("the certificate is not readable")]
    Unreadable,
    #[error("the country must be two letters")]
    Country,
    #[error("`{0}` has characters that a certificate cannot hold")]
    Characters(&'static str),
    #[error("keys of {0} bits cannot be made: 2048, 3072 or 4096")]
    KeySize(u32),
    #[error("a certificate can be valid for 1 to {MAX_DAYS} days")]
    Days,
    #[error("the certificate could not be made")]
    Generate(#[source] rcgen::Error),
}

/// What is shown of a certificate. A subject without one of the fields has an empty text there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    pub country: String,
    pub state: String,
    pub locality: String,
    pub organization: String,
    pub organization_unit: String,
    pub common_name: String,
    pub email_address: String,
    /// The common name of who signed it.
    pub issuer_common_name: String,
    pub not_before: Millis,
    pub not_after: Millis,
    /// SHA-1 of the certificate, in upper-case pairs joined by colons.
    pub fingerprint: String,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// There is none, or it is not X.509.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        let first = CertificateDer::pem_slice_iter(pem.as_bytes()).next();
        Self::from_der(
            &first
                .ok_or(CertificateError::Missing)?
                .map_err(|_| CertificateError::Unreadable)?,
        )
    }

    /// Reads a certificate.
    ///
    /// # Errors
    /// It is not X.509.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let parsed = parse(der)?;
        let subject = |oid: &Oid<'_>| field(parsed.subject(), oid);
        let millis = |time: x509_parser::time::ASN1Time| time.timestamp().saturating_mul(1000);
        Ok(Self {
            country: subject(&oid_registry::OID_X509_COUNTRY_NAME),
            state: subject(&oid_registry::OID_X509_STATE_OR_PROVINCE_NAME),
            locality: subject(&oid_registry::OID_X509_LOCALITY_NAME),
            organization: subject(&oid_registry::OID_X509_ORGANIZATION_NAME),
            organization_unit: subject(&oid_registry::OID_X509_ORGANIZATIONAL_UNIT),
            common_name: subject(&oid_registry::OID_X509_COMMON_NAME),
            email_address: subject(&oid_registry::OID_PKCS9_EMAIL_ADDRESS),
            issuer_common_name: field(parsed.issuer(), &oid_registry::OID_X509_COMMON_NAME),
            not_before: millis(parsed.validity().not_before),
            not_after: millis(parsed.validity().not_after),
            fingerprint: fingerprint(der),
        })
    }
}

/// SHA-1 of a certificate in DER form, in upper-case pairs joined by colons.
pub fn fingerprint(der: &[u8]) -> String {
    let pairs: Vec<String> = sha1::Sha1::digest(der)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    pairs.join(":")
}

/// All certificates of a PEM text, in order. Other blocks and text between are passed over.
///
/// # Errors
/// A certificate's block is broken, or there is none.
pub fn chain_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MAX_CERTIFICATES)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::Unreadable)?;
    if chain.is_empty() {
        return Err(CertificateError::Missing);
    }
    chain.iter().try_for_each(|der| parse(der).map(drop))?;
    Ok(chain)
}

/// Cuts a concatenation of certificates into single ones, without reading them: each ends with its `END` line and one
/// newline, and blank lines are dropped. What follows the last `END` line is dropped too.
pub fn split_pem(pem: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block = String::new();
    for line in pem.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        block.push_str(line);
        block.push('\n');
        if line.contains("-END CERTIFICATE-") {
            blocks.push(std::mem::take(&mut block));
        }
    }
    blocks
}

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Unreadable),
    }
}

/// The first value of a subject's field, as text.
fn field(name: &X509Name<'_>, oid: &Oid<'_>) -> String {
    let value = name.iter_by_oid(oid).next().map(|attribute| attribute.attr_value());
    let Some(value) = value else {
        return String::new();
    };
    match value.header.tag() {
        // UTF-16 and UTF-32, which old tools wrote.
        x509_parser::asn1_rs::Tag::BmpString => {
            let units = value
                .data
                .chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units)
                .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        x509_parser::asn1_rs::Tag::UniversalString => value
            .data
            .chunks_exact(4)
            .map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
            .map(|code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
        _ => String::from_utf8_lossy(value.data).into_owned(),
    }
}

/// What a self-signed certificate shall say. Empty texts are left out of the subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelfSigned {
    /// Absent: `localhost`.
    pub common_name: Option<String>,
    pub country: String,
    pub state: String,
    pub locality: String,
    pub organization: String,
    pub organization_unit: String,
    pub email_address: String,
    /// Absent: 365.
    pub days: Option<u32>,
    /// Absent: 2048.
    pub key_bits: Option<u32>,
    /// Names and addresses besides the common name.
    pub alternative_names: Vec<String>,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl SelfSigned {
    /// Makes an RSA key and a certificate signed with it. Takes a second at times: call it from a blocking thread.
    ///
    /// # Errors
    /// A value cannot be put into a certificate.
    pub fn generate(&self, now: Millis) -> Result<Pair, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = self.subject()?;
        params.subject_alt_names = self.alternatives();
        let days = self.days.unwrap_or(DEFAULT_DAYS);
        if !(1..=MAX_DAYS).contains(&days) {
            return Err(CertificateError::Days);
        }
        params.not_before = date(now)?;
        params.not_after = date(now.saturating_add(i64::from(days) * MILLIS_PER_DAY))?;
        let key =
            KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, self.key_size()?).map_err(CertificateError::Generate)?;
        let certificate = params.self_signed(&key).map_err(CertificateError::Generate)?;
        Ok(Pair {
            certificate: unix_lines(&certificate.pem()),
            key: unix_lines(&key.serialize_pem()),
        })
    }

    fn common_name(&self) -> &str {
        self.common_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or("localhost")
    }

    fn key_size(&self) -> Result<RsaKeySize, CertificateError> {
        match self.key_bits.unwrap_or(2048) {
            2048 => Ok(RsaKeySize::_2048),
            3072 => Ok(RsaKeySize::_3072),
            4096 => Ok(RsaKeySize::_4096),
            bits => Err(CertificateError::KeySize(bits)),
        }
    }

    fn subject(&self) -> Result<rcgen::DistinguishedName, CertificateError> {
        let mut subject = rcgen::DistinguishedName::new();
        if !self.country.is_empty() {
            let is_country = self.country.len() == 2 && self.country.bytes().all(|byte| byte.is_ascii_alphabetic());
            let country = self.country.as_str().try_into().ok().filter(|_| is_country);
            subject.push(
                DnType::CountryName,
                DnValue::PrintableString(country.ok_or(CertificateError::Country)?),
            );
        }
        for (kind, name, text) in [
            (DnType::StateOrProvinceName, "state", self.state.as_str()),
            (DnType::LocalityName, "locality", &self.locality),
            (DnType::OrganizationName, "organization", &self.organization),
            (
                DnType::OrganizationalUnitName,
                "organizationUnit",
                &self.organization_unit,
            ),
            (DnType::CommonName, "commonName", self.common_name()),
        ] {
            if text.contains('\0') {
                return Err(CertificateError::Characters(name));
            }
            if !text.is_empty() {
                subject.push(kind, text);
            }
        }
        if !self.email_address.is_empty() {
            let address = self.email_address.as_str().try_into();
            let address = address.map_err(|_| CertificateError::Characters("emailAddress"))?;
            subject.push(
                DnType::CustomDnType(EMAIL_ADDRESS.to_vec()),
                DnValue::Ia5String(address),
            );
        }
        Ok(subject)
    }

    /// The names that TLS clients compare; a common name that can't be a host name stays out.
    fn alternatives(&self) -> Vec<SanType> {
        let names = std::iter::once(self.common_name()).chain(self.alternative_names.iter().map(String::as_str));
        let mut alternatives = Vec::new();
        for name in names {
            let alternative = match name.parse::<IpAddr>() {
                Ok(address) => Some(SanType::IpAddress(address)),
                Err(_) if is_host_name(name) => name.try_into().ok().map(SanType::DnsName),
                Err(_) => None,
            };
            alternatives.extend(alternative.filter(|alternative| !alternatives.contains(alternative)));
        }
        alternatives
    }
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*'))
}

fn date(at: Millis) -> Result<OffsetDateTime, CertificateError> {
    OffsetDateTime::from_unix_timestamp(at.div_euclid(1000)).map_err(|_| CertificateError::Days)
}

fn unix_lines(pem: &str) -> String {
    pem.replace("\r\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::private_key;

    const RSA: &str = include_str!("testdata/rsa-cert.pem");
    const ROOT: &str = include_str!("testdata/ca.pem");

    #[test]
    fn what_is_shown_of_a_certificate_is_read() {
        let certificate = Certificate::from_pem(RSA).unwrap();

        assert_eq!(
            certificate,
            Certificate {
                country: "ZA".into(),
                state: "Western Cape".into(),
                locality: "Cape Town".into(),
                organization: "Clinic".into(),
                organization_unit: "IT".into(),
                common_name: "clinic.example".into(),
                email_address: "it@clinic.example".into(),
                issuer_common_name: "clinic.example".into(),
                not_before: 1_795_575_761_000,
                not_after: 4_949_175_761_000,
                fingerprint: "C9:41:0E:74:21:7E:72:69:30:38:19:0E:C6:9B:8A:B2:36:D1:8A:66".into(),
            }
        );
    }

    #[test]
    fn absent_fields_are_empty() {
        let certificate = Certificate::from_pem(ROOT).unwrap();

        assert_eq!(certificate.common_name, "Test Root");
        assert_eq!(certificate.country, "");
        assert_eq!(certificate.email_address, "");
    }

    #[test]
    fn a_chain_is_found_among_other_text() {
        let text = format!(
            "junk\n{RSA}\r\nsubject=CN = x\n-----BEGIN X-----\nAAAA\n-----END X-----\n{}",
            ROOT.replace('\n', "\r\n")
        );

        let chain = chain_from_pem(&text).unwrap();

        assert_eq!(chain.len(), 2);
        assert_eq!(Certificate::from_der(&chain[1]).unwrap().common_name, "Test Root");
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        for text in [
            "",
            "junk",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
            &RSA[..400],
            &RSA.replace("MII", "!!!"),
        ] {
            assert!(Certificate::from_pem(text).is_err(), "{text}");
            assert!(chain_from_pem(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_concatenation_is_cut_into_single_certificates() {
        let blocks = split_pem(&format!(
            "\n{RSA}\n\nnot a certificate\n-----END CERTIFICATE-----\n{}\nrest",
            ROOT.trim_end()
        ));

        assert_eq!(blocks.len(), 3);
        assert_eq!(blocks[0], RSA);
        assert!(Certificate::from_pem(&blocks[1]).is_err());
        assert_eq!(blocks[2], ROOT);
        assert!(split_pem("nothing").is_empty());
    }

    #[test]
    fn a_made_certificate_says_what_was_asked_and_fits_its_key() {
        let now = 1_800_000_000_000;
        let asked = SelfSigned {
            common_name: Some("him.example".into()),
            country: "KE".into(),
            locality: "Kisumu".into(),
            email_address: "a@b.c".into(),
            days: Some(10),
            alternative_names: vec![
                "localhost".into(),
                "127.0.0.1".into(),
                "::1".into(),
                "him.example".into(),
            ],
            ..SelfSigned::default()
        };

        let pair = asked.generate(now).unwrap();

        let made = Certificate::from_pem(&pair.certificate).unwrap();
        assert_eq!(
            (made.common_name.as_str(), made.country.as_str()),
            ("him.example", "KE")
        );
        assert_eq!(
            (made.locality.as_str(), made.email_address.as_str()),
            ("Kisumu", "a@b.c")
        );
        assert_eq!((made.state.as_str(), made.organization.as_str()), ("", ""));
        assert_eq!((made.not_before, made.not_after), (now, now + 10 * MILLIS_PER_DAY));
        let chain = chain_from_pem(&pair.certificate).unwrap();
        let parsed = parse(&chain[0]).unwrap();
        assert_eq!(
            parsed
                .subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names
                .len(),
            4
        );
        let key = private_key::from_pem(&pair.key, None).unwrap();
        assert!(private_key::fits(&key, &chain[0]).unwrap());
    }

    #[test]
    fn the_name_is_localhost_unless_told_otherwise() {
        assert_eq!(SelfSigned::default().common_name(), "localhost");
        let named = SelfSigned {
            common_name: Some("Ministry of Health, Test".into()),
            ..SelfSigned::default()
        };
        assert!(named.alternatives().is_empty());
    }

    #[test]
    fn what_a_certificate_cannot_say_is_refused() {
        let with = |change: fn(&mut SelfSigned)| {
            let mut asked = SelfSigned::default();
            change(&mut asked);
            asked.generate(0).map(drop)
        };

        assert!(matches!(
            with(|asked| asked.country = "Kenya".into()),
            Err(CertificateError::Country)
        ));
        assert!(matches!(
            with(|asked| asked.key_bits = Some(512)),
            Err(CertificateError::KeySize(512))
        ));
        assert!(matches!(
            with(|asked| asked.days = Some(0)),
            Err(CertificateError::Days)
        ));
        assert!(matches!(
            with(|asked| asked.email_address = "é".into()),
            Err(CertificateError::Characters(_))
        ));
        assert!(matches!(
            with(|asked| asked.state = "\0".into()),
            Err(CertificateError::Characters("state"))
        ));
    }
}
