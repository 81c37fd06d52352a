//! `/bulkrerun`: runs again whatever a filter selects.
//!
//! The selection is read once and cut into tasks while it is read, so that any number of transactions fits into memory.
//! A large selection is still being cut when the answer is sent.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use serde_json::{Value, json};

use super::auth::Caller;
use super::context::{Api, Call};
use super::error::{Doing, Fault, Refusal};
use super::reply::Reply;
use super::router::Answer;
use super::tasks::Reruns;
use crate::model::schema::tables::TASK;
use crate::model::{json as bson_json, transaction_query};
use crate::store::{Collection, Find};

const DOING: &str = "Could not create rerun tasks via the API:";

/// How long the answer waits for the tasks.
const PATIENCE: Duration = Duration::from_secs(1);

/// `POST /bulkrerun`
pub(super) async fn create(call: Call, caller: Caller) -> Answer {
    let filters = match call.body.get("filters") {
        Some(filters @ Value::Object(_)) => bson_json::to_document(filters.clone()).doing(DOING)?,
        _ => Document::new(),
    };
    let has_filters = call.body.get("filters").is_some_and(Value::is_object);
    let filters = restrict(&call.api, &caller, filters, has_filters).await?;
    let filter = transaction_query::filter(filters).doing(DOING)?;
    let template = template(&call, &caller).doing(DOING)?;
    let cutting = tokio::spawn(cut(call.api.clone(), filter, template));
    match tokio::time::timeout(PATIENCE, cutting).await {
        Ok(Ok(outcome)) => outcome.doing(DOING)?,
        Ok(Err(_)) => return Err(Refusal::Broken(format!("{DOING} Error: interrupted"))),
        // It goes on by itself; what goes wrong from now on is logged.
        Err(_) => {}
    }
    Ok(Reply::ok(&json!({
        "success": true,
        "message": "Tasks created for bulk rerun of transactions",
    })))
}

/// Keeps to the channels that the caller may see and run again.
async fn restrict(api: &Api, caller: &Caller, mut filters: Document, has_filters: bool) -> Result<Document, Refusal> {
    let Some(visible) = caller.visible_channels().doing(DOING)? else {
        return Ok(filters);
    };
    if !has_filters {
        return Err(Fault::Type(
            "Cannot read properties of undefined (reading 'channelID')".into(),
        ))
        .doing(DOING);
    }
    let mut find = Find::by(visible);
    find.projection = doc! {"_id": 1};
    let visible = api.store().all(Collection::Channels, find).await.doing(DOING)?;
    let mut ids: Vec<String> = visible
        .iter()
        .filter_map(|it| Some(it.get_object_id("_id").ok()?.to_hex()))
        .collect();
    let reruns = Reruns::of(caller);
    if reruns == Reruns::Of(vec![]) {
        return Err(Refusal::Forbidden(
            "Forbidden: User not authorized to rerun transactions for any channel".into(),
        ));
    }
    if let Reruns::Of(granted) = reruns {
        ids.retain(|id| granted.contains(id));
    }
    match filters.get("channelID") {
        None | Some(Bson::Null) => {
            filters.insert("channelID", doc! {"$in": ids});
        }
        Some(Bson::String(asked)) if ids.contains(asked) => {}
        Some(asked) => {
            let asked = asked.as_str().unwrap_or("[object Object]");
            return Err(Refusal::Forbidden(format!("Forbidden: Unauthorized channel {asked}")));
        }
    }
    Ok(filters)
}

/// What all the tasks have in common.
fn template(call: &Call, caller: &Caller) -> Result<Document, Fault> {
    let mut template = doc! {"user": caller.email()};
    if let Some(size) = call.body.get("batchSize").filter(|size| !size.is_null()) {
        template.insert("batchSize", bson_json::to_bson(size.clone())?);
    }
    let pauses = call
        .body
        .get("pauseQueue")
        .is_some_and(|pause| *pause == true || *pause == "true");
    if pauses {
        template.insert("status", "Paused");
    }
    Ok(template)
}

/// Makes tasks of all that the filter selects, the newest transactions first.
async fn cut(api: Arc<Api>, filter: Document, template: Document) -> Result<(), Fault> {
    let outcome = cut_all(&api, filter, &template).await;
    if let Err(fault) = &outcome {
        tracing::error!(error = %fault, "Rerun tasks could not all be created: {fault}");
    }
    outcome
}

async fn cut_all(api: &Api, filter: Document, template: &Document) -> Result<(), Fault> {
    let most = api.settings.rerun.task_transactions_length.max(1) as usize;
    let mut find = Find::by(filter).sorted(doc! {"request.timestamp": -1});
    find.projection = doc! {"_id": 1};
    let mut cursor = api.store().find(Collection::Transactions, find).await?;
    let mut part = Vec::with_capacity(most);
    while let Some(transaction) = cursor.next().await {
        if let Ok(id) = transaction?.get_object_id("_id") {
            part.push(doc! {"tid": id.to_hex()});
        }
        if part.len() == most {
            add(api, template, std::mem::take(&mut part)).await?;
        }
    }
    if !part.is_empty() {
        add(api, template, part).await?;
    }
    Ok(())
}

async fn add(api: &Api, template: &Document, transactions: Vec<Document>) -> Result<(), Fault> {
    let count = transactions.len() as i32;
    let mut task = template.clone();
    task.extend(doc! {"remainingTransactions": count, "totalTransactions": count, "transactions": transactions});
    let task = TASK.build(task, api.clock.now())?;
    api.store().insert(Collection::Tasks, task).await?;
    Ok(())
}
