//! What an installation consists of besides its traffic: exported as JSON, and imported into another installation.
//!
//! Each document of an import stands for itself: one that fails is reported and the rest goes on. The API's routes and
//! the command line both come here, so that they mean the same. Who may do so is not decided here.

mod channel;
mod preview;

use bson::{Bson, Document};
use serde_json::{Map, Value, json};

pub use self::channel::{insert as insert_channel, record as record_channel_change, save as save_channel};
pub use self::preview::{Change, preview};

use crate::clock::Clock;
use crate::keystore;
use crate::model::json as bson_json;
use crate::model::json::JsonError;
use crate::model::keystore::Keystore;
use crate::model::schema::tables::{CHANNEL, CLIENT, CONTACT_GROUP, KEYSTORE, MEDIATOR, PASSPORT, USER};
use crate::model::schema::{Problem, Schema, SchemaError, ValidationError};
use crate::store::{Collection, Find, Store, StoreError};

/// One kind of thing that is carried.
#[derive(Debug)]
pub struct Kind {
    /// The key in exports and imports.
    pub name: &'static str,
    pub collection: Collection,
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

/// The kind of this name.
pub fn kind_named(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// Why a document was not imported.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Schema(#[from] SchemaError),
    #[error("{0}")]
    Json(#[from] JsonError),
    #[error("the entry is no object")]
    NoObject,
    #[error("it was changed by somebody else at the same time")]
    Overtaken,
    #[error("{0}")]
    Keys(String),
}

impl From<ValidationError> for MetadataError {
    fn from(error: ValidationError) -> Self {
        Self::Schema(error.into())
    }
}

/// Who imports: histories name them.
#[derive(Clone, Debug)]
pub struct Author {
    /// The id of the user, or `null`.
    pub id: Bson,
    pub name: String,
}

impl Author {
    fn document(&self) -> Document {
        bson::doc! {"id": self.id.clone(), "name": &*self.name}
    }
}

/// Where an import goes, and in whose name.
#[derive(Clone, Copy, Debug)]
pub struct Desk<'a> {
    pub store: &'a dyn Store,
    pub clock: &'a dyn Clock,
    pub author: &'a Author,
}

/// What came of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub record: Value,
    /// `Inserted`, `Updated`, `Valid`, `Conflict` or `Error`.
    pub status: &'static str,
    pub message: String,
}

impl Outcome {
    fn done(status: &'static str, record: Value) -> Self {
        Self {
            record,
            status,
            message: String::new(),
        }
    }

    /// It did not work.
    pub fn failed(record: Value, message: impl Into<String>) -> Self {
        Self {
            record,
            status: "Error",
            message: message.into(),
        }
    }
}

/// Everything, without ids.
///
/// # Errors
/// The store fails.
pub async fn export(store: &dyn Store) -> Result<Value, StoreError> {
    let mut exported = Map::new();
    for kind in &KINDS {
        let stored = store.all(kind.collection, Find::default()).await?;
        let shown = stored
            .into_iter()
            .map(|it| without_ids(bson_json::to_value(&it.into())));
        exported.insert(kind.name.to_owned(), shown.collect());
    }
    Ok(json!([exported]))
}

impl Kind {
    /// What a document of this kind is called.
    pub fn uid(&self, given: &Value) -> Option<Value> {
        self.identity.first().and_then(|field| given.get(*field)).cloned()
    }
}

/// Stores a document, or changes the one that is the same thing.
///
/// # Errors
/// The document is wrong, or the store fails.
pub async fn import(desk: Desk<'_>, kind: &Kind, given: &Value) -> Result<Outcome, MetadataError> {
    let mut document = document(desk, kind, given)?;
    let Some(stored) = existing(desk.store, kind, &document).await? else {
        let inserted = kind.schema.build(document, desk.clock.now())?;
        let record = bson_json::to_value(&inserted.clone().into());
        check_keys(kind, &inserted)?;
        match kind.collection {
            Collection::Channels => insert_channel(desk.store, desk.clock, inserted, &desk.author.name).await?,
            other => desk.store.insert(other, inserted).await?,
        }
        return Ok(Outcome::done("Inserted", record));
    };
    let mut record = given.clone();
    if let Value::Object(fields) = &mut record {
        fields.shift_remove("_id");
    }
    document.remove("_id");
    if kind.collection == Collection::Channels {
        save_channel(desk.store, desk.clock, stored, document, &desk.author.name).await?;
        return Ok(Outcome::done("Updated", record));
    }
    let merged = kind.schema.merge(stored, document, desk.clock.now())?;
    check_keys(kind, &merged.after)?;
    if !merged.update.is_empty() {
        let written = desk.store.update(kind.collection, merged.filter, merged.update).await?;
        if written.matched == 0 {
            return Err(MetadataError::Overtaken);
        }
    }
    Ok(Outcome::done("Updated", record))
}

/// Says what an import of the document would meet.
///
/// # Errors
/// The document is no object, or the store fails.
pub async fn validate(desk: Desk<'_>, kind: &Kind, given: &Value) -> Result<Outcome, MetadataError> {
    let document = document(desk, kind, given)?;
    if existing(desk.store, kind, &document).await?.is_some() {
        return Ok(Outcome::done("Conflict", given.clone()));
    }
    let (mut made, problems) = kind.schema.make(document, desk.clock.now());
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
fn document(desk: Desk<'_>, kind: &Kind, given: &Value) -> Result<Document, MetadataError> {
    if !given.is_object() {
        return Err(MetadataError::NoObject);
    }
    let mut document = bson_json::to_document(given.clone())?;
    if kind.collection == Collection::Channels {
        document.insert("updatedBy", desk.author.document());
    }
    Ok(document)
}

/// The stored document that is the same thing.
async fn existing(store: &dyn Store, kind: &Kind, document: &Document) -> Result<Option<Document>, StoreError> {
    let mut wanted = Document::new();
    for field in kind.identity {
        match document.get(*field) {
            Some(value @ Bson::String(_)) => wanted.insert(*field, value.clone()),
            _ => return Ok(None),
        };
    }
    store.one(kind.collection, wanted).await
}

/// A key that does not fit its certificate would keep the node from serving.
fn check_keys(kind: &Kind, document: &Document) -> Result<(), MetadataError> {
    if kind.collection != Collection::Keystores {
        return Ok(());
    }
    let keystore = Keystore::from_document(document);
    keystore::check_pair(&keystore).map_err(|error| MetadataError::Keys(error.to_string()))
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
