//! A console user.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document};

use super::fields::Fields;
use super::secret::Secret;

/// E-mail of the account that every installation has.
pub const ROOT_EMAIL: &str = "root@openhim.org";

/// A person who uses the console or the API.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    pub id: ObjectId,
    pub email: String,
    pub firstname: String,
    pub surname: String,
    /// `local`, `token` or `openid`.
    pub provider: String,
    /// Names of roles.
    pub groups: Vec<String>,
    /// Phone number for text messages.
    pub msisdn: Option<String>,
    pub daily_report: bool,
    pub weekly_report: bool,
    pub settings: Option<Bson>,
    /// Sets a new password, until `expiry`.
    pub token: Option<Secret>,
    /// `newUser` or `existingUser`.
    pub token_type: Option<String>,
    pub expiry: Option<DateTime>,
    pub locked: Option<bool>,
}

impl User {
    /// Reads a stored user; `None` if it has no id or no e-mail.
    pub fn from_document(document: &Document) -> Option<Self> {
        let fields = Fields(document);
        Some(Self {
            id: fields.id("_id")?,
            email: fields.text("email")?,
            firstname: fields.text("firstname").unwrap_or_default(),
            surname: fields.text("surname").unwrap_or_default(),
            provider: fields.text("provider").unwrap_or_else(|| "local".to_owned()),
            groups: fields.texts("groups"),
            msisdn: fields.text("msisdn").filter(|text| !text.is_empty()),
            daily_report: fields.flag("dailyReport").unwrap_or(false),
            weekly_report: fields.flag("weeklyReport").unwrap_or(false),
            settings: fields.value("settings").cloned(),
            token: fields.text("token").map(Secret::from),
            token_type: fields.text("tokenType"),
            expiry: fields.date("expiry"),
            locked: fields.flag("locked"),
        })
    }

    /// First name and surname.
    pub fn full_name(&self) -> String {
        format!("{} {}", self.firstname, self.surname)
    }

    /// True for the account that cannot be deleted.
    pub fn is_root(&self) -> bool {
        self.email.eq_ignore_ascii_case(ROOT_EMAIL)
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_user_has_defaults_and_keeps_his_token_to_himself() {
        let user = User::from_document(&doc! {
            "_id": ObjectId::new(), "email": "Root@openhim.org", "firstname": "Super", "surname": "User", "groups": ["admin"],
            "token": "0f0f", "passwordHash": null,
        })
        .unwrap();

        assert_eq!(user.provider, "local");
        assert_eq!(user.full_name(), "Super User");
        assert!(user.is_root());
        assert!(!format!("{user:?}").contains("0f0f"));
    }
}
