//! The store in MongoDB: OpenHIM's own database, which just continues.
//!
//! Filters and updates are handed on as they are, after the same check that the other store makes, so that both refuse
//! the same. The driver runs on a runtime of its own: its connections belong to no caller and outlive every instance.
//! A write is acknowledged when the server has it in its journal ([`batch`] says how a batch travels). Whether another
//! program changed a collection can't be seen from here, so [`Store::version`] never knows.

mod asked;
mod batch;
mod error;
mod setup;
mod sums;
mod url;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::Database;
use mongodb::options::{Hint, ReturnDocument};
use tokio::runtime::{Handle, Runtime};

use super::query::{Filter, Projection, SortOrder, Sums, Update};
use super::{Collection, Cursor, Find, FindAndUpdate, Occupied, Result, Source, Store, StoreError, Write, Written};

/// Documents in one helping of a cursor, at most.
const HELPING: usize = 256;
/// Bytes of documents in one helping, about.
const HELPING_BYTES: usize = 1 << 20;

/// How long a job may let the server go through a whole collection.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// How the database is used. What the connection string says itself goes before what is said here.
#[derive(Clone, Debug)]
pub struct MongoOptions {
    /// `mongo.openHIMApiReadPreference`, for instance `primaryPreferred`.
    pub read_preference: Option<String>,
    /// `mongo.openHIMApiReadConcern`, for instance `local`.
    pub read_concern: Option<String>,
    /// `mongo.openHIMApiWriteConcern`: a number, `majority` or a tag. `None`: `majority` on a replica set, else 1. A
    /// write is journaled in any case.
    pub write_concern: Option<String>,
    /// `mongo.connectionOptions`: more parameters of the connection string.
    pub parameters: Vec<(String, String)>,
    /// Bytes that the `log` collection may hold if it has to be made; `None`: no bound.
    pub log_bytes: Option<u64>,
    /// How long a call looks for a server that can take it.
    pub selection_timeout: Duration,
    /// How long one exchange with the server may take.
    pub timeout: Duration,
}

impl Default for MongoOptions {
    fn default() -> Self {
        Self {
            read_preference: None,
            read_concern: None,
            write_concern: None,
            parameters: Vec::new(),
            log_bytes: None,
            selection_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
        }
    }
}

/// A store in one or two MongoDB databases.
#[derive(Debug)]
pub struct MongoStore {
    runtime: OwnRuntime,
    databases: Arc<Databases>,
}

/// Where the collections are.
#[derive(Debug)]
struct Databases {
    main: Database,
    atna: Database,
    timeout: Duration,
}

impl MongoStore {
    /// Connects to the database that `url` names, and to `atna_url` for the audits if that is another one; makes the
    /// collections and indexes that are missing. Indexes that only make queries faster are built in the background.
    ///
    /// # Errors
    /// The connection string makes no sense, or no server answered; the text names the servers, never a password.
    pub async fn connect(url: &str, atna_url: Option<&str>, options: MongoOptions) -> Result<Arc<Self>> {
        Self::open(url, atna_url, options, true).await
    }

    /// Like [`Self::connect`], for a database that is only to be read: nothing is made that is missing.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn attach(url: &str, atna_url: Option<&str>, options: MongoOptions) -> Result<Arc<Self>> {
        Self::open(url, atna_url, options, false).await
    }

    async fn open(url: &str, atna_url: Option<&str>, options: MongoOptions, prepare: bool) -> Result<Arc<Self>> {
        let runtime = OwnRuntime::start()?;
        let (url, atna_url) = (url.to_owned(), atna_url.map(str::to_owned));
        let databases = runtime
            .run(async move {
                let main = setup::connect(&url, &options).await?;
                let atna = match atna_url {
                    Some(atna_url) if atna_url != url => setup::connect(&atna_url, &options).await?,
                    _ => main.clone(),
                };
                let databases = Databases {
                    main,
                    atna,
                    timeout: options.timeout,
                };
                if prepare {
                    setup::prepare(&databases, options.log_bytes).await?;
                }
                Ok(databases)
            })
            .await?;
        Ok(Arc::new(Self {
            runtime,
            databases: Arc::new(databases),
        }))
    }

    /// The collections that are not OpenHIM's, with the number of their documents.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn strangers(&self) -> Result<Vec<(String, u64)>> {
        self.ask(|databases| async move { setup::strangers(&databases.main).await })
            .await
    }

    /// How many bytes the `log` collection may hold, if that is bounded.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn log_bytes(&self) -> Result<Option<u64>> {
        self.ask(|databases| async move { setup::log_bytes(&databases.main).await })
            .await
    }

    /// Runs a conversation with the server on the driver's runtime, with a bound on its time.
    async fn ask<T, F>(&self, conversation: impl FnOnce(Arc<Databases>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let timeout = self.databases.timeout;
        let conversation = conversation(Arc::clone(&self.databases));
        self.runtime.run(bounded(timeout, conversation)).await
    }
}

async fn bounded<T>(timeout: Duration, conversation: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(timeout, conversation).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::Unavailable(format!(
            "MongoDB did not answer within {} s",
            timeout.as_secs()
        ))),
    }
}

impl Databases {
    fn of(&self, collection: Collection) -> &Database {
        if collection.is_atna() { &self.atna } else { &self.main }
    }

    fn collection(&self, collection: Collection) -> mongodb::Collection<RawDocumentBuf> {
        self.of(collection).collection(collection.name())
    }

    fn documents(&self, collection: Collection) -> mongodb::Collection<Document> {
        self.of(collection).collection(collection.name())
    }
}

#[async_trait]
impl Store for MongoStore {
    async fn find(&self, from: Collection, find: Find) -> Result<Cursor> {
        let compiled = Filter::compile(&find.filter)?;
        SortOrder::compile(&find.sort)?;
        Projection::compile(&find.projection)?;
        let handle = self.runtime.handle()?;
        self.ask(move |databases| async move {
            let mut find = find;
            let is_search = from == Collection::Transactions && asked::is_search(&find);
            if from == Collection::Transactions {
                find.filter = asked::filter(find.filter, &compiled);
            }
            let collection = databases.collection(from);
            let cursor = match is_search {
                false => query(&collection, &find).await,
                true => search(&collection, &find).await,
            };
            let mut pending = Pending {
                cursor: Some(cursor.map_err(error::of)?),
                handle,
                timeout: databases.timeout,
            };
            let first = pending.helping().await?;
            Ok(Cursor::new(first, Some(Box::new(pending))))
        })
        .await
    }

    async fn count(&self, of: Collection, filter: Document) -> Result<u64> {
        let compiled = Filter::compile(&filter)?;
        self.ask(move |databases| async move {
            let filter = match of {
                Collection::Transactions => asked::filter(filter, &compiled),
                _ => filter,
            };
            let count = databases.collection(of).count_documents(filter).await;
            count.map_err(error::of)
        })
        .await
    }

    async fn write(&self, batch: &[Write]) -> Result<Vec<Result<Written>>> {
        let (databases, batch) = (Arc::clone(&self.databases), batch::prepare(batch));
        self.runtime
            .run(async move { Ok(batch::write(databases, batch).await) })
            .await
    }

    async fn find_and_update(&self, of: Collection, ask: FindAndUpdate) -> Result<Option<Document>> {
        Filter::compile(&ask.filter)?;
        SortOrder::compile(&ask.sort)?;
        Update::compile(&ask.update)?;
        let state = if ask.return_new {
            ReturnDocument::After
        } else {
            ReturnDocument::Before
        };
        self.ask(move |databases| async move {
            let collection = databases.documents(of);
            let mut change = collection
                .find_one_and_update(ask.filter, ask.update)
                .upsert(ask.upsert)
                .return_document(state);
            if !ask.sort.is_empty() {
                change = change.sort(ask.sort);
            }
            change.await.map_err(error::of)
        })
        .await
    }

    async fn version(&self, _of: Collection) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn ping(&self) -> Result<()> {
        self.ask(|databases| async move {
            let pong = databases.main.run_command(doc! {"ping": 1}).await;
            pong.map(drop).map_err(error::of)
        })
        .await
    }

    async fn size(&self) -> Result<Option<u64>> {
        self.ask(|databases| async move {
            let stats = databases.main.run_command(doc! {"dbStats": 1}).await;
            stats.map_err(error::of).map(|stats| Some(setup::occupied(&stats)))
        })
        .await
    }

    async fn shrink(&self) -> Result<bool> {
        let databases = Arc::clone(&self.databases);
        // It may take long, and the server goes on with it whoever waits.
        let compacting = async move { setup::compact(&databases.main).await };
        if let Err(error) = self.runtime.run(bounded(LONGEST, compacting)).await {
            tracing::debug!(%error, "Room of deleted transactions was not given back");
        }
        Ok(false)
    }

    async fn bytes_by(&self, of: Collection, field: &str) -> Result<Vec<Occupied>> {
        let group = doc! {"$group": {
            "_id": format!("${field}"), "count": {"$sum": 1_i64}, "bytes": {"$sum": {"$bsonSize": "$$ROOT"}},
        }};
        let databases = Arc::clone(&self.databases);
        let conversation = async move {
            let collection = databases.documents(of);
            let grouping = collection.aggregate([group]).allow_disk_use(true);
            let mut groups = grouping.await.map_err(error::of)?;
            let mut occupied = Vec::new();
            while groups.advance().await.map_err(error::of)? {
                let found = crate::store::decode(groups.current())?;
                let whole = |name: &str| match found.get(name) {
                    Some(Bson::Int32(number)) => u64::try_from(*number).unwrap_or(0),
                    Some(Bson::Int64(number)) => u64::try_from(*number).unwrap_or(0),
                    _ => 0,
                };
                occupied.push(Occupied {
                    key: found.get("_id").cloned().unwrap_or(Bson::Null),
                    count: whole("count"),
                    bytes: whole("bytes"),
                });
            }
            Ok(occupied)
        };
        self.runtime.run(bounded(LONGEST, conversation)).await
    }

    async fn sums(&self, of: Collection, sums: Sums) -> Result<Vec<Document>> {
        Filter::compile(&sums.filter)?;
        self.ask(move |databases| async move {
            let collection = databases.documents(of);
            let mut groups = collection.aggregate(sums::pipeline(&sums)).await.map_err(error::of)?;
            let mut rows = Vec::new();
            while groups.advance().await.map_err(error::of)? {
                rows.push(sums::row(&sums, &crate::store::decode(groups.current())?));
            }
            Ok(rows)
        })
        .await
    }

    async fn close(&self) {
        let closing = self.ask(|databases| async move {
            databases.main.client().clone().shutdown().immediate(true).await;
            databases.atna.client().clone().shutdown().immediate(true).await;
            Ok(())
        });
        if let Err(error) = closing.await {
            tracing::debug!(%error, "The connections to MongoDB could not be closed in order");
        }
    }
}

fn query<'c>(collection: &'c mongodb::Collection<RawDocumentBuf>, find: &Find) -> Query<'c> {
    let mut query = collection.find(find.filter.clone()).skip(find.skip);
    if !find.sort.is_empty() {
        query = query.sort(find.sort.clone()).allow_disk_use(true);
    }
    if find.limit > 0 {
        query = query.limit(i64::try_from(find.limit).unwrap_or(i64::MAX));
    } else {
        // The server would send as much at once as fits into 16 MB, all of which the driver would hold.
        query = query.batch_size(HELPING as u32);
    }
    if !find.projection.is_empty() {
        query = query.projection(find.projection.clone());
    }
    query
}

/// Looks among the newest documents first, and then at all.
async fn search(
    collection: &mongodb::Collection<RawDocumentBuf>,
    find: &Find,
) -> mongodb::error::Result<mongodb::Cursor<RawDocumentBuf>> {
    let page = u32::try_from(find.limit).unwrap_or(u32::MAX);
    let newest = query(collection, find).batch_size(page).max_time(asked::PATIENCE);
    match newest.await {
        Err(refused) if error::is_out_of_time(&refused) => {
            let as_they_lie = Hint::Keys(doc! {"$natural": 1});
            query(collection, find).hint(as_they_lie).await
        }
        other => other,
    }
}

type Query<'c> = mongodb::action::Find<'c, RawDocumentBuf>;

/// A cursor on the server.
struct Pending {
    /// None while it is on the driver's runtime, and after an error.
    cursor: Option<mongodb::Cursor<RawDocumentBuf>>,
    handle: Handle,
    timeout: Duration,
}

impl Pending {
    async fn helping(&mut self) -> Result<Vec<RawDocumentBuf>> {
        let mut documents = Vec::new();
        let mut bytes = 0;
        while documents.len() < HELPING
            && bytes < HELPING_BYTES
            && let Some(cursor) = &mut self.cursor
        {
            if cursor.advance().await.map_err(error::of)? {
                let document = cursor.current().to_owned();
                bytes += document.as_bytes().len();
                documents.push(document);
            } else {
                self.cursor = None;
            }
        }
        Ok(documents)
    }
}

#[async_trait]
impl Source for Pending {
    async fn more(&mut self) -> Result<Option<Vec<RawDocumentBuf>>> {
        let Some(cursor) = self.cursor.take() else {
            return Ok(None);
        };
        let mut pending = Self {
            cursor: Some(cursor),
            handle: self.handle.clone(),
            timeout: self.timeout,
        };
        let timeout = self.timeout;
        let conversation = async move {
            let documents = bounded(timeout, pending.helping()).await?;
            Ok((documents, pending.cursor))
        };
        let (documents, cursor) = run_on(&self.handle, conversation).await?;
        self.cursor = cursor;
        Ok(Some(documents))
    }
}

/// A runtime that may be dropped anywhere.
#[derive(Debug)]
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn start() -> Result<Self> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store-mongo")
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(|error| StoreError::Other(format!("cannot start a thread: {error}")))
    }

    fn handle(&self) -> Result<Handle> {
        self.0
            .as_ref()
            .map(|runtime| runtime.handle().clone())
            .ok_or_else(stopped)
    }

    async fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        run_on(&self.handle()?, work).await
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn run_on<T: Send + 'static>(
    handle: &Handle,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    handle.spawn(work).await.unwrap_or_else(|_| Err(stopped()))
}

fn stopped() -> StoreError {
    StoreError::Unavailable("it is closed".into())
}
