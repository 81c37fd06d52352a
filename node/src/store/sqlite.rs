//! The store in one file: SQLite, compiled in.
//!
//! [`writer`] is the one thread that writes, many requests to a commit; [`readers`] are several that read. A caller
//! only waits for their answers, so no runtime is blocked. A document is stored whole as BSON, beside typed columns
//! for what is filtered and sorted on ([`schema`], [`key`]); [`plan`] hands to SQL what the columns can answer, and the
//! matcher of [`super::query`] decides about the rest.
//!
//! Other processes may open the same file; SQLite's locks keep them apart. Nothing here spreads data over machines:
//! that is what the MongoDB store is for.

mod change;
mod connection;
mod copy;
mod error;
mod key;
mod migrate;
mod plan;
mod query;
mod readers;
mod schema;
mod sweep;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use bson::Document;

use self::change::{Change, Row};
use self::connection::Database;
pub use self::copy::{Copied, CopyError, backup, restore};
use self::query::Query;
use self::readers::Readers;
use self::schema::Table;
use self::writer::{FindAndUpdate, Request, Writer};
use super::query::{Filter, Projection, SortOrder, Sums, Tally, Update};
use super::{Collection, Cursor, Find, FindAndUpdate as Ask, Occupied, Result, Store, StoreError, Write, Written};
use crate::clock::{Clock, SystemClock};

/// How the file is used.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// Connections that read at the same time.
    pub readers: usize,
    /// KiB of pages that each connection keeps in memory.
    pub cache_kib: u32,
    /// Bytes of documents that the `log` collection may hold; `None`: no bound.
    pub log_bytes: Option<u64>,
    /// Bytes that the file may grow to; `None`: as far as the disk goes.
    pub largest_file: Option<u64>,
    /// Time between two rounds of removing what is past its time; zero: only when [`SqliteStore::sweep`] is called.
    pub sweep_every: Duration,
    /// Says what is past its time, and what `$currentDate` is.
    pub clock: Arc<dyn Clock>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            readers: 4,
            cache_kib: 4096,
            log_bytes: None,
            largest_file: None,
            sweep_every: Duration::from_secs(60),
            clock: Arc::new(SystemClock),
        }
    }
}

/// A store in a file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    tables: &'static [Table],
    readers: Arc<Readers>,
    writer: Writer,
    closed: Arc<Signal>,
}

impl SqliteStore {
    /// Opens the file, or makes it with its folder, and brings it up to date. Blocks; call it before serving.
    ///
    /// # Errors
    /// The file can't be used; the text names it and the cure.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Arc<Self>> {
        let path = path.as_ref();
        create(path)?;
        let failed = |error: rusqlite::Error| error::on_opening(path, &error);
        let tables = schema::tables()?;
        let mut writing = Database::open(path, options.cache_kib).map_err(failed)?;
        writing.bound(options.largest_file).map_err(failed)?;
        migrate::prepare(&mut writing.connection, tables, &*options.clock).map_err(|unfit| unfit.into_error(path))?;
        let reading = (0..options.readers.max(1))
            .map(|_| Database::open_reader(path, options.cache_kib))
            .collect::<rusqlite::Result<Vec<_>>>()
            .map_err(failed)?;
        let no_thread = |error: std::io::Error| StoreError::Other(format!("cannot start a thread: {error}"));
        let store = Arc::new(Self {
            path: path.to_owned(),
            tables,
            readers: Arc::new(Readers::start(reading).map_err(no_thread)?),
            writer: Writer::start(writing, options.clock, options.log_bytes).map_err(no_thread)?,
            closed: Arc::default(),
        });
        if !options.sweep_every.is_zero() {
            sweep_regularly(&store, options.sweep_every).map_err(no_thread)?;
        }
        Ok(store)
    }

    /// Removes what is past its time, piece by piece; answers how many documents it were. Blocks.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn sweep(&self) -> Result<u64> {
        let mut removed = 0;
        for piece in sweep::Piece::all(self.tables).into_iter().map(Arc::new) {
            loop {
                let piece = Arc::clone(&piece);
                let count = self.writer.ask_blocking(|reply| Request::Sweep(piece, reply))??;
                removed += count;
                if count < sweep::PIECE as u64 {
                    break;
                }
            }
        }
        Ok(removed)
    }

    fn table(&self, collection: Collection) -> Result<&'static Table> {
        self.tables
            .iter()
            .find(|table| table.collection == collection)
            .ok_or_else(|| StoreError::Other(format!("no table for {}", collection.name())))
    }

    fn query(&self, from: Collection, find: &Find) -> Result<Query> {
        Ok(Query {
            table: self.table(from)?,
            filter: Filter::compile(&find.filter)?,
            sort: SortOrder::compile(&find.sort)?,
            projection: Projection::compile(&find.projection)?,
            skip: find.skip,
            limit: find.limit,
        })
    }

    fn change(&self, write: &Write) -> Result<Change> {
        match write {
            Write::Insert { into, document } => {
                if !document.contains_key("_id") {
                    return Err(StoreError::BadQuery("a document needs its _id".into()));
                }
                let table = self.table(*into)?;
                let row = match document.keys().next() {
                    Some(first) if first == "_id" => Row::of(table, document),
                    _ => Row::of(table, &super::query::with_id(document.clone())),
                }?;
                Ok(Change::Insert { table, row })
            }
            Write::InsertRaw { into, document } => {
                let table = self.table(*into)?;
                let row = Row::of_raw(table, Arc::clone(document))?;
                Ok(Change::Insert { table, row })
            }
            Write::Set { of, id, set, unset } => Ok(Change::Set {
                table: self.table(*of)?,
                id: *id,
                set: Arc::clone(set),
                unset,
            }),
            Write::Update {
                of,
                filter,
                update,
                many,
                upsert,
            } => Ok(Change::Update {
                query: Query::by(self.table(*of)?, Filter::compile(filter)?),
                update: Update::compile(update)?,
                many: *many,
                upsert: *upsert,
            }),
            Write::Replace {
                of,
                filter,
                document,
                upsert,
            } => Ok(Change::Replace {
                query: Query::by(self.table(*of)?, Filter::compile(filter)?),
                document: document.clone(),
                upsert: *upsert,
            }),
            Write::Delete { from, filter, many } => Ok(Change::Delete {
                query: Query::by(self.table(*from)?, Filter::compile(filter)?),
                most: if *many { usize::MAX } else { 1 },
            }),
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn find(&self, from: Collection, find: Find) -> Result<Cursor> {
        readers::find(&self.readers, self.query(from, &find)?).await
    }

    async fn count(&self, of: Collection, filter: Document) -> Result<u64> {
        let query = Query::by(self.table(of)?, Filter::compile(&filter)?);
        self.readers
            .run(move |database, abandoned| query::count(database, &query, abandoned))
            .await
    }

    async fn write(&self, batch: &[Write]) -> Result<Vec<Result<Written>>> {
        let changes = batch.iter().map(|write| self.change(write)).collect();
        self.writer.ask(|reply| Request::Write(changes, reply)).await?
    }

    async fn find_and_update(&self, of: Collection, ask: Ask) -> Result<Option<Document>> {
        let find = Find::by(ask.filter).sorted(ask.sort).limited(1);
        let ask = Box::new(FindAndUpdate {
            query: self.query(of, &find)?,
            update: Update::compile(&ask.update)?,
            upsert: ask.upsert,
            return_new: ask.return_new,
        });
        self.writer.ask(|reply| Request::FindAndUpdate(ask, reply)).await?
    }

    async fn version(&self, of: Collection) -> Result<Option<u64>> {
        if of.is_busy() {
            return Ok(None);
        }
        self.readers
            .run(move |database, _| {
                database
                    .connection
                    .prepare_cached("SELECT count FROM openhim_changes WHERE collection = ?1")?
                    .query_row([of.name()], |row| row.get(0))
            })
            .await
            .map(Some)
    }

    async fn ping(&self) -> Result<()> {
        self.readers
            .run(|database, _| database.connection.query_row("SELECT 1", [], |_| Ok(())))
            .await
    }

    async fn size(&self) -> Result<Option<u64>> {
        self.readers
            .run(|database, _| {
                let pragma = |name: &str| {
                    database
                        .connection
                        .query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
                };
                let (pages, free, bytes): (u64, u64, u64) =
                    (pragma("page_count")?, pragma("freelist_count")?, pragma("page_size")?);
                Ok(Some(pages.saturating_sub(free) * bytes))
            })
            .await
    }

    async fn bytes_by(&self, of: Collection, field: &str) -> Result<Vec<Occupied>> {
        let path = super::query::Path::parse(field)?;
        let table = self.table(of)?;
        let column = table
            .column_at(&path)
            .ok_or_else(|| StoreError::BadQuery(format!("{field} is not kept apart")))?
            .quoted();
        let groups = self
            .readers
            .run(move |database, abandoned| query::sizes(database, table, &column, abandoned))
            .await?;
        let occupied = |(document, count, bytes): (Vec<u8>, u64, u64)| {
            let document = bson::RawDocumentBuf::from_bytes(document)
                .map_err(|error| StoreError::Other(format!("stored document is not BSON: {error}")))?;
            let key = crate::store::decode(&document)?.get(field).cloned();
            Ok(Occupied {
                key: key.unwrap_or(bson::Bson::Null),
                count,
                bytes,
            })
        };
        groups.into_iter().map(occupied).collect()
    }

    async fn sums(&self, of: Collection, sums: Sums) -> Result<Vec<Document>> {
        let query = Query::by(self.table(of)?, Filter::compile(&sums.filter)?);
        self.readers
            .run(move |database, abandoned| {
                let mut tally = Tally::new(&sums);
                query::each(database, &query, abandoned, |document| tally.add(document))?;
                Ok(tally.rows())
            })
            .await
    }

    async fn shrink(&self) -> Result<bool> {
        self.writer.ask(Request::Shrink).await?
    }

    async fn close(&self) {
        self.closed.set();
        self.readers.close();
        if self.writer.ask(Request::Close).await.is_err() {
            tracing::debug!(path = %self.path.display(), "The store was closed already");
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.closed.set();
    }
}

/// Makes the file, readable by its owner only, and the folders above it.
fn create(path: &Path) -> Result<()> {
    let failed = |what: &Path, error: std::io::Error| {
        StoreError::Other(format!(
            "cannot create the store {}: {error}; correct the owner and rights of {} or name another file in store.url",
            path.display(),
            what.display()
        ))
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop).map_err(|error| failed(path, error))
}

/// A flag that a thread can wait for.
#[derive(Debug, Default)]
struct Signal {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// True if it was set within the time.
    fn wait(&self, time: Duration) -> bool {
        let guard = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = self
            .changed
            .wait_timeout_while(guard, time, |set| !*set)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}

fn sweep_regularly(store: &Arc<SqliteStore>, every: Duration) -> std::io::Result<()> {
    let closed = Arc::clone(&store.closed);
    let store: Weak<SqliteStore> = Arc::downgrade(store);
    let work = move || {
        while !closed.wait(every) {
            let Some(store) = store.upgrade() else {
                return;
            };
            if let Err(error) = store.sweep() {
                tracing::warn!(path = %store.path.display(), %error, "Documents past their time could not be removed");
            }
        }
    };
    thread::Builder::new().name("store-sweep".into()).spawn(work).map(drop)
}
