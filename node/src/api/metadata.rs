//! `/metadata`: what an installation consists of, to be carried to another one.
//!
//! Each document of an import stands for itself: one that fails is reported and the rest goes on.

use bson::{Bson, Document};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::auth::Caller;
use super::channels;
use super::context::{Api, Call};
use super::error::{Doing, Fault};
use super::reply::Reply;
use super::router::Answer;
use crate::keystore;
use crate::model::json as bson_json;
use crate::model::keystore::Keystore;
use crate::model::role::Permission;
use crate::model::schema::tables::{CHANNEL, CLIENT, CONTACT_GROUP, KEYSTORE, MEDIATOR, PASSPORT, USER};
use crate::model::schema::{Problem, Schema};
use crate::store::{Collection, Find};

/// One kind of thing that is carried.
struct Kind {
    /// The key in exports and imports.
    name: &'static str,
    collection: Collection,
    schema: &'static Schema,
    /// The fields that tell whether two documents are the same thing; none: there is only one. The first one is shown.
    identity: &'static [&'static str],
}

const fn kind(
    name: &'static str,
    collection: Collection,
    schema: &'static Schema,
    identity: &'static [&'static str],
) -> Kind {
    Kind {
        name,
        collection,
        schema,
        identity,
    }
}

/// `KeystoreModelAPI` is what OpenHIM calls the keystore by mistake; older ones say `Keystore`.
static KINDS: [Kind; 8] = [
    kind("Channels", Collection::Channels, &CHANNEL, &["name"]),
    kind("Clients", Collection::Clients, &CLIENT, &["clientID"]),
    kind("Mediators", Collection::Mediators, &MEDIATOR, &["urn"]),
    kind("Users", Collection::Users, &USER, &["email"]),
    kind("Passports", Collection::Passports, &PASSPORT, &["protocol", "email"]),
    kind("ContactGroups", Collection::ContactGroups, &CONTACT_GROUP, &["group"]),
    kind("KeystoreModelAPI", Collection::Keystores, &KEYSTORE, &[]),
    kind("Keystore", Collection::Keystores, &KEYSTORE, &[]),
];

/// What is done with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Import,
    Validate,
}

/// What came of a document.
struct Outcome {
    record: Value,
    status: &'static str,
    message: String,
}

impl Outcome {
    fn done(status: &'static str, record: Value) -> Self {
        Self {
            record,
            status,
            message: String::new(),
        }
    }

    fn failed(record: Value, message: impl Into<String>) -> Self {
        Self {
            record,
            status: "Error",
            message: message.into(),
        }
    }
}

/// `GET /metadata`: everything, without ids.
pub(super) async fn export(call: Call, caller: Caller) -> Answer {
    caller.require("getMetadata", Permission::ImportExport)?;
    let exported = everything(&call.api).await;
    Ok(Reply::ok(&json!([
        exported.doing("Could not fetch specified metadata via the API")?
    ])))
}

/// `POST /metadata`
pub(super) async fn import(call: Call, caller: Caller) -> Answer {
    process(call, caller, Action::Import).await
}

/// `POST /metadata/validate`: says what an import would do.
pub(super) async fn validate(call: Call, caller: Caller) -> Answer {
    process(call, caller, Action::Validate).await
}

async fn everything(api: &Api) -> Result<Value, Fault> {
    let mut exported = Map::new();
    for kind in &KINDS {
        let stored = api.store().all(kind.collection, Find::default()).await?;
        let shown = stored
            .into_iter()
            .map(|it| without_ids(bson_json::to_value(&it.into())));
        exported.insert(kind.name.to_owned(), shown.collect());
    }
    Ok(exported.into())
}

async fn process(call: Call, caller: Caller, action: Action) -> Answer {
    caller.require("addMetadata", Permission::ImportExport)?;
    let Value::Object(kinds) = &call.body.value else {
        return Ok(Reply::json(StatusCode::CREATED, &json!([])));
    };
    let mut answers = Vec::new();
    for (name, documents) in kinds {
        if documents.is_null() {
            let fault = Fault::Type("object null is not iterable".into());
            return Err(fault).doing("Could not import metadata via the API");
        }
        for document in documents.as_array().into_iter().flatten() {
            answers.push(one(&call.api, &caller, action, name, document).await);
        }
    }
    Ok(Reply::json(StatusCode::CREATED, &Value::Array(answers)))
}

async fn one(api: &Api, caller: &Caller, action: Action, name: &str, given: &Value) -> Value {
    let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
        let outcome = Outcome::failed(given.clone(), "Invalid Collection in Import Object");
        return answer(name, outcome, None);
    };
    let uid = kind.identity.first().and_then(|field| given.get(*field)).cloned();
    let outcome = match action {
        Action::Import => imported(api, caller, kind, given).await,
        Action::Validate => validated(api, caller, kind, given).await,
    };
    let outcome = outcome.unwrap_or_else(|fault| Outcome::failed(given.clone(), fault.to_string()));
    tracing::info!(
        "User {} performed {action:?} on {name}, got {}",
        caller.email(),
        outcome.status
    );
    answer(name, outcome, uid)
}

fn answer(name: &str, outcome: Outcome, uid: Option<Value>) -> Value {
    let mut answer = json!({
        "model": name, "record": outcome.record, "status": outcome.status, "message": outcome.message,
    });
    if let Some(uid) = uid {
        answer["uid"] = uid;
    }
    answer
}

async fn imported(api: &Api, caller: &Caller, kind: &Kind, given: &Value) -> Result<Outcome, Fault> {
    let mut document = document(kind, caller, given)?;
    let Some(stored) = existing(api, kind, &document).await? else {
        let inserted = kind.schema.build(document, api.clock.now())?;
        let record = bson_json::to_value(&inserted.clone().into());
        check_keys(kind, &inserted)?;
        insert(api, caller, kind, inserted).await?;
        return Ok(Outcome::done("Inserted", record));
    };
    let mut record = given.clone();
    if let Value::Object(fields) = &mut record {
        fields.shift_remove("_id");
    }
    document.remove("_id");
    if kind.collection == Collection::Channels {
        channels::save(api, stored, document, caller).await?;
        return Ok(Outcome::done("Updated", record));
    }
    let merged = kind.schema.merge(stored, document, api.clock.now())?;
    check_keys(kind, &merged.after)?;
    if !merged.update.is_empty() {
        api.store()
            .update(kind.collection, merged.filter, merged.update)
            .await?;
        api.changed(kind.collection).await;
    }
    Ok(Outcome::done("Updated", record))
}

async fn insert(api: &Api, caller: &Caller, kind: &Kind, document: Document) -> Result<(), Fault> {
    if kind.collection == Collection::Channels {
        return channels::insert(api, document, caller).await;
    }
    api.store().insert(kind.collection, document).await?;
    api.changed(kind.collection).await;
    Ok(())
}

async fn validated(api: &Api, caller: &Caller, kind: &Kind, given: &Value) -> Result<Outcome, Fault> {
    let document = document(kind, caller, given)?;
    if existing(api, kind, &document).await?.is_some() {
        return Ok(Outcome::done("Conflict", given.clone()));
    }
    let (mut made, problems) = kind.schema.make(document, api.clock.now());
    made.remove("__v");
    let record = bson_json::to_value(&made.into());
    if problems.is_empty() {
        return Ok(Outcome::done("Valid", record));
    }
    let list: Vec<String> = problems
        .iter()
        .map(|Problem { path, message }| format!("{path}: {message}"))
        .collect();
    let message = format!("Document Validation failed: ValidationError: {}", list.join(", "));
    Ok(Outcome::failed(record, message))
}

/// What is to be stored of the given value.
fn document(kind: &Kind, caller: &Caller, given: &Value) -> Result<Document, Fault> {
    if !given.is_object() {
        return Err(Fault::Type("the entry is no object".into()));
    }
    let mut document = bson_json::to_document(given.clone())?;
    if kind.collection == Collection::Channels {
        document.insert("updatedBy", channels::author(caller));
    }
    Ok(document)
}

/// The stored document that is the same thing.
async fn existing(api: &Api, kind: &Kind, document: &Document) -> Result<Option<Document>, Fault> {
    let mut wanted = Document::new();
    for field in kind.identity {
        match document.get(*field) {
            Some(value @ Bson::String(_)) => wanted.insert(*field, value.clone()),
            _ => return Ok(None),
        };
    }
    Ok(api.store().one(kind.collection, wanted).await?)
}

/// A key that does not fit its certificate would keep the node from serving.
fn check_keys(kind: &Kind, document: &Document) -> Result<(), Fault> {
    if kind.collection != Collection::Keystores {
        return Ok(());
    }
    let keystore = Keystore::from_document(document);
    keystore::check_pair(&keystore).map_err(|error| Fault::Other(error.to_string()))
}

fn without_ids(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.shift_remove("_id");
            fields.shift_remove("__v");
            for member in fields.values_mut() {
                *member = without_ids(member.take());
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = without_ids(item.take());
            }
        }
        _ => {}
    }
    value
}
