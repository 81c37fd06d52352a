//! The operators that change arrays.

use bson::{Bson, RawDocumentBuf};

use super::step::{self, Step};
use super::{Effect, bad, compare_bson};
use crate::store::Result;
use crate::store::query::filter::Filter;
use crate::store::query::path::Path;
use crate::store::query::sort::{Direction, SortKey, SortOrder};

/// `$push` with its modifiers.
#[derive(Clone, Debug)]
pub(super) struct Push {
    pub(super) values: Vec<Bson>,
    /// Where to put them; negative: counted from the end. None: at the end.
    pub(super) position: Option<i64>,
    pub(super) sort: Option<ElementOrder>,
    /// How many to keep; negative: of the end.
    pub(super) slice: Option<i64>,
}

/// An order of elements, each looked at as the one field of a document.
#[derive(Clone, Debug)]
pub(super) struct ElementOrder(SortOrder);

pub(super) const ELEMENT: &str = "element";

/// Which elements `$pull` takes away.
#[derive(Clone, Debug)]
pub(super) enum Pull {
    Equal(Bson),
    Documents(Filter),
    /// The filter is about the element as the one field of a document.
    Passing(Filter),
}

/// An array to change: one that is there, or one to be made.
pub(super) enum Target<'a> {
    There(&'a mut Vec<Bson>),
    Missing,
}

impl Target<'_> {
    fn change(self, change: impl FnOnce(&mut Vec<Bson>) -> Result<bool>) -> Result<Effect> {
        match self {
            Target::There(array) => Ok(if change(array)? {
                Effect::Changed
            } else {
                Effect::Unchanged
            }),
            Target::Missing => {
                let mut array = Vec::new();
                change(&mut array)?;
                Ok(Effect::Put(Bson::Array(array)))
            }
        }
    }
}

/// The array that `$push` or `$addToSet` extends.
pub(super) fn of<'a>(
    current: Option<&'a mut Bson>,
    path: &[Step],
    described: &dyn Fn() -> String,
) -> Result<Target<'a>> {
    match current {
        None => Ok(Target::Missing),
        Some(Bson::Array(array)) => Ok(Target::There(array)),
        Some(other) => Err(bad(format!(
            "The field '{}' must be an array but is of type {} in document {{{}}}",
            step::text(path),
            type_name(other),
            described()
        ))),
    }
}

/// The array that `$pull` shortens; none where the field is missing.
pub(super) fn existing<'a>(current: Option<&'a mut Bson>, operator: &str) -> Result<Option<&'a mut Vec<Bson>>> {
    match current {
        None => Ok(None),
        Some(Bson::Array(array)) => Ok(Some(array)),
        Some(_) => Err(bad(format!("Cannot apply {operator} to a non-array value"))),
    }
}

/// The array that `$pop` shortens.
pub(super) fn popped<'a>(current: Option<&'a mut Bson>, path: &[Step]) -> Result<Option<&'a mut Vec<Bson>>> {
    match current {
        None => Ok(None),
        Some(Bson::Array(array)) => Ok(Some(array)),
        Some(other) => Err(bad(format!(
            "Path '{}' contains an element of non-array type '{}'",
            step::text(path),
            type_name(other)
        ))),
    }
}

impl Push {
    pub(super) fn apply(&self, target: Target<'_>) -> Result<Effect> {
        target.change(|array| {
            let before = array.len();
            let at = insertion_place(array.len(), self.position);
            array.splice(at..at, self.values.iter().cloned());
            let sorted = match &self.sort {
                Some(order) => order.sort(array)?,
                None => false,
            };
            if let Some(keep) = self.slice {
                slice(array, keep);
            }
            Ok(sorted || !self.values.is_empty() || array.len() != before)
        })
    }
}

fn insertion_place(length: usize, position: Option<i64>) -> usize {
    match position {
        None => length,
        Some(place) if place < 0 => length.saturating_sub(usize::try_from(place.unsigned_abs()).unwrap_or(usize::MAX)),
        Some(place) => usize::try_from(place).unwrap_or(usize::MAX).min(length),
    }
}

fn slice(array: &mut Vec<Bson>, keep: i64) {
    let count = usize::try_from(keep.unsigned_abs()).unwrap_or(usize::MAX);
    if keep >= 0 {
        array.truncate(count);
    } else if array.len() > count {
        array.drain(..array.len() - count);
    }
}

impl ElementOrder {
    /// By the elements' own values.
    pub(super) fn of_values(direction: Direction) -> Result<Self> {
        Ok(Self(SortOrder::by_field(Path::parse(ELEMENT)?, direction)))
    }

    /// By fields of the elements.
    pub(super) fn of_fields(order: &SortOrder) -> Self {
        Self(order.inside(ELEMENT))
    }

    fn sort(&self, array: &mut Vec<Bson>) -> Result<bool> {
        let mut keyed = Vec::with_capacity(array.len());
        for element in array.drain(..) {
            keyed.push((self.0.key(&alone(&element)?), element));
        }
        let in_order = |a: &(SortKey, Bson), b: &(SortKey, Bson)| self.0.compare(&a.0, &b.0);
        let moved = !keyed.is_sorted_by(|a, b| in_order(a, b).is_le());
        keyed.sort_by(in_order);
        array.extend(keyed.into_iter().map(|(_, element)| element));
        Ok(moved)
    }
}

pub(super) fn add_to_set(target: Target<'_>, values: &[Bson]) -> Result<Effect> {
    target.change(|array| {
        let before = array.len();
        for value in values {
            if !contains(array, value)? {
                array.push(value.clone());
            }
        }
        Ok(array.len() != before)
    })
}

fn contains(array: &[Bson], value: &Bson) -> Result<bool> {
    for element in array {
        if compare_bson(element, value)?.is_eq() {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Pull {
    pub(super) fn apply(&self, array: Option<&mut Vec<Bson>>) -> Result<Effect> {
        retain(array, |element| Ok(!self.takes(element)?))
    }

    fn takes(&self, element: &Bson) -> Result<bool> {
        match self {
            Self::Equal(value) => Ok(compare_bson(element, value)?.is_eq()),
            Self::Documents(filter) => match element {
                Bson::Document(document) => {
                    let raw = RawDocumentBuf::try_from(document).map_err(|error| bad(error.to_string()))?;
                    Ok(filter.matches(&raw))
                }
                _ => Ok(false),
            },
            Self::Passing(filter) => Ok(filter.matches(&alone(element)?)),
        }
    }
}

/// A document with the element as its one field.
fn alone(element: &Bson) -> Result<RawDocumentBuf> {
    RawDocumentBuf::try_from(&bson::doc! {ELEMENT: element.clone()}).map_err(|error| bad(error.to_string()))
}

pub(super) fn pull_all(array: Option<&mut Vec<Bson>>, values: &[Bson]) -> Result<Effect> {
    retain(array, |element| Ok(!contains(values, element)?))
}

fn retain(array: Option<&mut Vec<Bson>>, keep: impl Fn(&Bson) -> Result<bool>) -> Result<Effect> {
    let Some(array) = array else {
        return Ok(Effect::Unchanged);
    };
    let before = array.len();
    let mut kept = Vec::with_capacity(before);
    for element in array.drain(..) {
        if keep(&element)? {
            kept.push(element);
        }
    }
    *array = kept;
    Ok(if array.len() == before {
        Effect::Unchanged
    } else {
        Effect::Changed
    })
}

pub(super) fn pop(array: Option<&mut Vec<Bson>>, first: bool) -> Effect {
    match array {
        Some(array) if !array.is_empty() => {
            if first {
                array.remove(0);
            } else {
                array.pop();
            }
            Effect::Changed
        }
        _ => Effect::Unchanged,
    }
}

fn type_name(value: &Bson) -> &'static str {
    match value {
        Bson::Double(_) => "double",
        Bson::String(_) => "string",
        Bson::Array(_) => "array",
        Bson::Document(_) => "object",
        Bson::Boolean(_) => "bool",
        Bson::Null => "null",
        Bson::Int32(_) => "int",
        Bson::Int64(_) => "long",
        Bson::DateTime(_) => "date",
        Bson::ObjectId(_) => "objectId",
        Bson::Binary(_) => "binData",
        Bson::RegularExpression(_) => "regex",
        _ => "another one",
    }
}
