//! Roles: what a console user may do.

use bson::Document;

use super::fields::Fields;

/// Declares the permissions with their names on the wire.
macro_rules! permissions {
    ($(#[$doc:meta])* $name:ident: $($variant:ident = $wire:literal,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($variant,)+
        }

        impl $name {
            /// All of them, in OpenHIM's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The key in a role's `permissions`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $wire,)+
                }
            }

            /// The permission of this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|permission| permission.name() == name)
            }

            /// The permission that implies this one: its name with the first `view` replaced by `manage`.
            pub fn manage_form(self) -> Option<Self> {
                self.name()
                    .contains("view")
                    .then(|| self.name().replacen("view", "manage", 1))
                    .and_then(|name| Self::named(&name))
            }
        }
    };
}

permissions! {
    /// A permission that a role has or has not.
    Permission:
    ChannelViewAll = "channel-view-all",
    ChannelManageAll = "channel-manage-all",
    ClientViewAll = "client-view-all",
    ClientManageAll = "client-manage-all",
    ClientRoleViewAll = "client-role-view-all",
    ClientRoleManageAll = "client-role-manage-all",
    TransactionViewAll = "transaction-view-all",
    TransactionViewBodyAll = "transaction-view-body-all",
    TransactionRerunAll = "transaction-rerun-all",
    UserView = "user-view",
    UserManage = "user-manage",
    UserRoleView = "user-role-view",
    UserRoleManage = "user-role-manage",
    AuditTrailView = "audit-trail-view",
    AuditTrailManage = "audit-trail-manage",
    ContactListView = "contact-list-view",
    ContactListManage = "contact-list-manage",
    MediatorViewAll = "mediator-view-all",
    MediatorManageAll = "mediator-manage-all",
    CertificatesView = "certificates-view",
    CertificatesManage = "certificates-manage",
    LogsView = "logs-view",
    ImportExport = "import-export",
    AppViewAll = "app-view-all",
    AppManageAll = "app-manage-all",
    VisualizerManage = "visualizer-manage",
    VisualizerView = "visualizer-view",
}

permissions! {
    /// A permission for the things a role lists.
    Specified:
    ChannelView = "channel-view-specified",
    ChannelManage = "channel-manage-specified",
    ClientView = "client-view-specified",
    ClientManage = "client-manage-specified",
    ClientRoleView = "client-role-view-specified",
    ClientRoleManage = "client-role-manage-specified",
    TransactionView = "transaction-view-specified",
    TransactionViewBody = "transaction-view-body-specified",
    TransactionRerun = "transaction-rerun-specified",
    MediatorView = "mediator-view-specified",
    MediatorManage = "mediator-manage-specified",
    AppView = "app-view-specified",
    AppManage = "app-manage-specified",
}

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub name: String,
    pub permissions: Permissions,
}

/// What a role grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    granted: u32,
    listed: [Vec<String>; Specified::ALL.len()],
}

impl Role {
    /// Reads a stored role; `None` if it has no name. Missing permissions are not granted.
    pub fn from_document(document: &Document) -> Option<Self> {
        let fields = Fields(document);
        Some(Self {
            name: fields.text("name")?,
            permissions: fields
                .document("permissions")
                .map(Permissions::read)
                .unwrap_or_default(),
        })
    }

    /// The roles that every installation starts with, `permissions` as stored.
    pub fn defaults() -> [(&'static str, Vec<Permission>); 3] {
        let all = Permission::ALL.to_vec();
        let manager = all
            .iter()
            .copied()
            .filter(|p| !matches!(p, Permission::UserManage | Permission::UserRoleManage))
            .collect();
        let operator = vec![
            Permission::ChannelViewAll,
            Permission::TransactionViewAll,
            Permission::TransactionViewBodyAll,
            Permission::TransactionRerunAll,
        ];
        [("admin", all), ("manager", manager), ("operator", operator)]
    }
}

impl Permissions {
    fn read(fields: Fields<'_>) -> Self {
        let mut permissions = Self::default();
        for &permission in Permission::ALL {
            if fields.flag(permission.name()) == Some(true) {
                permissions.grant(permission);
            }
        }
        for &list in Specified::ALL {
            permissions.listed[list as usize] = fields.texts(list.name());
        }
        permissions
    }

    /// Adds a permission.
    pub fn grant(&mut self, permission: Permission) {
        self.granted |= 1 << permission as u32;
    }

    /// True if the permission itself is granted; [`Permissions::allows`] is what decides.
    pub fn has(&self, permission: Permission) -> bool {
        self.granted & (1 << permission as u32) != 0
    }

    /// What the role lists under this name.
    pub fn listed(&self, list: Specified) -> &[String] {
        &self.listed[list as usize]
    }

    /// True if the permission is granted, or the one that implies it.
    pub fn allows(&self, permission: Permission) -> bool {
        self.has(permission) || permission.manage_form().is_some_and(|manage| self.has(manage))
    }

    /// True if `resource` is listed, or listed under the name that implies it.
    pub fn allows_specified(&self, list: Specified, resource: &str) -> bool {
        let contains = |list| self.listed(list).iter().any(|item| item == resource);
        contains(list) || list.manage_form().is_some_and(contains)
    }
}

/// True if some role allows it, on everything or on this `resource`.
pub fn allowed(roles: &[Role], permission: Permission, specified: Option<(Specified, &str)>) -> bool {
    roles.iter().any(|role| {
        role.permissions.allows(permission)
            || specified.is_some_and(|(list, resource)| role.permissions.allows_specified(list, resource))
    })
}

/// Everything that the roles list under this name or the one that implies it, without repetition.
pub fn specified(roles: &[Role], list: Specified) -> Vec<&str> {
    let mut union: Vec<&str> = roles
        .iter()
        .flat_map(|role| {
            let managed = list
                .manage_form()
                .map_or(&[][..], |manage| role.permissions.listed(manage));
            role.permissions.listed(list).iter().chain(managed)
        })
        .map(String::as_str)
        .collect();
    union.sort_unstable();
    union.dedup();
    union
}

#[cfg(test)]
mod tests {
    use bson::doc;
    use bson::oid::ObjectId;

    use super::*;

    fn role(permissions: Document) -> Role {
        Role::from_document(&doc! {"name": "r", "permissions": permissions}).unwrap()
    }

    #[test]
    fn there_are_forty_permissions_and_each_has_its_own_name() {
        let mut names: Vec<_> = Permission::ALL.iter().map(|p| p.name()).collect();
        names.extend(Specified::ALL.iter().map(|p| p.name()));
        names.sort_unstable();
        names.dedup();

        assert_eq!(names.len(), 40);
        assert!(Permission::ALL.iter().all(|p| Permission::named(p.name()) == Some(*p)));
    }

    #[test]
    fn managing_implies_viewing_and_not_the_reverse() {
        let manager = [role(doc! {"user-role-manage": true})];
        let viewer = [role(doc! {"user-role-view": true})];

        assert!(allowed(&manager, Permission::UserRoleView, None));
        assert!(!allowed(&viewer, Permission::UserRoleManage, None));
        assert_eq!(Permission::LogsView.manage_form(), None);
        assert_eq!(Permission::TransactionViewAll.manage_form(), None);
        assert_eq!(
            Permission::VisualizerView.manage_form(),
            Some(Permission::VisualizerManage)
        );
    }

    #[test]
    fn listed_things_are_compared_as_text_and_managing_one_implies_viewing_it() {
        let id = ObjectId::new();
        let roles = [
            role(doc! {"channel-manage-specified": [id]}),
            role(doc! {"channel-view-specified": ["b", "a"]}),
        ];
        let hex = id.to_hex();

        assert!(allowed(
            &roles,
            Permission::ChannelViewAll,
            Some((Specified::ChannelView, &hex))
        ));
        assert!(!allowed(
            &roles,
            Permission::ChannelManageAll,
            Some((Specified::ChannelManage, "a"))
        ));
        let mut all = vec!["a", "b", &hex];
        all.sort_unstable();
        assert_eq!(specified(&roles, Specified::ChannelView), all);
        assert_eq!(specified(&roles, Specified::ChannelManage), [&hex]);
    }

    #[test]
    fn nothing_is_granted_by_a_role_without_permissions() {
        let bare = Role::from_document(&doc! {"name": "bare"}).unwrap();

        assert!(Permission::ALL.iter().all(|p| !bare.permissions.allows(*p)));
        assert_eq!(Role::from_document(&doc! {"permissions": {}}), None);
    }

    #[test]
    fn the_default_roles_grant_what_openhim_grants() {
        let [(_, admin), (_, manager), (_, operator)] = Role::defaults();

        assert_eq!((admin.len(), manager.len(), operator.len()), (27, 25, 4));
        assert!(!manager.contains(&Permission::UserManage) && manager.contains(&Permission::UserView));
    }
}
