//! How users prove who they are: a slow hash of the password for logins, and a salted digest for the token headers that
//! mediators send. Both are kept for every password, so that either works.

use bson::{Bson, Document, doc};

use crate::api::context::Api;
use crate::api::error::Fault;
use crate::crypto::{password, token};
use crate::store::{Collection, Find, Write};

/// The digest of a token passport.
const ALGORITHM: &str = "sha512";

/// Bytes of a new salt.
const SALT_BYTES: usize = 16;

/// What a request says of a new password.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Secret {
    Nothing,
    Password(crate::model::secret::Secret),
    /// Algorithm, hash and salt, as clients of old sent them instead; some may be missing.
    Trio(Document),
}

const TRIO: [&str; 3] = ["passwordAlgorithm", "passwordHash", "passwordSalt"];

impl Secret {
    /// Takes it out of a body, so that nothing of it gets into the user.
    pub(super) fn take(body: &mut Document) -> Self {
        let given = body.remove("password").and_then(|password| match password {
            Bson::String(text) if !text.is_empty() => Some(text),
            Bson::Int32(_) | Bson::Double(_) => Some(password.to_string()),
            _ => None,
        });
        let is_given = |value: &Bson| matches!(value, Bson::String(text) if !text.is_empty());
        let trio: Document = TRIO
            .iter()
            .filter_map(|field| Some(((*field).to_owned(), body.remove(*field).filter(is_given)?)))
            .collect();
        match given {
            _ if trio.len() == TRIO.len() => Self::Trio(trio),
            Some(password) => Self::Password(password.into()),
            None if !trio.is_empty() => Self::Trio(trio),
            None => Self::Nothing,
        }
    }

    /// The provider of a new user with such a secret.
    pub(super) fn provider(&self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Password(_) => Some("local"),
            Self::Trio(_) => Some("token"),
        }
    }

    /// True if it replaces the user's password.
    pub(super) fn is_some(&self) -> bool {
        matches!(self, Self::Password(_)) || self.is_trio()
    }

    /// True for a complete trio.
    pub(super) fn is_trio(&self) -> bool {
        matches!(self, Self::Trio(trio) if trio.len() == TRIO.len())
    }
}

/// The passports of a new user. What a former user of that e-mail left behind goes. Without a password there is an empty
/// one, which admits nobody.
pub(super) async fn begin(api: &Api, email: &str, secret: Secret) -> Result<(), Fault> {
    let stale = Write::Delete {
        from: Collection::Passports,
        filter: doc! {"email": email},
        many: true,
    };
    api.store().apply(stale).await?;
    match secret {
        Secret::Nothing => put(api, email, vec![("token", Document::new())]).await,
        Secret::Trio(trio) => put(api, email, vec![("token", trio)]).await,
        Secret::Password(_) => set(api, email, secret).await,
    }
}

/// Replaces the password of a user.
pub(super) async fn set(api: &Api, email: &str, secret: Secret) -> Result<(), Fault> {
    match secret {
        Secret::Password(password) => {
            let kept = token_passport(api, email).await?;
            let of = |field: &str| {
                kept.as_ref()
                    .and_then(|kept| kept.get_str(field).ok())
                    .filter(|it| !it.is_empty())
            };
            let algorithm = of("passwordAlgorithm").unwrap_or(ALGORITHM).to_owned();
            let salt = of("passwordSalt").map_or_else(|| token::random(SALT_BYTES), str::to_owned);
            let cost = api.settings.api.salt;
            let hashing = move || {
                let slow = password::hash_bcrypt(password.expose(), cost)?;
                let digest = password::token_hash(&algorithm, &salt, password.expose());
                Ok::<_, password::PasswordError>((slow, digest, algorithm, salt))
            };
            let hashed = api.hashing(hashing).await;
            let hashed = hashed.ok_or_else(|| Fault::Other("hashing was interrupted".into()))?;
            let (slow, digest, algorithm, salt) = hashed.map_err(|error| Fault::Other(error.to_string()))?;
            let mut passports = vec![("local", doc! {"password": slow})];
            if let Some(digest) = digest {
                let fields = doc! {"passwordAlgorithm": algorithm, "passwordSalt": salt, "passwordHash": digest};
                passports.push(("token", fields));
            }
            put(api, email, passports).await
        }
        Secret::Trio(trio) if trio.len() == TRIO.len() => put(api, email, vec![("token", trio)]).await,
        Secret::Trio(_) | Secret::Nothing => Ok(()),
    }
}

/// Lets a user who got another e-mail keep the password.
pub(super) async fn rename(api: &Api, old: &str, new: &str) -> Result<(), Fault> {
    if old == new {
        return Ok(());
    }
    let batch = vec![
        Write::Delete {
            from: Collection::Passports,
            filter: doc! {"email": new},
            many: true,
        },
        Write::Update {
            of: Collection::Passports,
            filter: doc! {"email": old},
            update: doc! {"$set": {"email": new}},
            many: true,
            upsert: false,
        },
    ];
    for outcome in api.store().write(&batch).await? {
        outcome?;
    }
    Ok(())
}

async fn token_passport(api: &Api, email: &str) -> Result<Option<Document>, Fault> {
    let find = Find::by(doc! {"protocol": "token", "email": email}).limited(1);
    Ok(api.store().all(Collection::Passports, find).await?.pop())
}

/// Writes passports, each in the place of the user's former one of that kind.
async fn put(api: &Api, email: &str, passports: Vec<(&str, Document)>) -> Result<(), Fault> {
    let upserts = passports.into_iter().map(|(protocol, fields)| {
        let mut update = doc! {"$setOnInsert": {"__v": 0}};
        if !fields.is_empty() {
            update.insert("$set", fields);
        }
        Write::Update {
            of: Collection::Passports,
            filter: doc! {"protocol": protocol, "email": email},
            update,
            many: false,
            upsert: true,
        }
    });
    for outcome in api.store().write(&upserts.collect::<Vec<_>>()).await? {
        outcome?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_leaves_the_body() {
        let mut body = doc! {"firstname": "a", "password": "p", "passwordHash": "h"};

        let secret = Secret::take(&mut body);

        assert_eq!(body, doc! {"firstname": "a"});
        assert_eq!(
            (secret.provider(), secret.is_some(), secret.is_trio()),
            (Some("local"), true, false)
        );
    }

    #[test]
    fn a_complete_trio_wins_and_an_incomplete_one_is_nothing_to_log_in_with() {
        let mut whole = doc! {"password": "p", "passwordAlgorithm": "sha512", "passwordHash": "h", "passwordSalt": "s"};
        let mut part = doc! {"passwordHash": "h", "passwordSalt": null};

        assert!(Secret::take(&mut whole).is_trio());
        let part = Secret::take(&mut part);
        assert_eq!((part.provider(), part.is_some()), (Some("token"), false));
        assert_eq!(Secret::take(&mut doc! {"password": ""}), Secret::Nothing);
    }
}
