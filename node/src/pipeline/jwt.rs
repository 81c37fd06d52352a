//! JSON Web Tokens: whom a bearer token speaks for.
//!
//! The key is a shared secret, a public key or certificate in PEM form, or comes from a key server ([`jwks`]). Rules are
//! OpenHIM's: the algorithm must be listed, `iss` must be the configured one, `aud` must name one of the configured, and
//! `exp` and `nbf` hold to the second. A shared secret never verifies a public-key algorithm, nor the other way round.

mod jwks;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use self::jwks::KeyServer;
pub use self::jwks::{FetchError, TlsSource};
use crate::clock::Clock;
use crate::config::Jwt;
use crate::crypto::certificate::chain_from_pem;

/// Where OpenHIM looks for a file that the setting names.
const KEY_FOLDER: &str = "resources/certs/jwt";

/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// Why a token speaks for nobody.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    #[error("JWT Algorithm not specified")]
    NoAlgorithms,
    #[error("no key to verify tokens with is configured")]
    NoKey,
    #[error("the configured key is neither a secret nor a public key that tokens are verified with")]
    BadKey,
    #[error("the token is too long")]
    TooLong,
    #[error("the token's algorithm is not allowed")]
    Algorithm,
    #[error("the token is malformed or its signature is wrong: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
    #[error("the token has expired")]
    Expired,
    #[error("the token is not yet valid")]
    NotYetValid,
    #[error("the token's `{0}` is not the configured one")]
    Claim(&'static str),
    #[error("the token has no subject")]
    NoSubject,
    #[error("the token names no key")]
    NoKeyId,
    #[error("Public key not found in JWKS cache")]
    UnknownKey,
}

/// Verifies bearer tokens as `authentication.jwt` says.
#[derive(Debug)]
pub struct JwtVerifier {
    key: Key,
    algorithms: Vec<Algorithm>,
    audience: Vec<String>,
    issuer: String,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
enum Key {
    None,
    /// The configured text is no usable key.
    Bad,
    Fixed(DecodingKey),
    Server(KeyServer),
}

impl JwtVerifier {
    /// A verifier as the settings say. A key server is first asked when the first token arrives, or by
    /// [`JwtVerifier::prepare`]. `tls` gives the configuration for a server that is asked over TLS.
    pub fn new(settings: &Jwt, clock: Arc<dyn Clock>, tls: TlsSource) -> Self {
        let list = |text: &str| {
            text.split(' ')
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let key = key_text(&settings.secret_or_public_key);
        Self {
            key: match (key.is_empty(), settings.jwks_uri.is_empty()) {
                (false, _) => fixed(&key).map_or(Key::Bad, Key::Fixed),
                (true, false) => Key::Server(KeyServer::new(&settings.jwks_uri, Arc::clone(&clock), tls)),
                (true, true) => Key::None,
            },
            algorithms: list(&settings.algorithms)
                .iter()
                .filter_map(|name| Algorithm::from_str(name).ok())
                .collect(),
            audience: list(&settings.audience),
            issuer: settings.issuer.clone(),
            clock,
        }
    }

    /// Loads the key server's keys, if there is one.
    ///
    /// # Errors
    /// It does not answer; it is asked again when a token needs it.
    pub async fn prepare(&self) -> Result<(), FetchError> {
        match &self.key {
            Key::Server(server) => server.load().await,
            _ => Ok(()),
        }
    }

    /// Whom the token speaks for: its `sub`.
    ///
    /// # Errors
    /// The token is not valid here and now.
    pub async fn verify(&self, token: &str) -> Result<String, JwtError> {
        if self.algorithms.is_empty() {
            return Err(JwtError::NoAlgorithms);
        }
        if token.len() > MAX_TOKEN {
            return Err(JwtError::TooLong);
        }
        let header = decode_header(token)?;
        if !self.algorithms.contains(&header.alg) {
            return Err(JwtError::Algorithm);
        }
        let key = match &self.key {
            Key::None => return Err(JwtError::NoKey),
            Key::Bad => return Err(JwtError::BadKey),
            Key::Fixed(key) => key.clone(),
            Key::Server(server) => {
                let id = header.kid.as_deref().ok_or(JwtError::NoKeyId)?;
                server.key(id).await.ok_or(JwtError::UnknownKey)?
            }
        };
        self.check(&signed_claims(token, &key, header.alg)?)
    }

    fn check(&self, claims: &Map<String, Value>) -> Result<String, JwtError> {
        let now = self.clock.now().div_euclid(1000) as f64;
        let time = |name: &'static str| match claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(JwtError::Claim(name)),
        };
        if time("nbf")?.is_some_and(|from| from > now) {
            return Err(JwtError::NotYetValid);
        }
        if time("exp")?.is_some_and(|until| now >= until) {
            return Err(JwtError::Expired);
        }
        if !self.audience.is_empty() && !self.is_audience(claims.get("aud")) {
            return Err(JwtError::Claim("aud"));
        }
        if !self.issuer.is_empty() && claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(JwtError::Claim("iss"));
        }
        match claims.get("sub").and_then(Value::as_str) {
            Some(subject) if !subject.is_empty() => Ok(subject.to_owned()),
            _ => Err(JwtError::NoSubject),
        }
    }

    fn is_audience(&self, claim: Option<&Value>) -> bool {
        let is_one = |value: &Value| {
            value
                .as_str()
                .is_some_and(|name| self.audience.iter().any(|known| known == name))
        };
        match claim {
            Some(Value::Array(names)) => names.iter().any(is_one),
            Some(name) => is_one(name),
            None => false,
        }
    }
}

/// Only the signature: the claims are checked here, by our clock and OpenHIM's rules.
/// The claims of a token that this key signed. They are not looked at.
///
/// # Errors
/// The token is none, or was signed otherwise.
pub fn signed_claims(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Map<String, Value>, JwtError> {
    if !key.family().algorithms().contains(&algorithm) {
        return Err(JwtError::Algorithm);
    }
    Ok(decode(token, key, &signature_only(algorithm))?.claims)
}

fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

/// The content of the file that the setting names in OpenHIM's folder or as a path, or the setting itself.
fn key_text(setting: &str) -> String {
    let is_name = !setting.is_empty() && setting.len() < 256 && !setting.contains('\n');
    let candidates = [Path::new(KEY_FOLDER).join(setting), Path::new(setting).to_owned()];
    let file = candidates.iter().filter(|_| is_name).find(|path| path.is_file());
    file.and_then(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_else(|| setting.to_owned())
}

/// The key that a text is: PEM of a public key or certificate, else a shared secret.
fn fixed(text: &str) -> Option<DecodingKey> {
    if !text.contains("-----BEGIN ") {
        return Some(DecodingKey::from_secret(text.as_bytes()));
    }
    if text.contains("-----BEGIN CERTIFICATE-----") {
        return of_certificate(text);
    }
    let pem = text.as_bytes();
    DecodingKey::from_rsa_pem(pem)
        .or_else(|_| DecodingKey::from_ec_pem(pem))
        .or_else(|_| DecodingKey::from_ed_pem(pem))
        .ok()
}

fn of_certificate(text: &str) -> Option<DecodingKey> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    use x509_parser::public_key::PublicKey;

    let chain = chain_from_pem(text).ok()?;
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let public = certificate.public_key();
    match public.parsed().ok()? {
        PublicKey::RSA(key) => {
            let plain = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                bytes[zeros..].to_vec()
            };
            Some(DecodingKey::from_rsa_raw_components(
                &plain(key.modulus),
                &plain(key.exponent),
            ))
        }
        PublicKey::EC(_) => Some(DecodingKey::from_ec_der(&public.subject_public_key.data)),
        _ => None,
    }
}

/// True for keys that everybody may know; a shared secret has no place on a key server.
fn is_public(key: &DecodingKey) -> bool {
    key.family() != AlgorithmFamily::Hmac
}
