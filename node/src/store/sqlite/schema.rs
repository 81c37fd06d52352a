//! Tables: which columns a collection has, how they came about, and how an older file is brought up to date.
//!
//! A table holds one row a document: `seq` (the order of insertion), `_id`, one typed column for each path that an
//! index or a usual filter names, and the document itself in `doc`. Columns and indexes are derived from the
//! collections' definitions when the store is opened; what is missing is added then and filled from the documents.

use std::sync::OnceLock;

use bson::{RawDocument, doc};
use rusqlite::Connection;

use super::key::{self, Key};
use crate::clock::Clock;
use crate::store::query::{Filter, Path};
use crate::store::{Collection, Index, Result, StoreError};

/// The newest layout that this program knows: what a column's bytes mean and which tables of our own there are.
const LAYOUT: i64 = 1;

/// "OHIM", in SQLite's header: tells our files from other programs'.
const APPLICATION: i64 = 0x4F48_494D;

/// A collection as it is kept.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) collection: Collection,
    /// After `seq`; the first one is `_id`.
    pub(super) columns: Vec<Column>,
    pub(super) uniques: Vec<Unique>,
    indexes: Vec<SqlIndex>,
    pub(super) insert: String,
}

/// A typed column.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) path: Path,
    /// It belongs to a unique index: a missing value counts as `null`, and intricate values keep their bytes.
    unique: bool,
    /// Only documents that this filter accepts have a value here.
    only: Option<Filter>,
    /// An index starts with it.
    pub(super) leads: bool,
}

/// A unique index on one column.
#[derive(Debug)]
pub(super) struct Unique {
    /// MongoDB's name for it.
    pub(super) index: String,
    pub(super) column: usize,
}

#[derive(Debug)]
struct SqlIndex {
    name: String,
    /// What stands after `CREATE`.
    definition: String,
}

/// Paths besides the indexed ones that consoles filter transactions by.
const TRANSACTION_FILTERS: [&str; 4] = ["response.status", "request.path", "request.method", "autoRetry"];

/// All tables, in the order of [`Collection::ALL`].
///
/// # Errors
/// A collection's definition makes no sense.
pub(super) fn tables() -> Result<&'static [Table]> {
    static TABLES: OnceLock<Vec<Table>> = OnceLock::new();
    if let Some(tables) = TABLES.get() {
        return Ok(tables);
    }
    let tables = Collection::ALL.into_iter().map(Table::of).collect::<Result<_>>()?;
    Ok(TABLES.get_or_init(|| tables))
}

impl Table {
    fn of(collection: Collection) -> Result<Self> {
        let mut table = Self {
            collection,
            columns: Vec::new(),
            uniques: Vec::new(),
            indexes: Vec::new(),
            insert: String::new(),
        };
        table.add(&Index::on(doc! {"_id": 1}).unique().named("_id_"))?;
        for index in collection.indexes() {
            table.add(&index)?;
        }
        if collection == Collection::Transactions {
            for path in TRANSACTION_FILTERS {
                table.column(path, false)?;
            }
        }
        table.insert = table.insert_statement();
        Ok(table)
    }

    fn add(&mut self, index: &Index) -> Result<()> {
        let name = index.mongo_name();
        let mut parts = Vec::new();
        for (position, (path, direction)) in index.keys.iter().enumerate() {
            let column = self.column(path, index.unique && index.partial.is_none())?;
            self.columns[column].leads |= position == 0;
            let order = if direction.as_i32() == Some(-1) { " DESC" } else { "" };
            parts.push(format!("{}{order}", quoted(path)));
        }
        match (&*parts, index.unique, &index.partial) {
            ([_], true, None) => {
                let column = self.position(&index.keys).unwrap_or_default();
                self.uniques.push(Unique {
                    index: name.clone(),
                    column,
                });
            }
            ([_], true, Some(only)) => self.add_partial_unique(&name, index, only)?,
            (_, true, _) => return Err(StoreError::Other(format!("unique index {name} must have one field"))),
            _ => {}
        }
        let unique = if index.unique && index.partial.is_none() {
            "UNIQUE "
        } else {
            ""
        };
        self.add_sql_index(unique, &name, &parts.join(", "));
        Ok(())
    }

    /// SQL's unique indexes pass over `NULL`: a column of its own is empty where the index does not apply.
    fn add_partial_unique(&mut self, name: &str, index: &Index, only: &bson::Document) -> Result<()> {
        let path = index.keys.keys().next().map_or("", String::as_str);
        self.columns.push(Column {
            name: name.to_owned(),
            path: Path::parse(path)?,
            unique: true,
            only: Some(Filter::compile(only)?),
            leads: true,
        });
        self.uniques.push(Unique {
            index: name.to_owned(),
            column: self.columns.len() - 1,
        });
        self.add_sql_index("UNIQUE ", &format!("{name}_partial"), &quoted(name));
        Ok(())
    }

    fn add_sql_index(&mut self, unique: &str, name: &str, parts: &str) {
        let table = self.collection.name();
        let full = format!("{table}.{name}");
        self.indexes.push(SqlIndex {
            definition: format!("{unique}INDEX {} ON {} ({parts})", quoted(&full), quoted(table)),
            name: full,
        });
    }

    fn column(&mut self, path: &str, unique: bool) -> Result<usize> {
        if let Some(place) = self
            .columns
            .iter()
            .position(|column| column.only.is_none() && column.name == path)
        {
            self.columns[place].unique |= unique;
            return Ok(place);
        }
        self.columns.push(Column {
            name: path.to_owned(),
            path: Path::parse(path)?,
            unique,
            only: None,
            leads: false,
        });
        Ok(self.columns.len() - 1)
    }

    fn position(&self, keys: &bson::Document) -> Option<usize> {
        let path = keys.keys().next()?;
        self.columns.iter().position(|column| column.name == *path)
    }

    fn insert_statement(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|column| quoted(&column.name)).collect();
        let marks: Vec<String> = (1..=self.columns.len() + 1).map(|place| format!("?{place}")).collect();
        format!(
            "INSERT INTO {} ({}, doc) VALUES ({})",
            quoted(self.collection.name()),
            names.join(", "),
            marks.join(", ")
        )
    }

    /// The column that holds what is at `path`.
    pub(super) fn column_at(&self, path: &Path) -> Option<&Column> {
        self.columns
            .iter()
            .find(|column| column.only.is_none() && column.path == *path)
    }

    /// What stands in the columns for `document`.
    pub(super) fn keys(&self, document: &RawDocument) -> Vec<Key> {
        self.columns.iter().map(|column| column.key(document)).collect()
    }
}

impl Column {
    fn key(&self, document: &RawDocument) -> Key {
        if self.only.as_ref().is_some_and(|only| !only.matches(document)) {
            return None;
        }
        let key = key::at(&self.path, document, self.unique);
        if key.is_none() && self.unique {
            return Some(vec![key::NULL]);
        }
        key
    }

    /// True if a missing field is told from `null`.
    pub(super) fn knows_missing(&self) -> bool {
        !self.unique
    }

    pub(super) fn quoted(&self) -> String {
        quoted(&self.name)
    }
}

/// A name as SQL wants it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Makes or brings up to date everything that the tables need.
///
/// # Errors
/// The file belongs to another program or to a newer version of this one, or writing failed.
pub(super) fn prepare(connection: &mut Connection, tables: &[Table], clock: &dyn Clock) -> Result<(), Unfit> {
    refuse_strangers(connection)?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
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
    pub(super) fn into_error(self, path: &std::path::Path) -> StoreError {
        let path_shown = path.display();
        match self {
            Self::Foreign => StoreError::Other(format!(
                "cannot open the store {path_shown}: another program made this file; name another one in store.url"
            )),
            Self::Newer(layout) => StoreError::Other(format!(
                "cannot open the store {path_shown}: a newer version wrote it (layout {layout}, this one knows {LAYOUT}); \
                 start that version, or put a backup in its place"
            )),
            Self::Sqlite(error) => super::error::on_opening(path, &error),
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
const MIGRATIONS: [(i64, &str, Migration); 1] = [(1, "typed columns beside the documents", mark_as_ours)];

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
            for (seq, keys) in filled {
                let values = std::iter::once(rusqlite::types::Value::Integer(seq)).chain(
                    keys.into_iter()
                        .map(|key| key.map_or(rusqlite::types::Value::Null, rusqlite::types::Value::Blob)),
                );
                update.execute(rusqlite::params_from_iter(values))?;
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
        for index in &self.indexes {
            let there = present
                .iter()
                .any(|(_, sql)| *sql == format!("CREATE {}", index.definition));
            if !there {
                connection.execute_batch(&format!("CREATE {}", index.definition))?;
            }
        }
        Ok(())
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
