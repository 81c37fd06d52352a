//! Checks an e-mail and a password: `POST /authenticate/local`, and the same check for Basic headers.
//!
//! The user is found by the exact e-mail, the password's hash in the passport of that e-mail. A password that was
//! verified against a slow hash is remembered, so that mediators which send Basic headers every few seconds do not pay
//! for it each time.

use bson::{Document, doc};
use serde_json::{Value, json};

use super::{gate, shown};
use crate::api::context::{Api, Call, Origin};
use crate::api::error::Refusal;
use crate::api::reply::{Reply, SessionChange};
use crate::api::router::Answer;
use crate::crypto::password::{self, Stored};
use crate::crypto::token::same;
use crate::model::json;
use crate::store::{Collection, StoreError};

/// `POST /authenticate/local`: answers with the user and begins a session.
pub(in crate::api) async fn log_in(call: Call) -> Answer {
    let email = credential(&call, "username")?;
    let password = credential(&call, "password")?;
    if !gate::is_enabled(&call.api, "local") {
        return Err(Refusal::Unauthenticated);
    }
    match check(&call.api, call.origin, &email, &password).await? {
        Some(user) => Ok(logged_in(&call.api, &user)),
        None => Err(Refusal::Unauthenticated),
    }
}

/// A credential from the body, else from the query. One that is no text is nobody's.
fn credential(call: &Call, name: &str) -> Result<String, Refusal> {
    match call.body.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::Object(_) | Value::Array(_) | Value::Number(_) | Value::Bool(true)) => {
            Err(Refusal::Unauthenticated)
        }
        _ => call.query.filled(name).ok_or(Refusal::BadRequest),
    }
}

/// The answer to a login: the user, and a new session.
pub(in crate::api) fn logged_in(api: &Api, user: &Document) -> Reply {
    let email = user.get_str("email").unwrap_or_default().to_owned();
    Reply::ok(&json!({
        "result": "User authenticated successfully",
        "user": json::to_value(&shown(api, user).into()),
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
        _ => matches_hash(api, email, &passport, password).await,
    };
    Ok(matches.then_some(user))
}

fn matches_digest(passport: &Document, password: &str) -> bool {
    let field = |name| passport.get_str(name).unwrap_or_default();
    password::token_hash(field("passwordAlgorithm"), field("passwordSalt"), password)
        .is_some_and(|made| same(made.as_bytes(), field("passwordHash").as_bytes()))
}

async fn matches_hash(api: &Api, email: &str, passport: &Document, password: &str) -> bool {
    let Ok(hash) = passport.get_str("password") else {
        return false;
    };
    let stored = Stored {
        algorithm: "bcrypt",
        hash,
        salt: "",
    };
    if api.remembered.knows(email, &stored, password) {
        return true;
    }
    let (slow_hash, slow_password) = (hash.to_owned(), password.to_owned());
    let matches = api
        .hashing(move || password::verify_bcrypt(&slow_hash, &slow_password))
        .await
        == Some(true);
    if matches {
        api.remembered.remember(email, &stored, password);
    }
    matches
}
