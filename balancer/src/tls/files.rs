//! Certificates and keys from PEM files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::provider;

/// Longest file that is read: a bundle of all the world's authorities is a quarter of it.
const LONGEST: u64 = 1 << 20;

/// What is wrong with a file. Its text names the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{} cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} {problem}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
    /// The system has no certificates to trust.
    #[error("this machine has no trusted certificates; install ca-certificates, or name a file in `backend_ca`")]
    NoneTrusted,
    /// TLS cannot be set up like that.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

impl FileError {
    /// The file it is about.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Read { file, .. } | Self::Content { file, .. } => Some(file),
            Self::NoneTrusted | Self::Setup(_) => None,
        }
    }
}

fn content(file: &Path, problem: impl Into<String>) -> FileError {
    FileError::Content {
        file: file.to_owned(),
        problem: problem.into(),
    }
}

/// Reads a file whole.
///
/// # Errors
/// It cannot be read, or is too long to be what it should be.
pub fn read(file: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let reading = File::open(file).and_then(|open| open.take(LONGEST + 1).read_to_end(&mut bytes));
    reading.map_err(|source| FileError::Read {
        file: file.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > LONGEST {
        return Err(content(file, "is longer than a megabyte"));
    }
    Ok(bytes)
}

/// A certificate with its key, and what it says of itself.
#[derive(Debug)]
pub struct Pair {
    /// For handshakes.
    pub certified: CertifiedKey,
    /// Names it is for, in lower case; `*.` at most at the start.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

/// Reads a certificate, with the chain behind it, and its key.
///
/// # Errors
/// One of them is missing or broken, or they do not belong together.
pub fn pair(certificate: &Path, key: &Path) -> Result<Pair, FileError> {
    let chain = certificates(certificate)?;
    let private = private_key(key)?;
    let signer = provider().key_provider.load_private_key(private);
    let signer = signer.map_err(|error| content(key, format!("holds a private key that cannot be used: {error}")))?;
    let (names, not_after) = described(certificate, &chain[0])?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => {
            let problem = format!("does not belong to the certificate in {}", certificate.display());
            return Err(content(key, problem));
        }
    }
    Ok(Pair {
        certified,
        names,
        not_after,
    })
}

/// Reads certificates of authorities.
///
/// # Errors
/// There is none, or one that is broken.
pub fn authorities(file: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        let added = roots.add(certificate);
        added.map_err(|error| content(file, format!("holds a certificate that cannot be trusted: {error}")))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let bytes = read(file)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(list) if list.is_empty() => Err(content(file, "holds no certificate in PEM")),
        Ok(list) => Ok(list),
        Err(error) => Err(content(file, format!("is not valid PEM: {error}"))),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let bytes = read(file)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => {
            let text = String::from_utf8_lossy(&bytes);
            let is_encrypted = text.contains("BEGIN ENCRYPTED PRIVATE KEY");
            content(
                file,
                if is_encrypted {
                    "holds an encrypted key; write it without a passphrase"
                } else {
                    "holds no private key in PEM"
                },
            )
        }
        other => content(file, format!("is not valid PEM: {other}")),
    })
}

/// The names a certificate is for, and when it ends.
fn described(file: &Path, certificate: &CertificateDer<'_>) -> Result<(Vec<String>, i64), FileError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| content(file, format!("holds a certificate that cannot be read: {error}")))?;
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let mut names: Vec<String> = alternatives
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        let common = parsed.subject().iter_common_name().next();
        names.extend(common.and_then(|name| name.as_str().ok()).map(str::to_ascii_lowercase));
    }
    Ok((names, parsed.validity().not_after.timestamp()))
}
