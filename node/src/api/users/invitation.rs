//! Links that let people choose their password: for new users, and for those who forgot theirs.

use bson::{Bson, DateTime, Document, doc};

use super::passports::{self, Secret};
use super::{TOKEN_BYTES, email_of, mail, set, unlocked};
use crate::api::auth;
use crate::api::context::{Api, Call};
use crate::api::error::{Doing, Fault, Refusal};
use crate::api::reply::Reply;
use crate::api::router::Answer;
use crate::clock::Millis;
use crate::config::Expiry;
use crate::crypto::token;
use crate::model::user::ROOT_EMAIL;
use crate::store::Collection;

/// The last instant of JavaScript's calendar.
const LAST: Millis = 8_640_000_000_000_000;

/// What a holder of a token sees of the user.
const SHOWN: [&str; 8] = [
    "email",
    "firstname",
    "surname",
    "msisdn",
    "token",
    "tokenType",
    "locked",
    "expiry",
];

/// `GET /password-reset-request/:email`
pub(in crate::api) async fn request_reset(call: Call) -> Answer {
    let api = &call.api;
    let email = call.params.get("email");
    if email.eq_ignore_ascii_case(ROOT_EMAIL) {
        return Err(Refusal::Forbidden(
            "Cannot request password reset for 'root@openhim.org'".into(),
        ));
    }
    let doing = format!("Could not update user with email {email} via the API");
    let Some(user) = auth::by_email(api, &email).await.doing(&doing)? else {
        return Err(Refusal::NotFound(format!(
            "Tried to request password reset for invalid email address: {email}"
        )));
    };
    if user.get_str("provider").ok() == Some("openid") {
        return Err(Refusal::Forbidden(
            "User supplied by OpenID Connect provider. Cannot request password reset.".into(),
        ));
    }
    let token = token::random(TOKEN_BYTES);
    let until = expiry(api.clock.now(), &api.settings.password_reset_expiry);
    let changes = doc! {"token": &token, "tokenType": "existingUser", "expiry": until};
    set(api, &user, changes).await.doing(&doing)?;
    if let Err(error) = mail::reset(api, &user, &token).await {
        return Err(Fault::Provider(error.to_string())).doing(&doing);
    }
    tracing::info!("User updated token/expiry for password reset {email}");
    Ok(Reply::created_text(
        "Successfully set user token/expiry for password reset.",
    ))
}

/// `GET /token/:token`
pub(in crate::api) async fn read_by_token(call: Call) -> Answer {
    let token = call.params.get("token");
    let found = find(&call.api, &token).await;
    let user = found.doing(&format!("Could not find user with token {token} via the API"))?;
    let Some(mut user) = user else {
        return Err(unknown(&token));
    };
    if is_expired(&call.api, &user) {
        return Err(Refusal::Gone(format!("Token {token} has expired")));
    }
    let shown: Document = SHOWN
        .iter()
        .filter_map(|field| Some(((*field).to_owned(), user.remove(*field)?)))
        .collect();
    Ok(Reply::document(&shown)?)
}

/// `PUT /token/:token`: without a password nothing is used up.
pub(in crate::api) async fn update_by_token(call: Call) -> Answer {
    let api = &call.api;
    let token = call.params.get("token");
    let found = find(api, &token).await;
    let Some(user) = found.doing(&format!("Could not find user with token {token} via the API"))? else {
        return Err(unknown(&token));
    };
    if is_expired(api, &user) {
        return Err(Refusal::Gone(format!(
            "User with token {token} has expired to set their password."
        )));
    }
    if user.get_str("provider").ok() == Some("openid") {
        return Err(Refusal::Forbidden(
            "User supplied by OpenID Connect provider. Could not be updated.".into(),
        ));
    }
    let doing = format!("Could not update user with token {token} via the API");
    let mut body = call.body.document().doing(&doing)?;
    let secret = Secret::take(&mut body);
    let changes = changes(&user, body, &secret);
    set(api, &user, changes).await.doing(&doing)?;
    passports::set(api, email_of(&user), secret).await.doing(&doing)?;
    tracing::info!("User {} chose a password", email_of(&user));
    Ok(Reply::ok_text("Successfully set new user password."))
}

fn changes(user: &Document, mut body: Document, secret: &Secret) -> Document {
    let mut changes = Document::new();
    if user.get_str("tokenType").ok() == Some("newUser") {
        for field in ["firstname", "surname"] {
            if let Some(name) = body.remove(field) {
                changes.insert(field, name);
            }
        }
        let number = body.remove("msisdn").filter(|number| *number != Bson::from(""));
        changes.insert("msisdn", number.unwrap_or(Bson::Null));
    }
    if secret.is_some() {
        let was_new = changes.contains_key("msisdn");
        changes.extend(unlocked());
        if !was_new {
            changes.remove("locked");
        }
    }
    if secret.is_trio() {
        changes.insert("provider", "token");
    }
    changes
}

async fn find(api: &Api, token: &str) -> Result<Option<Document>, Fault> {
    Ok(api.store().one(Collection::Users, doc! {"token": token}).await?)
}

fn is_expired(api: &Api, user: &Document) -> bool {
    let until = user.get_datetime("expiry").map(|until| until.timestamp_millis());
    until.is_ok_and(|until| until < api.clock.now())
}

fn unknown(token: &str) -> Refusal {
    Refusal::NotFound(format!("User with token {token} could not be found."))
}

/// When a token that is given now ends, in whole seconds.
pub(super) fn expiry(now: Millis, after: &Expiry) -> DateTime {
    let amount = i64::try_from(after.duration).unwrap_or(i64::MAX);
    let end = match Unit::named(&after.duration_type) {
        Unit::Millis(unit) => now.saturating_add(amount.saturating_mul(unit)),
        Unit::Months(unit) => {
            let months = u32::try_from(amount.saturating_mul(unit)).unwrap_or(u32::MAX);
            chrono::DateTime::from_timestamp_millis(now)
                .and_then(|start| start.checked_add_months(chrono::Months::new(months)))
                .map_or(i64::MAX, |end| end.timestamp_millis())
        }
    };
    DateTime::from_millis(end.min(LAST) / 1000 * 1000)
}

/// A unit of time, in what it is a multiple of.
enum Unit {
    Millis(i64),
    Months(i64),
}

impl Unit {
    /// The unit of this name; the settings allow no other.
    fn named(name: &str) -> Self {
        match name {
            "ms" | "millisecond" | "milliseconds" => Self::Millis(1),
            "s" | "second" | "seconds" => Self::Millis(1000),
            "m" | "minute" | "minutes" => Self::Millis(60_000),
            "h" | "hour" | "hours" => Self::Millis(3_600_000),
            "w" | "week" | "weeks" => Self::Millis(7 * 86_400_000),
            "M" | "month" | "months" => Self::Months(1),
            "Q" | "quarter" | "quarters" => Self::Months(3),
            "y" | "year" | "years" => Self::Months(12),
            _ => Self::Millis(86_400_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_after_its_time_in_whole_seconds() {
        let after = |duration, unit: &str| {
            let after = Expiry {
                duration,
                duration_type: unit.to_owned(),
            };
            expiry(1_795_347_548_123, &after).timestamp_millis() - 1_795_347_548_000
        };

        assert_eq!(after(7, "days"), 7 * 86_400_000);
        assert_eq!(after(1, "hours"), 3_600_000);
        assert_eq!(after(1, "hour"), 3_600_000);
        assert_eq!(after(90, "s"), 90_000);
        assert_eq!(after(5, "m"), 300_000);
        assert_eq!(after(5, "ms"), 0);
        assert_eq!(after(1, "months"), 30 * 86_400_000);
        assert_eq!(after(1, "M"), 30 * 86_400_000);
        assert_eq!(after(1, "years"), 365 * 86_400_000);
    }
}
