//! Orders of documents.

use std::cmp::Ordering;

use bson::{Bson, Document, RawBson, RawBsonRef, RawDocument};

use super::bad;
use super::compare::compare;
use super::path::{Leaf, Path};
use crate::store::Result;

/// A compiled sort document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SortOrder {
    fields: Vec<(Path, Direction)>,
}

/// Which way a field is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Direction {
    Up,
    Down,
}

/// What a document is sorted by, taken out of it.
#[derive(Clone, Debug)]
pub struct SortKey(Vec<RawBson>);

impl SortOrder {
    /// Reads `{field: 1, other: -1}`.
    ///
    /// # Errors
    /// A direction is not 1 or -1.
    pub fn compile(sort: &Document) -> Result<Self> {
        let fields = sort
            .iter()
            .map(|(path, direction)| Ok((Path::parse(path)?, direction_of(path, direction)?)))
            .collect::<Result<_>>()?;
        Ok(Self { fields })
    }

    /// Orders by one field as a whole.
    pub(super) fn by_field(path: Path, direction: Direction) -> Self {
        Self {
            fields: vec![(path, direction)],
        }
    }

    /// The same order for documents that are one level deeper, in the field `name`.
    pub(super) fn inside(&self, name: &str) -> Self {
        let deeper = |(path, direction): &(Path, Direction)| (path.inside(name), *direction);
        Self {
            fields: self.fields.iter().map(deeper).collect(),
        }
    }

    /// True if there is no order.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The fields with their direction.
    pub(in crate::store) fn fields(&self) -> &[(Path, Direction)] {
        &self.fields
    }

    /// What `document` is sorted by. An array stands for its smallest element going up, its greatest going down.
    pub fn key(&self, document: &RawDocument) -> SortKey {
        SortKey(
            self.fields
                .iter()
                .map(|(path, direction)| key_at(document, path, *direction))
                .collect(),
        )
    }

    /// Compares two keys made by [`Self::key`].
    pub fn compare(&self, a: &SortKey, b: &SortKey) -> Ordering {
        for (((_, direction), a), b) in self.fields.iter().zip(&a.0).zip(&b.0) {
            let order = compare(a.into(), b.into());
            if order.is_ne() {
                return match direction {
                    Direction::Up => order,
                    Direction::Down => order.reverse(),
                };
            }
        }
        Ordering::Equal
    }
}

fn direction_of(path: &str, direction: &Bson) -> Result<Direction> {
    let number = match direction {
        Bson::Int32(n) => f64::from(*n),
        Bson::Int64(n) => *n as f64,
        Bson::Double(n) => *n,
        _ => 0.0,
    };
    match number {
        1.0 => Ok(Direction::Up),
        -1.0 => Ok(Direction::Down),
        _ => Err(bad(format!(
            "$sort key ordering must be 1 (for ascending) or -1 (for descending): {path}"
        ))),
    }
}

fn key_at(document: &RawDocument, path: &Path, direction: Direction) -> RawBson {
    let mut best: Option<RawBsonRef<'_>> = None;
    path.any(document, Leaf::Keys, &mut |value, _| {
        let value = value.unwrap_or(RawBsonRef::Null);
        let better = best.is_none_or(|best| match direction {
            Direction::Up => compare(value, best).is_lt(),
            Direction::Down => compare(value, best).is_gt(),
        });
        if better {
            best = Some(value);
        }
        false
    });
    best.map_or(RawBson::Null, RawBson::from)
}
