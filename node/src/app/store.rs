//! Which store, and where.

use std::sync::Arc;

use serde_json::Value;

use super::StartError;
use crate::clock::Clock;
use crate::config::{Config, Mongo};
use crate::store::SharedStore;
use crate::store::mongo::{MongoOptions, MongoStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore};

/// Where documents live if nothing else was said.
pub(super) const DEFAULT_URL: &str = "sqlite://openhim-data/openhim.db";

/// What a connection string names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'u> {
    /// A file.
    Sqlite(&'u str),
    /// A whole connection string.
    Mongo(&'u str),
}

impl<'u> Kind<'u> {
    /// `None`: neither of the two.
    pub(super) fn of(url: &'u str) -> Option<Self> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            return (!path.is_empty()).then_some(Self::Sqlite(path));
        }
        let is_mongo = url.starts_with("mongodb://") || url.starts_with("mongodb+srv://");
        is_mongo.then_some(Self::Mongo(url))
    }
}

/// A connection string without credentials and options, for messages.
pub(super) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    if scheme == "sqlite" {
        return url.to_owned();
    }
    let rest = rest.split('?').next().unwrap_or(rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    format!("{scheme}://{rest}")
}

/// Opens the store that `store.url` names.
pub(super) async fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<SharedStore, StartError> {
    let url = config.store.url.as_deref().unwrap_or(DEFAULT_URL);
    let log_bytes = config.logger.cap_db_logs.then_some(config.logger.cap_size);
    let kind = Kind::of(url);
    if let Some(Kind::Sqlite(path)) = kind {
        let options = SqliteOptions {
            log_bytes,
            clock: Arc::clone(clock),
            ..SqliteOptions::default()
        };
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || SqliteStore::open(path, options)).await;
        return match opened {
            Ok(store) => Ok(store?),
            Err(_) => Err(StartError::Url(format!("opening {url} was interrupted"))),
        };
    }
    if let Some(Kind::Mongo(url)) = kind {
        let options = MongoOptions {
            log_bytes,
            ..mongo_options(&config.mongo)
        };
        // Where audits live is only said apart if OpenHIM's own key for the database is the one in use.
        let atna_url = (config.mongo.url == url).then_some(config.mongo.atna_url.as_str());
        return Ok(MongoStore::connect(url, atna_url, options).await?);
    }
    Err(StartError::Url("it must begin with sqlite:// or mongodb://".into()))
}

fn mongo_options(mongo: &Mongo) -> MongoOptions {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    MongoOptions {
        read_preference: given(&mongo.api_read_preference),
        read_concern: given(&mongo.api_read_concern),
        // 1 is OpenHIM's default and would let an election forget what was acknowledged.
        write_concern: plain(&mongo.api_write_concern).filter(|concern| concern != "1"),
        parameters: match &mongo.connection_options {
            Value::Object(options) => options
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), plain(value)?)))
                .collect(),
            _ => Vec::new(),
        },
        ..MongoOptions::default()
    }
}

/// A setting that is text, a number or a flag, as text.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}
