//! Transactions that mediators add, complete and delete.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use http::StatusCode;

use super::events;
use crate::api::auth::Caller;
use crate::api::context::{Api, Call};
use crate::api::error::{self, Doing, Fault};
use crate::api::reply::Reply;
use crate::api::router::Answer;
use crate::model::body_budget::BodyBudget;
use crate::model::number;
use crate::model::role::{Permission, Specified};
use crate::model::schema::tables::TRANSACTION;
use crate::model::transaction_query::{changes, limit_bodies, reports_error, size_of_bodies};
use crate::store::Collection;

/// `POST /transactions`
pub(in crate::api) async fn create(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not add a transaction via the API:";
    caller.require("addTransaction", Permission::ChannelManageAll)?;
    let api = &call.api;
    let mut body = call.body.document().doing(DOING)?;
    fit_bodies(api, &mut body, 0);
    let transaction = TRANSACTION.build(body, api.clock.now()).doing(DOING)?;
    let inserted = api.store().insert(Collection::Transactions, transaction.clone()).await;
    inserted.doing(DOING)?;
    let id = transaction
        .get_object_id("_id")
        .map(|id| id.to_hex())
        .unwrap_or_default();
    tracing::info!("User {} created transaction with id {id}", caller.email());
    events::store(api, &transaction, transaction.get("channelID")).await;
    Ok(Reply::phrase(StatusCode::CREATED))
}

/// `PUT /transactions/:transactionId`: a part of a transaction, or update operators.
pub(in crate::api) async fn update(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not update transaction via the API:";
    let id = call.params.get("transactionId");
    let stored = stored(&call.api, &id).await.doing(DOING)?;
    require_channel(&caller, "updateTransaction", &stored)?;
    apply(&call, &stored).await.doing(DOING)?;
    tracing::info!("User {} updated transaction with id {id}", caller.email());
    Ok(Reply::ok_text(format!(
        "Transaction with ID: {id} successfully updated"
    )))
}

/// `DELETE /transactions/:transactionId`
pub(in crate::api) async fn delete(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not remove transaction via the API:";
    let id = call.params.get("transactionId");
    let stored = stored(&call.api, &id).await.doing(DOING)?;
    require_channel(&caller, "removeTransaction", &stored)?;
    let wanted = doc! {"_id": stored.get("_id").cloned().unwrap_or(Bson::Null)};
    call.api
        .store()
        .delete(Collection::Transactions, wanted)
        .await
        .doing(DOING)?;
    tracing::info!("User {} removed transaction with id {id}", caller.email());
    Ok(Reply::ok_text("Transaction successfully deleted"))
}

async fn stored(api: &Api, id: &str) -> Result<Document, Fault> {
    let wanted = doc! {"_id": error::id(id, "Transaction")?};
    let found = api.store().one(Collection::Transactions, wanted).await?;
    found.ok_or_else(|| Fault::Type("Cannot read properties of null (reading 'channelID')".into()))
}

fn require_channel(caller: &Caller, operation: &str, transaction: &Document) -> Result<(), error::Refusal> {
    let channel = transaction.get_object_id("channelID").map(|id| id.to_hex());
    caller.require_for(
        operation,
        Permission::ChannelManageAll,
        Specified::ChannelManage,
        channel.as_deref().unwrap_or_default(),
    )
}

async fn apply(call: &Call, stored: &Document) -> Result<(), Fault> {
    let api = &call.api;
    let mut body = call.body.document()?;
    if reports_error(&body) && queue_for_retry(api, stored).await? {
        body.insert("autoRetry", true);
    }
    fit_bodies(api, &mut body, size_of_bodies(stored));
    let update = changes(body, api.clock.now())?;
    let set = update.get_document("$set").cloned().unwrap_or_default();
    if !update.is_empty() {
        let wanted = doc! {"_id": stored.get("_id").cloned().unwrap_or(Bson::Null)};
        api.store().update(Collection::Transactions, wanted, update).await?;
    }
    let channel = set.get("channelID").or_else(|| stored.get("channelID"));
    events::store(api, &set, channel).await;
    Ok(())
}

/// Has a failed transaction tried again later, unless it was tried often enough; true if so.
async fn queue_for_retry(api: &Api, transaction: &Document) -> Result<bool, Fault> {
    let channel = transaction.get("channelID").cloned().unwrap_or(Bson::Null);
    let found = api
        .store()
        .one(Collection::Channels, doc! {"_id": channel.clone()})
        .await?;
    let count = |document: &Document, field: &str| document.get(field).and_then(number::of_bson);
    let most = found
        .as_ref()
        .and_then(|channel| count(channel, "autoRetryMaxAttempts"));
    let attempt = count(transaction, "autoRetryAttempt").unwrap_or(0.0);
    if most.is_some_and(|most| most > 0.0 && attempt >= most) {
        return Ok(false);
    }
    let at = transaction
        .get_document("request")
        .ok()
        .and_then(|it| it.get("timestamp"));
    let queued = doc! {
        "_id": ObjectId::new(),
        "transactionID": transaction.get("_id").cloned().unwrap_or(Bson::Null),
        "channelID": channel,
        "requestTimestamp": at.cloned().unwrap_or(Bson::Null),
        "__v": 0,
    };
    api.store().insert(Collection::AutoRetries, queued).await?;
    Ok(true)
}

/// Cuts bodies so that all of the transaction's together keep to the bound; `spent` bytes are stored already. A request
/// that was cut cannot be run again.
fn fit_bodies(api: &Api, changes: &mut Document, spent: u64) {
    let settings = &api.settings.api;
    let mut budget = BodyBudget::new(Some(settings.max_bodies_size_mb), &settings.truncate_append).spent(spent);
    if limit_bodies(changes, &mut budget) {
        changes.insert("canRerun", false);
    }
}
