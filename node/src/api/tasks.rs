//! `/tasks`: which transactions run again, and how far that is.
//!
//! A task is only written here; the job that takes it up finds it in the store.

mod access;

use bson::{Bson, Document, doc};
use serde_json::{Map, Value};

pub(super) use access::Reruns;

use super::auth::Caller;
use super::context::{Api, Call};
use super::documents::Resource;
use super::error::{Doing, Fault, Refusal};
use super::page::Page;
use super::reply::Reply;
use super::router::Answer;
use crate::model::json;
use crate::model::role::Permission;
use crate::model::schema::tables::TASK;
use crate::store::{Collection, Find, Write};

const TASKS: Resource = Resource {
    collection: Collection::Tasks,
    schema: &TASK,
};

/// `GET /tasks`: without their transactions. Who may not rerun everything sees the tasks of people with the same roles.
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not fetch all tasks via the API:";
    let api = &call.api;
    let mut filters = filters(&call).doing(DOING)?;
    if !caller.may(Permission::TransactionRerunAll) {
        filters.insert("user".into(), colleagues(api, &caller).await.doing(DOING)?);
    }
    let filter = query(filters).doing(DOING)?;
    let page = Page::from_query(&call.query);
    let find = Find {
        filter,
        sort: doc! {"created": -1},
        skip: page.skip,
        limit: page.limit,
        projection: doc! {"transactions": 0},
    };
    let stored = api.store().all(Collection::Tasks, find).await.doing(DOING)?;
    let now = api.clock.now();
    let tasks = stored.into_iter().map(|task| TASK.show(task, &["transactions"], now));
    Ok(Reply::documents(&tasks.collect::<Vec<_>>())?)
}

/// `POST /tasks`
pub(super) async fn create(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not add Task via the API:";
    let api = &call.api;
    let ids = listed_ids(&call).doing(DOING)?;
    let mut task = doc! {
        "user": caller.email(), "remainingTransactions": ids.len() as i32, "totalTransactions": ids.len() as i32,
        "transactions": ids.iter().map(|id| doc! {"tid": id}).collect::<Vec<_>>(),
    };
    if let Some(size) = call.body.get("batchSize").filter(|size| !size.is_null()) {
        let size = json::to_bson(size.clone()).doing(DOING)?;
        if crate::model::number::of_bson(&size).is_some_and(|size| size <= 0.0) {
            return Err(Refusal::Invalid("Invalid batch size specified".into()));
        }
        task.insert("batchSize", size);
    }
    if call.body.get("paused").is_some_and(is_truthy) {
        task.insert("status", "Paused");
    }
    let channels = access::channels_of(api, &ids).await.doing(DOING)?;
    access::check(
        &caller,
        &channels,
        "create rerun tasks",
        "create rerun tasks for channels",
    )?;
    refuse_inactive(api, &channels).await?;
    let task = store(api, task, &ids).await.doing(DOING)?;
    let text = format!("User {} created task with id {task}", caller.email());
    tracing::info!("{text}");
    Ok(Reply::created_text(text))
}

/// `GET /tasks/:taskId`: with a page of its transactions.
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    let id = call.params.get("taskId");
    let doing = format!("Could not fetch Task by ID {id} via the API:");
    let mut task = permitted(&call, &caller, &doing, "get rerun tasks", "get task with channels").await?;
    let filters = filters(&call).doing(&doing)?;
    let entries = match task.remove("transactions") {
        Some(Bson::Array(entries)) => entries,
        _ => vec![],
    };
    let wanted: Vec<Bson> = entries.into_iter().filter(|entry| matches(entry, &filters)).collect();
    let total = wanted.len();
    let page = Page::from_query(&call.query);
    let part = wanted.into_iter().skip(page.skip as usize).take(page.limit as usize);
    // Without a limit or a page there is nothing to show, as consoles know it.
    let is_paged = ["filterLimit", "filterPage"]
        .iter()
        .all(|key| call.query.filled(key).is_some());
    task.insert("transactions", part.filter(|_| is_paged).collect::<Vec<_>>());
    task.insert("totalFilteredTransactions", total as i32);
    Ok(Reply::document(&task)?)
}

/// `PUT /tasks/:taskId`: pauses, resumes or cancels, by setting the status.
pub(super) async fn update(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not update Task by ID {taskId} via the API:";
    let id = call.params.get("taskId");
    permitted(&call, &caller, DOING, "update rerun tasks", "update task with channels").await?;
    let body = call.body.document().doing(DOING)?;
    TASKS.set(&call.api, &id, body).await.doing(DOING)?;
    tracing::info!("User {} updated task with id {id}", caller.email());
    Ok(Reply::ok_text("The Task was successfully updated"))
}

/// `DELETE /tasks/:taskId`
pub(super) async fn delete(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not remove Task by ID {taskId} via the API:";
    let id = call.params.get("taskId");
    permitted(&call, &caller, DOING, "remove rerun tasks", "remove task for channels").await?;
    TASKS.remove(&call.api, &id).await.doing(DOING)?;
    tracing::info!("User {} removed task with id {id}", caller.email());
    Ok(Reply::ok_text("The Task was successfully deleted"))
}

/// The task of the path, if the caller may rerun what is in it.
async fn permitted(call: &Call, caller: &Caller, doing: &str, any: &str, these: &str) -> Result<Document, Refusal> {
    let id = call.params.get("taskId");
    let Some(task) = TASKS.find(&call.api, &id).await.doing(doing)? else {
        return Err(Refusal::NotFound(format!(
            "We could not find a Task with this ID: {id}."
        )));
    };
    if !caller.may(Permission::TransactionRerunAll) {
        let entries = task.get_array("transactions").map_or(&[][..], Vec::as_slice);
        let ids = entries
            .iter()
            .filter_map(|entry| entry.as_document()?.get_str("tid").ok());
        let ids: Vec<String> = ids.map(str::to_owned).collect();
        let channels = access::channels_of(&call.api, &ids).await.doing(doing)?;
        access::check(caller, &channels, any, these)?;
    }
    Ok(task)
}

/// Stores a task, and takes its transactions out of whatever would repeat them by itself.
async fn store(api: &Api, task: Document, ids: &[String]) -> Result<String, Fault> {
    let task = TASK.build(task, api.clock.now())?;
    let id = task.get_object_id("_id").map(|id| id.to_hex()).unwrap_or_default();
    let ids = access::object_ids(ids)?;
    let batch = vec![
        Write::Update {
            of: Collection::Transactions,
            filter: doc! {"_id": {"$in": &ids}},
            update: doc! {"$set": {"autoRetry": false, "autoRetryAttempt": 0}},
            many: true,
            upsert: false,
        },
        Write::Insert {
            into: Collection::Tasks,
            document: task,
        },
        Write::Delete {
            from: Collection::AutoRetries,
            filter: doc! {"transactionID": {"$in": &ids}},
            many: true,
        },
    ];
    for outcome in api.store().write(&batch).await? {
        outcome?;
    }
    Ok(id)
}

async fn refuse_inactive(api: &Api, channels: &[bson::oid::ObjectId]) -> Result<(), Refusal> {
    let inactive = doc! {"_id": {"$in": channels}, "status": {"$in": ["disabled", "deleted"]}};
    let inactive = api.store().all(Collection::Channels, Find::by(inactive)).await;
    let inactive = inactive.doing("Could not add Task via the API:")?;
    if inactive.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = inactive
        .iter()
        .filter_map(|channel| channel.get_str("name").ok())
        .collect();
    Err(Refusal::Invalid(format!(
        "Cannot rerun transactions for disabled or deleted channels - {}",
        names.join(", ")
    )))
}

fn listed_ids(call: &Call) -> Result<Vec<String>, Fault> {
    let Some(Value::Array(ids)) = call.body.get("tids") else {
        return Err(Fault::Type(
            "Cannot read properties of undefined (reading 'length')".into(),
        ));
    };
    let text = |id: &Value| match id {
        Value::String(id) => id.clone(),
        other => other.to_string(),
    };
    Ok(ids.iter().map(text).collect())
}

/// The filters of the query, which has to have some.
fn filters(call: &Call) -> Result<Map<String, Value>, Fault> {
    match call.query.json("filters")? {
        Some(Value::Object(filters)) => Ok(filters),
        Some(_) => Ok(Map::new()),
        None => Err(Fault::Syntax("\"undefined\" is not valid JSON".into())),
    }
}

fn query(mut filters: Map<String, Value>) -> Result<Document, Fault> {
    if let Some(Value::String(created)) = filters.get("created").filter(|created| is_truthy(created)) {
        let range = serde_json::from_str(created)?;
        filters.insert("created".into(), range);
    }
    Ok(TASK.filter(json::to_document(filters.into())?)?)
}

/// The e-mails of everybody who shares a group with the caller.
async fn colleagues(api: &Api, caller: &Caller) -> Result<Value, Fault> {
    let mut find = Find::by(doc! {"groups": {"$in": caller.groups()}});
    find.projection = doc! {"email": 1};
    let users = api.store().all(Collection::Users, find).await?;
    let emails: Vec<&str> = users.iter().filter_map(|user| user.get_str("email").ok()).collect();
    Ok(serde_json::json!({"$in": emails}))
}

/// True if an entry of a task is what the filters ask for. No entry is ever stored with `hasErrors`.
fn matches(entry: &Bson, filters: &Map<String, Value>) -> bool {
    let entry = entry.as_document();
    let field = |key: &str| entry.and_then(|entry| entry.get_str(key).ok());
    let is_wanted = |key: &str| match filters.get(key).filter(|wanted| is_truthy(wanted)) {
        Some(wanted) => wanted.as_str() == field(key),
        None => true,
    };
    let has_errors = entry.is_some_and(|entry| entry.get_bool("hasErrors").unwrap_or(false));
    let errors_fit = match filters.get("hasErrors").and_then(Value::as_str) {
        Some("yes") => has_errors,
        Some("no") => !has_errors,
        _ => true,
    };
    is_wanted("tstatus") && is_wanted("rerunStatus") && errors_fit
}

/// What JavaScript takes for true.
fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}
