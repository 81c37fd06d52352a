//! `/roles`: what console users may do, and what clients of the router are called in channels' lists.
//!
//! OpenHIM 8.5 keeps permissions here; consoles up to 8.4 show a matrix of the names that clients have and channels
//! allow. One answer serves both: a role has `permissions`, and also the `channels` and `clients` where its name occurs;
//! names that occur only there are listed too. What the matrix sends back changes channels and clients ([`members`]).

mod members;

use bson::{Document, doc};
use serde_json::Value;

use super::auth::Caller;
use super::context::{Api, Call};
use super::documents::Resource;
use super::error::{Doing, Fault, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::model::role::Permission;
use crate::model::schema::Operators;
use crate::model::schema::tables::ROLE;
use crate::store::{Collection, Find, StoreError};
use members::Members;

const ROLES: Resource = Resource {
    collection: Collection::Roles,
    schema: &ROLE,
};

/// Without it nobody could manage roles any more.
const ADMIN: &str = "admin";

/// `GET /roles`
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    caller.require_literally("getRoles", Permission::UserRoleView)?;
    let api = &call.api;
    let roles = ROLES.shown(api, Find::default()).await.bare()?;
    let members = Members::load(api).await.bare()?;
    let mut names: Vec<String> = roles.iter().map(name_of).collect();
    let mut answer: Vec<Document> = roles.into_iter().map(|role| members.join(role)).collect();
    for name in members.names() {
        if !names.contains(name) {
            names.push(name.clone());
            answer.push(members.join(nameless_permissions(name, api)));
        }
    }
    Ok(Reply::documents(&answer)?)
}

/// `GET /roles/:name`
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    caller.require_literally("getRole", Permission::UserRoleView)?;
    let api = &call.api;
    let name = call.params.once("name");
    let members = Members::load(api).await.bare()?;
    let role = match find(api, name).await.bare()? {
        Some(role) => ROLE.show(role, &[], api.clock.now()),
        None if members.names().any(|known| known == name) => nameless_permissions(name, api),
        None => return Err(unknown(name)),
    };
    Ok(Reply::document(&members.join(role))?)
}

/// `POST /roles`
pub(super) async fn create(call: Call, caller: Caller) -> Answer {
    caller.require("addRole", Permission::UserRoleManage)?;
    let api = &call.api;
    let Some(name) = given_name(&call) else {
        return Err(Refusal::Invalid("Must specify a role name".into()));
    };
    refuse_name_of_client(api, &name).await.map_err(as_bad_request)?;
    let wanted = members::wanted(&call.body.value, &caller)?;
    let body = call.body.document().map_err(invalid)?;
    ROLES.add(api, body).await.map_err(invalid)?;
    members::apply(api, &name, wanted, &caller).await.map_err(invalid)?;
    tracing::info!("User {} created role {name}", caller.email());
    Ok(Reply::created_text("Role successfully created"))
}

/// `PUT /roles/:name`
pub(super) async fn update(call: Call, caller: Caller) -> Answer {
    caller.require("updateRole", Permission::UserRoleManage)?;
    let api = &call.api;
    let name = call.params.once("name");
    let new_name = given_name(&call);
    if let Some(new_name) = &new_name {
        refuse_name_of_client(api, new_name).await?;
        if new_name != name && find(api, new_name).await.bare()?.is_some() {
            return Err(Refusal::Invalid("Cannot rename role to existing role name".into()));
        }
        if name == ADMIN && new_name != ADMIN {
            return Err(Refusal::Forbidden("The admin role cannot be renamed".into()));
        }
    }
    let wanted = members::wanted(&call.body.value, &caller)?;
    let is_stored = find(api, name).await.bare()?.is_some();
    if is_stored {
        set(api, name, call.body.document().bare()?).await.bare()?;
    } else if !Members::load(api).await.bare()?.names().any(|known| known == name) {
        return Err(unknown(name));
    } else if let Some(new_name) = new_name.as_deref().filter(|new_name| *new_name != name) {
        members::rename(api, name, new_name, &caller).await?;
    }
    let current = new_name.as_deref().unwrap_or(name);
    members::apply(api, current, wanted, &caller).await.bare()?;
    tracing::info!("User {} updated role {name}", caller.email());
    Ok(Reply::ok_text("Successfully updated role"))
}

/// `DELETE /roles/:name`. A name that only clients and channels have is taken from them.
pub(super) async fn delete(call: Call, caller: Caller) -> Answer {
    caller.require("deleteRole", Permission::UserRoleManage)?;
    let api = &call.api;
    let name = call.params.once("name");
    if name == ADMIN {
        return Err(Refusal::Forbidden("The admin role cannot be deleted".into()));
    }
    let written = api
        .store()
        .delete(Collection::Roles, doc! {"name": name})
        .await
        .bare()?;
    if written.matched == 0 {
        if !Members::load(api).await.bare()?.names().any(|known| known == name) {
            return Err(unknown(name));
        }
        members::remove(api, name, &caller).await?;
    }
    api.changed(Collection::Roles).await;
    tracing::info!("User {} deleted role with name '{name}'", caller.email());
    Ok(Reply::ok_text("Successfully deleted role"))
}

async fn set(api: &Api, name: &str, mut body: Document) -> Result<(), Fault> {
    body.remove("_id");
    let change = ROLE.change(body, Operators::Refused, api.clock.now())?;
    if !change.is_empty() {
        api.store()
            .update(Collection::Roles, doc! {"name": name}, change)
            .await?;
        api.changed(Collection::Roles).await;
    }
    Ok(())
}

async fn find(api: &Api, name: &str) -> Result<Option<Document>, StoreError> {
    api.store().one(Collection::Roles, doc! {"name": name}).await
}

/// A name without a role of its own grants nothing.
fn nameless_permissions(name: &str, api: &Api) -> Document {
    ROLE.show(doc! {"name": name}, &[], api.clock.now())
}

fn given_name(call: &Call) -> Option<String> {
    match call.body.get("name")? {
        Value::String(name) => Some(name.clone()).filter(|name| !name.is_empty()),
        Value::Number(name) => Some(name.to_string()).filter(|name| name != "0"),
        Value::Bool(true) => Some("true".to_owned()),
        _ => None,
    }
}

async fn refuse_name_of_client(api: &Api, name: &str) -> Result<(), Refusal> {
    let client = api.store().one(Collection::Clients, doc! {"clientID": name}).await;
    match client.bare()? {
        Some(_) => Err(Refusal::Conflict("Role name matches an existing clientID".into())),
        None => Ok(()),
    }
}

fn name_of(role: &Document) -> String {
    role.get_str("name").unwrap_or_default().to_owned()
}

fn unknown(name: &str) -> Refusal {
    Refusal::NotFound(format!("Role {name} does not exist"))
}

fn invalid(fault: Fault) -> Refusal {
    Refusal::Invalid(fault.to_string())
}

fn as_bad_request(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Bare(fault) => invalid(fault),
        other => other,
    }
}
