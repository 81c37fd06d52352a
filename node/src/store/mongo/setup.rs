//! Connecting, and making what is missing.

use std::collections::HashSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use mongodb::options::{Acknowledgment, ClientOptions, IndexOptions, WriteConcern};
use mongodb::{Client, Database, IndexModel};
use tokio::task::JoinSet;

use super::{Databases, MongoOptions, asked, error, url};
use crate::store::{Collection, Index, Result, StoreError};

/// Where OpenHIM keeps its data when the connection string names no database.
const DEFAULT_DATABASE: &str = "openhim";

/// Codes for an index or a collection that is there with other options.
const ALREADY_THERE: [i32; 3] = [48, 85, 86];

/// Indexes of the documents that have such a part, newest first. Servers before 5.0 tell indexes apart by their fields
/// alone, so each has others.
const PARTS: [(&str, Option<&str>); 3] = [
    ("openhim_routes", None),
    ("openhim_orchestrations", Some("channelID")),
    ("openhim_properties", Some("clientID")),
];

/// Documents from which on it is worth telling that indexes are being made, and how often.
const WORTH_TELLING: u64 = 10_000;
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Connects and waits until a server answers.
pub(super) async fn connect(written: &str, options: &MongoOptions) -> Result<Database> {
    let hosts = url::hosts(written).to_owned();
    let complete = url::complete(written, &parameters(options));
    let mut client_options = ClientOptions::parse(&complete).await.map_err(|error| {
        StoreError::Other(format!(
            "the connection string for MongoDB at {hosts} makes no sense: {}; correct mongo.url",
            without(&error.to_string(), &complete)
        ))
    })?;
    client_options.app_name.get_or_insert_with(|| "openhim-core".to_owned());
    client_options
        .server_selection_timeout
        .get_or_insert(options.selection_timeout);
    client_options.connect_timeout.get_or_insert(options.selection_timeout);
    let name = client_options
        .default_database
        .clone()
        .unwrap_or_else(|| DEFAULT_DATABASE.to_owned());
    let asked = client_options.write_concern.take().unwrap_or_default();

    let client = Client::with_options(client_options).map_err(error::of)?;
    let hello = client.database("admin").run_command(doc! {"hello": 1}).await;
    let hello = match hello {
        // Servers before 4.4.2 know the older name only.
        Err(refused) if is_unknown_command(&refused) => {
            client.database("admin").run_command(doc! {"isMaster": 1}).await
        }
        other => other,
    };
    let hello = hello.map_err(|error| not_there(&hosts, error))?;
    let database_options = mongodb::options::DatabaseOptions::builder()
        .write_concern(write_concern(asked, hello.contains_key("setName") || is_router(&hello)))
        .build();
    Ok(client.database_with_options(&name, database_options))
}

fn parameters(options: &MongoOptions) -> Vec<(String, String)> {
    let named = [
        ("readPreference", &options.read_preference),
        ("readConcernLevel", &options.read_concern),
        ("w", &options.write_concern),
    ];
    let named = named
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
    options.parameters.iter().cloned().chain(named).collect()
}

/// What was asked for, always journaled; `majority` where there are several servers and nothing was asked for.
fn write_concern(asked: WriteConcern, several_servers: bool) -> WriteConcern {
    let mut concern = asked;
    concern.journal = Some(true);
    if concern.w.is_none() {
        concern.w = Some(if several_servers {
            Acknowledgment::Majority
        } else {
            Acknowledgment::Nodes(1)
        });
    }
    concern
}

fn is_router(hello: &Document) -> bool {
    hello.get_str("msg").is_ok_and(|text| text == "isdbgrid")
}

fn is_unknown_command(error: &mongodb::error::Error) -> bool {
    matches!(&*error.kind, mongodb::error::ErrorKind::Command(failure) if failure.code == 59)
}

fn not_there(hosts: &str, error: mongodb::error::Error) -> StoreError {
    match error::of(error) {
        StoreError::Unavailable(text) => StoreError::Unavailable(format!(
            "no MongoDB server answers at {hosts}: {text}; start it, or correct mongo.url"
        )),
        other => other,
    }
}

/// Keeps a connection string, which may hold a password, out of a message.
fn without(text: &str, secret: &str) -> String {
    text.replace(secret, "…")
}

/// Makes missing collections and indexes. An index that can't be made is a warning: the database may have its own.
pub(super) async fn prepare(databases: &Databases, log_bytes: Option<u64>) -> Result<()> {
    let present = names(&databases.main).await?;
    let present_atna = names(&databases.atna).await?;
    let mut tasks = JoinSet::new();
    for collection in Collection::ALL {
        let known = if collection.is_atna() { &present_atna } else { &present };
        let is_new = !known.contains(collection.name());
        tasks.spawn(prepare_one(
            databases.of(collection).clone(),
            collection,
            is_new,
            log_bytes,
        ));
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.map_err(|error| StoreError::Other(error.to_string()))??;
    }
    Ok(())
}

async fn names(database: &Database) -> Result<HashSet<String>> {
    let names = database.list_collection_names().await.map_err(error::of)?;
    Ok(names.into_iter().collect())
}

/// Collections that are neither OpenHIM's nor the server's, with the number of their documents.
pub(super) async fn strangers(database: &Database) -> Result<Vec<(String, u64)>> {
    let mut strangers = Vec::new();
    for name in names(database).await? {
        let is_known = Collection::ALL.iter().any(|known| known.name() == name);
        if !is_known && !name.starts_with("system.") {
            let count = database.collection::<Document>(&name).estimated_document_count().await;
            strangers.push((name, count.map_err(error::of)?));
        }
    }
    strangers.sort();
    Ok(strangers)
}

/// The bound of the `log` collection, if it has one.
pub(super) async fn log_bytes(database: &Database) -> Result<Option<u64>> {
    let wanted = doc! {"listCollections": 1, "filter": {"name": Collection::Log.name()}};
    let listed = database.run_command(wanted).await.map_err(error::of)?;
    let options = listed
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"))
        .ok()
        .and_then(|batch| batch.first()?.as_document()?.get_document("options").ok());
    let size = options
        .filter(|options| options.get_bool("capped").unwrap_or(false))
        .and_then(|options| options.get("size"));
    Ok(size.map(|size| number(Some(size))).filter(|size| *size > 0))
}

async fn prepare_one(database: Database, collection: Collection, is_new: bool, log_bytes: Option<u64>) -> Result<()> {
    if is_new {
        let mut creation = database.create_collection(collection.name());
        if let (Collection::Log, Some(bytes)) = (collection, log_bytes) {
            creation = creation.capped(true).size(bytes);
        }
        match creation.await {
            Err(error) if code(&error).is_some_and(|code| ALREADY_THERE.contains(&code)) => {}
            other => other.map_err(error::of)?,
        }
    }
    let present = match is_new {
        true => HashSet::new(),
        false => index_names(&database, collection).await?,
    };
    let missing = indexes(collection)
        .into_iter()
        .filter(|index| !present.contains(&index.mongo_name()));
    let (needed, useful): (Vec<Index>, Vec<Index>) = missing.partition(|index| is_new || index.unique);
    build(&database, collection, needed).await?;
    if !useful.is_empty() {
        // Large collections take their time; queries are only slower meanwhile.
        tokio::spawn(async move {
            let working = build_in_view(&database, collection, useful).await;
            if let Err(error) = working {
                let collection = collection.name();
                tracing::warn!(collection, %error, "Indexes of {collection} were not made; the next start tries again");
            }
        });
    }
    Ok(())
}

/// All indexes of a collection: OpenHIM's, and those of ours that only this store needs. Their names begin with
/// `openhim_` where OpenHIM might make one of the same name.
pub(super) fn indexes(collection: Collection) -> Vec<Index> {
    let mut indexes = collection.indexes();
    if collection == Collection::Transactions {
        let answered = doc! {"response.status": {"$exists": true}};
        indexes.push(Index::on(doc! {"response.status": 1, "request.timestamp": -1}).only(answered));
        indexes.extend(PARTS.into_iter().zip(asked::PARTS).map(|((name, beside), (_, there))| {
            let only = doc! {there: {"$exists": true}};
            let mut keys = doc! {"request.timestamp": -1};
            keys.extend(beside.map(|path| (path.to_owned(), Bson::Int32(1))));
            Index::on(keys).only(only).named(name)
        }));
    }
    indexes
}

async fn index_names(database: &Database, collection: Collection) -> Result<HashSet<String>> {
    let names = database
        .collection::<Document>(collection.name())
        .list_index_names()
        .await;
    Ok(names.map_err(error::of)?.into_iter().collect())
}

/// Makes indexes, and says now and then how far it is.
async fn build_in_view(database: &Database, collection: Collection, indexes: Vec<Index>) -> Result<()> {
    let name = collection.name();
    let documents = database
        .collection::<Document>(name)
        .estimated_document_count()
        .await
        .map_err(error::of)?;
    let count = indexes.len();
    let started = Instant::now();
    if documents > WORTH_TELLING {
        tracing::info!(
            collection = name,
            indexes = count,
            "Making {count} indexes of {name} in the background, of {documents} documents"
        );
    }
    let mut building = pin!(build(database, collection, indexes));
    loop {
        match tokio::time::timeout(TELL_EVERY, &mut building).await {
            Ok(outcome) => {
                if documents > WORTH_TELLING {
                    let seconds = started.elapsed().as_secs();
                    tracing::info!(collection = name, "Indexes of {name} are made, in {seconds} s");
                }
                return outcome;
            }
            Err(_) => {
                if let Some(stage) = stage(database, name).await {
                    tracing::info!(collection = name, "Making indexes of {name}: {stage}");
                }
            }
        }
    }
}

/// How far the server is with indexes of a collection, in its own words.
async fn stage(database: &Database, collection: &str) -> Option<String> {
    let question = doc! {"currentOp": 1, "$ownOps": true, "command.createIndexes": collection};
    let answer = database.client().database("admin").run_command(question).await.ok()?;
    let running = answer.get_array("inprog").ok()?;
    let message = running
        .iter()
        .filter_map(Bson::as_document)
        .find_map(|one| one.get_str("msg").ok());
    message.map(str::to_owned)
}

/// Makes indexes in one go; if the server refuses one, each by itself. One that can't be made is a warning: the database
/// may have its own.
async fn build(database: &Database, collection: Collection, indexes: Vec<Index>) -> Result<()> {
    let target = database.collection::<Document>(collection.name());
    let models: Vec<IndexModel> = indexes.into_iter().map(model).collect();
    if models.is_empty() || target.create_indexes(models.clone()).await.is_ok() {
        return Ok(());
    }
    for model in models {
        let index = model
            .options
            .as_ref()
            .and_then(|options| options.name.clone())
            .unwrap_or_default();
        match target.create_index(model).await.map(drop).map_err(error::of) {
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            Err(error) => {
                let collection = collection.name();
                tracing::warn!(collection, index, %error, "Index {index} of {collection} could not be made");
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

fn model(index: Index) -> IndexModel {
    let options = IndexOptions::builder()
        .name(index.mongo_name())
        .unique(index.unique.then_some(true))
        .partial_filter_expression(index.partial)
        .expire_after(index.expire_after_seconds.map(Duration::from_secs))
        .build();
    IndexModel::builder().keys(index.keys).options(options).build()
}

fn code(error: &mongodb::error::Error) -> Option<i32> {
    match &*error.kind {
        mongodb::error::ErrorKind::Command(failure) => Some(failure.code),
        _ => None,
    }
}

/// Bytes of the documents themselves: unlike those on disk, which the server reckons up at its checkpoints, they follow
/// a deletion at once, so that nobody deletes more than is necessary.
pub(super) fn occupied(stats: &Document) -> u64 {
    number(stats.get("dataSize"))
}

/// Free room in a collection's file from which on it is worth giving back.
const WORTH: u64 = 16 << 20;

/// Gives room in the transactions' file back to the disk, if there is much of it. Where that would keep others waiting
/// (before version 4.4) it is left to the operator.
pub(super) async fn compact(database: &Database) -> Result<()> {
    let Ok(hello) = database.run_command(doc! {"hello": 1}).await else {
        return Ok(());
    };
    if is_router(&hello) || number(hello.get("maxWireVersion")) < 9 {
        return Ok(());
    }
    let name = Collection::Transactions.name();
    let stats = database
        .run_command(doc! {"collStats": name})
        .await
        .map_err(error::of)?;
    let manager = stats
        .get_document("wiredTiger")
        .and_then(|engine| engine.get_document("block-manager"));
    let free = manager.map_or(0, |manager| number(manager.get("file bytes available for reuse")));
    if free < WORTH || free < number(stats.get("storageSize")) / 4 {
        return Ok(());
    }
    let mut order = doc! {"compact": name};
    if hello.contains_key("setName") {
        // A primary takes the order only so; nobody waits for it.
        order.insert("force", true);
    }
    database.run_command(order).await.map_err(error::of)?;
    tracing::info!("Room of deleted transactions was given back to the disk");
    Ok(())
}

fn number(value: Option<&Bson>) -> u64 {
    match value {
        Some(Bson::Double(number)) => *number as u64,
        Some(Bson::Int64(number)) => u64::try_from(*number).unwrap_or(0),
        Some(Bson::Int32(number)) => u64::try_from(*number).unwrap_or(0),
        _ => 0,
    }
}
