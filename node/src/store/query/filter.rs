//! Which documents a filter accepts.

mod parse;

pub(super) use parse::is_operators;

use std::cmp::Ordering;

use bson::spec::ElementType;
use bson::{Bson, Document, RawBson, RawBsonRef, RawDocument};

use super::compare::{Number, bracket, compare};
use super::path::{Leaf, Path};
use super::pattern::Pattern;
use crate::store::Result;

/// A compiled filter document.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    pub(in crate::store) root: Node,
}

/// A condition on a document.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) enum Node {
    /// Every one holds; empty: always true.
    And(Vec<Node>),
    Or(Vec<Node>),
    Nor(Vec<Node>),
    Field(Path, Box<Test>),
}

/// A condition on the values at a path.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) enum Test {
    Compare(Op, RawBson),
    /// Sorted, without repetitions.
    In(Vec<RawBson>, Vec<Pattern>),
    Pattern(Pattern),
    Exists,
    Type(Types),
    Mod {
        divisor: i64,
        remainder: i64,
    },
    Size(usize),
    /// An element of the array is a document that the filter accepts.
    ElementMatches(Box<Filter>),
    /// An element of the array passes all tests.
    ElementPasses(Vec<Test>),
    /// Not all of these hold.
    Not(Vec<Test>),
    /// Each holds, if need be for different elements.
    All(Vec<Test>),
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Op {
    Eq,
    Gt,
    Gte,
    Lt,
    Lte,
}

/// What `$type` accepts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::store) struct Types {
    any_number: bool,
    exact: Vec<ElementType>,
}

impl Filter {
    /// Reads a filter document.
    ///
    /// # Errors
    /// An operator is unknown or not supported, or its operand makes no sense.
    pub fn compile(filter: &Document) -> Result<Self> {
        parse::filter(filter, 0).map(|root| Self { root })
    }

    /// True if the filter accepts the document.
    pub fn matches(&self, document: &RawDocument) -> bool {
        self.root.matches(document)
    }

    /// True if every document is accepted.
    pub fn is_empty(&self) -> bool {
        matches!(&self.root, Node::And(nodes) if nodes.is_empty())
    }

    /// True if only documents are accepted that have something at a path of this kind.
    pub(in crate::store) fn wants(&self, kind: impl Fn(&Path) -> bool) -> bool {
        let is_wanted = |node: &&Node| matches!(node, Node::Field(path, test) if kind(path) && test.refuses_missing());
        self.root.conjuncts().iter().any(is_wanted)
    }

    /// The place in an array at which an accepted document satisfied the filter: what `$` means in an update.
    pub(super) fn position(&self, document: &RawDocument) -> Option<usize> {
        self.root.position(document)
    }

    /// Path and value of every condition that leaves only one value: what an upsert starts from.
    pub(super) fn equalities(&self) -> Vec<(String, Bson)> {
        let mut found = Vec::new();
        self.root.equalities(&mut found);
        found
    }
}

impl Node {
    /// The conditions that must all hold.
    pub(in crate::store) fn conjuncts(&self) -> Vec<&Self> {
        match self {
            Self::And(nodes) => nodes.iter().flat_map(Self::conjuncts).collect(),
            other => vec![other],
        }
    }

    fn matches(&self, document: &RawDocument) -> bool {
        match self {
            Self::And(nodes) => nodes.iter().all(|node| node.matches(document)),
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(document)),
            Self::Nor(nodes) => !nodes.iter().any(|node| node.matches(document)),
            Self::Field(path, test) => test.holds_at(path, document),
        }
    }

    fn position(&self, document: &RawDocument) -> Option<usize> {
        match self {
            // The last condition that passed an array decides, as in MongoDB.
            Self::And(nodes) => nodes.iter().filter_map(|node| node.position(document)).next_back(),
            Self::Or(nodes) => nodes
                .iter()
                .find(|node| node.matches(document))
                .and_then(|node| node.position(document)),
            Self::Nor(_) => None,
            Self::Field(path, test) => test.position(path, document),
        }
    }

    fn equalities(&self, found: &mut Vec<(String, Bson)>) {
        match self {
            Self::And(nodes) => nodes.iter().for_each(|node| node.equalities(found)),
            Self::Or(nodes) if nodes.len() == 1 => nodes.iter().for_each(|node| node.equalities(found)),
            Self::Field(path, test) => test.equalities(path, found),
            _ => {}
        }
    }
}

impl Test {
    /// True if it accepts no document that lacks the field.
    pub(in crate::store) fn refuses_missing(&self) -> bool {
        match self {
            Self::Exists | Self::Type(_) | Self::Mod { .. } | Self::Size(_) => true,
            Self::ElementMatches(_) | Self::ElementPasses(_) | Self::Never => true,
            Self::All(tests) => tests.iter().any(Self::refuses_missing),
            other => other.refuses_empty(),
        }
    }

    /// True if it accepts neither a document that lacks the field nor one with an empty array there.
    pub(in crate::store) fn refuses_empty(&self) -> bool {
        match self {
            Self::Compare(_, value) => is_plain(value),
            Self::In(values, _) => values.iter().all(is_plain),
            Self::Pattern(_) => true,
            _ => false,
        }
    }

    fn holds_at(&self, path: &Path, document: &RawDocument) -> bool {
        match self {
            Self::Not(tests) => !tests.iter().all(|test| test.holds_at(path, document)),
            Self::All(tests) => tests.iter().all(|test| test.holds_at(path, document)),
            single => path.any(document, single.leaf(), &mut |value, _| single.accepts(value)),
        }
    }

    fn position(&self, path: &Path, document: &RawDocument) -> Option<usize> {
        match self {
            Self::Not(_) | Self::Never => None,
            Self::All(tests) => tests
                .iter()
                .filter_map(|test| test.position(path, document))
                .next_back(),
            Self::ElementMatches(_) | Self::ElementPasses(_) => self.element_position(path, document),
            single => {
                let mut found = None;
                path.any(document, single.leaf(), &mut |value, place| {
                    let accepted = single.accepts(value);
                    if accepted {
                        found = place;
                    }
                    accepted
                });
                found
            }
        }
    }

    fn element_position(&self, path: &Path, document: &RawDocument) -> Option<usize> {
        let mut found = None;
        path.any(document, Leaf::Whole, &mut |value, place| {
            let Some(RawBsonRef::Array(array)) = value else {
                return false;
            };
            found = array
                .into_iter()
                .flatten()
                .position(|element| self.accepts_element(element))
                .map(|index| place.unwrap_or(index));
            found.is_some()
        });
        found
    }

    fn leaf(&self) -> Leaf {
        match self {
            Self::Size(_) | Self::ElementMatches(_) | Self::ElementPasses(_) => Leaf::Whole,
            _ => Leaf::Elements,
        }
    }

    /// One value, or none where the path leads nowhere.
    fn accepts(&self, value: Option<RawBsonRef<'_>>) -> bool {
        match self {
            Self::Compare(op, operand) => op.accepts(value, operand.into()),
            Self::In(values, patterns) => is_in(values, patterns, value),
            Self::Pattern(pattern) => value.is_some_and(|value| pattern.accepts(value)),
            Self::Exists => value.is_some(),
            Self::Type(types) => value.is_some_and(|value| types.accept(value)),
            Self::Mod { divisor, remainder } => value
                .and_then(whole_part)
                .is_some_and(|value| value.wrapping_rem(*divisor) == *remainder),
            Self::Size(size) => matches!(value, Some(RawBsonRef::Array(array)) if array.into_iter().count() == *size),
            Self::ElementMatches(_) | Self::ElementPasses(_) => {
                matches!(value, Some(RawBsonRef::Array(array))
                    if array.into_iter().flatten().any(|element| self.accepts_element(element)))
            }
            Self::Not(tests) => !tests.iter().all(|test| test.accepts(value)),
            Self::All(tests) => tests.iter().all(|test| test.accepts(value)),
            Self::Never => false,
        }
    }

    fn accepts_element(&self, element: RawBsonRef<'_>) -> bool {
        match (self, element) {
            (Self::ElementMatches(filter), RawBsonRef::Document(document)) => filter.matches(document),
            (Self::ElementMatches(filter), RawBsonRef::Array(array)) => {
                RawDocument::from_bytes(array.as_bytes()).is_ok_and(|document| filter.matches(document))
            }
            (Self::ElementPasses(tests), element) => tests.iter().all(|test| test.accepts(Some(element))),
            _ => false,
        }
    }

    fn equalities(&self, path: &Path, found: &mut Vec<(String, Bson)>) {
        let only = match self {
            Self::Compare(Op::Eq, value) => Some(value),
            Self::In(values, patterns) if patterns.is_empty() && values.len() == 1 => values.first(),
            Self::All(tests) => {
                tests.iter().for_each(|test| test.equalities(path, found));
                None
            }
            _ => None,
        };
        if let Some(value) = only.and_then(|value| Bson::try_from(value.clone()).ok()) {
            found.push((path.text(), value));
        }
    }
}

impl Op {
    fn accepts(self, value: Option<RawBsonRef<'_>>, operand: RawBsonRef<'_>) -> bool {
        let absent = matches!(value, None | Some(RawBsonRef::Undefined));
        let includes_equal = matches!(self, Self::Eq | Self::Gte | Self::Lte);
        match operand {
            RawBsonRef::Null if absent => return includes_equal,
            RawBsonRef::MaxKey if !matches!(value, Some(RawBsonRef::MaxKey)) => {
                return matches!(self, Self::Lt | Self::Lte);
            }
            RawBsonRef::MinKey if !matches!(value, Some(RawBsonRef::MinKey)) => {
                return matches!(self, Self::Gt | Self::Gte);
            }
            _ => {}
        }
        let Some(value) = value else {
            return false;
        };
        if bracket(value) != bracket(operand) {
            return false;
        }
        if let (Some(a), Some(b)) = (Number::of(value), Number::of(operand))
            && (a.is_nan() || b.is_nan())
        {
            return a.is_nan() && b.is_nan() && includes_equal;
        }
        let order = compare(value, operand);
        match self {
            Self::Eq => order == Ordering::Equal,
            Self::Gt => order == Ordering::Greater,
            Self::Gte => order != Ordering::Less,
            Self::Lt => order == Ordering::Less,
            Self::Lte => order != Ordering::Greater,
        }
    }
}

/// True for what only equals or is compared with values of its own kind.
fn is_plain(value: &RawBson) -> bool {
    matches!(
        value,
        RawBson::String(_)
            | RawBson::Int32(_)
            | RawBson::Int64(_)
            | RawBson::Double(_)
            | RawBson::Boolean(_)
            | RawBson::ObjectId(_)
            | RawBson::DateTime(_)
    )
}

fn is_in(values: &[RawBson], patterns: &[Pattern], value: Option<RawBsonRef<'_>>) -> bool {
    let value = match value {
        None | Some(RawBsonRef::Undefined) => RawBsonRef::Null,
        Some(value) => value,
    };
    values
        .binary_search_by(|candidate| compare(candidate.into(), value))
        .is_ok()
        || patterns.iter().any(|pattern| pattern.accepts(value))
}

/// A number cut to its whole part, where that fits.
fn whole_part(value: RawBsonRef<'_>) -> Option<i64> {
    match Number::of(value)? {
        Number::Whole(number) => Some(number),
        Number::Real(number) if number.is_finite() && number.abs() < 9.2e18 => Some(number.trunc() as i64),
        Number::Real(_) => None,
    }
}

impl Types {
    fn accept(&self, value: RawBsonRef<'_>) -> bool {
        (self.any_number && bracket(value) == 10) || self.exact.contains(&value.element_type())
    }
}
