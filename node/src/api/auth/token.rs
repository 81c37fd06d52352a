//! The `auth-*` headers that older mediator libraries send, and `GET /authenticate/:username`, their first step.
//!
//! The token is `H(passwordHash ‖ salt ‖ ts)` and is good for `api.authWindowSeconds` around `ts`.

use bson::{Document, doc};
use chrono::{Local, Utc};
use serde_json::{Map, Value};

use super::by_email;
use crate::api::context::{Api, Call};
use crate::api::error::{Doing, Refusal};
use crate::api::reply::Reply;
use crate::api::router::Answer;
use crate::audit::{Event, Outcome};
use crate::clock::Millis;
use crate::crypto::password;
use crate::model::date::{self, Reading};
use crate::store::{Collection, StoreError};

/// The names of the four headers.
pub(in crate::api) const HEADERS: [&str; 4] = ["auth-username", "auth-ts", "auth-salt", "auth-token"];

/// The user whose token the headers carry.
///
/// # Errors
/// Too many attempts have failed lately.
pub(in crate::api) async fn authenticate(call: &Call) -> Result<Option<Document>, Refusal> {
    let [Some(email), Some(ts), Some(salt), Some(given)] = HEADERS.map(|name| call.header(name)) else {
        return Ok(None);
    };
    let api = &call.api;
    let now = api.clock.now();
    api.logins.check(now, call.origin.address, email)?;
    if !is_fresh(ts, now, api.settings.api.auth_window_seconds) {
        return Ok(None);
    }
    let user = match owner(api, email).await {
        Ok(Some((user, passport))) if is_right(&passport, salt, ts, given) => user,
        Ok(_) => {
            api.logins.failed(now, call.origin.address, email);
            return Ok(None);
        }
        Err(error) => {
            tracing::error!(%error, "A token could not be checked: {error}");
            return Ok(None);
        }
    };
    api.logins.succeeded(call.origin.address, email);
    Ok(Some(user))
}

async fn owner(api: &Api, email: &str) -> Result<Option<(Document, Document)>, StoreError> {
    let Some(user) = by_email(api, email).await? else {
        return Ok(None);
    };
    Ok(passport(api, &user).await?.map(|passport| (user, passport)))
}

async fn passport(api: &Api, user: &Document) -> Result<Option<Document>, StoreError> {
    let email = user.get_str("email").unwrap_or_default();
    let wanted = doc! {"protocol": "token", "email": email};
    api.store().one(Collection::Passports, wanted).await
}

fn is_right(passport: &Document, salt: &str, ts: &str, given: &str) -> bool {
    let field = |name| passport.get_str(name).unwrap_or_default();
    !field("passwordHash").is_empty()
        && password::verify_token(field("passwordAlgorithm"), field("passwordHash"), salt, ts, given)
}

/// True if the time that the text says is at most `window` seconds away. A time without a zone is good if it is fresh
/// as this machine's or as UTC: Python libraries send the latter.
fn is_fresh(ts: &str, now: Millis, window: u64) -> bool {
    let window = window.saturating_mul(1000);
    let is_near = |at: Option<Millis>| at.is_some_and(|at| at.abs_diff(now) <= window);
    Reading::of(ts).is_some_and(|reading| is_near(reading.instant(&Local)) || is_near(reading.instant(&Utc)))
}

/// `GET /authenticate/:username`: the salt that the token is made with, and this node's time.
pub(in crate::api) async fn salt(call: Call) -> Answer {
    const DOING: &str = "Error during authentication";
    let email = call.params.get("username");
    let Some(user) = by_email(&call.api, &email).await.doing(DOING)? else {
        let event = Event::Login {
            outcome: Outcome::SeriousFailure,
            user: email.clone(),
            groups: String::new(),
        };
        call.api.auditor.record(event).await;
        return Err(Refusal::NotFound(format!("Could not find user by email {email}")));
    };
    let Some(passport) = passport(&call.api, &user).await.doing(DOING)? else {
        return Err(Refusal::NotFound(format!(
            "Could not find token passport for user {email}"
        )));
    };
    let mut answer = Map::new();
    if let Some(salt) = passport.get("passwordSalt") {
        answer.insert("salt".into(), salt.as_str().map_or(Value::Null, Value::from));
    }
    answer.insert("ts".into(), date::to_iso(call.api.clock.now()).into());
    Ok(Reply::ok(&answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22T11:30:48Z
    const NOW: Millis = 1_795_347_048_000;

    #[test]
    fn every_form_that_mediators_send_is_read() {
        for ts in [
            "2026-11-22T11:30:48.123Z",
            "Sun Nov 22 2026 13:30:48 GMT+0200 (South Africa Standard Time)",
            "2026-11-22 11:30:48.123456",
            "Sun, 22 Nov 2026 11:30:50 GMT",
        ] {
            assert!(is_fresh(ts, NOW, 10), "{ts}");
        }
    }

    #[test]
    fn a_time_outside_the_window_or_unreadable_is_not_fresh() {
        for ts in ["2026-11-22T11:30:59.000Z", "2026-11-22T11:30:37.000Z", "now", "", "NaN"] {
            assert!(!is_fresh(ts, NOW, 10), "{ts}");
        }
    }
}
