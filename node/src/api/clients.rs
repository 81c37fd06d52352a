//! `/clients`: the systems that may use the router.
//!
//! A custom token is never shown, only that there is one.

use bson::{Bson, Document, doc};
use serde_json::{Value, json};

use super::auth::Caller;
use super::context::{Api, Call};
use super::error::{self, Doing, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::model::role::{Permission, Specified};
use crate::model::schema::Operators;
use crate::model::schema::tables::CLIENT;
use crate::store::{Collection, Find};

/// `GET /clients`: all, or those that the caller's roles name.
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    let filter = if caller.may(Permission::ClientViewAll) {
        doc! {}
    } else {
        let named = caller.named(Specified::ClientView);
        if named.is_empty() {
            return Err(caller.denied("getClients", Permission::ClientViewAll));
        }
        let ids = named.into_iter().map(|name| error::id(name, "Client"));
        doc! {"_id": {"$in": ids.collect::<Result<Vec<_>, _>>().bare()?}}
    };
    let clients = call
        .api
        .store()
        .all(Collection::Clients, Find::by(filter))
        .await
        .bare()?;
    let clients: Vec<Document> = clients.into_iter().map(without_token).collect();
    Ok(Reply::documents(&clients)?)
}

/// `GET /clients/:clientId`
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    let given = call.params.once("clientId");
    caller.require_for("getClient", Permission::ClientViewAll, Specified::ClientView, given)?;
    Ok(Reply::document(&without_token(find(&call).await?))?)
}

/// `GET /clients/:clientId/:property`: only `clientName` is one.
pub(super) async fn property(call: Call, caller: Caller) -> Answer {
    let property = call.params.once("property");
    if property != "clientName" {
        return Err(Refusal::NotFound(format!(
            "The property ({property}) you are trying to retrieve is not found."
        )));
    }
    let given = call.params.once("clientId");
    caller.require_for("getClient", Permission::ClientViewAll, Specified::ClientView, given)?;
    let client = find(&call).await?;
    Ok(Reply::ok(&json!({"name": client.get_str("name").ok()})))
}

/// `GET /clients/domain/:clientDomain`
pub(super) async fn by_domain(call: Call, caller: Caller) -> Answer {
    let domain = call.params.get("clientDomain");
    let wanted = doc! {"clientDomain": &domain};
    let Some(client) = call.api.store().one(Collection::Clients, wanted).await.bare()? else {
        return Err(Refusal::NotFound(format!(
            "Could not find client with clientDomain {domain}"
        )));
    };
    let name = client.get_str("clientID").unwrap_or_default();
    caller.require_for(
        "getClientByDomain",
        Permission::ClientViewAll,
        Specified::ClientView,
        name,
    )?;
    Ok(Reply::document(&CLIENT.show(client, &[], call.api.clock.now()))?)
}

/// `POST /clients`
pub(super) async fn create(call: Call, caller: Caller) -> Answer {
    caller.require("addClient", Permission::ClientManageAll)?;
    let api = &call.api;
    if let Some(name) = call.body.get("clientID").and_then(plain_text) {
        refuse_name_of_role(api, &name).await.map_err(as_bad_request)?;
        match call.body.get("roles") {
            None | Some(Value::Null) => {
                return Err(Refusal::Invalid(
                    "Client validation failed: roles: Path `roles` is required.".into(),
                ));
            }
            Some(roles) if names(roles, &name) => {
                return Err(Refusal::Invalid(format!(
                    "ClientID '{name}' cannot be the same as a role name."
                )));
            }
            Some(_) => {}
        }
    }
    let document = call
        .body
        .document()
        .and_then(|body| Ok(CLIENT.build(body, api.clock.now())?));
    let document = document.map_err(|fault| Refusal::Invalid(fault.to_string()))?;
    let id = document.get("_id").map(Bson::to_string).unwrap_or_default();
    let inserted = api.store().insert(Collection::Clients, document).await;
    inserted.map_err(|error| Refusal::Invalid(error.to_string()))?;
    api.changed(Collection::Clients).await;
    tracing::info!("User {} created client with id {id}", caller.email());
    Ok(Reply::created_text("Client successfully created"))
}

/// `PUT /clients/:clientId`
pub(super) async fn update(call: Call, caller: Caller) -> Answer {
    let given = call.params.once("clientId");
    caller.require_for(
        "updateClient",
        Permission::ClientManageAll,
        Specified::ClientManage,
        given,
    )?;
    let api = &call.api;
    if let Some(name) = call.body.get("clientID").and_then(plain_text) {
        refuse_name_of_role(api, &name).await?;
    }
    let id = call.params.get("clientId");
    let mut body = call.body.document().bare()?;
    body.remove("_id");
    let object_id = error::id(&id, "Client").bare()?;
    let change = CLIENT.change(body, Operators::Refused, api.clock.now()).bare()?;
    if !change.is_empty() {
        api.store()
            .update(Collection::Clients, doc! {"_id": object_id}, change)
            .await
            .bare()?;
        api.changed(Collection::Clients).await;
    }
    tracing::info!("User {} updated client with id {id}", caller.email());
    Ok(Reply::ok_text("Successfully updated client."))
}

/// `DELETE /clients/:clientId`
pub(super) async fn delete(call: Call, caller: Caller) -> Answer {
    let given = call.params.once("clientId");
    caller.require_for(
        "removeClient",
        Permission::ClientManageAll,
        Specified::ClientManage,
        given,
    )?;
    let api = &call.api;
    let id = call.params.get("clientId");
    let object_id = error::id(&id, "Client").bare()?;
    api.store()
        .delete(Collection::Clients, doc! {"_id": object_id})
        .await
        .bare()?;
    api.changed(Collection::Clients).await;
    tracing::info!("User {} removed client with id {id}", caller.email());
    Ok(Reply::ok_text(format!("Successfully removed client with ID {id}")))
}

/// The client that the path names: by its id, or by its `clientID` if the query says so.
async fn find(call: &Call) -> Result<Document, Refusal> {
    let by_name = call.query.get("byNamedClientID").as_deref() == Some("true");
    let (shown, wanted) = if by_name {
        let name = call.params.once("clientId");
        (name.to_owned(), doc! {"clientID": name})
    } else {
        let id = call.params.get("clientId");
        let wanted = doc! {"_id": error::id(&id, "Client").bare()?};
        (id, wanted)
    };
    let found = call.api.store().one(Collection::Clients, wanted).await.bare()?;
    found.ok_or_else(|| Refusal::NotFound(format!("Client with id {shown} could not be found.")))
}

/// A client and a role must not have the same name: channels allow both by name.
async fn refuse_name_of_role(api: &Api, name: &str) -> Result<(), Refusal> {
    match api.store().one(Collection::Roles, doc! {"name": name}).await.bare()? {
        None => Ok(()),
        Some(_) => Err(Refusal::Conflict(format!(
            "A role name conflicts with clientID '{name}'. A role name cannot be the same as a clientID."
        ))),
    }
}

fn as_bad_request(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Bare(fault) => Refusal::Invalid(fault.to_string()),
        other => other,
    }
}

/// What the schema would make of the value, if it is text that is not empty.
fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn names(roles: &Value, name: &str) -> bool {
    match roles {
        Value::Array(roles) => roles.iter().any(|role| role == name),
        Value::String(role) => role == name,
        _ => false,
    }
}

fn without_token(mut client: Document) -> Document {
    let is_set = match client.get("customTokenID") {
        Some(Bson::String(token)) => !token.is_empty(),
        None | Some(Bson::Null) => false,
        Some(_) => true,
    };
    if is_set {
        client.remove("customTokenID");
        client.insert("customTokenSet", true);
    }
    client
}
