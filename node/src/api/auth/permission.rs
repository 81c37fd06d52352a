//! What a caller may do, by the roles that their groups name.
//!
//! `manage` implies `view`. A permission may also be given for single resources by a list.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use super::Caller;
use crate::api::error::{Fault, Refusal};
use crate::store::{Collection, Find, Store};

/// The permissions objects of a caller's roles.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Roles(Vec<Document>);

impl Roles {
    /// The roles of these names; a store that fails gives none.
    pub(in crate::api) async fn load(store: &dyn Store, groups: &[&str]) -> Self {
        if groups.is_empty() {
            return Self::default();
        }
        let named = Find::by(doc! {"name": {"$in": groups}});
        match store.all(Collection::Roles, named).await {
            Ok(roles) => Self(roles.into_iter().map(permissions).collect()),
            Err(error) => {
                tracing::error!(%error, "Roles could not be read: {error}");
                Self::default()
            }
        }
    }

    /// True if some role has `permission` or the `manage` form of it.
    pub(in crate::api) fn has(&self, permission: &str) -> bool {
        let manage = manage(permission);
        self.0
            .iter()
            .any(|role| is_set(role, permission) || is_set(role, &manage))
    }

    /// True if some role has exactly `permission`.
    pub(in crate::api) fn has_literally(&self, permission: &str) -> bool {
        self.0.iter().any(|role| is_set(role, permission))
    }

    /// Everything that the roles name in `list` and in the `manage` form of it, as text.
    pub(in crate::api) fn named(&self, list: &str) -> Vec<String> {
        let manage = manage(list);
        let mut names = Vec::new();
        for role in &self.0 {
            for key in [list, manage.as_str()] {
                for entry in role.get_array(key).map_or(&[][..], Vec::as_slice) {
                    let name = text(entry);
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                if manage == list {
                    break;
                }
            }
        }
        names
    }
}

impl Caller {
    /// Lets the caller on only with `permission`.
    pub(in crate::api) fn require(&self, operation: &str, permission: &str) -> Result<(), Refusal> {
        self.some_role()?;
        if self.roles.has(permission) {
            return Ok(());
        }
        Err(self.denied(operation, permission))
    }

    /// Lets the caller on with `permission`, or if `list` names `resource`.
    pub(in crate::api) fn require_for(
        &self,
        operation: &str,
        permission: &str,
        list: &str,
        resource: &str,
    ) -> Result<(), Refusal> {
        self.some_role()?;
        if self.roles.has(permission) || self.roles.named(list).iter().any(|name| name == resource) {
            return Ok(());
        }
        Err(self.denied(operation, permission))
    }

    /// Lets the caller on only with exactly `permission`; its `manage` form is not enough.
    pub(in crate::api) fn require_literally(&self, operation: &str, permission: &str) -> Result<(), Refusal> {
        self.some_role()?;
        if self.roles.has_literally(permission) {
            return Ok(());
        }
        Err(self.denied(operation, permission))
    }

    fn some_role(&self) -> Result<(), Refusal> {
        if self.roles.0.is_empty() {
            return Err(Refusal::Forbidden(format!(
                "User {} does not have an access role specified.",
                self.email()
            )));
        }
        Ok(())
    }

    fn denied(&self, operation: &str, permission: &str) -> Refusal {
        Refusal::Forbidden(format!(
            "User {} does not have the \"{permission}\" permission, API access to {operation} denied.",
            self.email()
        ))
    }

    /// True for callers who see every channel and choose how much of a transaction they see.
    pub(in crate::api) fn sees_all_channels(&self) -> bool {
        self.roles.has("channel-view-all")
    }

    /// The filter for the channels that the caller may see; `None` for all of them.
    ///
    /// # Errors
    /// A role's list has an entry that is no id.
    pub(in crate::api) fn visible_channels(&self) -> Result<Option<Document>, Fault> {
        if self.sees_all_channels() {
            return Ok(None);
        }
        let ids = self
            .roles
            .named("channel-view-specified")
            .iter()
            .map(|name| channel_id(name))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Some(doc! {"_id": {"$in": ids}}))
    }
}

fn channel_id(text: &str) -> Result<ObjectId, Fault> {
    ObjectId::parse_str(text).map_err(|_| {
        Fault::Cast(format!(
            "Cast to ObjectId failed for value \"{text}\" (type string) at path \"_id\" for model \"Channel\""
        ))
    })
}

fn permissions(mut role: Document) -> Document {
    match role.remove("permissions") {
        Some(Bson::Document(permissions)) => permissions,
        _ => Document::new(),
    }
}

fn is_set(permissions: &Document, name: &str) -> bool {
    permissions.get_bool(name).unwrap_or(false)
}

fn manage(permission: &str) -> String {
    permission.replacen("view", "manage", 1)
}

fn text(entry: &Bson) -> String {
    match entry {
        Bson::String(text) => text.clone(),
        Bson::ObjectId(id) => id.to_hex(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Proof;
    use super::*;

    fn caller(roles: Vec<Document>) -> Caller {
        Caller {
            user: doc! {"email": "a@b.c", "groups": ["x"]},
            roles: Roles(roles),
            proof: Proof::Session,
        }
    }

    fn text_of(refusal: Refusal) -> String {
        refusal.to_string()
    }

    #[test]
    fn manage_implies_view_and_not_the_other_way_round() {
        let manager = caller(vec![doc! {"channel-manage-all": true}]);
        let viewer = caller(vec![doc! {"channel-view-all": true}]);

        assert!(manager.require("getChannel", "channel-view-all").is_ok());
        assert_eq!(
            text_of(viewer.require("addChannel", "channel-manage-all").unwrap_err()),
            "User a@b.c does not have the \"channel-manage-all\" permission, API access to addChannel denied."
        );
        assert!(manager.require_literally("getRoles", "channel-view-all").is_err());
    }

    #[test]
    fn a_list_lets_on_for_what_it_names() {
        let id = ObjectId::new();
        let caller = caller(vec![doc! {"channel-manage-specified": [id]}]);
        let ask =
            |resource: &str| caller.require_for("getChannel", "channel-view-all", "channel-view-specified", resource);

        assert!(ask(&id.to_hex()).is_ok());
        assert!(ask("other").is_err());
        assert_eq!(caller.visible_channels().unwrap(), Some(doc! {"_id": {"$in": [id]}}));
    }

    #[test]
    fn without_a_role_nothing_is_allowed_and_no_channel_is_visible() {
        let nobody = caller(vec![]);
        assert_eq!(
            text_of(nobody.require("getUsers", "user-view").unwrap_err()),
            "User a@b.c does not have an access role specified."
        );
        assert_eq!(
            nobody.visible_channels().unwrap(),
            Some(doc! {"_id": {"$in": Vec::<ObjectId>::new()}})
        );
    }

    #[test]
    fn an_entry_that_is_no_id_is_an_error() {
        let caller = caller(vec![doc! {"channel-view-specified": ["nonsense"]}]);
        assert!(caller.visible_channels().is_err());
    }
}
