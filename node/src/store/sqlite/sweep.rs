//! What disappears by itself: documents past their time, and the oldest lines of a full log.

use bson::{Bson, DateTime, Document, doc};

use super::change::Change;
use super::connection::Database;
use super::query::Query;
use super::schema::{Table, quoted};
use crate::store::query::Filter;
use crate::store::{Collection, Index, Result, StoreError};

/// Documents removed in one transaction, so that others get their turn in between.
pub(super) const PIECE: usize = 1000;

/// Pages given back in one transaction, and those that may stay free.
const PAGES: u64 = 1000;
const SPARE: u64 = 256;

/// Gives some free pages back to the disk; `true` if there are more. A file that was made without that ability keeps
/// its pages and fills them again.
pub(super) fn shrink(database: &Database) -> rusqlite::Result<bool> {
    let free = || -> rusqlite::Result<u64> {
        database
            .connection
            .query_row("PRAGMA freelist_count", [], |row| row.get(0))
    };
    let before = free()?;
    if before > SPARE {
        let mut pages = database
            .connection
            .prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
        let mut rows = pages.query([])?;
        while rows.next()?.is_some() {}
    }
    let after = free()?;
    Ok(after < before && after > SPARE)
}

/// One collection's documents past their time, some of them.
#[derive(Debug)]
pub(super) struct Piece {
    table: &'static Table,
    path: String,
    seconds: i64,
    only: Option<Document>,
}

impl Piece {
    /// One for each index that lets documents expire.
    pub(super) fn all(tables: &'static [Table]) -> Vec<Self> {
        tables
            .iter()
            .flat_map(|table| {
                table
                    .collection
                    .indexes()
                    .into_iter()
                    .filter_map(|index| Self::of(table, index))
            })
            .collect()
    }

    fn of(table: &'static Table, index: Index) -> Option<Self> {
        Some(Self {
            table,
            path: index.keys.keys().next()?.clone(),
            seconds: i64::try_from(index.expire_after_seconds?).ok()?,
            only: index.partial,
        })
    }

    /// Removes up to [`PIECE`] documents; answers how many it were.
    pub(super) fn perform(&self, database: &Database, now: DateTime) -> rusqlite::Result<u64> {
        let Ok(filter) = self.filter(now) else {
            return Ok(0);
        };
        let delete = Change::Delete {
            query: Query::by(self.table, filter),
            most: PIECE,
        };
        match delete.apply(database, now) {
            Ok(written) => Ok(written.modified),
            Err(super::change::Failure::Database(error)) => Err(error),
            Err(super::change::Failure::Own(_)) => Ok(0),
        }
    }

    fn filter(&self, now: DateTime) -> Result<Filter, StoreError> {
        let latest = now.timestamp_millis().saturating_sub(self.seconds.saturating_mul(1000));
        let mut filter = self.only.clone().unwrap_or_default();
        filter.insert(
            self.path.clone(),
            doc! {"$lt": Bson::DateTime(DateTime::from_millis(latest))},
        );
        Filter::compile(&filter)
    }
}

/// Keeps the log within its size, as MongoDB's capped collections do.
#[derive(Debug)]
pub(super) struct LogCap {
    /// Bytes of documents; `None`: no bound.
    most: Option<u64>,
    /// Bytes added since the log was last cut.
    added: u64,
}

impl LogCap {
    pub(super) fn new(most: Option<u64>) -> Self {
        Self { most, added: u64::MAX }
    }

    /// Counts what a change adds to the log.
    pub(super) fn note(&mut self, change: &Change) {
        if let Change::Insert { table, row } = change
            && table.collection == Collection::Log
        {
            self.added = self.added.saturating_add(row.document.as_bytes().len() as u64);
        }
    }

    /// Cuts the log when a sixteenth of its size was added; it may be larger by that much.
    pub(super) fn trim_when_due(&mut self, database: &Database) -> rusqlite::Result<()> {
        let Some(most) = self.most else {
            return Ok(());
        };
        if self.added < most / 16 {
            return Ok(());
        }
        let log = quoted(Collection::Log.name());
        let mut newest = database
            .connection
            .prepare_cached(&format!("SELECT seq, length(doc) FROM {log} ORDER BY seq DESC"))?;
        let mut rows = newest.query([])?;
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            bytes += row.get::<_, u64>(1)?;
            if bytes > most {
                let seq: i64 = row.get(0)?;
                database
                    .connection
                    .execute(&format!("DELETE FROM {log} WHERE seq <= ?1"), [seq])?;
                break;
            }
        }
        self.added = 0;
        Ok(())
    }
}
