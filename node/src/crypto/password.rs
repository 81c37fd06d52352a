//! Secrets of clients, passwords of users.
//!
//! Checking a bcrypt hash takes a tenth of a second by intent: whoever calls from an async task asks [`Stored::is_slow`]
//! first and moves the call to a blocking thread. [`Remembered`] makes sure that this is paid once and not on each
//! request.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::digest::Digest;
use super::token::same;

/// bcrypt looks at so many bytes of a password.
const BCRYPT_BYTES: usize = 72;

/// A hash with a higher cost than this would occupy a thread for minutes and is refused.
const MAX_BCRYPT_COST: u32 = 18;

/// Clients whose secret may be remembered.
const MAX_REMEMBERED: usize = 20_000;

/// Why there is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("bcrypt's cost must lie between 4 and {MAX_BCRYPT_COST}")]
    Cost,
    #[error("the password could not be hashed")]
    Hash,
}

/// What a client's document says of its secret.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// A digest's name; any other name means bcrypt.
    pub algorithm: &'a str,
    pub hash: &'a str,
    /// Follows the secret in a digest; unused by bcrypt.
    pub salt: &'a str,
}

impl Stored<'_> {
    /// True if [`Stored::admits`] takes long.
    pub fn is_slow(&self) -> bool {
        Digest::named(self.algorithm).is_none()
    }

    /// True if `secret` is the client's.
    pub fn admits(&self, secret: &str) -> bool {
        match Digest::named(self.algorithm) {
            Some(digest) => same(
                digest.hex(&[secret.as_bytes(), self.salt.as_bytes()]).as_bytes(),
                self.hash.as_bytes(),
            ),
            None => verify_bcrypt(self.hash, secret),
        }
    }
}

impl fmt::Debug for Stored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// True if `hash` is bcrypt's (`$2a$`, `$2b$`, `$2y$`) of `password`. Slow.
pub fn verify_bcrypt(hash: &str, password: &str) -> bool {
    let cost = hash.parse::<bcrypt::HashParts>().map(|parts| parts.get_cost());
    let is_affordable = cost.is_ok_and(|cost| cost <= MAX_BCRYPT_COST);
    is_affordable && bcrypt::verify(significant(password), hash).unwrap_or(false)
}

/// bcrypt's hash of a password, in the form `$2a$`. Slow.
///
/// # Errors
/// The cost is out of range.
pub fn hash_bcrypt(password: &str, cost: u32) -> Result<String, PasswordError> {
    if !(4..=MAX_BCRYPT_COST).contains(&cost) {
        return Err(PasswordError::Cost);
    }
    let parts = bcrypt::hash_with_result(significant(password), cost).map_err(|_| PasswordError::Hash)?;
    Ok(parts.format_for_version(bcrypt::Version::TwoA))
}

fn significant(password: &str) -> &[u8] {
    &password.as_bytes()[..password.len().min(BCRYPT_BYTES)]
}

/// What a token passport keeps of a password: the digest of salt and password. `None` for an unknown digest.
pub fn token_hash(algorithm: &str, salt: &str, password: &str) -> Option<String> {
    Some(Digest::named(algorithm)?.hex(&[salt.as_bytes(), password.as_bytes()]))
}

/// True if `token` is the digest of a token passport's hash, the salt of the request and its time as written there.
pub fn verify_token(algorithm: &str, hash: &str, salt: &str, time: &str, token: &str) -> bool {
    Digest::named(algorithm).is_some_and(|digest| {
        let expected = digest.hex(&[hash.as_bytes(), salt.as_bytes(), time.as_bytes()]);
        same(expected.as_bytes(), token.as_bytes())
    })
}

/// Which client has already proved itself with which secret.
///
/// What is kept is a hash of secret and stored hash under a key that only this process has: useless outside, and void as
/// soon as the client's document says something else.
pub struct Remembered {
    key: [u8; 32],
    proofs: RwLock<HashMap<Box<str>, [u8; 32]>>,
}

impl Remembered {
    /// Knows nobody.
    pub fn new() -> Self {
        Self {
            key: rand::random(),
            proofs: RwLock::default(),
        }
    }

    /// True if this client has proved itself with this secret against this stored hash.
    pub fn knows(&self, client: &str, stored: &Stored<'_>, secret: &str) -> bool {
        let proofs = self.proofs.read().unwrap_or_else(PoisonError::into_inner);
        proofs
            .get(client)
            .is_some_and(|proof| same(proof, &self.proof(stored, secret)))
    }

    /// Remembers a success, in place of the client's earlier one.
    pub fn remember(&self, client: &str, stored: &Stored<'_>, secret: &str) {
        let proof = self.proof(stored, secret);
        let mut proofs = self.proofs.write().unwrap_or_else(PoisonError::into_inner);
        if proofs.len() >= MAX_REMEMBERED && !proofs.contains_key(client) {
            // Rare, and costs each client one slow check.
            proofs.clear();
        }
        proofs.insert(client.into(), proof);
    }

    /// Forgets the clients that `keep` does not want.
    pub fn retain(&self, mut keep: impl FnMut(&str) -> bool) {
        let mut proofs = self.proofs.write().unwrap_or_else(PoisonError::into_inner);
        proofs.retain(|client, _| keep(client));
    }

    fn proof(&self, stored: &Stored<'_>, secret: &str) -> [u8; 32] {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            // Unreachable: HMAC takes keys of any length. Random bytes equal no proof.
            return rand::random();
        };
        for part in [stored.algorithm, stored.hash, stored.salt, secret] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

impl Default for Remembered {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored<'a>(algorithm: &'a str, hash: &'a str, salt: &'a str) -> Stored<'a> {
        Stored { algorithm, hash, salt }
    }

    #[test]
    fn a_clients_digest_is_of_secret_and_salt_in_this_order() {
        let hash = Digest::Sha512.hex(&[b"secretsalt"]);

        assert!(stored("sha512", &hash, "salt").admits("secret"));
        assert!(stored("RSA-SHA512", &hash, "salt").admits("secret"));
        assert!(!stored("sha512", &hash, "salt").admits("Secret"));
        assert!(!stored("sha512", &Digest::Sha512.hex(&[b"saltsecret"]), "salt").admits("secret"));
        assert!(!stored("sha512", &hash.to_uppercase(), "salt").admits("secret"));
        assert!(!stored("sha512", "", "").admits(""));
    }

    #[test]
    fn a_missing_salt_is_an_empty_one() {
        assert!(stored("md5", "900150983cd24fb0d6963f7d28e17f72", "").admits("abc"));
    }

    #[test]
    fn bcrypt_hashes_of_every_version_are_accepted() {
        // "U*U" with cost 5, from the test vectors of crypt_blowfish.
        for version in ["$2a$", "$2b$", "$2y$"] {
            let hash = format!("{version}05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW");
            assert!(stored("bcrypt", &hash, "ignored").admits("U*U"), "{version}");
            assert!(!stored("bcrypt", &hash, "").admits("U*V"), "{version}");
        }
    }

    #[test]
    fn what_is_no_hash_admits_nobody() {
        for hash in [
            "",
            "x",
            "$2a$",
            "$2a$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        ] {
            assert!(!stored("bcrypt", hash, "").admits("U*U"), "{hash}");
            assert!(!stored("whirlpool", hash, "").admits("U*U"), "{hash}");
        }
    }

    #[test]
    fn a_users_hash_is_made_as_openhim_writes_it() {
        let hash = hash_bcrypt("openhim-password", 4).unwrap();

        assert!(hash.starts_with("$2a$04$"));
        assert!(verify_bcrypt(&hash, "openhim-password"));
        assert!(!verify_bcrypt(&hash, "openhim-passwore"));
        assert_eq!(hash_bcrypt("x", 3), Err(PasswordError::Cost));
        assert_eq!(hash_bcrypt("x", 31), Err(PasswordError::Cost));
    }

    #[test]
    fn only_the_first_72_bytes_of_a_password_count() {
        let long = "é".repeat(60);
        let hash = hash_bcrypt(&long, 4).unwrap();

        assert!(verify_bcrypt(&hash, &long[..72]));
        assert!(!verify_bcrypt(&hash, &long[..70]));
    }

    #[test]
    fn the_token_scheme_gives_the_root_users_known_hash() {
        let hash = token_hash("sha512", "d9bcb40e-ae65-478f-962e-5e5e5e7d0a01", "openhim-password").unwrap();
        assert_eq!(
            hash,
            "943a856bba65aad6c639d5c8d4a11fc8bb7fe9de62ae307aec8cf6ae6c1faab722127964c71db4bdd2ea2cdf60c6e4094dcad54d4522ab2839b65ae98100d0fb"
        );
        let token = Digest::Sha512.hex(&[hash.as_bytes(), b"salt", b"2026-11-22T11:30:48.123Z"]);
        assert!(verify_token(
            "sha512",
            &hash,
            "salt",
            "2026-11-22T11:30:48.123Z",
            &token
        ));
        assert!(!verify_token(
            "sha512",
            &hash,
            "salt",
            "2026-11-22T11:30:48.124Z",
            &token
        ));
        assert!(!verify_token("rot13", &hash, "salt", "", ""));
    }

    #[test]
    fn a_success_is_remembered_until_the_clients_hash_changes() {
        let remembered = Remembered::new();
        let (before, after) = (stored("bcrypt", "old", ""), stored("bcrypt", "new", ""));
        assert!(!remembered.knows("clinic", &before, "secret"));

        remembered.remember("clinic", &before, "secret");

        assert!(remembered.knows("clinic", &before, "secret"));
        assert!(!remembered.knows("clinic", &before, "Secret"));
        assert!(!remembered.knows("hospital", &before, "secret"));
        assert!(!remembered.knows("clinic", &after, "secret"));
        remembered.retain(|client| client != "clinic");
        assert!(!remembered.knows("clinic", &before, "secret"));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_of_this_process_alone() {
        let (one, other) = (Remembered::new(), Remembered::new());
        let hash = stored("bcrypt", "hash", "");
        for client in 0..=MAX_REMEMBERED {
            one.remember(&client.to_string(), &hash, "secret");
        }

        assert!(one.proofs.read().unwrap().len() <= MAX_REMEMBERED);
        assert!(one.knows(&MAX_REMEMBERED.to_string(), &hash, "secret"));
        assert_ne!(one.proof(&hash, "secret"), other.proof(&hash, "secret"));
        assert!(!format!("{one:?}{hash:?}").contains("hash\""));
    }
}
