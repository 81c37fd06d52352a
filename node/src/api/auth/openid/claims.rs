//! What the tokens say: who logged in, for whom the token was made, and which roles the person has.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::text;
use crate::api::error::Fault;
use crate::clock::Millis;

/// The claims of an ID token.
#[derive(Clone, Debug)]
pub(super) struct Identity(Value);

/// The user that the tokens describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) email: String,
    pub(super) firstname: Option<String>,
    pub(super) surname: Option<String>,
    pub(super) groups: Vec<String>,
    /// The person's name at the provider.
    pub(super) identifier: String,
}

impl Identity {
    /// Reads an ID token.
    ///
    /// # Errors
    /// It is no token, or lacks a claim that every ID token has.
    pub(super) fn of(token: &str) -> Result<Self, Fault> {
        let claims = payload(token).ok_or_else(|| Fault::Provider("the ID token cannot be read".into()))?;
        let is_there = |name: &str| match claims.get(name) {
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::Array(items)) => !items.is_empty(),
            _ => false,
        };
        if let Some(name) = ["iss", "sub", "aud", "exp", "iat"].iter().find(|name| !is_there(name)) {
            return Err(Fault::Provider(format!("the ID token has no {name}")));
        }
        Ok(Self(claims))
    }

    /// True if the token was made for the login that this nonce belongs to; one that is not known belongs to any.
    pub(super) fn answers(&self, nonce: Option<&str>) -> bool {
        nonce.is_none_or(|nonce| self.0["nonce"] == nonce)
    }

    /// True if this issuer made the token for this client and it has not expired.
    pub(super) fn is_meant_for(&self, issuer: &str, client: &str, now: Millis, needs_auth_time: bool) -> bool {
        let claims = &self.0;
        let audience: Vec<&str> = match &claims["aud"] {
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let party = claims.get("azp").filter(|party| !party.is_null());
        let seconds = |name: &str| claims[name].as_f64().unwrap_or_default();
        claims["iss"] == issuer
            && audience.contains(&client)
            && (audience.len() == 1 || party.is_some())
            && party.is_none_or(|party| party == client)
            && seconds("exp") * 1000.0 > now as f64
            && (!needs_auth_time || seconds("auth_time") > 0.0)
    }
}

impl Profile {
    /// Puts together what both tokens say; `None` if that is not enough to know the person.
    pub(super) fn of(identity: &Identity, access_token: &str, client: &str) -> Option<Self> {
        let access = payload(access_token)?;
        let claim = |name: &str| text(&identity.0, name).map(str::to_owned);
        let username = claim("preferred_username");
        let roles = access["resource_access"][client]["roles"].as_array();
        Some(Self {
            email: claim("email").or_else(|| username.clone())?,
            firstname: claim("given_name").or_else(|| username.clone()),
            surname: claim("family_name").or(username),
            groups: roles
                .map(|roles| roles.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default(),
            identifier: text(&access, "sub").or_else(|| text(&identity.0, "sub"))?.to_owned(),
        })
    }
}

/// The claims of a token: the second of three parts.
fn payload(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = payload.trim_end_matches('=');
    let bytes = URL_SAFE_NO_PAD
        .decode(payload)
        .or_else(|_| STANDARD_NO_PAD.decode(payload))
        .ok()?;
    serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(claims: &Value) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn claims() -> Value {
        json!({"iss": "https://realm", "sub": "s", "aud": "client", "exp": 100, "iat": 1, "auth_time": 1})
    }

    fn is_good(change: impl FnOnce(&mut Value)) -> bool {
        let mut claims = claims();
        change(&mut claims);
        Identity::of(&token(&claims))
            .unwrap()
            .is_meant_for("https://realm", "client", 99_999, true)
    }

    #[test]
    fn a_token_is_for_its_client_until_it_expires() {
        assert!(is_good(|_| {}));
        assert!(is_good(|it| it["aud"] = json!(["client"])));
        assert!(is_good(|it| {
            it["aud"] = json!(["client", "other"]);
            it["azp"] = json!("client");
        }));
        assert!(!is_good(|it| it["iss"] = json!("https://other")));
        assert!(!is_good(|it| it["aud"] = json!("other")));
        assert!(!is_good(|it| it["aud"] = json!(["client", "other"])));
        assert!(!is_good(|it| it["azp"] = json!("other")));
        assert!(!is_good(|it| it["exp"] = json!(99)));
        assert!(!is_good(|it| it["auth_time"] = json!(0)));
    }

    #[test]
    fn a_token_without_its_claims_is_none() {
        for name in ["iss", "sub", "aud", "exp", "iat"] {
            let mut claims = claims();
            claims[name] = Value::Null;
            assert!(Identity::of(&token(&claims)).is_err(), "{name}");
        }
        for text in ["", "a.b", "a.%.c", "a.W10.c"] {
            assert!(Identity::of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_profile_falls_back_to_the_user_name() {
        let mut claims = claims();
        claims["preferred_username"] = json!("jane");
        let identity = Identity::of(&token(&claims)).unwrap();
        let access = token(&json!({"sub": "id", "resource_access": {"client": {"roles": ["admin"]}}}));

        let profile = Profile::of(&identity, &access, "client").unwrap();
        assert_eq!((profile.email.as_str(), profile.identifier.as_str()), ("jane", "id"));
        assert_eq!(
            (profile.firstname.as_deref(), profile.surname.as_deref()),
            (Some("jane"), Some("jane"))
        );
        assert_eq!(profile.groups, ["admin"]);
        assert_eq!(Profile::of(&identity, "opaque", "client"), None);
        assert!(Profile::of(&identity, &access, "other").unwrap().groups.is_empty());
    }
}
