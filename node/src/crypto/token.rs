//! Signatures of cookies, random tokens, comparing without telling by time.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;

use super::digest::hex;

/// True if both are equal; how long it takes depends on their lengths only.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// The signature of a cookie: HMAC-SHA1 of `name=value`, in URL-safe base64 without padding.
pub fn sign_cookie(key: &str, name: &str, value: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(key.as_bytes()) else {
        // Unreachable: HMAC takes keys of any length.
        return random(20);
    };
    mac.update(name.as_bytes());
    mac.update(b"=");
    mac.update(value.as_bytes());
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

/// True if `signature` is [`sign_cookie`]'s.
pub fn verify_cookie(key: &str, name: &str, value: &str, signature: &str) -> bool {
    same(sign_cookie(key, name, value).as_bytes(), signature.as_bytes())
}

/// A random token of `bytes` bytes in hexadecimal digits, which nobody can guess.
pub fn random(bytes: usize) -> String {
    let mut token = vec![0; bytes];
    rand::fill(&mut token[..]);
    hex(&token)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default of `api.sessionKey`.
    const KEY: &str = "r8q,+&1LM3)CD*zAGpx1xm{NeQhc;#";

    #[test]
    fn cookies_are_signed_as_koa_does() {
        assert_eq!(sign_cookie(KEY, "koa.sess", ""), "5_7Op2aKO7YY73SH2akh4AL7eQM");
        assert_eq!(
            sign_cookie(KEY, "koa.sess", "f5e633db-916c-44da-b785-a82658593dff"),
            "TbGJiqoOnDIi2BO9430XlyyAieY"
        );
    }

    #[test]
    fn a_signature_holds_for_its_value_and_key_alone() {
        let signature = sign_cookie(KEY, "koa.sess", "a");

        assert!(verify_cookie(KEY, "koa.sess", "a", &signature));
        assert!(!verify_cookie(KEY, "koa.sess", "b", &signature));
        assert!(!verify_cookie("other", "koa.sess", "a", &signature));
        assert!(!verify_cookie(KEY, "koa.sess", "a", ""));
    }

    #[test]
    fn random_tokens_have_the_length_asked_for_and_differ() {
        let (one, other) = (random(32), random(32));

        assert_eq!(one.len(), 64);
        assert_ne!(one, other);
    }

    #[test]
    fn bytes_are_compared_whole() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abcd"));
        assert!(!same(b"", b"a"));
    }
}
