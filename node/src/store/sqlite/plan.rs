//! What SQL can do for a query.
//!
//! Only what the typed columns say for certain is pushed down. The conditions may let through documents that the filter
//! refuses, never the other way round; unless the plan is [`Plan::exact`], the matcher looks at every document again.

use bson::{RawBson, RawBsonRef};
use rusqlite::Connection;

use super::key::{self, EMPTY_ARRAY, INTRICATE, Key, NULL};
use super::schema::{Column, Table, Worth, quoted};
use crate::store::query::{Direction, Filter, Node, Op, Path, Pattern, SortOrder, Test};

/// Values of an `$in` that are handed to SQL.
const LONGEST_LIST: usize = 10_000;
/// Values whose rows are merged in the order asked for instead of sorted.
const MOST_BRANCHES: usize = 64;

/// A query in SQL's words.
#[derive(Debug, Default)]
pub(super) struct Plan {
    conditions: Vec<String>,
    /// One of these holds besides: an index has the rows of each in the order asked for. `None`: nothing like that.
    branches: Option<Vec<String>>,
    pub(super) parameters: Vec<Vec<u8>>,
    /// Patterns that the conditions refer to by their place.
    pub(super) patterns: Vec<Pattern>,
    /// The conditions say exactly what the filter says.
    pub(super) exact: bool,
    /// `ORDER BY` terms that give the order asked for; `None`: SQL can't give it.
    pub(super) order: Option<String>,
    /// What rows are ordered by, where that is one thing: SQL's name of it, and the way.
    key: Option<(String, Direction)>,
}

/// A place in the order of rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    /// Of the row with this number.
    Number(i64),
    /// Of the rows with this key.
    Key(Key),
    /// Of the rows that have no key, and come last.
    Nothing,
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
            ranges: Vec::new(),
            failure: None,
        };
        planner.plan.order = planner.order(sort);
        let conjuncts = filter.root.conjuncts();
        planner.ranges = conjuncts.iter().filter_map(|node| range(node)).collect();
        planner.plan.exact = true;
        let spread = planner.spread(&conjuncts, sort);
        for node in conjuncts {
            if spread.is_some_and(|column| is_on(node, column)) {
                continue;
            }
            let (sql, exact) = planner.node(node);
            planner.plan.conditions.extend(sql);
            planner.plan.exact &= exact;
        }
        planner.plan.conditions.extend(planner.filled(&filter.root));
        match planner.failure {
            Some(error) => Err(error),
            None => Ok(planner.plan),
        }
    }

    /// ` WHERE …`, or nothing.
    pub(super) fn condition(&self) -> String {
        let any = self.branches.as_ref().map(|branches| match &**branches {
            [] => "FALSE".to_owned(),
            some => format!("({})", some.join(" OR ")),
        });
        let all: Vec<&str> = self.conditions.iter().chain(&any).map(String::as_str).collect();
        if all.is_empty() {
            return String::new();
        }
        format!(" WHERE {}", all.join(" AND "))
    }

    /// True if a look can go on after a row that another one ended with.
    pub(super) fn can_go_on(&self) -> bool {
        self.key.is_some()
    }

    /// Only rows that come after those with this place in the order.
    pub(super) fn go_on(&mut self, after: &Place) {
        let Some((name, way)) = self.key.clone() else {
            return;
        };
        let sign = match way {
            Direction::Up => ">",
            Direction::Down => "<",
        };
        let condition = match after {
            Place::Number(seq) => format!("{name} {sign} {seq}"),
            Place::Key(Some(key)) => {
                self.parameters.push(key.clone());
                format!("{name} {sign} ?{}", self.parameters.len())
            }
            // Nothing comes before everything else, whichever way it is seen from.
            Place::Key(None) => format!("{name} IS NOT NULL"),
            Place::Nothing => format!("{name} IS NULL"),
        };
        self.conditions.push(condition);
    }

    /// What is left after the rows whose place in the order has a value: those without one come last.
    pub(super) fn leaves_nothing(&self, after: &Place) -> bool {
        let is_down = matches!(self.key, Some((_, Direction::Down)));
        is_down && matches!(after, Place::Key(_))
    }

    /// Asks for the numbers of the rows of `table` in this order, at most as many as `bounds` says.
    pub(super) fn select(&self, table: &Table, order: &str, bounds: &str) -> String {
        let name = quoted(table.collection.name());
        let (Some(branches), Some(key)) = (&self.branches, order.split(' ').next()) else {
            let key = self.key.as_ref().map_or("NULL", |(key, _)| key);
            return format!(
                "SELECT seq, {key} FROM {name}{} ORDER BY {order}{bounds}",
                self.condition()
            );
        };
        let parts: Vec<String> = branches
            .iter()
            .map(|branch| {
                let all: Vec<&str> = self.conditions.iter().chain([branch]).map(String::as_str).collect();
                format!("SELECT seq, {key} FROM {name} WHERE {}", all.join(" AND "))
            })
            .collect();
        match &*parts {
            [] => format!("SELECT seq, NULL FROM {name} WHERE FALSE"),
            [only] => format!("{only} ORDER BY {order}{bounds}"),
            several => format!(
                "{} ORDER BY 2{}{bounds}",
                several.join(" UNION ALL "),
                order.strip_prefix(key).unwrap_or_default()
            ),
        }
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
    /// Sides of ranges that every document must be in: SQL uses only one bound on each side, which has to be the
    /// narrowest.
    ranges: Vec<(Path, Side, u8)>,
    failure: Option<rusqlite::Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Low,
    High,
}

impl Side {
    fn of(op: Op) -> Option<Self> {
        match op {
            Op::Gt | Op::Gte => Some(Self::Low),
            Op::Lt | Op::Lte => Some(Self::High),
            Op::Eq => None,
        }
    }
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
            Node::Field(path, test) => {
                let (sql, exact) = match self.table.column_at(path) {
                    Some(column) => self.test(column, test),
                    None => (None, false),
                };
                // Says no more than the test does, in the words of an index that holds few rows.
                let few = self.table.sparse_at(path).and_then(|(column, worth)| {
                    let is_needed = match worth {
                        Worth::Present => test.refuses_missing(),
                        Worth::Filled => test.refuses_empty(),
                        Worth::True => matches!(&**test, Test::Compare(Op::Eq, RawBson::Boolean(true))),
                        Worth::Deep => path.is_inside(&column.name) && test.refuses_missing(),
                    };
                    is_needed.then(|| worth.condition(&column.name))
                });
                let both: Vec<String> = sql.into_iter().chain(few).collect();
                ((!both.is_empty()).then(|| both.join(" AND ")), exact)
            }
        }
    }

    /// What is true of a field that must be there and not be an empty array, where an index holds just these.
    fn filled(&self, root: &Node) -> Option<String> {
        let conjuncts = root.conjuncts();
        let is_there = |node: &&Node| matches!(node, Node::Field(_, test) if matches!(**test, Test::Exists));
        conjuncts.iter().copied().filter(is_there).find_map(|node| {
            let Node::Field(path, _) = node else {
                return None;
            };
            let (column, worth) = self.table.sparse_at(path)?;
            let is_filled = conjuncts
                .iter()
                .any(|other| is_on(other, path) && refuses_the_empty_array(other));
            (worth == Worth::Filled && is_filled).then(|| worth.condition(&column.name))
        })
    }

    /// Splits the query by the values of a column, if an index holds the rows of each value in the order asked for:
    /// taking turns among them is cheaper than to sort them all, or to look for them among all others.
    fn spread<'f>(&mut self, conjuncts: &[&'f Node], sort: &SortOrder) -> Option<&'f Path> {
        let [(by, _)] = sort.fields() else {
            return None;
        };
        self.plan.order.as_ref()?;
        let by = self.table.column_at(by)?.quoted();
        for node in conjuncts {
            let Node::Field(path, test) = node else {
                continue;
            };
            let Some(column) = self.table.column_at(path).filter(|column| column.is_followed_by(&by)) else {
                continue;
            };
            let own = conjuncts.iter().filter(|other| is_on(other, path)).count();
            let branches = match &**test {
                Test::In(values, patterns) if patterns.is_empty() && own == 1 => self.listed(column, values),
                Test::Compare(Op::Gt | Op::Gte | Op::Lt | Op::Lte, _) => self.found(column, path, conjuncts),
                _ => None,
            };
            if branches.is_some() {
                self.plan.branches = branches;
                return Some(path);
            }
        }
        None
    }

    /// A branch for each value of a list.
    fn listed(&mut self, column: &Column, values: &[RawBson]) -> Option<Vec<String>> {
        let keys: Option<Vec<Vec<u8>>> = values.iter().map(simple).collect();
        let keys = keys.filter(|keys| keys.len() <= MOST_BRANCHES)?;
        if self.may_be_intricate(column) {
            return None;
        }
        Some(self.branches(column, keys))
    }

    /// A branch for each value in a range, if the rows hold only a few different ones.
    fn found(&mut self, column: &Column, path: &Path, conjuncts: &[&Node]) -> Option<Vec<String>> {
        let mut bounds = Vec::new();
        let (mut low, mut high) = (Vec::new(), vec![INTRICATE]);
        for node in conjuncts.iter().filter(|node| is_on(node, path)) {
            let Node::Field(_, test) = node else {
                return None;
            };
            let Test::Compare(op, value) = &**test else {
                return None;
            };
            let key = simple(value)?;
            // Only values of one kind are compared.
            low = low.max(vec![*key.first()?]);
            high = high.min(key::end_of_kind(&key));
            bounds.push((*op, key));
        }
        if self.may_be_intricate(column) {
            return None;
        }
        let holds = |key: &Vec<u8>| {
            *key >= low
                && bounds.iter().all(|(op, bound)| match op {
                    Op::Eq => key == bound,
                    Op::Gt => key > bound,
                    Op::Gte => key >= bound,
                    Op::Lt => key < bound,
                    Op::Lte => key <= bound,
                })
        };
        let start = bounds
            .iter()
            .filter(|(op, _)| matches!(op, Op::Gt | Op::Gte))
            .map(|(_, key)| key);
        let start = start
            .max()
            .filter(|start| **start > low)
            .cloned()
            .unwrap_or(low.clone());
        let (values, name) = (self.values(column, start, &high)?, column.quoted());
        debug_assert!(values.len() <= MOST_BRANCHES, "{name}");
        let keys: Vec<Vec<u8>> = values.into_iter().filter(holds).collect();
        Some(self.branches(column, keys))
    }

    /// The different values of a column from `start` to before `end`; `None` if there are too many.
    fn values(&mut self, column: &Column, start: Vec<u8>, end: &[u8]) -> Option<Vec<Vec<u8>>> {
        let name = column.quoted();
        let table = quoted(self.table.collection.name());
        let mut values: Vec<Vec<u8>> = Vec::new();
        loop {
            let (way, after) = match values.last() {
                Some(last) => (">", last),
                None => (">=", &start),
            };
            let sql = format!("SELECT min({name}) FROM {table} WHERE {name} {way} ?1 AND {name} < ?2");
            let next = self
                .connection
                .prepare_cached(&sql)
                .and_then(|mut statement| statement.query_row((after, end), |row| row.get::<_, Option<Vec<u8>>>(0)));
            match next {
                Ok(Some(_)) if values.len() == MOST_BRANCHES => return None,
                Ok(Some(value)) => values.push(value),
                Ok(None) => return Some(values),
                Err(error) => {
                    self.failure = Some(error);
                    return None;
                }
            }
        }
    }

    fn branches(&mut self, column: &Column, keys: Vec<Vec<u8>>) -> Vec<String> {
        let name = column.quoted();
        let branch = |key| format!("{name} = {}", self.parameter(key));
        keys.into_iter().map(branch).collect()
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
        let kind = *key.first()?;
        let is_bounded = |side| self.ranges.contains(&(column.path.clone(), side, kind));
        let (has_low, has_high) = (is_bounded(Side::Low), is_bounded(Side::High));
        let sign = match op {
            Op::Eq => "=",
            Op::Gt => ">",
            Op::Gte => ">=",
            Op::Lt => "<",
            Op::Lte => "<=",
        };
        let end = key::end_of_kind(&key);
        let mut sql = format!("{name} {sign} {}", self.parameter(key));
        // Only values of one kind are compared.
        match Side::of(op) {
            Some(Side::Low) if !has_high => sql.push_str(&format!(" AND {name} < {}", self.parameter(end))),
            Some(Side::High) if !has_low => sql.push_str(&format!(" AND {name} >= {}", self.parameter(vec![kind]))),
            _ => {}
        }
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
        let is_known = column.leads || column.watched;
        !is_known || self.any(&format!("{} >= x'{INTRICATE:02X}'", column.quoted()))
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
            self.plan.key = Some(("seq".to_owned(), Direction::Up));
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
            if last == 0 {
                self.plan.key = Some((term.clone(), *direction));
            }
            let way = match direction {
                Direction::Up => "",
                Direction::Down => " DESC",
            };
            terms.push(format!("{term}{way}"));
        }
        Some(terms.join(", "))
    }
}

/// The side that a condition bounds, and the kind of values in it.
fn range(node: &Node) -> Option<(Path, Side, u8)> {
    let Node::Field(path, test) = node else {
        return None;
    };
    let Test::Compare(op, value) = &**test else {
        return None;
    };
    Some((path.clone(), Side::of(*op)?, *simple(value)?.first()?))
}

fn is_on(node: &Node, path: &Path) -> bool {
    matches!(node, Node::Field(on, _) if on == path)
}

/// The key of a value that is neither null nor intricate.
fn simple(value: &RawBson) -> Option<Vec<u8>> {
    match value {
        RawBson::Null => None,
        value => key::simple(value.into()),
    }
}

fn refuses_the_empty_array(node: &Node) -> bool {
    let is_empty = |test: &Test| matches!(test, Test::Compare(Op::Eq, RawBson::Array(array)) if array.is_empty());
    matches!(node, Node::Field(_, test) if matches!(&**test, Test::Not(tests) if matches!(&**tests, [one] if is_empty(one))))
}

/// An `_id` is never an array, so nothing intricate can equal a simple value.
fn asks_for_one_id(column: &Column, test: &Test) -> bool {
    column.name == "_id" && matches!(test, Test::Compare(Op::Eq, _) | Test::In(..))
}
