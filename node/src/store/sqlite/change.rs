//! One write, as it is done on the writer's connection.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{MAIN_DB, ToSql, params_from_iter};

use super::connection::Database;
use super::error;
use super::key::Key;
use super::query::{self, Query};
use super::schema::{Column, Table, quoted};
use super::writer::FindAndUpdate;
use crate::store::query::{Moment, Path, Update, asked_id, replacement, splice, with_id};
use crate::store::{DATABASE, LARGEST_DOCUMENT, Result, StoreError, Written, decode};

/// A write with everything worked out that does not need the database.
#[derive(Debug)]
pub(super) enum Change {
    Insert {
        table: &'static Table,
        row: Row,
    },
    /// Fields of the document itself.
    Set {
        table: &'static Table,
        id: ObjectId,
        set: Arc<RawDocumentBuf>,
        unset: &'static [&'static str],
    },
    Update {
        query: Query,
        update: Update,
        many: bool,
        upsert: bool,
    },
    Replace {
        query: Query,
        document: Document,
        upsert: bool,
    },
    Delete {
        query: Query,
        /// Documents to remove, at most.
        most: usize,
    },
}

/// A document and its columns.
#[derive(Debug)]
pub(super) struct Row {
    keys: Vec<Key>,
    pub(super) document: Arc<RawDocumentBuf>,
}

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum Failure {
    /// For reasons of its own; others of the same commit are not touched by it.
    Own(StoreError),
    /// The database failed: the transaction is lost.
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error::of(&error) {
            StoreError::TooLarge => Self::Own(StoreError::TooLarge),
            _ => Self::Database(error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Own(error)
    }
}

impl Row {
    /// Works out the columns of a document.
    ///
    /// # Errors
    /// It is too large or can't be written as BSON.
    pub(super) fn of(table: &Table, document: &Document) -> Result<Self> {
        let raw = RawDocumentBuf::try_from(document).map_err(|error| StoreError::BadQuery(error.to_string()))?;
        Self::of_raw(table, Arc::new(raw))
    }

    /// The same for a document that is written as BSON already.
    ///
    /// # Errors
    /// It is too large.
    pub(super) fn of_raw(table: &Table, raw: Arc<RawDocumentBuf>) -> Result<Self> {
        if raw.as_bytes().len() > LARGEST_DOCUMENT {
            return Err(StoreError::TooLarge);
        }
        Ok(Self {
            keys: table.keys(&raw),
            document: raw,
        })
    }
}

impl Change {
    /// Does it.
    pub(super) fn apply(&self, database: &Database, now: DateTime) -> Result<Written, Failure> {
        match self {
            Self::Insert { table, row } => {
                insert(database, table, row)?;
                Ok(Written {
                    modified: 1,
                    ..Written::default()
                })
            }
            Self::Set { table, id, set, unset } => set_fields(database, table, *id, set, unset),
            Self::Update {
                query,
                update,
                many,
                upsert,
            } => {
                let most = if *many { usize::MAX } else { 1 };
                let mut written = Written::default();
                for seq in query::rows(database, query, most)? {
                    if let Some(changed) = change_row(database, query, seq, |document, before| {
                        let moment = Moment { now, inserting: false };
                        update.apply(document, Some((&query.filter, before)), moment)
                    })? {
                        written.matched += 1;
                        written.modified += u64::from(changed.modified);
                    }
                }
                if written.matched == 0 && *upsert {
                    let document = update.upsert(&query.filter, now)?;
                    return upserted(database, query, &document);
                }
                Ok(written)
            }
            Self::Replace {
                query,
                document,
                upsert,
            } => replace(database, query, document, *upsert),
            Self::Delete { query, most } => {
                let rows = query::rows(database, query, *most)?;
                let sql = format!("DELETE FROM {} WHERE seq = ?1", quoted(query.table.collection.name()));
                let mut statement = database.connection.prepare_cached(&sql)?;
                for seq in &rows {
                    statement.execute([seq])?;
                }
                let count = rows.len() as u64;
                Ok(Written {
                    matched: count,
                    modified: count,
                    upserted: false,
                })
            }
        }
    }
}

/// Changes the first match; answers with the document before or after.
pub(super) fn find_and_update(
    database: &Database,
    ask: &FindAndUpdate,
    now: DateTime,
) -> Result<Option<Document>, Failure> {
    let query = &ask.query;
    if let Some(seq) = query::rows(database, query, 1)?.first() {
        let changed = change_row(database, query, *seq, |document, before| {
            let moment = Moment { now, inserting: false };
            ask.update.apply(document, Some((&query.filter, before)), moment)
        })?;
        return match changed {
            Some(changed) if ask.return_new => Ok(Some(changed.after)),
            Some(changed) => Ok(Some(decode(&changed.before)?)),
            None => Ok(None),
        };
    }
    if !ask.upsert {
        return Ok(None);
    }
    let document = ask.update.upsert(&query.filter, now)?;
    upserted(database, query, &document)?;
    Ok(ask.return_new.then_some(document))
}

fn upserted(database: &Database, query: &Query, document: &Document) -> Result<Written, Failure> {
    insert(database, query.table, &Row::of(query.table, document)?)?;
    Ok(Written {
        matched: 0,
        modified: 1,
        upserted: true,
    })
}

fn replace(database: &Database, query: &Query, document: &Document, upsert: bool) -> Result<Written, Failure> {
    if let Some(seq) = query::rows(database, query, 1)?.first() {
        let changed = change_row(database, query, *seq, |current, _| {
            let new = replacement(document, current.get("_id"))?;
            let changed = !same(current, &new);
            *current = new;
            Ok(changed)
        })?;
        let modified = changed.is_some_and(|changed| changed.modified);
        return Ok(Written {
            matched: 1,
            modified: modified.into(),
            upserted: false,
        });
    }
    if !upsert {
        return Ok(Written::default());
    }
    let asked: Option<Bson> = asked_id(&query.filter);
    upserted(database, query, &with_id(replacement(document, asked.as_ref())?))
}

fn same(a: &Document, b: &Document) -> bool {
    matches!((a.to_vec(), b.to_vec()), (Ok(a), Ok(b)) if a == b)
}

/// A row that was looked at for a change.
struct Changed {
    before: RawDocumentBuf,
    after: Document,
    modified: bool,
}

/// Reads one row, lets `change` alter it, and writes what is different.
fn change_row(
    database: &Database,
    query: &Query,
    seq: i64,
    change: impl FnOnce(&mut Document, &RawDocument) -> Result<bool>,
) -> Result<Option<Changed>, Failure> {
    let Some(before) = query::document(database, query.table, seq)? else {
        return Ok(None);
    };
    let mut after = decode(&before)?;
    let modified = change(&mut after, &before)?;
    if modified {
        let row = Row::of(query.table, &after)?;
        store_row(database, query.table, seq, &query.table.keys(&before), &row)?;
    }
    Ok(Some(Changed {
        before,
        after,
        modified,
    }))
}

/// Changes fields of one document, whose bytes are not decoded for that.
fn set_fields(
    database: &Database,
    table: &Table,
    id: ObjectId,
    set: &RawDocument,
    unset: &[&str],
) -> Result<Written, Failure> {
    let look = |before: &RawDocument| spliced(table, before, set, unset);
    let Some((seq, changed)) = query::see_document_of(database, table, id, look)? else {
        return Ok(Written::default());
    };
    let changed = changed?;
    if let Some((old, row)) = &changed {
        store_row(database, table, seq, old, row)?;
    }
    Ok(Written {
        matched: 1,
        modified: changed.is_some().into(),
        upserted: false,
    })
}

/// The columns before, and the row after, some fields were changed; `None` if nothing is different.
fn spliced(table: &Table, before: &RawDocument, set: &RawDocument, unset: &[&str]) -> Result<Option<(Vec<Key>, Row)>> {
    let after = splice(before, set, unset)?;
    if after.as_bytes().len() > LARGEST_DOCUMENT {
        return Err(StoreError::TooLarge);
    }
    if after.as_bytes() == before.as_bytes() {
        return Ok(None);
    }
    // The other columns are the same before and after.
    let keys = |document: &RawDocument| -> Vec<Key> {
        let key = |column: &Column| {
            let field = column.path.first();
            let is_touched = unset.contains(&field) || matches!(set.get(field), Ok(Some(_)));
            (is_touched || column.is_size).then(|| column.key(document)).flatten()
        };
        table.columns.iter().map(key).collect()
    };
    let row = Row {
        keys: keys(&after),
        document: Arc::new(after),
    };
    Ok(Some((keys(before), row)))
}

/// Writes a row in its place; columns that stay as they are, and their indexes, are not touched.
fn store_row(database: &Database, table: &Table, seq: i64, old: &[Key], row: &Row) -> Result<(), Failure> {
    let mut sql = format!("UPDATE {} SET doc = ?1", quoted(table.collection.name()));
    let mut values = vec![Bound::of(&row.document)];
    for ((column, old), new) in table.columns.iter().zip(old).zip(&row.keys) {
        if old != new {
            values.push(Bound::Key(new));
            sql.push_str(&format!(", {} = ?{}", column.quoted(), values.len()));
        }
    }
    values.push(Bound::Number(seq));
    sql.push_str(&format!(" WHERE seq = ?{}", values.len()));
    let outcome = database
        .connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.execute(params_from_iter(values)));
    outcome.map_err(|error| refused(database, table, row, Some(seq), error))?;
    fill(database, table, seq, &row.document)
}

fn insert(database: &Database, table: &Table, row: &Row) -> Result<(), Failure> {
    let values = row.keys.iter().map(Bound::Key).chain([Bound::of(&row.document)]);
    let outcome = database
        .connection
        .prepare_cached(&table.insert)
        .and_then(|mut statement| statement.execute(params_from_iter(values)));
    outcome.map_err(|error| refused(database, table, row, None, error))?;
    fill(database, table, database.connection.last_insert_rowid(), &row.document)
}

/// Writes a large document into the room that a statement has made for it.
fn fill(database: &Database, table: &Table, seq: i64, document: &RawDocument) -> Result<(), Failure> {
    if document.as_bytes().len() < LARGE {
        return Ok(());
    }
    let name = table.collection.name();
    let mut room = database.connection.blob_open(MAIN_DB, name, "doc", seq, false)?;
    Ok(room.write_all_at(document.as_bytes(), 0)?)
}

/// Says which unique index refused a row, as MongoDB does.
fn refused(database: &Database, table: &Table, row: &Row, seq: Option<i64>, error: rusqlite::Error) -> Failure {
    if !error::is_duplicate(&error) {
        return error.into();
    }
    let taken = |unique: &&super::schema::Unique| {
        let column = &table.columns[unique.column];
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM {} WHERE {} = ?1 AND seq IS NOT ?2)",
            quoted(table.collection.name()),
            column.quoted()
        );
        let question = database
            .connection
            .query_row(&sql, (&row.keys[unique.column], seq), |row| row.get(0));
        question.unwrap_or(false)
    };
    let Some(unique) = table.uniques.iter().find(taken) else {
        return error.into();
    };
    let path = table.columns[unique.column].path.text();
    Failure::Own(StoreError::Duplicate {
        namespace: format!("{DATABASE}.{}", table.collection.name()),
        index: unique.index.clone(),
        key: format!(
            "{{ {path}: {} }}",
            shown(&row.document, &table.columns[unique.column].path)
        ),
    })
}

/// A value as MongoDB's messages show it.
fn shown(document: &RawDocument, path: &Path) -> String {
    match path.straight(document).ok().flatten().map(Bson::try_from) {
        Some(Ok(Bson::String(text))) => format!("\"{text}\""),
        Some(Ok(Bson::ObjectId(id))) => format!("ObjectId('{id}')"),
        Some(Ok(value)) => value.to_string(),
        _ => "null".to_owned(),
    }
}

/// Bytes from which on a document is not bound to a statement, which SQLite would copy twice, but written into the room
/// that the statement makes.
const LARGE: usize = 1 << 20;

/// What is bound to a statement, without copying it.
enum Bound<'a> {
    Key(&'a Key),
    Document(&'a RawDocument),
    /// Room for a large document of this many bytes.
    Room(u64),
    Number(i64),
}

impl<'a> Bound<'a> {
    fn of(document: &'a RawDocument) -> Self {
        let length = document.as_bytes().len();
        match length {
            LARGE.. => Self::Room(length as u64),
            _ => Self::Document(document),
        }
    }
}

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Key(Some(key)) => ToSqlOutput::Borrowed(ValueRef::Blob(key)),
            Self::Key(None) => ToSqlOutput::Owned(Value::Null),
            Self::Document(document) => ToSqlOutput::Borrowed(ValueRef::Blob(document.as_bytes())),
            Self::Room(length) => ToSqlOutput::ZeroBlob(*length),
            Self::Number(number) => ToSqlOutput::Owned(Value::Integer(*number)),
        })
    }
}
