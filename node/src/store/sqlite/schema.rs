//! Tables: which columns and indexes a collection has.
//!
//! A table holds one row a document: `seq` (the order of insertion), `_id`, one typed column for each path that an
//! index or a usual filter names, and the document itself in `doc`. Columns and indexes are derived from the
//! collections' definitions when the store is opened; what is missing is added then and filled from the documents.

use std::sync::OnceLock;

use bson::{RawDocument, doc};

use super::key::{self, EMPTY_ARRAY, INTRICATE, Key, TRUE};
use crate::store::query::{Filter, Path};
use crate::store::{Collection, Index, Result, StoreError};

/// A collection as it is kept.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) collection: Collection,
    /// After `seq`; the first one is `_id`.
    pub(super) columns: Vec<Column>,
    pub(super) uniques: Vec<Unique>,
    pub(super) indexes: Vec<SqlIndex>,
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
    /// An index holds the rows in which it is intricate, so that it costs little to learn that there are none.
    pub(super) watched: bool,
    /// An index holds only the rows in which it is worth finding.
    pub(super) worth: Option<Worth>,
    /// It holds the document's own size instead of a value in it.
    pub(super) is_size: bool,
    /// The column that follows it in an index that it leads, quoted.
    next: Option<String>,
}

/// A unique index on one column.
#[derive(Debug)]
pub(super) struct Unique {
    /// MongoDB's name for it.
    pub(super) index: String,
    pub(super) column: usize,
}

/// An index as SQL has it.
#[derive(Debug)]
pub(super) struct SqlIndex {
    pub(super) name: String,
    /// What stands after `CREATE`.
    pub(super) definition: String,
}

/// Paths besides the indexed ones that consoles filter transactions by.
const TRANSACTION_FILTERS: [&str; 8] = [
    "response.status",
    "request.path",
    "request.querystring",
    "request.host",
    "request.port",
    "request.method",
    "autoRetry",
    "wasRerun",
];

/// Paths that indexes of transactions carry along, by the first path of the index: what consoles ask for together is
/// found in the index alone, without a look at each document's row. Only what never changes after a request began, or
/// what stands in an index that changes anyway.
const CARRIED: [(&str, &[&str]); 3] = [
    (
        "request.timestamp",
        &[
            "request.path",
            "request.querystring",
            "request.host",
            "request.port",
            "request.method",
        ],
    ),
    ("channelID", &["clientID", "request.path"]),
    ("status", &["channelID", "clientID", SIZE]),
];

/// What a bucket of metrics is found by, besides its time: with each message, so that it has to be found at once among
/// those of a thousand channels.
const METRIC_KEYS: [&str; 2] = ["channelID", "type"];

/// The column of transactions that holds the bytes of the document.
const SIZE: &str = "openhim bytes";

/// Columns of transactions in which few rows hold anything that is asked for. An index of these rows alone costs nothing
/// for all the others.
const SPARSE: [(&str, Worth, &str); 7] = [
    ("parentID", Worth::Present, "\"parentID\""),
    ("childIDs", Worth::Filled, NEWEST_FIRST),
    ("wasRerun", Worth::True, NEWEST_FIRST),
    (
        "response.status",
        Worth::Present,
        "\"response.status\", \"request.timestamp\" DESC",
    ),
    ("routes", Worth::Deep, NEWEST_FIRST),
    ("orchestrations", Worth::Deep, NEWEST_FIRST),
    ("properties", Worth::Deep, NEWEST_FIRST),
];

const NEWEST_FIRST: &str = "\"request.timestamp\" DESC";

/// Which rows a sparse index holds, by what stands in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// Anything.
    Present,
    /// Anything but an empty array.
    Filled,
    /// `true`, or an array that may hold it.
    True,
    /// What has something inside.
    Deep,
}

impl Worth {
    /// The condition of the index. A query has to say the very same words.
    pub(super) fn condition(self, column: &str) -> String {
        let column = quoted(column);
        match self {
            Self::Present => format!("{column} IS NOT NULL"),
            Self::Filled => format!("{column} > x'{EMPTY_ARRAY:02X}'"),
            Self::True => format!("{column} >= x'{TRUE}'"),
            Self::Deep => format!("{column} >= x'{INTRICATE:02X}'"),
        }
    }
}

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
        let is_sparse = |index: &Index| collection == Collection::Transactions && sparse(leading(index)).is_some();
        for index in collection.indexes().iter().filter(|index| !is_sparse(index)) {
            table.add(index)?;
        }
        if collection == Collection::Transactions {
            for path in TRANSACTION_FILTERS {
                table.column(path, false)?;
            }
            for (path, worth, order) in SPARSE {
                let column = table.column(path, false)?;
                if let Some(rest) = order.strip_prefix(&quoted(path)) {
                    table.columns[column].leads = true;
                    let next = rest.strip_prefix(", ").and_then(|next| next.split(' ').next());
                    table.columns[column].next = next.map(str::to_owned);
                }
                table.columns[column].worth = Some(worth);
                let parts = format!("{order}) WHERE ({}", worth.condition(path));
                table.add_sql_index("", &format!("{path}_sparse"), &parts);
            }
        }
        if collection == Collection::Metrics {
            for path in METRIC_KEYS {
                let column = table.column(path, false)?;
                table.columns[column].watched = true;
                let name = quoted(path);
                let parts = format!("{name}) WHERE ({name} >= x'{INTRICATE:02X}'");
                table.add_sql_index("", &format!("{path}_intricate"), &parts);
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
            if position == 0 {
                self.columns[column].leads = true;
                self.columns[column].next = index.keys.keys().nth(1).map(|next| quoted(next));
            }
            let order = if direction.as_i32() == Some(-1) { " DESC" } else { "" };
            parts.push(format!("{}{order}", quoted(path)));
        }
        let carried = CARRIED.iter().find(|(path, _)| *path == leading(index));
        if let (Collection::Transactions, Some((_, paths))) = (self.collection, carried) {
            for path in *paths {
                self.column(path, false)?;
                parts.push(quoted(path));
            }
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
        let path = leading(index);
        self.columns.push(Column {
            name: name.to_owned(),
            path: Path::parse(path)?,
            unique: true,
            only: Some(Filter::compile(only)?),
            leads: true,
            watched: false,
            worth: None,
            is_size: false,
            next: None,
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
            watched: false,
            worth: None,
            is_size: path == SIZE,
            next: None,
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
            .find(|column| column.only.is_none() && !column.is_size && column.path == *path)
    }

    /// The column that holds the sizes of the documents, if they are kept apart.
    pub(super) fn size_column(&self) -> Option<&Column> {
        self.columns.iter().find(|column| column.is_size)
    }

    /// The sparse column that says whether there can be anything at `path`: its own, or the one that it goes into.
    pub(super) fn sparse_at(&self, path: &Path) -> Option<(&Column, Worth)> {
        let of = |column: &Column| {
            let is_inside = column.worth == Some(Worth::Deep) && path.is_inside(&column.name);
            column.path == *path || is_inside
        };
        let column = self
            .columns
            .iter()
            .find(|column| column.worth.is_some() && of(column))?;
        Some((column, column.worth?))
    }

    /// What stands in the columns for `document`.
    pub(super) fn keys(&self, document: &RawDocument) -> Vec<Key> {
        self.columns.iter().map(|column| column.key(document)).collect()
    }
}

impl Column {
    /// What stands in it for `document`.
    pub(super) fn key(&self, document: &RawDocument) -> Key {
        if self.only.as_ref().is_some_and(|only| !only.matches(document)) {
            return None;
        }
        if self.is_size {
            return Some(key::size(document));
        }
        let key = key::at(&self.path, document, self.unique);
        if key.is_none() && self.unique {
            return Some(vec![key::NULL]);
        }
        key
    }

    /// True if an index holds the rows of each of its values in the order of the other column, which is quoted.
    pub(super) fn is_followed_by(&self, other: &str) -> bool {
        self.next.as_deref() == Some(other)
    }

    /// True if a missing field is told from `null`.
    pub(super) fn knows_missing(&self) -> bool {
        !self.unique
    }

    pub(super) fn quoted(&self) -> String {
        quoted(&self.name)
    }
}

fn leading(index: &Index) -> &str {
    index.keys.keys().next().map_or("", String::as_str)
}

fn sparse(path: &str) -> Option<Worth> {
    SPARSE
        .iter()
        .find(|(known, ..)| *known == path)
        .map(|(_, worth, _)| *worth)
}

/// A name as SQL wants it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
