//! Lists of transactions and single ones.

use bson::{Bson, Document, RawDocument, doc};
use serde_json::{Map, Value, json};

use super::{VisibleChannel, is_listed, visible_channel, visible_channels};
use crate::api::auth::Caller;
use crate::api::context::{Api, Call};
use crate::api::error::{self, Doing, Fault, Refusal};
use crate::api::page::Page;
use crate::api::reply::Reply;
use crate::api::router::Answer;
use crate::api::stream::{self, Cut};
use crate::model::json;
use crate::model::schema::tables::TRANSACTION;
use crate::model::transaction_query::{self, Representation, truncate_bodies};
use crate::store::{Collection, Find};

/// `GET /transactions`
pub(in crate::api) async fn list(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not retrieve transactions via the API:";
    let api = &call.api;
    let mut representation = asked_for(&call);
    let mut filters = match call.query.json("filters").doing(DOING)? {
        None => Map::new(),
        Some(Value::Object(filters)) => filters,
        Some(other) => return Err(no_filters(&other)).doing(DOING),
    };
    if !caller.sees_all_channels() {
        let channels = visible_channels(api, &caller).await.doing(DOING)?;
        restrict(&mut filters, &channels)?;
        if representation != Representation::BulkRerun {
            representation = widest(&caller, &channels);
        }
    }
    let query = query(filters).doing(DOING)?;
    if representation == Representation::BulkRerun {
        let count = api.store().count(Collection::Transactions, query).await.doing(DOING)?;
        return Ok(Reply::ok(&json!({"count": count})));
    }
    let page = Page::from_query(&call.query);
    let find = Find {
        filter: query,
        sort: doc! {"request.timestamp": -1},
        skip: page.skip,
        limit: page.limit,
        projection: representation.projection(),
    };
    send(api, find, representation).await.doing(DOING)
}

/// `GET /transactions/clients/:clientId`
pub(in crate::api) async fn by_client(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not get transaction by clientID via the API:";
    let api = &call.api;
    let mut wanted = doc! {"clientID": call.params.get("clientId")};
    if !caller.sees_all_channels() {
        let channels = visible_channels(api, &caller).await.doing(DOING)?;
        let ids: Vec<_> = channels.into_iter().map(|channel| channel.id).collect();
        wanted.insert("channelID", doc! {"$in": ids});
    }
    // Bodies are not cut here, whatever is asked for.
    let representation = match asked_for(&call) {
        Representation::FullTruncate => Representation::Full,
        other => other,
    };
    let mut find = Find::by(TRANSACTION.filter(wanted).doing(DOING)?).sorted(doc! {"request.timestamp": -1});
    find.projection = representation.projection();
    send(api, find, representation).await.doing(DOING)
}

/// `GET /transactions/:transactionId`
pub(in crate::api) async fn read(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not get transaction by ID via the API:";
    let api = &call.api;
    let id = call.params.get("transactionId");
    let asked = call.query.filled("filterRepresentation");
    let sees_all = caller.sees_all_channels();
    let representation = if sees_all {
        Representation::named(asked.as_deref().unwrap_or("full"))
    } else {
        allowed(api, &caller, &id).await.doing(DOING)?
    };
    let found = one(api, &id, representation).await.doing(DOING)?;
    let Some(mut transaction) = found else {
        return Err(Refusal::NotFound(format!("Could not find transaction with ID: {id}")));
    };
    if !sees_all {
        let channels = visible_channels(api, &caller).await.doing(DOING)?;
        let channel = transaction.get_object_id("channelID").ok();
        if !channels.iter().any(|visible| Some(visible.id) == channel) {
            return Err(Refusal::Forbidden(format!(
                "User {} is not authenticated to retrieve transaction {id}",
                caller.email()
            )));
        }
    }
    if representation == Representation::FullTruncate {
        let cut = cut(api);
        truncate_bodies(&mut transaction, cut.most, &cut.mark);
    }
    Ok(Reply::document(&transaction)?)
}

async fn one(api: &Api, id: &str, representation: Representation) -> Result<Option<Document>, Fault> {
    let mut find = Find::by(doc! {"_id": error::id(id, "Transaction")?}).limited(1);
    find.projection = representation.projection();
    Ok(api.store().all(Collection::Transactions, find).await?.pop())
}

/// How much of this transaction its own channel lets the caller see.
async fn allowed(api: &Api, caller: &Caller, id: &str) -> Result<Representation, Fault> {
    let is_null = |field: &str| Fault::Type(format!("Cannot read properties of null (reading '{field}')"));
    let transaction = one(api, id, Representation::BulkRerun).await?;
    let transaction = transaction.ok_or_else(|| is_null("channelID"))?;
    let channel = transaction.get("channelID").cloned().unwrap_or(Bson::Null);
    let channel = api.store().one(Collection::Channels, doc! {"_id": channel}).await?;
    let channel = channel.as_ref().and_then(visible_channel);
    let channel = channel.ok_or_else(|| is_null("txViewFullAcl"))?;
    Ok(if is_listed(caller, &channel.full_acl) {
        Representation::Full
    } else {
        Representation::SimpleDetails
    })
}

/// One list on any visible channel widens the view of all.
fn widest(caller: &Caller, channels: &[VisibleChannel]) -> Representation {
    if channels.iter().any(|channel| is_listed(caller, &channel.full_acl)) {
        Representation::Full
    } else if channels.iter().any(|channel| is_listed(caller, &channel.acl)) {
        Representation::SimpleDetails
    } else {
        Representation::Simple
    }
}

/// Keeps to the channels that the caller may see.
fn restrict(filters: &mut Map<String, Value>, channels: &[VisibleChannel]) -> Result<(), Refusal> {
    let ids: Vec<String> = channels.iter().map(|channel| channel.id.to_hex()).collect();
    match filters.get("channelID") {
        Some(Value::String(asked)) if !asked.is_empty() => {
            if !ids.contains(asked) {
                return Err(Refusal::Forbidden(format!("Forbidden: Unauthorized channel {asked}")));
            }
        }
        Some(Value::Object(_) | Value::Array(_) | Value::Bool(true)) => {
            return Err(Refusal::Forbidden(
                "Forbidden: Unauthorized channel [object Object]".into(),
            ));
        }
        _ => {
            filters.insert("channelID".into(), json!({"$in": ids}));
        }
    }
    Ok(())
}

/// The store's query for a client's filters.
pub(in crate::api) fn query(filters: Map<String, Value>) -> Result<Document, Fault> {
    Ok(transaction_query::filter(json::to_document(filters.into())?)?)
}

fn asked_for(call: &Call) -> Representation {
    Representation::named(&call.query.get("filterRepresentation").unwrap_or_default())
}

fn no_filters(value: &Value) -> Fault {
    Fault::Type(format!("filters have to be an object, not {value}"))
}

async fn send(api: &Api, find: Find, representation: Representation) -> Result<Reply, Fault> {
    let cursor = api.store().find(Collection::Transactions, find).await?;
    match representation {
        Representation::FullTruncate => stream::array(cursor, truncated, cut(api)).await,
        _ => stream::array(cursor, stream::verbatim, Cut::default()).await,
    }
}

fn truncated(document: &RawDocument, out: &mut Vec<u8>, cut: &Cut) -> Result<(), Fault> {
    let mut transaction = crate::store::decode(document)?;
    truncate_bodies(&mut transaction, cut.most, &cut.mark);
    out.extend(json::of_document(&transaction)?);
    Ok(())
}

fn cut(api: &Api) -> Cut {
    Cut {
        most: api.settings.api.truncate_size,
        mark: api.settings.api.truncate_append.clone(),
    }
}
