//! Whether the provider signed the tokens that it sent.
//!
//! They come straight from the provider, so that one which shows no keys is believed (OpenID Connect Core, section
//! 3.1.3.7). One that shows keys must have signed both: the ID token says who it is, the access token which roles.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{AlgorithmFamily, DecodingKey, decode_header};
use serde_json::Value;

use crate::pipeline::jwt;

/// Keys that are looked at, at most.
const MOST_KEYS: usize = 100;

/// The keys that a provider shows.
#[derive(Clone, Debug)]
pub(super) struct ProviderKeys(Vec<Value>);

impl ProviderKeys {
    /// Reads a key set; none if it is none.
    pub(super) fn of(answer: &[u8]) -> Self {
        let set: Value = serde_json::from_slice(answer).unwrap_or_default();
        let keys = set["keys"].as_array().cloned().unwrap_or_default();
        let is_for_signing = |key: &Value| key.get("use").is_none_or(|purpose| purpose == "sig");
        Self(keys.into_iter().take(MOST_KEYS).filter(is_for_signing).collect())
    }

    /// No keys.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// False if the provider cannot have made this token. `secret` is the one that it shares with us.
    pub(super) fn vouch_for(&self, token: &str, secret: &str) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Ok(header) = decode_header(token) else {
            return false;
        };
        let keys: Vec<DecodingKey> = if AlgorithmFamily::Hmac.algorithms().contains(&header.alg) {
            vec![DecodingKey::from_secret(secret.as_bytes())]
        } else {
            self.named(header.kid.as_deref())
        };
        keys.iter()
            .any(|key| jwt::signed_claims(token, key, header.alg).is_ok())
    }

    fn named(&self, id: Option<&str>) -> Vec<DecodingKey> {
        let is_meant = |key: &&Value| id.is_none() || key["kid"].as_str() == id;
        let readable = self.0.iter().filter(is_meant).filter_map(|key| {
            let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
            DecodingKey::from_jwk(&jwk).ok()
        });
        readable.filter(|key| key.family() != AlgorithmFamily::Hmac).collect()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    fn signed(claims: &Value, secret: &str) -> String {
        encode(
            &Header::new(Algorithm::HS256),
            claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
        .unwrap()
    }

    fn some_keys() -> ProviderKeys {
        ProviderKeys::of(br#"{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"a"},{"kty":"RSA","use":"enc"}]}"#)
    }

    #[test]
    fn a_provider_without_keys_is_believed() {
        for answer in ["", "{}", "[]", "{\"keys\":[]}", "{\"keys\":7}"] {
            assert!(
                ProviderKeys::of(answer.as_bytes()).vouch_for("e30.e30.x", "s"),
                "{answer}"
            );
        }
    }

    #[test]
    fn a_shared_secret_signs_too_and_only_the_right_one() {
        let token = signed(&json!({"sub": "jane"}), "s");
        assert!(some_keys().vouch_for(&token, "s"));
        assert!(!some_keys().vouch_for(&token, "t"));
        assert!(!some_keys().vouch_for("e30.e30.x", "s"));
    }
}
