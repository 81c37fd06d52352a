//! Sessions: the signed cookie pair `koa.sess` / `koa.sess.sig` and the record behind it.
//!
//! A session begins at a login and ends a fixed time later; use does not prolong it. The record names the user by
//! e-mail, and the user is read at every request, so a changed role or a deleted user counts at once. The signature is
//! koa's (`HMAC-SHA1`, key `api.sessionKey`), so that sessions survive the change from OpenHIM to us and back.

use bson::{Bson, Document, doc};
use http::{HeaderMap, HeaderValue, header};

use crate::api::context::{Api, Origin};
use crate::api::error::{Fault, Refusal};
use crate::api::reply::SessionChange;
use crate::clock::Millis;
use crate::crypto::token::{sign_cookie, verify_cookie};
use crate::store::{Collection, Write};

const NAME: &str = "koa.sess";
const SIGNATURE: &str = "koa.sess.sig";
const EPOCH: &str = "Thu, 01 Jan 1970 00:00:00 GMT";
/// `api.maxAge` where it is 0.
const DEFAULT_AGE: u64 = 7_200_000;

/// What the request's cookies led to.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Session {
    /// The id, if the cookie was genuine and a record that has not expired was there.
    id: Option<String>,
    /// The user it names.
    user: Option<Document>,
    /// The record names a user who is gone.
    orphaned: bool,
    /// The cookie's signature was wrong.
    forged: bool,
}

impl Session {
    /// The logged-in user.
    pub(in crate::api) fn user(&self) -> Option<&Document> {
        self.user.as_ref()
    }
}

/// Finds the session that the request's cookies name.
///
/// # Errors
/// The store fails.
pub(in crate::api) async fn load(api: &Api, headers: &HeaderMap) -> Result<Session, Fault> {
    let (Some(id), Some(signature)) = (cookie(headers, NAME), cookie(headers, SIGNATURE)) else {
        return Ok(Session::default());
    };
    if !verify_cookie(&api.settings.api.session_key, NAME, &id, &signature) {
        return Ok(Session {
            forged: true,
            ..Session::default()
        });
    }
    let Some(record) = api.store().one(Collection::Sessions, doc! {"_id": &id}).await? else {
        return Ok(Session::default());
    };
    let data = record.get_document("data").cloned().unwrap_or_default();
    if number(data.get("_expire")).is_some_and(|expire| expire < api.clock.now()) {
        return Ok(Session::default());
    }
    let email = data
        .get_document("passport")
        .ok()
        .and_then(|passport| passport.get_str("user").ok());
    let user = match email {
        None => None,
        Some(email) => api.store().one(Collection::Users, doc! {"email": email}).await?,
    };
    Ok(Session {
        orphaned: email.is_some() && user.is_none(),
        user,
        id: Some(id),
        forged: false,
    })
}

/// Carries out what a handler decided and adds the cookies to the answer's headers.
///
/// # Errors
/// A cookie that must be secure cannot be set over this connection, or the store fails.
pub(in crate::api) async fn settle(
    api: &Api,
    origin: Origin,
    session: &Session,
    change: SessionChange,
    headers: &mut HeaderMap,
) -> Result<(), Refusal> {
    if session.forged && change == SessionChange::Keep {
        append(headers, format!("{SIGNATURE}=; path=/; expires={EPOCH}; httponly"))?;
    }
    match change {
        SessionChange::Keep if session.orphaned => {
            let id = session.id.clone().unwrap_or_default();
            check_secure(api, origin)?;
            save(api, &id, doc! {}).await?;
            set_cookies(api, &id, headers)
        }
        SessionChange::Keep => Ok(()),
        SessionChange::Begin(email) => {
            check_secure(api, origin)?;
            if let Some(old) = &session.id {
                api.store().delete(Collection::Sessions, doc! {"_id": old}).await?;
            }
            let id = uuid::Uuid::new_v4().to_string();
            save(api, &id, doc! {"user": email}).await?;
            set_cookies(api, &id, headers)
        }
        SessionChange::End => {
            if let Some(old) = &session.id {
                api.store().delete(Collection::Sessions, doc! {"_id": old}).await?;
                check_secure(api, origin)?;
            }
            clear_cookies(api, headers)
        }
    }
}

/// A secure cookie is not sent over an insecure connection, nor silently made insecure.
fn check_secure(api: &Api, origin: Origin) -> Result<(), Refusal> {
    if api.settings.api.secure_cookie && !origin.secure {
        return Err(Refusal::Internal(Fault::Other(
            "cannot send a secure cookie over an unencrypted connection (api.secureCookie, api.trustProxy)".into(),
        )));
    }
    Ok(())
}

async fn save(api: &Api, id: &str, passport: Document) -> Result<(), Refusal> {
    let age = age(api);
    let data = doc! {
        "passport": passport,
        "_expire": (api.clock.now() + age) as f64,
        "_maxAge": i32::try_from(age).map_or(Bson::Double(age as f64), Bson::Int32),
    };
    let upsert = Write::Update {
        of: Collection::Sessions,
        filter: doc! {"_id": id},
        update: doc! {
            "$set": {"data": data, "updatedAt": api.clock.date()},
            "$setOnInsert": {"__v": 0},
        },
        many: false,
        upsert: true,
    };
    api.store().apply(upsert).await?;
    Ok(())
}

fn age(api: &Api) -> Millis {
    let age = match api.settings.api.max_age {
        0 => DEFAULT_AGE,
        age => age,
    };
    Millis::try_from(age).unwrap_or(Millis::MAX / 4)
}

fn set_cookies(api: &Api, id: &str, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let expires = http_date(api.clock.now().saturating_add(age(api)));
    write_cookies(api, id, &expires, headers)
}

fn clear_cookies(api: &Api, headers: &mut HeaderMap) -> Result<(), Refusal> {
    write_cookies(api, "", EPOCH, headers)
}

fn write_cookies(api: &Api, id: &str, expires: &str, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let secure = if api.settings.api.secure_cookie { " secure;" } else { "" };
    let attributes = format!("path=/; expires={expires}; samesite=none;{secure} httponly");
    let signature = sign_cookie(&api.settings.api.session_key, NAME, id);
    append(headers, format!("{NAME}={id}; {attributes}"))?;
    append(headers, format!("{SIGNATURE}={signature}; {attributes}"))
}

fn append(headers: &mut HeaderMap, cookie: String) -> Result<(), Refusal> {
    let value = HeaderValue::try_from(cookie)
        .map_err(|_| Refusal::Internal(Fault::Other("the session's cookie is no header value".into())))?;
    headers.append(header::SET_COOKIE, value);
    Ok(())
}

fn http_date(at: Millis) -> String {
    chrono::DateTime::from_timestamp_millis(at)
        .unwrap_or_default()
        .format("%a, %d %b %Y %H:%M:%S GMT")
        .to_string()
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.trim_matches('"').to_owned())
        .filter(|value| !value.is_empty() && value.len() <= 256)
}

fn number(value: Option<&Bson>) -> Option<Millis> {
    match value? {
        Bson::Int32(n) => Some(Millis::from(*n)),
        Bson::Int64(n) => Some(*n),
        Bson::Double(n) => Some(*n as Millis),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; koa.sess=id-1;b=2"));
        headers.append(header::COOKIE, HeaderValue::from_static("koa.sess.sig=s"));
        assert_eq!(cookie(&headers, NAME).as_deref(), Some("id-1"));
        assert_eq!(cookie(&headers, SIGNATURE).as_deref(), Some("s"));
        assert_eq!(cookie(&headers, "none"), None);
    }
}
