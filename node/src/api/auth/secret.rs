//! Comparing secrets with what is stored of them.

use sha2::Digest;
use subtle::ConstantTimeEq;

use crate::clock::Millis;

/// True if `hash` is bcrypt's of `password`, of which the first 72 bytes count. Slow.
pub(super) fn matches_bcrypt(hash: &str, password: &str) -> bool {
    bcrypt::verify(password, hash).unwrap_or(false)
}

/// True if `hash` is the digest of salt and password.
pub(super) fn matches_digest(algorithm: &str, salt: &str, hash: &str, password: &str) -> bool {
    digest(algorithm, &[salt, password]).is_some_and(|made| same(&made, hash))
}

/// True if `given` is the digest of password hash, salt and time.
pub(super) fn matches_token(algorithm: &str, hash: &str, salt: &str, ts: &str, given: &str) -> bool {
    digest(algorithm, &[hash, salt, ts]).is_some_and(|made| same(&made, given))
}

/// True if the time is at most `window` seconds away from now.
pub(super) fn is_fresh(ts: &str, now: Millis, window: u64) -> bool {
    let window = window.saturating_mul(1000);
    chrono::DateTime::parse_from_rfc3339(ts).is_ok_and(|at| at.timestamp_millis().abs_diff(now) <= window)
}

fn digest(algorithm: &str, parts: &[&str]) -> Option<String> {
    fn run<D: Digest>(parts: &[&str]) -> String {
        let mut digest = D::new();
        for part in parts {
            digest.update(part.as_bytes());
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
    match algorithm.to_ascii_lowercase().as_str() {
        "sha512" => Some(run::<sha2::Sha512>(parts)),
        "sha384" => Some(run::<sha2::Sha384>(parts)),
        "sha256" => Some(run::<sha2::Sha256>(parts)),
        "sha1" => Some(run::<sha1::Sha1>(parts)),
        "md5" => Some(run::<md5::Md5>(parts)),
        _ => None,
    }
}

fn same(made: &str, given: &str) -> bool {
    made.as_bytes().ct_eq(given.as_bytes()).into()
}
