//! Where documents live: one trait, two databases, one suite that both must pass.
//!
//! Filters, updates and sort orders are MongoDB's documents, because that is what API clients send and what an existing
//! database understands. [`mongo`] hands them on; [`sqlite`] answers them with [`query`], one matcher over BSON.
//! Collections, field names and documents are OpenHIM's, so that an existing database just continues.
//!
//! Only [`crate::app`] names a concrete store. Nothing here knows what a transaction means.
//!
//! # How to add a collection
//! 1. A variant in [`Collection`] and its name in [`Collection::name`].
//! 2. Its indexes in [`Collection::indexes`]; the SQLite store makes typed columns for what it can.
//! 3. A case in the conformance suite if it needs anything new of the trait.

#[cfg(test)]
mod conformance;
pub mod mongo;
pub mod query;
pub mod sqlite;

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf, doc};

/// Every collection, by OpenHIM's names; those that start with `openhim` are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collection {
    Users,
    Roles,
    Passports,
    Sessions,
    Clients,
    Channels,
    ChannelAudits,
    Transactions,
    Tasks,
    AutoRetries,
    Events,
    Alerts,
    ContactGroups,
    Mediators,
    Visualizers,
    Apps,
    Keystores,
    Certificates,
    Metrics,
    DbVersions,
    Audits,
    AuditMeta,
    Log,
    AgendaJobs,
    /// Nodes of the cluster: identity and last sign of life.
    Nodes,
    /// Who runs which job.
    Leases,
    /// Messages to people that are on their way.
    Outbox,
    /// What a copy that was made into this store is of, and how far it is.
    Moves,
}

impl Collection {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::Users,
        Self::Roles,
        Self::Passports,
        Self::Sessions,
        Self::Clients,
        Self::Channels,
        Self::ChannelAudits,
        Self::Transactions,
        Self::Tasks,
        Self::AutoRetries,
        Self::Events,
        Self::Alerts,
        Self::ContactGroups,
        Self::Mediators,
        Self::Visualizers,
        Self::Apps,
        Self::Keystores,
        Self::Certificates,
        Self::Metrics,
        Self::DbVersions,
        Self::Audits,
        Self::AuditMeta,
        Self::Log,
        Self::AgendaJobs,
        Self::Nodes,
        Self::Leases,
        Self::Outbox,
        Self::Moves,
    ];

    /// The name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Roles => "roles",
            Self::Passports => "passports",
            Self::Sessions => "sessions",
            Self::Clients => "clients",
            Self::Channels => "channels",
            Self::ChannelAudits => "channelAudits",
            Self::Transactions => "transactions",
            Self::Tasks => "tasks",
            Self::AutoRetries => "autoretries",
            Self::Events => "events",
            Self::Alerts => "alerts",
            Self::ContactGroups => "contactgroups",
            Self::Mediators => "mediators",
            Self::Visualizers => "visualizers",
            Self::Apps => "apps",
            Self::Keystores => "keystores",
            Self::Certificates => "certificates",
            Self::Metrics => "metrics",
            Self::DbVersions => "dbversions",
            Self::Audits => "audits",
            Self::AuditMeta => "auditMeta",
            Self::Log => "log",
            Self::AgendaJobs => "agendaJobs",
            Self::Nodes => "openhimNodes",
            Self::Leases => "openhimLeases",
            Self::Outbox => "openhimOutbox",
            Self::Moves => "openhimMoves",
        }
    }

    /// True for the collections that `mongo.atnaUrl` places.
    pub const fn is_atna(self) -> bool {
        matches!(self, Self::Audits | Self::AuditMeta)
    }

    /// True for the collections that change all the time, so that counting their changes would tell nothing.
    pub const fn is_busy(self) -> bool {
        matches!(
            self,
            Self::Sessions
                | Self::ChannelAudits
                | Self::Transactions
                | Self::Tasks
                | Self::AutoRetries
                | Self::Events
                | Self::Alerts
                | Self::Metrics
                | Self::Audits
                | Self::AuditMeta
                | Self::Log
                | Self::AgendaJobs
                | Self::Nodes
                | Self::Leases
        )
    }

    /// The indexes besides `_id`.
    pub fn indexes(self) -> Vec<Index> {
        match self {
            Self::Users => vec![Index::on(doc! {"email": 1}).unique()],
            Self::Roles | Self::Channels | Self::Visualizers => vec![Index::on(doc! {"name": 1}).unique()],
            Self::Clients => vec![
                Index::on(doc! {"clientID": 1}).unique(),
                Index::on(doc! {"clientDomain": 1}),
                Index::on(doc! {"customTokenID": 1})
                    .unique()
                    .only(doc! {"customTokenID": {"$type": "string"}}),
            ],
            Self::ChannelAudits => vec![Index::on(doc! {"ref": 1})],
            Self::Transactions => vec![
                Index::on(doc! {"parentID": 1}),
                Index::on(doc! {"request.timestamp": 1}),
                Index::on(doc! {"channelID": 1, "request.timestamp": -1}),
                Index::on(doc! {"status": 1, "request.timestamp": -1}),
                Index::on(doc! {"childIDs": 1, "request.timestamp": -1}),
                Index::on(doc! {"clientID": 1, "request.timestamp": -1, "channelID": 1}),
            ],
            Self::Tasks => vec![Index::on(doc! {"status": 1}), Index::on(doc! {"created": 1})],
            Self::Events => vec![Index::on(doc! {"created": 1}).expires_after(3600)],
            Self::Alerts => vec![Index::on(doc! {"timestamp": 1}).expires_after(86_400)],
            Self::Sessions => vec![Index::on(doc! {"updatedAt": 1}).expires_after(30 * 86_400)],
            Self::ContactGroups => vec![Index::on(doc! {"group": 1}).unique()],
            Self::Mediators => vec![Index::on(doc! {"urn": 1}).unique()],
            Self::Apps => vec![
                Index::on(doc! {"name": 1}).unique(),
                Index::on(doc! {"url": 1}).unique(),
            ],
            Self::Metrics => vec![
                Index::on(doc! {"startTime": 1})
                    .expires_after(3600)
                    .only(doc! {"type": "m"}),
                Index::on(doc! {"startTime": 1, "channelID": 1, "type": 1}),
            ],
            Self::Audits => vec![Index::on(doc! {"eventIdentification.eventDateTime": 1})],
            Self::Log => vec![Index::on(doc! {"timestamp": -1}).named("timestamp_1")],
            Self::Outbox => vec![
                Index::on(doc! {"created": 1}),
                Index::on(doc! {"state": 1, "nextAt": 1}),
            ],
            Self::Passports => vec![Index::on(doc! {"email": 1})],
            Self::AutoRetries => vec![Index::on(doc! {"channelID": 1, "requestTimestamp": 1})],
            Self::Keystores
            | Self::Certificates
            | Self::DbVersions
            | Self::AuditMeta
            | Self::AgendaJobs
            | Self::Nodes
            | Self::Leases
            | Self::Moves => vec![],
        }
    }
}

/// One index of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    /// Field path to direction.
    pub keys: Document,
    pub unique: bool,
    /// Only documents that match this are indexed.
    pub partial: Option<Document>,
    /// Seconds after the indexed date at which a document is deleted.
    pub expire_after_seconds: Option<u64>,
    pub name: Option<&'static str>,
}

impl Index {
    fn on(keys: Document) -> Self {
        Self {
            keys,
            unique: false,
            partial: None,
            expire_after_seconds: None,
            name: None,
        }
    }

    fn unique(mut self) -> Self {
        self.unique = true;
        self
    }

    fn only(mut self, partial: Document) -> Self {
        self.partial = Some(partial);
        self
    }

    fn expires_after(mut self, seconds: u64) -> Self {
        self.expire_after_seconds = Some(seconds);
        self
    }

    fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// The name in the database: its own, or `field_1_other_-1`.
    pub fn mongo_name(&self) -> String {
        if let Some(name) = self.name {
            return name.to_owned();
        }
        let parts: Vec<String> = self.keys.iter().map(|(path, way)| format!("{path}_{way}")).collect();
        parts.join("_")
    }
}

/// Which documents, in which order, how many, how much of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Find {
    pub filter: Document,
    /// Field path to direction; empty: the order of insertion.
    pub sort: Document,
    pub skip: u64,
    /// 0: all.
    pub limit: u64,
    /// MongoDB's projection: only exclusions (`0`) or only inclusions (`1`); empty: whole documents.
    pub projection: Document,
}

impl Find {
    /// Everything that matches `filter`.
    pub fn by(filter: Document) -> Self {
        Self {
            filter,
            ..Self::default()
        }
    }

    /// In this order.
    pub fn sorted(mut self, sort: Document) -> Self {
        self.sort = sort;
        self
    }

    /// Not more than this many; 0 means all.
    pub fn limited(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }
}

/// One change. A batch of them is written in order and is durable as one.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Adds a document; it must have its `_id`.
    Insert { into: Collection, document: Document },
    /// The same with a document that was built as bytes; `_id` comes first. It may be large, and is shared so that a batch
    /// can be tried again without a copy of it.
    InsertRaw {
        into: Collection,
        document: Arc<RawDocumentBuf>,
    },
    /// Puts these fields of the document with this id in their places, or adds them, and removes those named in `unset`:
    /// what `$set` and `$unset` do, for fields that are not inside others. Many of them cost little more than one, and
    /// what they matched is not told.
    Set {
        of: Collection,
        id: ObjectId,
        set: Arc<RawDocumentBuf>,
        unset: &'static [&'static str],
    },
    /// Changes the first match (or every match) by update operators (`$set`, `$push`, `$inc`, …).
    Update {
        of: Collection,
        filter: Document,
        update: Document,
        many: bool,
        upsert: bool,
    },
    /// Puts `document` in the place of the first match.
    Replace {
        of: Collection,
        filter: Document,
        document: Document,
        upsert: bool,
    },
    /// Removes the first match (or every match).
    Delete {
        from: Collection,
        filter: Document,
        many: bool,
    },
}

/// What one write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub matched: u64,
    /// Inserted, changed or deleted.
    pub modified: u64,
    /// An upsert made a new document.
    pub upserted: bool,
}

/// How [`Store::find_and_update`] answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FindAndUpdate {
    pub filter: Document,
    pub update: Document,
    pub sort: Document,
    pub upsert: bool,
    /// Answer with the document as it is after the change instead of before.
    pub return_new: bool,
}

/// Why the store did not do as told. A missing document is never an error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// In MongoDB's words, because API clients see them.
    #[error("E11000 duplicate key error collection: {namespace} index: {index} dup key: {key}")]
    Duplicate {
        namespace: String,
        index: String,
        key: String,
    },
    /// The filter, update or pattern makes no sense.
    #[error("{0}")]
    BadQuery(String),
    /// Not reachable or not answering; trying again later may work.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// No room left.
    #[error("the store's disk is full: {0}")]
    Full(String),
    #[error("the document is too large for the store")]
    TooLarge,
    #[error("{0}")]
    Other(String),
}

impl StoreError {
    /// True if the same call may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full(_))
    }

    /// True if another document has the same key.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Duplicate { .. })
    }
}

/// The database in the namespaces of stores that have none.
const DATABASE: &str = "openhim";

/// Bytes of one document, at most: MongoDB's bound, kept by every store so that data can move between them.
pub const LARGEST_DOCUMENT: usize = 16 << 20;

/// What documents occupy that have a value in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Occupied {
    /// The value; null where there is none.
    pub key: bson::Bson,
    pub count: u64,
    /// Bytes of the documents, without indexes.
    pub bytes: u64,
}

/// A store's answer.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Where a cursor gets more documents from.
#[async_trait]
pub trait Source: Send {
    /// Some more documents (perhaps none yet); `None` at the end.
    async fn more(&mut self) -> Result<Option<Vec<RawDocumentBuf>>>;
}

/// Documents that are fetched while they are read; dropping it ends the query.
pub struct Cursor {
    ready: VecDeque<RawDocumentBuf>,
    source: Option<Box<dyn Source>>,
}

impl Cursor {
    /// A cursor over `documents` and whatever `source` has after them.
    pub fn new(documents: Vec<RawDocumentBuf>, source: Option<Box<dyn Source>>) -> Self {
        Self {
            ready: documents.into(),
            source,
        }
    }

    /// The next document; `None` after the last one. An error is the end.
    pub async fn next(&mut self) -> Option<Result<RawDocumentBuf>> {
        loop {
            if let Some(document) = self.ready.pop_front() {
                return Some(Ok(document));
            }
            match self.source.as_mut()?.more().await {
                Ok(Some(documents)) => self.ready = documents.into(),
                Ok(None) => self.source = None,
                Err(error) => {
                    self.source = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor")
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}

/// A database. All calls may be made from any runtime; none blocks its thread.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Documents as they are stored, streamed.
    async fn find(&self, from: Collection, find: Find) -> Result<Cursor>;

    /// How many documents match.
    async fn count(&self, of: Collection, filter: Document) -> Result<u64>;

    /// Writes a batch, in order. The outer result is the batch's: if it is `Err`, nothing of it can be relied on. A
    /// write that fails alone (a duplicate key, say) has its own `Err` and does not stop the rest. One whose own `Err` is
    /// temporary may or may not have happened; those that are `Ok` are not to be repeated.
    /// Resolves when the batch would survive a crash of this process and of the machine.
    async fn write(&self, batch: &[Write]) -> Result<Vec<Result<Written>>>;

    /// Changes the first match and answers with it, atomically.
    async fn find_and_update(&self, of: Collection, ask: FindAndUpdate) -> Result<Option<Document>>;

    /// A number that differs whenever `of` may have changed since, by whomever; `None` if only reading can tell.
    async fn version(&self, of: Collection) -> Result<Option<u64>>;

    /// Succeeds if the store answers.
    async fn ping(&self) -> Result<()>;

    /// Bytes on disk that the data occupies, where the store can say.
    async fn size(&self) -> Result<Option<u64>>;

    /// What the documents occupy, by the value of one field. Reads them all: for jobs, not for requests.
    async fn bytes_by(&self, of: Collection, field: &str) -> Result<Vec<Occupied>>;

    /// Adds up numbers of the documents that match, one document for each group.
    async fn sums(&self, of: Collection, sums: query::Sums) -> Result<Vec<Document>> {
        let mut cursor = self.find(of, Find::by(sums.filter.clone())).await?;
        let mut tally = query::Tally::new(&sums);
        while let Some(document) = cursor.next().await {
            tally.add(&document?);
        }
        Ok(tally.rows())
    }

    /// Gives some of the room that deleted documents left back to the disk; `true` if there is more of it.
    async fn shrink(&self) -> Result<bool> {
        Ok(false)
    }

    /// Writes out what waits and lets go of files and connections.
    async fn close(&self);
}

/// What callers usually want of a [`Store`], in one line each.
impl dyn Store + '_ {
    /// All matches in memory.
    pub async fn all(&self, from: Collection, find: Find) -> Result<Vec<Document>> {
        let mut cursor = self.find(from, find).await?;
        let mut documents = Vec::new();
        while let Some(raw) = cursor.next().await {
            documents.push(decode(&raw?)?);
        }
        Ok(documents)
    }

    /// The first match.
    pub async fn one(&self, from: Collection, filter: Document) -> Result<Option<Document>> {
        Ok(self.all(from, Find::by(filter).limited(1)).await?.pop())
    }

    /// Writes one change.
    pub async fn apply(&self, write: Write) -> Result<Written> {
        let mut outcomes = self.write(&[write]).await?;
        outcomes
            .pop()
            .unwrap_or_else(|| Err(StoreError::Other("the store answered nothing".into())))
    }

    /// Adds one document.
    pub async fn insert(&self, into: Collection, document: Document) -> Result<()> {
        self.apply(Write::Insert { into, document }).await.map(drop)
    }

    /// Changes the first match.
    pub async fn update(&self, of: Collection, filter: Document, update: Document) -> Result<Written> {
        self.apply(Write::Update {
            of,
            filter,
            update,
            many: false,
            upsert: false,
        })
        .await
    }

    /// Removes the first match.
    pub async fn delete(&self, from: Collection, filter: Document) -> Result<Written> {
        self.apply(Write::Delete {
            from,
            filter,
            many: false,
        })
        .await
    }
}

/// Reads a stored document.
///
/// # Errors
/// The bytes are not BSON.
pub fn decode(raw: &bson::RawDocument) -> Result<Document> {
    Document::try_from(raw).map_err(|error| StoreError::Other(format!("stored document is not BSON: {error}")))
}

/// A store that several owners share.
pub type SharedStore = Arc<dyn Store>;
