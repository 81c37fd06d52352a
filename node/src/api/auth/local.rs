//! Checks an e-mail and a password: `POST /authenticate/local`, and the same check for Basic headers.
//!
//! The user is found by the exact e-mail, the password's hash in the passport of that e-mail. A slow hash that was
//! verified is remembered for a while under a keyed hash of password and stored hash, so that mediators which send
//! Basic headers every few seconds do not pay for it each time; a changed password changes the stored hash.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bson::{Document, doc};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use super::{gate, secret};
use crate::api::context::{Api, Call, Origin};
use crate::api::error::Refusal;
use crate::api::reply::{Reply, SessionChange};
use crate::api::router::Answer;
use crate::clock::Millis;
use crate::model::json;
use crate::store::{Collection, StoreError};

/// How long a verified password is remembered.
const REMEMBERED: Millis = 300_000;
/// Passwords remembered at most.
const MOST_REMEMBERED: usize = 1000;

/// `POST /authenticate/local`: answers with the user and begins a session.
pub(in crate::api) async fn log_in(call: Call) -> Answer {
    let credential = |name: &str| {
        let in_body = call.body.text(name).filter(|text| !text.is_empty()).map(str::to_owned);
        in_body.or_else(|| call.query.filled(name))
    };
    let (Some(email), Some(password)) = (credential("username"), credential("password")) else {
        return Err(Refusal::BadRequest);
    };
    if !gate::is_enabled(&call.api, "local") {
        return Err(Refusal::Unauthenticated);
    }
    match check(&call.api, call.origin, &email, &password).await? {
        Some(user) => Ok(logged_in(&user)),
        None => Err(Refusal::Unauthenticated),
    }
}

/// The answer to a login: the user, and a new session.
pub(in crate::api) fn logged_in(user: &Document) -> Reply {
    let email = user.get_str("email").unwrap_or_default().to_owned();
    Reply::ok(&json!({
        "result": "User authenticated successfully",
        "user": json::to_value(&user.clone().into()),
    }))
    .with_session(SessionChange::Begin(email))
}

/// The user with this e-mail, if the password is theirs. A store that fails counts as a wrong password, and is logged.
///
/// # Errors
/// Too many attempts have failed lately.
pub(in crate::api) async fn check(
    api: &Api,
    origin: Origin,
    email: &str,
    password: &str,
) -> Result<Option<Document>, Refusal> {
    let now = api.clock.now();
    api.logins.check(now, origin.address, email)?;
    match verified_user(api, email, password).await {
        Ok(Some(user)) => {
            api.logins.succeeded(origin.address, email);
            Ok(Some(user))
        }
        Ok(None) => {
            api.logins.failed(now, origin.address, email);
            Ok(None)
        }
        Err(error) => {
            tracing::error!(%error, "A login could not be checked: {error}");
            Ok(None)
        }
    }
}

async fn verified_user(api: &Api, email: &str, password: &str) -> Result<Option<Document>, StoreError> {
    let Some(user) = api.store().one(Collection::Users, doc! {"email": email}).await? else {
        return Ok(None);
    };
    let protocol = match user.get_str("provider") {
        Ok("token") => "token",
        _ => "local",
    };
    let wanted = doc! {"email": email, "protocol": protocol};
    let Some(passport) = api.store().one(Collection::Passports, wanted).await? else {
        return Ok(None);
    };
    let matches = match protocol {
        "token" => matches_digest(&passport, password),
        _ => matches_hash(api, &passport, password).await,
    };
    Ok(matches.then_some(user))
}

fn matches_digest(passport: &Document, password: &str) -> bool {
    let field = |name| passport.get_str(name).unwrap_or_default();
    secret::matches_digest(
        field("passwordAlgorithm"),
        field("passwordSalt"),
        field("passwordHash"),
        password,
    )
}

async fn matches_hash(api: &Api, passport: &Document, password: &str) -> bool {
    let Ok(hash) = passport.get_str("password") else {
        return false;
    };
    let now = api.clock.now();
    let key = api.verified.key(hash, password);
    if api.verified.knows(&key, now) {
        return true;
    }
    let (hash, password) = (hash.to_owned(), password.to_owned());
    let matches = api.hashing(move || secret::matches_bcrypt(&hash, &password)).await;
    if matches == Some(true) {
        api.verified.remember(key, now);
        return true;
    }
    false
}

type Key = [u8; 32];

/// Passwords that were verified lately, as keyed hashes.
pub(in crate::api) struct Verified {
    secret: Key,
    known: Mutex<HashMap<Key, Millis>>,
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Verified")
    }
}

impl Default for Verified {
    fn default() -> Self {
        Self {
            secret: rand::random(),
            known: Mutex::default(),
        }
    }
}

impl Verified {
    fn key(&self, hash: &str, password: &str) -> Key {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.secret) else {
            return rand::random();
        };
        mac.update(&(hash.len() as u64).to_be_bytes());
        mac.update(hash.as_bytes());
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }

    fn knows(&self, key: &Key, now: Millis) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).is_some_and(|at| now - at < REMEMBERED)
    }

    fn remember(&self, key: Key, now: Millis) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_REMEMBERED {
            known.retain(|_, at| now - *at < REMEMBERED);
        }
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        known.insert(key, now);
    }
}
