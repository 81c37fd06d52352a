//! What a caller may do, by the roles that their groups name.
//!
//! `manage` implies `view`. A permission may also be given for single resources by a list.

use bson::oid::ObjectId;
use bson::{Document, doc};

use super::Caller;
use crate::api::error::{Fault, Refusal};
use crate::model::role::{self, Permission, Role, Specified};
use crate::store::{Collection, Find, Store};

/// The roles of these names; a store that fails gives none.
pub(super) async fn load(store: &dyn Store, groups: &[&str]) -> Vec<Role> {
    if groups.is_empty() {
        return Vec::new();
    }
    let named = Find::by(doc! {"name": {"$in": groups}});
    match store.all(Collection::Roles, named).await {
        Ok(roles) => roles.iter().filter_map(Role::from_document).collect(),
        Err(error) => {
            tracing::error!(%error, "Roles could not be read: {error}");
            Vec::new()
        }
    }
}

impl Caller {
    /// True if some role has `permission` or the `manage` form of it.
    pub(in crate::api) fn may(&self, permission: Permission) -> bool {
        role::allowed(&self.roles, permission, None)
    }

    /// What the roles name in `list` and in the `manage` form of it.
    pub(in crate::api) fn named(&self, list: Specified) -> Vec<&str> {
        role::specified(&self.roles, list)
    }

    /// Lets the caller on only with `permission`.
    pub(in crate::api) fn require(&self, operation: &str, permission: Permission) -> Result<(), Refusal> {
        self.check(self.may(permission), operation, permission)
    }

    /// Lets the caller on with `permission`, or if `list` names `resource`.
    pub(in crate::api) fn require_for(
        &self,
        operation: &str,
        permission: Permission,
        list: Specified,
        resource: &str,
    ) -> Result<(), Refusal> {
        let allowed = role::allowed(&self.roles, permission, Some((list, resource)));
        self.check(allowed, operation, permission)
    }

    /// Lets the caller on only with exactly `permission`; its `manage` form is not enough.
    pub(in crate::api) fn require_literally(&self, operation: &str, permission: Permission) -> Result<(), Refusal> {
        let allowed = self.roles.iter().any(|role| role.permissions.has(permission));
        self.check(allowed, operation, permission)
    }

    /// The refusal for a caller without `permission`.
    pub(in crate::api) fn denied(&self, operation: &str, permission: Permission) -> Refusal {
        if self.roles.is_empty() {
            return Refusal::Forbidden(format!("User {} does not have an access role specified.", self.email()));
        }
        Refusal::Forbidden(format!(
            "User {} does not have the \"{}\" permission, API access to {operation} denied.",
            self.email(),
            permission.name()
        ))
    }

    fn check(&self, allowed: bool, operation: &str, permission: Permission) -> Result<(), Refusal> {
        if allowed {
            return Ok(());
        }
        Err(self.denied(operation, permission))
    }

    /// True for callers who see every channel and choose how much of a transaction they see.
    pub(in crate::api) fn sees_all_channels(&self) -> bool {
        self.may(Permission::ChannelViewAll)
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
            .named(Specified::ChannelView)
            .into_iter()
            .map(|name| crate::api::error::id(name, "Channel"))
            .collect::<Result<Vec<ObjectId>, _>>()?;
        Ok(Some(doc! {"_id": {"$in": ids}}))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Proof;
    use super::*;

    fn caller(roles: Vec<Document>) -> Caller {
        Caller {
            user: doc! {"email": "a@b.c", "groups": ["x"]},
            roles: roles
                .into_iter()
                .filter_map(|permissions| Role::from_document(&doc! {"name": "r", "permissions": permissions}))
                .collect(),
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

        assert!(manager.require("getChannel", Permission::ChannelViewAll).is_ok());
        assert_eq!(
            text_of(viewer.require("addChannel", Permission::ChannelManageAll).unwrap_err()),
            "User a@b.c does not have the \"channel-manage-all\" permission, API access to addChannel denied."
        );
        assert!(
            manager
                .require_literally("getRoles", Permission::ChannelViewAll)
                .is_err()
        );
    }

    #[test]
    fn a_list_lets_on_for_what_it_names() {
        let id = ObjectId::new();
        let caller = caller(vec![doc! {"channel-manage-specified": [id]}]);
        let ask = |resource: &str| {
            caller.require_for(
                "getChannel",
                Permission::ChannelViewAll,
                Specified::ChannelView,
                resource,
            )
        };

        assert!(ask(&id.to_hex()).is_ok());
        assert!(ask("other").is_err());
        assert_eq!(caller.visible_channels().unwrap(), Some(doc! {"_id": {"$in": [id]}}));
    }

    #[test]
    fn without_a_role_nothing_is_allowed_and_no_channel_is_visible() {
        let nobody = caller(vec![]);
        assert_eq!(
            text_of(nobody.require("getUsers", Permission::UserView).unwrap_err()),
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
