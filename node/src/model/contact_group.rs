//! Who is told about an alert, and how.

use bson::Document;
use bson::oid::ObjectId;

use super::fields::Fields;

/// A named list of people.
#[derive(Clone, Debug, PartialEq)]
pub struct ContactGroup {
    pub id: ObjectId,
    pub group: String,
    pub users: Vec<ContactUser>,
}

impl ContactGroup {
    /// Reads a stored group; `None` if it has no id.
    pub fn from_document(document: &Document) -> Option<Self> {
        let fields = Fields(document);
        Some(Self {
            id: fields.id("_id")?,
            group: fields.text("group").unwrap_or_default(),
            users: ContactUser::list(fields, "users"),
        })
    }
}

/// One person to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactUser {
    /// E-mail address of a console user.
    pub user: String,
    /// `email` or `sms`; anything else was written past the API and is reported as unknown when used.
    pub method: String,
    pub max_alerts: MaxAlerts,
}

impl ContactUser {
    pub(super) fn list(fields: Fields<'_>, key: &str) -> Vec<Self> {
        fields
            .documents(key)
            .filter_map(|user| {
                Some(Self {
                    user: user.text("user")?,
                    method: user.text("method").unwrap_or_default(),
                    max_alerts: match user.text("maxAlerts").as_deref() {
                        Some("1 per hour") => MaxAlerts::OnePerHour,
                        Some("1 per day") => MaxAlerts::OnePerDay,
                        _ => MaxAlerts::Unlimited,
                    },
                })
            })
            .collect()
    }
}

/// How often one person is told the same thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxAlerts {
    #[default]
    Unlimited,
    OnePerHour,
    OnePerDay,
}
