//! What SQL can do for a query.
//!
//! Only what the typed columns say for certain is pushed down. The conditions may let through documents that the filter
//! refuses, never the other way round; unless the plan is [`Plan::exact`], the matcher looks at every document again.

use bson::{RawBson, RawBsonRef};
use rusqlite::Connection;

use super::key::{self, EMPTY_ARRAY, INTRICATE, NULL};
use super::schema::{Column, Table, quoted};
use crate::store::query::{Direction, Filter, Node, Op, Pattern, SortOrder, Test};

/// Values of an `$in` that are handed to SQL.
const LONGEST_LIST: usize = 10_000;

/// A query in SQL's words.
#[derive(Debug, Default)]
pub(super) struct Plan {
    conditions: Vec<String>,
    pub(super) parameters: Vec<Vec<u8>>,
    /// Patterns that the conditions refer to by their place.
    pub(super) patterns: Vec<Pattern>,
    /// The conditions say exactly what the filter says.
    pub(super) exact: bool,
    /// `ORDER BY` terms that give the order asked for; `None`: SQL can't give it.
    pub(super) order: Option<String>,
}

/// Conditions on one column, seen from SQL.
struct Term {
    /// True for no intricate value; false or unknown for none of the others that the test accepts.
    sql: String,
    /// True for exactly the simple values that the test accepts.
    exact: bool,
}

impl Plan {
    /// Plans a query on one table as it is now.
    ///
    /// # Errors
    /// The table could not be asked.
    pub(super) fn make(
        connection: &Connection,
        table: &Table,
        filter: &Filter,
        sort: &SortOrder,
    ) -> rusqlite::Result<Self> {
        let mut planner = Planner {
            connection,
            table,
            plan: Self::default(),
            failure: None,
        };
        let (sql, exact) = planner.node(&filter.root);
        planner.plan.conditions.extend(sql);
        planner.plan.exact = exact;
        planner.plan.order = planner.order(sort);
        match planner.failure {
            Some(error) => Err(error),
            None => Ok(planner.plan),
        }
    }

    /// ` WHERE …`, or nothing.
    pub(super) fn condition(&self) -> String {
        if self.conditions.is_empty() {
            return String::new();
        }
        format!(" WHERE {}", self.conditions.join(" AND "))
    }

    /// True if the statement is one of few forms, so that keeping it prepared pays.
    pub(super) fn is_common(&self) -> bool {
        self.parameters.len() <= 16
    }
}

struct Planner<'a> {
    connection: &'a Connection,
    table: &'a Table,
    plan: Plan,
    failure: Option<rusqlite::Error>,
}

impl Planner<'_> {
    /// The condition for a part of the filter (`None`: always true), and whether it is exact.
    fn node(&mut self, node: &Node) -> (Option<String>, bool) {
        match node {
            Node::And(nodes) => {
                let parts: Vec<_> = nodes.iter().map(|node| self.node(node)).collect();
                let exact = parts.iter().all(|(_, exact)| *exact);
                let sql: Vec<String> = parts.into_iter().filter_map(|(sql, _)| sql).collect();
                ((!sql.is_empty()).then(|| sql.join(" AND ")), exact)
            }
            Node::Or(nodes) => self.or(nodes),
            Node::Nor(_) => (None, false),
            Node::Field(path, test) => match self.table.column_at(path) {
                Some(column) => self.test(column, test),
                None => (None, false),
            },
        }
    }

    fn or(&mut self, nodes: &[Node]) -> (Option<String>, bool) {
        let known = self.plan.parameters.len();
        let patterns = self.plan.patterns.len();
        let parts: Vec<_> = nodes.iter().map(|node| self.node(node)).collect();
        let exact = parts.iter().all(|(_, exact)| *exact);
        let sql: Option<Vec<String>> = parts.into_iter().map(|(sql, _)| sql).collect();
        match sql {
            Some(sql) => (Some(format!("({})", sql.join(" OR "))), exact),
            None => {
                // One branch is open to every document; what the others asked for is taken back.
                self.plan.parameters.truncate(known);
                self.plan.patterns.truncate(patterns);
                (None, false)
            }
        }
    }

    fn test(&mut self, column: &Column, test: &Test) -> (Option<String>, bool) {
        let (term, negated) = match test {
            Test::Not(tests) => match &**tests {
                [only] => (self.term(column, only).filter(|term| term.exact), true),
                _ => (None, true),
            },
            Test::All(tests) => {
                let parts: Vec<String> = tests.iter().filter_map(|test| self.test(column, test).0).collect();
                return ((!parts.is_empty()).then(|| parts.join(" AND ")), false);
            }
            other => (self.term(column, other), false),
        };
        let Some(Term { sql, exact }) = term else {
            return (None, false);
        };
        let sql = if negated { format!("({sql}) IS NOT TRUE") } else { sql };
        if !asks_for_one_id(column, test) && self.may_be_intricate(column) {
            return (
                Some(format!("({sql} OR {} >= x'{INTRICATE:02X}')", column.quoted())),
                false,
            );
        }
        (Some(sql), exact)
    }

    fn term(&mut self, column: &Column, test: &Test) -> Option<Term> {
        match test {
            Test::Compare(op, value) => self.compare(column, *op, value.into()),
            Test::In(values, patterns) if patterns.is_empty() => self.one_of(column, values),
            Test::Exists if column.knows_missing() => Some(Term {
                sql: format!("{} IS NOT NULL", column.quoted()),
                exact: true,
            }),
            Test::Pattern(pattern) => {
                let place = self.plan.patterns.len();
                self.plan.patterns.push(pattern.clone());
                Some(Term {
                    sql: format!("openhim_matches({place}, {})", column.quoted()),
                    exact: true,
                })
            }
            _ => None,
        }
    }

    fn compare(&mut self, column: &Column, op: Op, value: RawBsonRef<'_>) -> Option<Term> {
        let name = column.quoted();
        if matches!(value, RawBsonRef::Null) {
            let sql = format!("({name} IS NULL OR {name} = x'{NULL:02X}')");
            return matches!(op, Op::Eq | Op::Gte | Op::Lte).then_some(Term { sql, exact: true });
        }
        if let (Op::Eq, RawBsonRef::Array(array)) = (op, value)
            && array.is_empty()
        {
            let sql = format!("{name} = x'{EMPTY_ARRAY:02X}'");
            return Some(Term { sql, exact: true });
        }
        let key = key::simple(value)?;
        let end = key::end_of_kind(&key);
        let start = vec![*key.first()?];
        let sql = match op {
            Op::Eq => format!("{name} = {}", self.parameter(key)),
            Op::Gt => format!("{name} > {} AND {name} < {}", self.parameter(key), self.parameter(end)),
            Op::Gte => format!("{name} >= {} AND {name} < {}", self.parameter(key), self.parameter(end)),
            Op::Lt => format!(
                "{name} < {} AND {name} >= {}",
                self.parameter(key),
                self.parameter(start)
            ),
            Op::Lte => format!(
                "{name} <= {} AND {name} >= {}",
                self.parameter(key),
                self.parameter(start)
            ),
        };
        Some(Term { sql, exact: true })
    }

    fn one_of(&mut self, column: &Column, values: &[RawBson]) -> Option<Term> {
        if values.len() > LONGEST_LIST {
            return None;
        }
        let name = column.quoted();
        let mut or_null = "";
        let mut keys = Vec::with_capacity(values.len());
        for value in values {
            match value.as_raw_bson_ref() {
                RawBsonRef::Null => or_null = " OR ",
                value => keys.push(key::simple(value)?),
            }
        }
        let marks: Vec<String> = keys.into_iter().map(|key| self.parameter(key)).collect();
        let list = format!("{name} IN ({})", marks.join(", "));
        let sql = if or_null.is_empty() {
            list
        } else {
            format!("({list}{or_null}{name} IS NULL{or_null}{name} = x'{NULL:02X}')")
        };
        Some(Term { sql, exact: true })
    }

    fn parameter(&mut self, key: Vec<u8>) -> String {
        self.plan.parameters.push(key);
        format!("?{}", self.plan.parameters.len())
    }

    /// True unless it is certain that the column holds no intricate value.
    fn may_be_intricate(&mut self, column: &Column) -> bool {
        !column.leads || self.any(&format!("{} >= x'{INTRICATE:02X}'", column.quoted()))
    }

    /// True if a row fulfils the condition; an index must make that cheap.
    fn any(&mut self, condition: &str) -> bool {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM {} WHERE {condition})",
            quoted(self.table.collection.name())
        );
        let answer = self
            .connection
            .prepare_cached(&sql)
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)));
        answer.unwrap_or_else(|error| {
            self.failure = Some(error);
            true
        })
    }

    fn order(&mut self, sort: &SortOrder) -> Option<String> {
        if sort.is_empty() {
            return Some("seq".to_owned());
        }
        let mut terms = Vec::new();
        let last = sort.fields().len() - 1;
        for (place, (path, direction)) in sort.fields().iter().enumerate() {
            let column = self.table.column_at(path)?;
            let name = column.quoted();
            let special = format!("{name} >= x'{INTRICATE:02X}'");
            let empty = format!("{name} = x'{EMPTY_ARRAY:02X}'");
            if !column.leads || self.any(&special) || self.any(&empty) {
                return None;
            }
            // A missing field and `null` are the same to a sort; only where another field follows does it show.
            let term = if place == last || !column.knows_missing() {
                name
            } else {
                format!("coalesce({name}, x'{NULL:02X}')")
            };
            let way = match direction {
                Direction::Up => "",
                Direction::Down => " DESC",
            };
            terms.push(format!("{term}{way}"));
        }
        Some(terms.join(", "))
    }
}

/// An `_id` is never an array, so nothing intricate can equal a simple value.
fn asks_for_one_id(column: &Column, test: &Test) -> bool {
    column.name == "_id" && matches!(test, Test::Compare(Op::Eq, _) | Test::In(..))
}
