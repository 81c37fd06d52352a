//! Creating, changing and deleting channels.

use bson::{Bson, Document, doc};

use super::super::auth::Caller;
use super::super::context::{Api, Call};
use super::super::error::{self, Doing, Fault, Refusal};
use super::super::reply::Reply;
use super::super::router::Answer;
use super::{find, rules};
use crate::metadata;
use crate::model::number;
use crate::model::role::{Permission, Specified};
use crate::model::schema::Operators;
use crate::model::schema::tables::CHANNEL;
use crate::store::{Collection, Write};

/// `POST /channels`
pub(in super::super) async fn create(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not add channel via the API:";
    caller.require("addChannel", Permission::ChannelManageAll)?;
    let api = &call.api;
    let mut sent = call.body.document().rejected(DOING)?;
    sent.insert("updatedBy", author(&caller));
    let (channel, problems) = CHANNEL.make(sent.clone(), api.clock.now());
    if let Some(sentence) = rules::broken_by_new(&channel, &sent) {
        return Err(Refusal::Invalid(sentence));
    }
    if !problems.is_empty() {
        CHANNEL.build(sent, api.clock.now()).rejected(DOING)?;
    }
    let id = channel.get("_id").map(Bson::to_string).unwrap_or_default();
    insert(api, channel, &caller).await.rejected(DOING)?;
    tracing::info!("User {} created channel with id {id}", caller.email());
    Ok(Reply::created_text("Channel successfully created"))
}

/// `PUT /channels/:channelId`: a part of a channel, applied onto the stored one. What goes wrong after the permission is
/// answered with 500 and no word, as clients know it.
pub(in super::super) async fn update(call: Call, caller: Caller) -> Answer {
    let given = call.params.once("channelId");
    caller.require_for(
        "updateChannel",
        Permission::ChannelManageAll,
        Specified::ChannelManage,
        given,
    )?;
    let api = &call.api;
    let id = call.params.get("channelId");
    let mut sent = call.body.document().internal()?;
    sent.insert("updatedBy", author(&caller));
    let stored = existing(api, &id).await.internal()?;
    let looks_at_methods = !clears_methods(&mut sent);
    let merged = preview(api, &stored, &sent);
    if let Some(sentence) = rules::broken_by_update(&sent, &merged, looks_at_methods) {
        return Err(Refusal::Invalid(sentence));
    }
    if restarts_culling(&sent, &stored) {
        sent.insert("lastBodyCleared", Bson::Undefined);
    }
    save(api, stored, sent, &caller).await.internal()?;
    tracing::info!("User {} updated channel with id {id}", caller.email());
    Ok(Reply::ok_text("The channel was successfully updated"))
}

/// `DELETE /channels/:channelId`: a channel that has transactions is only marked.
pub(in super::super) async fn delete(call: Call, caller: Caller) -> Answer {
    let given = call.params.once("channelId");
    caller.require_for(
        "removeChannel",
        Permission::ChannelManageAll,
        Specified::ChannelManage,
        given,
    )?;
    let id = call.params.get("channelId");
    let removed = remove(&call.api, &id, &caller).await;
    removed.doing(&format!("Could not remove channel by id: {id} via the API:"))?;
    tracing::info!("User {} removed channel with id {id}", caller.email());
    Ok(Reply::ok_text("The channel was successfully deleted"))
}

async fn remove(api: &Api, id: &str, caller: &Caller) -> Result<(), Fault> {
    let stored = existing(api, id).await?;
    let object_id = error::id(id, "Channel")?;
    let transactions = api
        .store()
        .count(Collection::Transactions, doc! {"channelID": object_id})
        .await?;
    if transactions > 0 {
        let mark = doc! {"status": "deleted", "updatedBy": author(caller)};
        return save(api, stored, mark, caller).await;
    }
    let batch = vec![
        Write::Delete {
            from: Collection::Channels,
            filter: doc! {"_id": object_id},
            many: false,
        },
        Write::Delete {
            from: Collection::ChannelAudits,
            filter: doc! {"ref": object_id},
            many: true,
        },
    ];
    for outcome in api.store().write(&batch).await? {
        outcome?;
    }
    api.changed(Collection::Channels).await;
    Ok(())
}

async fn existing(api: &Api, id: &str) -> Result<Document, Fault> {
    find(api, id)
        .await?
        .ok_or_else(|| Fault::Type("Cannot read properties of null (reading 'type')".into()))
}

/// Adds a channel as it is.
pub(in super::super) async fn insert(api: &Api, channel: Document, caller: &Caller) -> Result<(), Fault> {
    metadata::insert_channel(api.store(), &*api.clock, channel, &caller.name()).await?;
    api.changed(Collection::Channels).await;
    Ok(())
}

/// Saves what `sent` changes.
pub(in super::super) async fn save(api: &Api, stored: Document, sent: Document, caller: &Caller) -> Result<(), Fault> {
    metadata::save_channel(api.store(), &*api.clock, stored, sent, &caller.name()).await?;
    api.changed(Collection::Channels).await;
    Ok(())
}

/// Who changes a channel, as the channel shows it.
pub(in super::super) fn author(caller: &Caller) -> Document {
    doc! {"id": caller.user.get("_id").cloned().unwrap_or(Bson::Null), "name": caller.name()}
}

/// A type without methods in the body: methods go if the type is another than http.
fn clears_methods(sent: &mut Document) -> bool {
    let kind = sent.get_str("type").unwrap_or_default().trim().to_owned();
    let has_methods = match sent.get("methods") {
        Some(Bson::Array(methods)) => !methods.is_empty(),
        Some(Bson::String(method)) => !method.is_empty(),
        None | Some(Bson::Null) => false,
        Some(_) => true,
    };
    if kind.is_empty() || has_methods {
        return false;
    }
    if kind != "http" {
        sent.insert("methods", Bson::Array(Vec::new()));
    }
    true
}

/// The stored channel with the body's values, as far as they can be cast.
fn preview(api: &Api, stored: &Document, sent: &Document) -> Document {
    let now = api.clock.now();
    let mut merged = CHANNEL.show(stored.clone(), &[], now);
    for (key, value) in sent {
        let one = doc! {key: value.clone()};
        if let Ok(mut change) = CHANNEL.change(one, Operators::Refused, now)
            && let Ok(set) = change.get_document_mut("$set")
        {
            merged.extend(std::mem::take(set));
        }
    }
    merged
}

/// A new age for bodies: the culling starts again.
fn restarts_culling(sent: &Document, stored: &Document) -> bool {
    let age = |document: &Document| document.get("maxBodyAgeDays").and_then(number::of_bson);
    match (age(sent), age(stored)) {
        (Some(new), Some(old)) => new != old,
        _ => false,
    }
}
