//! A passport: how a console user proves who he is. Linked to the user by e-mail.

use bson::{Bson, Document};

use super::fields::Fields;
use super::secret::Secret;

/// Credentials of a console user.
#[derive(Clone, Debug, PartialEq)]
pub struct Passport {
    /// The stored id, of whatever type.
    pub id: Bson,
    pub email: String,
    /// `local`, `token` or `openid`.
    pub protocol: String,
    /// bcrypt hash of a `local` passport.
    pub password: Option<Secret>,
    /// Digest of a `token` passport.
    pub password_algorithm: Option<String>,
    pub password_hash: Option<Secret>,
    pub password_salt: Option<String>,
    /// Of an `openid` passport.
    pub issuer: Option<String>,
    pub identifier: Option<String>,
}

impl Passport {
    /// Reads a stored passport; `None` if it has no id, protocol or e-mail.
    pub fn from_document(document: &Document) -> Option<Self> {
        let fields = Fields(document);
        Some(Self {
            id: fields.value("_id")?.clone(),
            email: fields.text("email")?,
            protocol: fields.text("protocol")?,
            password: fields.text("password").map(Secret::from),
            password_algorithm: fields.text("passwordAlgorithm"),
            password_hash: fields.text("passwordHash").map(Secret::from),
            password_salt: fields.text("passwordSalt"),
            issuer: fields.text("issuer"),
            identifier: fields.text("identifier"),
        })
    }
}
