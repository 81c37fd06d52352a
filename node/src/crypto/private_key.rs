//! Private keys in the forms that OpenSSL writes: PKCS#8, PKCS#1 and SEC1, plain or encrypted with a passphrase.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use md5::Digest as _;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

use super::certificate::{CertificateError, parse};

/// Bytes of PEM that may hold a key.
const MAX_PEM: usize = 256 * 1024;

/// Why a private key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("no private key in PEM form found")]
    Missing,
    #[error("the private key is encrypted and there is no passphrase")]
    Encrypted,
    #[error("the passphrase does not open the private key")]
    WrongPassphrase,
    #[error("the private key is encrypted with `{0}`, which is not supported")]
    Cipher(String),
    #[error("the private key is not readable, or of a kind that TLS does not use")]
    Unsupported,
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Reads the first private key of a PEM text. An empty passphrase counts as none.
///
/// # Errors
/// There is no key, it is encrypted otherwise than the passphrase says, or it is of no known form.
pub fn from_pem(text: &str, passphrase: Option<&str>) -> Result<PrivateKeyDer<'static>, KeyError> {
    let blocks = match text.len() {
        0..=MAX_PEM => pem::parse_many(text).map_err(|_| KeyError::Unsupported)?,
        _ => return Err(KeyError::Unsupported),
    };
    let passphrase = passphrase.filter(|passphrase| !passphrase.is_empty());
    let block = blocks.into_iter().find(|block| block.tag().ends_with("PRIVATE KEY"));
    let block = block.ok_or(KeyError::Missing)?;
    let tag = block.tag().to_owned();
    if tag == "ENCRYPTED PRIVATE KEY" {
        return open_pkcs8(block.contents(), passphrase.ok_or(KeyError::Encrypted)?);
    }
    let der = match block.headers().get("DEK-Info") {
        Some(info) => open_traditional(block.contents(), info, passphrase.ok_or(KeyError::Encrypted)?)?,
        None => block.into_contents(),
    };
    Ok(match tag.as_str() {
        "PRIVATE KEY" => PrivatePkcs8KeyDer::from(der).into(),
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(der).into(),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(der).into(),
        _ => return Err(KeyError::Unsupported),
    })
}

/// True if a PEM text holds an encrypted key.
pub fn is_encrypted(text: &str) -> bool {
    matches!(from_pem(text, None), Err(KeyError::Encrypted))
}

/// True if the certificate was made for the key.
///
/// # Errors
/// Either cannot be read.
pub fn fits(key: &PrivateKeyDer<'_>, certificate: &[u8]) -> Result<bool, KeyError> {
    let certificate = parse(certificate)?;
    let signer = any_supported_type(key).map_err(|_| KeyError::Unsupported)?;
    let public = signer.public_key().ok_or(KeyError::Unsupported)?;
    let (_, public) = SubjectPublicKeyInfo::from_der(&public).map_err(|_| KeyError::Unsupported)?;
    let certified = certificate.public_key();
    Ok(public.algorithm.algorithm == certified.algorithm.algorithm
        && public.subject_public_key.data == certified.subject_public_key.data)
}

fn open_pkcs8(der: &[u8], passphrase: &str) -> Result<PrivateKeyDer<'static>, KeyError> {
    let sealed = pkcs8::EncryptedPrivateKeyInfoRef::try_from(der).map_err(|_| KeyError::Unsupported)?;
    let opened = sealed.decrypt(passphrase).map_err(|_| KeyError::WrongPassphrase)?;
    Ok(PrivatePkcs8KeyDer::from(opened.as_bytes().to_vec()).into())
}

/// Opens what `DEK-Info: CIPHER,IV` describes.
fn open_traditional(sealed: &[u8], info: &str, passphrase: &str) -> Result<Vec<u8>, KeyError> {
    let (cipher, iv) = info.split_once(',').ok_or(KeyError::Unsupported)?;
    let iv = from_hex(iv.trim()).ok_or(KeyError::Unsupported)?;
    let opened = match cipher.trim() {
        "AES-128-CBC" => decrypt::<cbc::Decryptor<aes::Aes128>>(sealed, passphrase, &iv, 16),
        "AES-192-CBC" => decrypt::<cbc::Decryptor<aes::Aes192>>(sealed, passphrase, &iv, 24),
        "AES-256-CBC" => decrypt::<cbc::Decryptor<aes::Aes256>>(sealed, passphrase, &iv, 32),
        "DES-EDE3-CBC" => decrypt::<cbc::Decryptor<des::TdesEde3>>(sealed, passphrase, &iv, 24),
        "DES-CBC" => decrypt::<cbc::Decryptor<des::Des>>(sealed, passphrase, &iv, 8),
        other => return Err(KeyError::Cipher(other.chars().take(40).collect())),
    };
    // The padding is the only check there is; one wrong passphrase in 256 passes it and yields no ASN.1.
    opened
        .filter(|der| der.first() == Some(&0x30))
        .ok_or(KeyError::WrongPassphrase)
}

fn decrypt<C: BlockModeDecrypt + KeyIvInit>(
    sealed: &[u8],
    passphrase: &str,
    iv: &[u8],
    length: usize,
) -> Option<Vec<u8>> {
    let key = derive(passphrase.as_bytes(), iv.get(..8)?, length);
    let mut buffer = sealed.to_vec();
    let cipher = C::new_from_slices(&key, iv).ok()?;
    let opened = cipher.decrypt_padded::<Pkcs7>(&mut buffer).ok()?.len();
    buffer.truncate(opened);
    Some(buffer)
}

/// OpenSSL's key derivation for such files: MD5, one round.
fn derive(passphrase: &[u8], salt: &[u8], length: usize) -> Vec<u8> {
    let mut key: Vec<u8> = Vec::new();
    let mut last: Vec<u8> = Vec::new();
    while key.len() < length {
        let mut digest = md5::Md5::new();
        digest.update(&last);
        digest.update(passphrase);
        digest.update(salt);
        last = digest.finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(length);
    key
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    Some(
        digits?
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::certificate::chain_from_pem;
    use super::*;

    const RSA_CERTIFICATE: &str = include_str!("testdata/rsa-cert.pem");
    const EC_CERTIFICATE: &str = include_str!("testdata/ec-cert.pem");
    const PLAIN: [&str; 2] = [
        include_str!("testdata/rsa-pkcs1.pem"),
        include_str!("testdata/rsa-pkcs8.pem"),
    ];
    const SEALED: [&str; 3] = [
        include_str!("testdata/rsa-pkcs8-encrypted.pem"),
        include_str!("testdata/rsa-traditional-aes.pem"),
        include_str!("testdata/rsa-traditional-des3.pem"),
    ];
    const EC: &str = include_str!("testdata/ec-sec1.pem");

    fn fits_pem(key: &str, passphrase: Option<&str>, certificate: &str) -> bool {
        let key = from_pem(key, passphrase).unwrap();
        fits(&key, &chain_from_pem(certificate).unwrap()[0]).unwrap()
    }

    #[test]
    fn a_key_in_any_form_fits_its_certificate_and_no_other() {
        for key in PLAIN {
            assert!(fits_pem(key, None, RSA_CERTIFICATE));
            assert!(!fits_pem(key, None, EC_CERTIFICATE));
        }
        for key in SEALED {
            assert!(fits_pem(key, Some("secret"), RSA_CERTIFICATE), "{key}");
        }
        assert!(fits_pem(EC, None, EC_CERTIFICATE));
        assert!(!fits_pem(include_str!("testdata/leaf.key"), None, EC_CERTIFICATE));
    }

    #[test]
    fn a_plain_key_does_not_mind_a_passphrase() {
        assert!(fits_pem(PLAIN[0], Some("unused"), RSA_CERTIFICATE));
    }

    #[test]
    fn an_encrypted_key_asks_for_its_passphrase() {
        for key in SEALED {
            assert!(is_encrypted(key));
            assert!(matches!(from_pem(key, Some("")), Err(KeyError::Encrypted)));
            assert!(
                matches!(from_pem(key, Some("Secret")), Err(KeyError::WrongPassphrase)),
                "{key}"
            );
        }
        assert!(!is_encrypted(PLAIN[0]));
    }

    #[test]
    fn windows_lines_and_text_around_do_not_matter() {
        let key = format!(
            "Bag Attributes\r\n{}\r\n{RSA_CERTIFICATE}",
            SEALED[1].replace('\n', "\r\n")
        );

        assert!(fits_pem(&key, Some("secret"), RSA_CERTIFICATE));
    }

    #[test]
    fn what_is_no_key_is_an_error() {
        assert!(matches!(from_pem("", None), Err(KeyError::Missing)));
        assert!(matches!(from_pem(RSA_CERTIFICATE, None), Err(KeyError::Missing)));
        for text in [
            "-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,zz\n\nAAAA\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC\n\nAAAA\n-----END RSA PRIVATE KEY-----",
        ] {
            assert!(
                matches!(from_pem(text, Some("secret")), Err(KeyError::Unsupported)),
                "{text}"
            );
        }
        let short = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----";
        assert!(matches!(
            from_pem(short, Some("secret")),
            Err(KeyError::WrongPassphrase)
        ));
        let unreadable = from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", None).unwrap();
        assert!(fits(&unreadable, &chain_from_pem(RSA_CERTIFICATE).unwrap()[0]).is_err());
    }
}
