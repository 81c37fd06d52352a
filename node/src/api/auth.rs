//! Who is asking, and what they may do. Management users only: clients of the router are authenticated elsewhere.
//!
//! [`gate`] stands before every route that is not public: a [`session`] first, then [`token`] headers, then
//! [`basic`]. [`local`] checks a password, [`openid`] asks a provider, [`limit`] slows down guessing, [`permission`] answers what a caller may do.

pub(super) mod basic;
pub(super) mod gate;
pub(super) mod limit;
pub(super) mod local;
pub(super) mod openid;
pub(super) mod permission;
pub(super) mod session;
pub(super) mod token;

use bson::{Document, doc};

use super::context::Api;
use crate::model::role::Role;
use crate::model::schema::tables::USER;
use crate::store::{Collection, StoreError};

/// How a caller proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Session,
    Token,
    Basic,
}

/// An authenticated user of the API.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The stored user.
    pub(super) user: Document,
    pub(super) roles: Vec<Role>,
    pub(super) proof: Proof,
}

impl Caller {
    /// The e-mail as stored.
    pub(super) fn email(&self) -> &str {
        self.user.get_str("email").unwrap_or_default()
    }

    /// The names of the roles.
    pub(super) fn groups(&self) -> Vec<&str> {
        groups(&self.user)
    }

    /// `firstname surname`, as histories show it.
    pub(super) fn name(&self) -> String {
        let part = |field| self.user.get_str(field).unwrap_or_default();
        format!("{} {}", part("firstname"), part("surname"))
    }
}

/// The names of a user's roles.
pub(super) fn groups(user: &Document) -> Vec<&str> {
    user.get_array("groups")
        .map(|groups| groups.iter().filter_map(|group| group.as_str()).collect())
        .unwrap_or_default()
}

/// A user as clients see them.
pub(super) fn shown(api: &Api, user: &Document) -> Document {
    USER.show(user.clone(), &[], api.clock.now())
}

/// The first user whose e-mail is this one, in any case.
///
/// # Errors
/// The store fails.
pub(super) async fn by_email(api: &Api, email: &str) -> Result<Option<Document>, StoreError> {
    let pattern = format!("^{}$", regex::escape(email));
    let wanted = doc! {"email": {"$regex": pattern, "$options": "i"}};
    api.store().one(Collection::Users, wanted).await
}
