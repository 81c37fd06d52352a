//! Work on databases by their names, without a node: moving from one to another, backups, metadata.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::store::{self as stores, Kind};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::metadata::{self, Author, Change, Desk, MetadataError};
use crate::moving::{self, MoveError, Order, Report, Watch};
use crate::store::mongo::{MongoOptions, MongoStore};
pub use crate::store::sqlite::Copied;
use crate::store::sqlite::{self, SqliteOptions, SqliteStore};
use crate::store::{SharedStore, StoreError};
use crate::upgrade::{self, UpgradeError};

/// What is to be moved where.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Where the documents are.
    pub from: String,
    /// Where their audits are, if that is another database of MongoDB.
    pub from_atna: Option<String>,
    /// Where they go.
    pub to: String,
    /// Put them in the place of whatever is there.
    pub overwrite: bool,
    /// Write nothing: only compare.
    pub only_check: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Migrated {
    pub report: Report,
    /// How many upgrade steps the copy needed.
    pub upgraded: usize,
    /// Collections of other programs in the source, and how many documents they hold; they stay where they are.
    pub left: Vec<(String, u64)>,
}

/// Why nothing was moved, or not everything.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("{0}")]
    Url(String),
    #[error("cannot open {name}")]
    Open {
        /// Without its password.
        name: String,
        #[source]
        source: StoreError,
    },
    #[error(transparent)]
    Move(#[from] MoveError),
    #[error("everything was copied, but the documents of the older OpenHIM could not all be brought up to date")]
    Upgrade(#[from] UpgradeError),
}

impl MigrationError {
    /// True if nothing was written.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Url(_) | Self::Open { .. } => true,
            Self::Move(error) => error.is_refusal(),
            Self::Upgrade(_) => false,
        }
    }
}

/// Copies one database into another, checks the copy, and brings older documents up to date.
///
/// # Errors
/// A database cannot be used, the target is somebody else's, or the work stopped; then the same call goes on later.
pub async fn migrate(migration: &Migration, watch: &dyn Watch) -> Result<Migrated, MigrationError> {
    let (from, to) = (kind(&migration.from)?, kind(&migration.to)?);
    let (source_name, target_name) = (stores::shown(&migration.from), stores::shown(&migration.to));
    if source_name == target_name {
        return Err(MigrationError::Url(format!(
            "source and target are the same: {source_name}"
        )));
    }
    let failed = |name: &str| {
        let name = name.to_owned();
        move |source| MigrationError::Open { name, source }
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut left = Vec::new();
    let mut log_bytes = None;
    let source: SharedStore = match from {
        Kind::Sqlite(path) => open_present(path, &clock).await.map_err(failed(&source_name))?,
        Kind::Mongo(url) => {
            let atna = migration.from_atna.as_deref();
            let attached = MongoStore::attach(url, atna, MongoOptions::default()).await;
            let attached = attached.map_err(failed(&source_name))?;
            left = attached.strangers().await.map_err(failed(&source_name))?;
            log_bytes = attached.log_bytes().await.map_err(failed(&source_name))?;
            attached
        }
    };
    let target: SharedStore = match to {
        Kind::Sqlite(path) if migration.only_check => open_present(path, &clock).await.map_err(failed(&target_name))?,
        Kind::Sqlite(path) => open(path, &clock).await.map_err(failed(&target_name))?,
        Kind::Mongo(url) if migration.only_check => MongoStore::attach(url, None, MongoOptions::default())
            .await
            .map_err(failed(&target_name))?,
        Kind::Mongo(url) => {
            let options = MongoOptions {
                log_bytes,
                ..MongoOptions::default()
            };
            MongoStore::connect(url, None, options)
                .await
                .map_err(failed(&target_name))?
        }
    };
    let order = Order {
        source: source_name,
        overwrite: migration.overwrite,
        only_check: migration.only_check,
    };
    let done = carry_out(&source, &target, &*clock, &order, watch).await;
    source.close().await;
    target.close().await;
    let (report, upgraded) = done?;
    Ok(Migrated { report, upgraded, left })
}

async fn carry_out(
    source: &SharedStore,
    target: &SharedStore,
    clock: &dyn Clock,
    order: &Order,
    watch: &dyn Watch,
) -> Result<(Report, usize), MigrationError> {
    let report = moving::copy(source, target, clock, order, watch).await?;
    if order.only_check || !report.is_complete() {
        return Ok((report, 0));
    }
    let told = |number: usize, step: &'static str| {
        watch.note(&format!("upgrade step {number} of {}: {step}", upgrade::NEWEST));
    };
    let upgraded = upgrade::run(&**target, clock, &told).await?;
    moving::release(target, clock, order).await?;
    Ok((report, upgraded))
}

fn kind(url: &str) -> Result<Kind<'_>, MigrationError> {
    Kind::of(url).ok_or_else(|| {
        MigrationError::Url(format!(
            "{} is no database: it must begin with sqlite:// or mongodb://",
            stores::shown(url)
        ))
    })
}

async fn open_present(path: &str, clock: &Arc<dyn Clock>) -> Result<SharedStore, StoreError> {
    if !Path::new(path).is_file() {
        return Err(StoreError::Other(format!("there is no file {path}")));
    }
    open(path, clock).await
}

/// Opens a file for work on it: nothing in it is removed because of its age meanwhile.
async fn open(path: &str, clock: &Arc<dyn Clock>) -> Result<SharedStore, StoreError> {
    let options = SqliteOptions {
        sweep_every: std::time::Duration::ZERO,
        clock: Arc::clone(clock),
        ..SqliteOptions::default()
    };
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(path, options)).await;
    opened
        .unwrap_or_else(|_| Err(StoreError::Other("opening was interrupted".into())))
        .map(|store| -> SharedStore { store })
}

/// The connection string of the store that a node with these settings works on.
pub fn store_url(config: &Config) -> &str {
    config.store.url.as_deref().unwrap_or(stores::DEFAULT_URL)
}

/// Copies the embedded store into a file, while a node works on it or not. `watch` is told how many pages of how many
/// are done. Blocks.
///
/// # Errors
/// The store is no file, or as [`sqlite::backup`].
pub fn backup(store: &str, to: &Path, overwrite: bool, watch: &mut dyn FnMut(u64, u64)) -> Result<Copied, BackupError> {
    Ok(sqlite::backup(file_of(store)?, to, overwrite, watch)?)
}

/// Puts a backup in the place of the embedded store, which no node may be working on. Blocks.
///
/// # Errors
/// The store is no file, or as [`sqlite::restore`].
pub fn restore(
    from: &Path,
    store: &str,
    overwrite: bool,
    watch: &mut dyn FnMut(u64, u64),
) -> Result<Copied, BackupError> {
    Ok(sqlite::restore(from, file_of(store)?, overwrite, watch)?)
}

/// Why there is no backup, or why it was not put in place.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("the store is {0}, no file of ours; MongoDB's own mongodump and mongorestore do this work there")]
    NoFile(String),
    #[error(transparent)]
    Copy(#[from] sqlite::CopyError),
}

impl BackupError {
    /// True if nothing was written.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NoFile(_) => true,
            Self::Copy(error) => error.is_refusal(),
        }
    }
}

fn file_of(url: &str) -> Result<&Path, BackupError> {
    match Kind::of(url) {
        Some(Kind::Sqlite(path)) => Ok(Path::new(path)),
        _ => Err(BackupError::NoFile(stores::shown(url))),
    }
}

/// What an installation consists of, as `GET /metadata` answers it.
///
/// # Errors
/// The store cannot be used.
pub async fn export(store: &str) -> Result<Value, MigrationError> {
    let opened = open_as_it_is(store).await?;
    let exported = metadata::export(&*opened).await;
    opened.close().await;
    exported.map_err(|source| MigrationError::Open {
        name: stores::shown(store),
        source,
    })
}

/// One document of an import.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The kind of thing: `Channels`, `Clients`, …
    pub kind: String,
    /// What it is called, if it has a name.
    pub name: Option<String>,
    /// What is changed, or would be; or why it cannot be.
    pub change: Result<Change, String>,
}

/// Brings what `POST /metadata` takes into the store; what is there already in the same form is left alone. With
/// `only_look` nothing is written at all.
///
/// # Errors
/// The store cannot be used. A document that cannot be imported is no error of the whole.
pub async fn import(store: &str, kinds: &Map<String, Value>, only_look: bool) -> Result<Vec<Imported>, MigrationError> {
    let opened = open_as_it_is(store).await?;
    let author = Author {
        id: bson::Bson::Null,
        name: "openhim-core import".to_owned(),
    };
    let desk = Desk {
        store: &*opened,
        clock: &SystemClock,
        author: &author,
    };
    let mut imported = Vec::new();
    for (name, documents) in kinds {
        // One keystore goes by two names.
        if name == "Keystore" && kinds.contains_key("KeystoreModelAPI") {
            continue;
        }
        for given in documents.as_array().into_iter().flatten() {
            imported.push(import_one(desk, name, given, only_look).await);
        }
    }
    opened.close().await;
    Ok(imported)
}

async fn import_one(desk: Desk<'_>, kind_name: &str, given: &Value, only_look: bool) -> Imported {
    let found = metadata::kind_named(kind_name);
    let name = found.and_then(|kind| kind.uid(given));
    let name = name.and_then(|name| name.as_str().map(str::to_owned));
    let change = match found {
        None => Err("there is no such kind of thing".to_owned()),
        Some(kind) => change_one(desk, kind, given, only_look)
            .await
            .map_err(|error| error.to_string()),
    };
    Imported {
        kind: kind_name.to_owned(),
        name,
        change,
    }
}

async fn change_one(
    desk: Desk<'_>,
    kind: &metadata::Kind,
    given: &Value,
    only_look: bool,
) -> Result<Change, MetadataError> {
    let change = metadata::preview(desk, kind, given).await?;
    if !only_look && !change.is_none() {
        metadata::import(desk, kind, given).await?;
    }
    Ok(change)
}

/// Opens a store that has to be there.
async fn open_as_it_is(url: &str) -> Result<SharedStore, MigrationError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let opened = match kind(url)? {
        Kind::Sqlite(path) => open_present(path, &clock).await,
        Kind::Mongo(url) => MongoStore::attach(url, None, MongoOptions::default())
            .await
            .map(|store| -> SharedStore { store }),
    };
    opened.map_err(|source| MigrationError::Open {
        name: stores::shown(url),
        source,
    })
}
