//! `/groups`: who is told about alerts.

use bson::doc;

use super::auth::Caller;
use super::context::{Api, Call};
use super::documents::Resource;
use super::error::{self, Doing, Fault, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::model::json;
use crate::model::role::Permission;
use crate::model::schema::tables::{CHANNEL, CONTACT_GROUP};
use crate::store::{Collection, Find};

const GROUPS: Resource = Resource {
    collection: Collection::ContactGroups,
    schema: &CONTACT_GROUP,
};

/// `GET /groups`
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    caller.require("getContactGroups", Permission::ContactListView)?;
    let groups = GROUPS.shown(&call.api, Find::default()).await;
    Ok(Reply::documents(
        &groups.doing("Could not fetch all Contact Group via the API:")?,
    )?)
}

/// `GET /groups/:contactGroupId`
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    caller.require("getContactGroup", Permission::ContactListView)?;
    let id = call.params.get("contactGroupId");
    let found = GROUPS.show(&call.api, &id).await;
    match found.doing(&format!("Could not find Contact Group by id '{id}' via the API:"))? {
        Some(group) => Ok(Reply::document(&group)?),
        None => Err(Refusal::NotFound(format!(
            "Contact Group with id '{id}' could not be found."
        ))),
    }
}

/// `POST /groups`
pub(super) async fn create(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not add a contact group via the API:";
    caller.require("addContactGroup", Permission::ContactListManage)?;
    GROUPS
        .add(&call.api, call.body.document().rejected(DOING)?)
        .await
        .rejected(DOING)?;
    Ok(Reply::created_text("Contact Group successfully created"))
}

/// `PUT /groups/:contactGroupId`
pub(super) async fn update(call: Call, caller: Caller) -> Answer {
    caller.require("updateContactGroup", Permission::ContactListManage)?;
    let id = call.params.get("contactGroupId");
    let doing = format!("Could not update Contact Group by id {id} via the API:");
    let body = call.body.document().doing(&doing)?;
    GROUPS.set(&call.api, &id, body).await.doing(&doing)?;
    tracing::info!("User {} updated contact group with id {id}", caller.email());
    Ok(Reply::ok_text("Successfully updated contact group."))
}

/// `DELETE /groups/:contactGroupId`: refused with the channels that still alert the group.
pub(super) async fn delete(call: Call, caller: Caller) -> Answer {
    caller.require("removeContactGroup", Permission::ContactListManage)?;
    let id = call.params.get("contactGroupId");
    let doing = format!("Could not remove Contact Group by id {id} via the API:");
    let users = users(&call.api, &id).await.doing(&doing)?;
    if !users.is_empty() {
        let channels = users.into_iter().map(|channel| json::to_value(&channel.into()));
        return Err(Refusal::InUse(channels.collect()));
    }
    GROUPS.remove(&call.api, &id).await.doing(&doing)?;
    tracing::info!("User {} removed contact group with id {id}", caller.email());
    Ok(Reply::ok_text(format!(
        "Successfully removed contact group with ID '{id}'"
    )))
}

/// The channels that alert the group.
async fn users(api: &Api, id: &str) -> Result<Vec<bson::Document>, Fault> {
    let channels = Resource {
        collection: Collection::Channels,
        schema: &CHANNEL,
    };
    let id = error::id(id, CONTACT_GROUP.model)?;
    channels.shown(api, Find::by(doc! {"alerts.groups": id})).await
}
