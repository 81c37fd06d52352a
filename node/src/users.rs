//! People: the root user and the roles that every installation starts with.
//!
//! Made at every start where they are missing and never repaired where somebody changed them. Several nodes may start
//! on one empty store at once: each write is one that may be made twice.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use tracing::info;

use crate::crypto::password::{self, PasswordError};
use crate::model::role::{Permission, Role, Specified};
use crate::store::{Collection, SharedStore, StoreError, Write};

/// The name that the first person logs in with.
pub const ROOT: &str = "root@openhim.org";
const ROOT_PASSWORD: &str = "openhim-password";
/// OpenHIM's salt for the root user's token passport.
const ROOT_SALT: &str = "d9bcb40e-ae65-478f-962e-5e5e5e7d0a01";

/// Why the first user and roles could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the root user's password could not be hashed")]
    Password(#[from] PasswordError),
    #[error("hashing was interrupted")]
    Interrupted,
}

/// Makes the root user and the default roles where they are missing; `cost` is bcrypt's.
///
/// # Errors
/// The store fails, or the cost is out of range.
pub async fn ensure(store: &SharedStore, cost: u32) -> Result<(), UsersError> {
    if store.one(Collection::Users, doc! {"email": ROOT}).await?.is_none() {
        make_root(store, cost).await?;
        info!(
            user.email = ROOT,
            "Root user {ROOT} created with the well-known password; change it"
        );
    }
    for (name, granted) in Role::defaults() {
        if store.one(Collection::Roles, doc! {"name": name}).await?.is_none() {
            insert_once(store, Collection::Roles, role(name, &granted)).await?;
        }
    }
    Ok(())
}

/// The passports first: a root user without them could never log in, and would never get them.
async fn make_root(store: &SharedStore, cost: u32) -> Result<(), UsersError> {
    let hashed = tokio::task::spawn_blocking(move || password::hash_bcrypt(ROOT_PASSWORD, cost))
        .await
        .map_err(|_| UsersError::Interrupted)??;
    let token = password::token_hash("sha512", ROOT_SALT, ROOT_PASSWORD);
    let passports = [
        ("local", doc! {"password": hashed}),
        (
            "token",
            doc! {"passwordAlgorithm": "sha512", "passwordSalt": ROOT_SALT, "passwordHash": token},
        ),
    ];
    for (protocol, mut fields) in passports {
        fields.insert("__v", 0);
        let upsert = Write::Update {
            of: Collection::Passports,
            filter: doc! {"protocol": protocol, "email": ROOT},
            update: doc! {"$setOnInsert": fields},
            many: false,
            upsert: true,
        };
        store.apply(upsert).await?;
    }
    let user = doc! {
        "_id": ObjectId::new(),
        "firstname": "Super",
        "surname": "User",
        "email": ROOT,
        "passwordAlgorithm": Bson::Null,
        "passwordHash": Bson::Null,
        "passwordSalt": Bson::Null,
        "provider": "local",
        "groups": ["admin"],
        "__v": 0,
    };
    insert_once(store, Collection::Users, user).await
}

/// A role with every permission spelt out, as OpenHIM stores one.
fn role(name: &str, granted: &[Permission]) -> Document {
    let mut permissions: Document = Permission::ALL
        .iter()
        .map(|permission| {
            (
                permission.name().to_owned(),
                Bson::Boolean(granted.contains(permission)),
            )
        })
        .collect();
    for list in Specified::ALL {
        permissions.insert(list.name(), Bson::Array(vec![]));
    }
    doc! {"_id": ObjectId::new(), "name": name, "permissions": permissions, "__v": 0}
}

/// Inserts what another node may have inserted meanwhile.
async fn insert_once(store: &SharedStore, into: Collection, document: Document) -> Result<(), UsersError> {
    match store.insert(into, document).await {
        Err(error) if error.is_duplicate() => Ok(()),
        outcome => Ok(outcome?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_role_spells_out_every_permission() {
        let (name, granted) = Role::defaults()[2].clone();

        let role = role(name, &granted);

        let permissions = role.get_document("permissions").unwrap();
        assert_eq!(permissions.len(), Permission::ALL.len() + Specified::ALL.len());
        assert!(permissions.get_bool("channel-view-all").unwrap());
        assert!(!permissions.get_bool("channel-manage-all").unwrap());
        assert!(permissions.get_array("channel-view-specified").unwrap().is_empty());
        assert_eq!(Role::from_document(&role).unwrap().name, "operator");
    }
}
