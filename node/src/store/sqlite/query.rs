//! Queries on one connection: from a plan to rows, and from rows to documents.
//!
//! First the rows' numbers are found, in order and from the columns alone; then documents are fetched by number. So a
//! sort never carries documents about, and a caller that takes its time holds neither a thread nor a snapshot: between
//! two helpings only some numbers are kept, however long the list is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Row, Rows, Statement, params_from_iter};

use super::connection::Database;
use super::key;
use super::plan::{Place, Plan};
use super::schema::{Column, Table, quoted};
use crate::store::query::{Filter, Projection, SortOrder};

/// Documents in one helping, at most.
const HELPING: usize = 256;
/// Bytes of documents in one helping, about.
const HELPING_BYTES: usize = 1 << 20;

/// Numbers of rows that are kept between two helpings, about: then another look is taken for those that follow.
const AHEAD: usize = 5_000;

/// A query, compiled.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) table: &'static Table,
    pub(super) filter: Filter,
    pub(super) sort: SortOrder,
    pub(super) projection: Projection,
    pub(super) skip: u64,
    /// 0: all.
    pub(super) limit: u64,
}

impl Query {
    /// Whatever the filter accepts, in the order of insertion.
    pub(super) fn by(table: &'static Table, filter: Filter) -> Self {
        Self {
            table,
            filter,
            sort: SortOrder::default(),
            projection: Projection::default(),
            skip: 0,
            limit: 0,
        }
    }
}

/// Some documents, and where to go on.
#[derive(Debug)]
pub(super) struct Helping {
    pub(super) documents: Vec<RawDocumentBuf>,
    pub(super) rest: Option<Rest>,
}

/// What is still to be fetched.
#[derive(Debug)]
pub(super) struct Rest {
    query: Arc<Query>,
    rows: VecDeque<i64>,
    /// Where to look for more rows after those.
    after: Option<Place>,
    /// How many more documents are wanted; `None`: all.
    wanted: Option<u64>,
    /// Matching documents to pass over.
    skip: u64,
}

/// Says when nobody waits for the answer any more.
pub(super) type Abandoned<'a> = &'a dyn Fn() -> bool;

/// Finds the first documents.
pub(super) fn start(database: &Database, query: Arc<Query>, abandoned: Abandoned<'_>) -> rusqlite::Result<Helping> {
    let rest = Rest {
        rows: VecDeque::new(),
        after: None,
        wanted: (query.limit > 0).then_some(query.limit),
        skip: query.skip,
        query,
    };
    look(database, rest, abandoned)
}

/// Looks for rows, from the beginning or where the last look ended, and fetches the first documents of them.
fn look(database: &Database, mut rest: Rest, abandoned: Abandoned<'_>) -> rusqlite::Result<Helping> {
    let connection = &database.connection;
    let snapshot = connection.unchecked_transaction()?;
    let query = Arc::clone(&rest.query);
    let mut plan = Plan::make(connection, query.table, &query.filter, &query.sort)?;
    database.use_patterns(&plan.patterns);
    let helping = match plan.order.clone() {
        Some(order) => {
            let after = rest.after.take();
            let mut bounds = String::new();
            if let Some(after) = &after {
                plan.go_on(after);
            } else if plan.exact && (rest.wanted.is_some() || rest.skip > 0) {
                let most = rest
                    .wanted
                    .map_or(-1, |wanted| i64::try_from(wanted).unwrap_or(i64::MAX));
                bounds = format!(" LIMIT {most} OFFSET {}", i64::try_from(rest.skip).unwrap_or(i64::MAX));
                rest.skip = 0;
            }
            let sql = plan.select(query.table, &order, &bounds);
            let mut statement = statement(database, &sql, &plan)?;
            let mut rows = statement.rows(&plan)?;
            let mut helping = Vec::new();
            let mut taker = Taker::new(database, &rest)?;
            let mut last = None;
            loop {
                let Some(row) = rows.next()? else {
                    rest.after = after.filter(|after| plan.leaves_nothing(after)).map(|_| Place::Nothing);
                    break;
                };
                let seq = row.get(0)?;
                if taker.is_full() {
                    if rest.rows.len() >= AHEAD && plan.can_go_on() {
                        let place = place(row)?;
                        if last.is_some() && last.as_ref() != Some(&place) {
                            rest.after = last;
                            break;
                        }
                        last = Some(place);
                    }
                    rest.rows.push_back(seq);
                } else if !taker.take(seq, &mut helping)? || abandoned() {
                    break;
                }
            }
            (rest.wanted, rest.skip) = (taker.wanted, taker.skip);
            drop(taker);
            helping_of(helping, rest)
        }
        None => {
            rest.rows = sorted(database, &query, &plan, abandoned)?;
            rest.skip = 0;
            next(database, rest, abandoned)?
        }
    };
    snapshot.finish()?;
    Ok(helping)
}

/// Where a row stands in the order.
fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(match row.get_ref(1)? {
        ValueRef::Integer(seq) => Place::Number(seq),
        other => Place::Key(other.as_blob_or_null()?.map(<[u8]>::to_vec)),
    })
}

/// Fetches the next documents.
pub(super) fn next(database: &Database, mut rest: Rest, abandoned: Abandoned<'_>) -> rusqlite::Result<Helping> {
    if rest.rows.is_empty() && rest.after.is_some() {
        return look(database, rest, abandoned);
    }
    let mut helping = Vec::new();
    let mut taker = Taker::new(database, &rest)?;
    let mut rows = std::mem::take(&mut rest.rows);
    while !taker.is_full() && !abandoned() {
        let Some(seq) = rows.pop_front() else {
            break;
        };
        if !taker.take(seq, &mut helping)? {
            rows.clear();
        }
    }
    (rest.wanted, rest.skip) = (taker.wanted, taker.skip);
    drop(taker);
    rest.rows = rows;
    Ok(helping_of(helping, rest))
}

fn helping_of(documents: Vec<RawDocumentBuf>, rest: Rest) -> Helping {
    let more = (!rest.rows.is_empty() || rest.after.is_some()) && rest.wanted != Some(0);
    Helping {
        documents,
        rest: more.then_some(rest),
    }
}

/// How many documents match.
pub(super) fn count(database: &Database, query: &Query, abandoned: Abandoned<'_>) -> rusqlite::Result<u64> {
    let connection = &database.connection;
    let snapshot = connection.unchecked_transaction()?;
    let plan = Plan::make(connection, query.table, &query.filter, &SortOrder::default())?;
    database.use_patterns(&plan.patterns);
    let what = if plan.exact { "count(*)" } else { "seq" };
    let sql = format!(
        "SELECT {what} FROM {}{}",
        quoted(query.table.collection.name()),
        plan.condition()
    );
    let mut statement = statement(database, &sql, &plan)?;
    let mut rows = statement.rows(&plan)?;
    let mut count = 0;
    if plan.exact {
        if let Some(row) = rows.next()? {
            count = row.get(0)?;
        }
    } else {
        let mut documents = fetch(database, query.table)?;
        while let Some(row) = rows.next()? {
            let seen = see(&mut documents, row.get(0)?, |document| query.filter.matches(document))?;
            count += u64::from(seen == Some(true));
            if abandoned() {
                break;
            }
        }
    }
    drop(rows);
    drop(statement);
    snapshot.finish()?;
    Ok(count)
}

/// Shows every matching document where it lies, in any order.
pub(super) fn each(
    database: &Database,
    query: &Query,
    abandoned: Abandoned<'_>,
    mut look: impl FnMut(&RawDocument),
) -> rusqlite::Result<()> {
    let plan = Plan::make(&database.connection, query.table, &query.filter, &SortOrder::default())?;
    database.use_patterns(&plan.patterns);
    let name = quoted(query.table.collection.name());
    let sql = format!("SELECT doc FROM {name}{}", plan.condition());
    let mut statement = statement(database, &sql, &plan)?;
    let mut rows = statement.rows(&plan)?;
    while let Some(row) = rows.next()?
        && !abandoned()
    {
        if let Ok(document) = RawDocument::from_bytes(row.get_ref(0)?.as_blob()?)
            && (plan.exact || query.filter.matches(document))
        {
            look(document);
        }
    }
    Ok(())
}

/// One document of a group, how many there are, and their bytes.
pub(super) type Size = (Vec<u8>, u64, u64);

/// Adds up the sizes of all documents by what stands in `column`, which is quoted. No document is read, and where sizes
/// are kept in an index not even their rows are.
pub(super) fn sizes(
    database: &Database,
    table: &Table,
    column: &str,
    abandoned: Abandoned<'_>,
) -> rusqlite::Result<Vec<Size>> {
    // One moment for the scan and the documents that stand for groups.
    let _snapshot = database.connection.unchecked_transaction()?;
    let name = quoted(table.collection.name());
    let size = table.size_column().map_or("length(doc)".to_owned(), Column::quoted);
    let mut every = database
        .connection
        .prepare_cached(&format!("SELECT seq, {column}, {size} FROM {name}"))?;
    // A key is never empty: no bytes stand for a field that is not there.
    let mut groups: HashMap<Vec<u8>, (i64, u64, u64)> = HashMap::new();
    let mut rows = every.query([])?;
    while let Some(row) = rows.next()?
        && !abandoned()
    {
        let bytes = match row.get_ref(2)? {
            ValueRef::Integer(length) => u64::try_from(length).unwrap_or(0),
            other => other.as_blob().map_or(0, key::size_of),
        };
        let value = row.get_ref(1)?.as_blob_or_null()?.unwrap_or_default();
        match groups.get_mut(value) {
            Some((_, count, sum)) => (*count, *sum) = (*count + 1, *sum + bytes),
            None => drop(groups.insert(value.to_vec(), (row.get(0)?, 1, bytes))),
        }
    }
    let mut documents = fetch(database, table)?;
    groups
        .into_values()
        .map(|(seq, count, bytes)| Ok((documents.query_row([seq], |row| row.get(0))?, count, bytes)))
        .collect()
}

/// The rows that match, at most `most` of them, in the order asked for.
pub(super) fn rows(database: &Database, query: &Query, most: usize) -> rusqlite::Result<Vec<i64>> {
    let plan = Plan::make(&database.connection, query.table, &query.filter, &query.sort)?;
    database.use_patterns(&plan.patterns);
    let Some(order) = &plan.order else {
        let mut rows = sorted(database, query, &plan, &|| false)?;
        rows.truncate(most);
        return Ok(rows.into());
    };
    let sql = plan.select(query.table, order, "");
    let mut statement = statement(database, &sql, &plan)?;
    let mut candidates = statement.rows(&plan)?;
    let mut documents = fetch(database, query.table)?;
    let mut found = Vec::new();
    while found.len() < most
        && let Some(row) = candidates.next()?
    {
        let seq = row.get(0)?;
        let matches = plan.exact || see(&mut documents, seq, |document| query.filter.matches(document))? == Some(true);
        if matches {
            found.push(seq);
        }
    }
    Ok(found)
}

/// A prepared statement, kept for the next time if its form is a usual one.
enum Prepared<'c> {
    Kept(CachedStatement<'c>),
    Once(Statement<'c>),
}

impl Prepared<'_> {
    fn rows(&mut self, plan: &Plan) -> rusqlite::Result<Rows<'_>> {
        let parameters = params_from_iter(&plan.parameters);
        match self {
            Self::Kept(statement) => statement.query(parameters),
            Self::Once(statement) => statement.query(parameters),
        }
    }
}

fn statement<'c>(database: &'c Database, sql: &str, plan: &Plan) -> rusqlite::Result<Prepared<'c>> {
    if plan.is_common() {
        database.connection.prepare_cached(sql).map(Prepared::Kept)
    } else {
        database.connection.prepare(sql).map(Prepared::Once)
    }
}

fn fetch<'c>(database: &'c Database, table: &Table) -> rusqlite::Result<CachedStatement<'c>> {
    let sql = format!("SELECT doc FROM {} WHERE seq = ?1", quoted(table.collection.name()));
    database.connection.prepare_cached(&sql)
}

/// One document, copied.
pub(super) fn document(database: &Database, table: &Table, seq: i64) -> rusqlite::Result<Option<RawDocumentBuf>> {
    see(&mut fetch(database, table)?, seq, RawDocument::to_owned)
}

/// The row of the document with this id, and what is seen by a look at it where it lies.
pub(super) fn see_document_of<T>(
    database: &Database,
    table: &Table,
    id: ObjectId,
    look: impl FnOnce(&RawDocument) -> T,
) -> rusqlite::Result<Option<(i64, T)>> {
    let sql = format!(
        "SELECT seq, doc FROM {} WHERE \"_id\" = ?1",
        quoted(table.collection.name())
    );
    let mut statement = database.connection.prepare_cached(&sql)?;
    let mut rows = statement.query([key::simple(RawBsonRef::ObjectId(id))])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let document = RawDocument::from_bytes(row.get_ref(1)?.as_blob()?).ok();
    Ok(document
        .zip(row.get(0).ok())
        .map(|(document, seq)| (seq, look(document))))
}

/// Looks at one document where it lies.
fn see<T>(
    documents: &mut CachedStatement<'_>,
    seq: i64,
    look: impl FnOnce(&RawDocument) -> T,
) -> rusqlite::Result<Option<T>> {
    let mut rows = documents.query([seq])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let bytes = row.get_ref(0)?.as_blob()?;
    Ok(RawDocument::from_bytes(bytes).ok().map(look))
}

/// Sorts what SQL can't sort: keys and numbers only, and no more of them than are asked for.
fn sorted(
    database: &Database,
    query: &Query,
    plan: &Plan,
    abandoned: Abandoned<'_>,
) -> rusqlite::Result<VecDeque<i64>> {
    let sql = format!(
        "SELECT seq FROM {}{} ORDER BY seq",
        quoted(query.table.collection.name()),
        plan.condition()
    );
    let mut statement = statement(database, &sql, plan)?;
    let mut candidates = statement.rows(plan)?;
    let mut documents = fetch(database, query.table)?;
    let skip = usize::try_from(query.skip).unwrap_or(usize::MAX);
    let most = match usize::try_from(query.limit) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit.saturating_add(skip),
    };
    let mut keyed = Vec::new();
    let by_key = |a: &(_, i64), b: &(_, i64)| query.sort.compare(&a.0, &b.0).then(a.1.cmp(&b.1));
    while let Some(row) = candidates.next()? {
        let seq: i64 = row.get(0)?;
        let key = see(&mut documents, seq, |document| {
            (plan.exact || query.filter.matches(document)).then(|| query.sort.key(document))
        })?;
        if let Some(Some(key)) = key {
            keyed.push((key, seq));
        }
        if keyed.len() >= most.saturating_mul(2).max(1024) {
            keyed.select_nth_unstable_by(most, by_key);
            keyed.truncate(most);
        }
        if abandoned() {
            break;
        }
    }
    keyed.sort_unstable_by(by_key);
    keyed.truncate(most);
    Ok(keyed.into_iter().skip(skip).map(|(_, seq)| seq).collect())
}

/// Fetches documents by number until the helping is full.
struct Taker<'c> {
    query: Arc<Query>,
    documents: CachedStatement<'c>,
    wanted: Option<u64>,
    skip: u64,
    taken: usize,
    bytes: usize,
}

impl<'c> Taker<'c> {
    fn new(database: &'c Database, rest: &Rest) -> rusqlite::Result<Self> {
        Ok(Self {
            query: Arc::clone(&rest.query),
            documents: fetch(database, rest.query.table)?,
            wanted: rest.wanted,
            skip: rest.skip,
            taken: 0,
            bytes: 0,
        })
    }

    fn is_full(&self) -> bool {
        self.taken >= HELPING || self.bytes >= HELPING_BYTES
    }

    /// Takes one document if it still matches; answers whether more are wanted.
    fn take(&mut self, seq: i64, helping: &mut Vec<RawDocumentBuf>) -> rusqlite::Result<bool> {
        if self.wanted == Some(0) {
            return Ok(false);
        }
        let query = &self.query;
        let skipped = &mut self.skip;
        let document = see(&mut self.documents, seq, |document| {
            if !query.filter.matches(document) {
                return None;
            }
            if *skipped > 0 {
                *skipped -= 1;
                return None;
            }
            Some(if query.projection.is_everything() {
                document.to_owned()
            } else {
                query.projection.apply(document)
            })
        })?;
        if let Some(document) = document.flatten() {
            self.taken += 1;
            self.bytes += document.as_bytes().len();
            self.wanted = self.wanted.map(|wanted| wanted - 1);
            helping.push(document);
        }
        Ok(self.wanted != Some(0))
    }
}
