//! Bringing a file up to date: migrations of the layout, then whatever columns and indexes the tables lack.

use std::path::Path;
use std::time::{Duration, Instant};

use bson::RawDocument;
use rusqlite::types::Value;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};

use super::error;
use super::key::Key;
use super::schema::{Column, SqlIndex, Table, quoted};
use crate::clock::Clock;
use crate::store::{Result, StoreError};

/// Documents from which on it is worth telling what takes so long, and how often.
const WORTH_TELLING: i64 = 10_000;
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The newest layout that this program knows: which columns there are, what their bytes mean, and which tables of our own
/// there are. An older program must not write where a column was added since: it would leave it empty.
const LAYOUT: i64 = 2;

/// "OHIM", in SQLite's header: tells our files from other programs'.
pub(super) const APPLICATION: i64 = 0x4F48_494D;

/// Makes or brings up to date everything that the tables need.
///
/// # Errors
/// The file belongs to another program or to a newer version of this one, or writing failed.
pub(super) fn prepare(connection: &mut Connection, tables: &[Table], clock: &dyn Clock) -> Result<(), Unfit> {
    refuse_strangers(connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS openhim_migrations (layout INTEGER PRIMARY KEY, name TEXT NOT NULL, applied INTEGER NOT NULL) STRICT;
         CREATE TABLE IF NOT EXISTS openhim_changes (collection TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
    )?;
    let layout: i64 = transaction.query_row("SELECT coalesce(max(layout), 0) FROM openhim_migrations", [], |row| {
        row.get(0)
    })?;
    if layout > LAYOUT {
        return Err(Unfit::Newer(layout));
    }
    for (number, name, change) in MIGRATIONS.iter().filter(|(number, ..)| *number > layout) {
        change(&transaction)?;
        transaction.execute(
            "INSERT INTO openhim_migrations (layout, name, applied) VALUES (?1, ?2, ?3)",
            (number, name, clock.now()),
        )?;
    }
    for table in tables {
        table.prepare(&transaction)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Why a file can't be used.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It holds something else.
    Foreign,
    /// Its layout has this number, which is higher than we know.
    Newer(i64),
    Sqlite(rusqlite::Error),
}

impl Unfit {
    /// In words for the operator.
    pub(super) fn into_error(self, path: &Path) -> StoreError {
        let path_shown = path.display();
        match self {
            Self::Foreign => StoreError::Other(format!(
                "cannot open the store {path_shown}: another program made this file; name another one in store.url"
            )),
            Self::Newer(layout) => StoreError::Other(format!(
                "cannot open the store {path_shown}: a newer version wrote it (layout {layout}, this one knows {LAYOUT}); \
                 start that version, or put a backup in its place"
            )),
            Self::Sqlite(error) => error::on_opening(path, &error),
        }
    }
}

impl From<rusqlite::Error> for Unfit {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

type Migration = fn(&Connection) -> rusqlite::Result<()>;

/// Steps from one layout to the next: number, name, what is done. Never change one that was released.
const MIGRATIONS: [(i64, &str, Migration); 2] = [
    (1, "typed columns beside the documents", mark_as_ours),
    (2, "columns of what is searched through, and of outboxes", |_| Ok(())),
];

fn mark_as_ours(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION)
}

fn refuse_strangers(connection: &Connection) -> Result<(), Unfit> {
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && application != APPLICATION {
        return Err(Unfit::Foreign);
    }
    Ok(())
}

impl Table {
    fn prepare(&self, connection: &Connection) -> rusqlite::Result<()> {
        let name = quoted(self.collection.name());
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{} BLOB", column.quoted()))
            .collect();
        connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {name} (seq INTEGER PRIMARY KEY, {}, doc BLOB NOT NULL) STRICT",
            columns.join(", ")
        ))?;
        self.add_missing_columns(connection)?;
        self.renew_indexes(connection)?;
        if !self.collection.is_busy() {
            self.count_changes(connection)?;
        }
        Ok(())
    }

    fn add_missing_columns(&self, connection: &Connection) -> rusqlite::Result<()> {
        let table = quoted(self.collection.name());
        let present: Vec<String> = connection
            .prepare("SELECT name FROM pragma_table_info(?1)")?
            .query_map([self.collection.name()], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let missing: Vec<&Column> = self
            .columns
            .iter()
            .filter(|column| !present.contains(&column.name))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        for column in &missing {
            connection.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {} BLOB", column.quoted()))?;
        }
        let assignments: Vec<String> = missing
            .iter()
            .enumerate()
            .map(|(place, column)| format!("{} = ?{}", column.quoted(), place + 2))
            .collect();
        let total = self.rows(connection)?;
        let name = self.collection.name();
        if total > WORTH_TELLING {
            tracing::info!(
                collection = name,
                "Bringing the store up to date: filling {} new columns of {total} documents in {name}; this needs as \
                 much room as they take, until the next start",
                missing.len()
            );
        }
        let (mut done, mut told) = (0, Instant::now());
        let mut update =
            connection.prepare(&format!("UPDATE {table} SET {} WHERE seq = ?1", assignments.join(", ")))?;
        let mut rows = connection.prepare(&format!(
            "SELECT seq, doc FROM {table} WHERE seq > ?1 ORDER BY seq LIMIT 1000"
        ))?;
        let mut last = i64::MIN;
        loop {
            let mut filled = Vec::new();
            let mut page = rows.query([last])?;
            while let Some(row) = page.next()? {
                let seq: i64 = row.get(0)?;
                if let Ok(document) = RawDocument::from_bytes(row.get_ref(1)?.as_blob()?) {
                    let keys: Vec<Key> = missing.iter().map(|column| column.key(document)).collect();
                    filled.push((seq, keys));
                }
                last = seq;
            }
            if filled.is_empty() {
                return Ok(());
            }
            done += filled.len();
            if told.elapsed() >= TELL_EVERY {
                tracing::info!(
                    collection = name,
                    "Bringing the store up to date: {done} of {total} documents in {name}"
                );
                told = Instant::now();
            }
            for (seq, keys) in filled {
                let keys = keys.into_iter().map(|key| key.map_or(Value::Null, Value::Blob));
                update.execute(params_from_iter(std::iter::once(Value::Integer(seq)).chain(keys)))?;
            }
        }
    }

    /// Drops indexes that are not wanted any more or were defined otherwise, and makes those that are missing.
    fn renew_indexes(&self, connection: &Connection) -> rusqlite::Result<()> {
        let present: Vec<(String, String)> = connection
            .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1 AND sql IS NOT NULL")?
            .query_map([self.collection.name()], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (name, sql) in &present {
            let wanted = |index: &SqlIndex| index.name == *name && *sql == format!("CREATE {}", index.definition);
            if !self.indexes.iter().any(wanted) {
                connection.execute_batch(&format!("DROP INDEX {}", quoted(name)))?;
            }
        }
        let is_there = |index: &&SqlIndex| {
            let wanted = format!("CREATE {}", index.definition);
            present.iter().any(|(_, sql)| *sql == wanted)
        };
        let missing: Vec<&SqlIndex> = self.indexes.iter().filter(|index| !is_there(index)).collect();
        let total = match missing.is_empty() {
            true => 0,
            false => self.rows(connection)?,
        };
        for (place, index) in missing.iter().enumerate() {
            if total > WORTH_TELLING {
                let (number, count, name) = (place + 1, missing.len(), &index.name);
                tracing::info!(
                    index = name,
                    "Bringing the store up to date: making index {name} ({number} of {count}) over {total} documents"
                );
            }
            connection.execute_batch(&format!("CREATE {}", index.definition))?;
        }
        Ok(())
    }

    /// The number of rows, as far as it matters for messages.
    fn rows(&self, connection: &Connection) -> rusqlite::Result<i64> {
        let sql = format!(
            "SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM {}",
            quoted(self.collection.name())
        );
        connection.query_row(&sql, [], |row| row.get(0))
    }

    /// Every change of a row counts, whoever makes it.
    fn count_changes(&self, connection: &Connection) -> rusqlite::Result<()> {
        let collection = self.collection.name();
        connection.execute(
            "INSERT OR IGNORE INTO openhim_changes (collection, count) VALUES (?1, 0)",
            [collection],
        )?;
        for event in ["INSERT", "UPDATE", "DELETE"] {
            let name = quoted(&format!("{collection}.{}", event.to_lowercase()));
            connection.execute_batch(&format!(
                "CREATE TRIGGER IF NOT EXISTS {name} AFTER {event} ON {} BEGIN
                   UPDATE openhim_changes SET count = count + 1 WHERE collection = '{collection}';
                 END",
                quoted(collection)
            ))?;
        }
        Ok(())
    }
}
