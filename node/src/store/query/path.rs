//! Dotted paths, and which values of a document one leads to.

use bson::{RawArray, RawBsonRef, RawDocument};

use super::bad;
use crate::store::Result;

/// More parts than any stored document is deep.
const DEEPEST: usize = 100;

/// `a.b.0.c`, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct Path {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq)]
struct Part {
    name: Box<str>,
    /// Where the part may also mean a place in an array.
    index: Option<usize>,
}

/// What an array at the path's end stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Leaf {
    /// Each of its elements, and then itself.
    Elements,
    /// Itself only.
    Whole,
    /// What it is sorted by: each of its elements, or `Undefined` if it has none.
    Keys,
}

/// A part that may mean a place in an array: decimal digits without leading zeros.
pub(super) fn array_index(name: &str) -> Option<usize> {
    let plain = name == "0" || (!name.starts_with('0') && !name.is_empty());
    (plain && name.len() <= 9 && name.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| name.parse().ok())
        .flatten()
}

impl Path {
    /// Reads a dotted path.
    ///
    /// # Errors
    /// It has too many parts.
    pub(in crate::store) fn parse(text: &str) -> Result<Self> {
        let parts: Box<[Part]> = text
            .split('.')
            .map(|name| Part {
                name: name.into(),
                index: array_index(name),
            })
            .collect();
        if parts.len() > DEEPEST {
            return Err(bad(format!("field path has more than {DEEPEST} parts")));
        }
        Ok(Self { parts })
    }

    /// The same path one level deeper, in the field `name`.
    pub(super) fn inside(&self, name: &str) -> Self {
        let outer = Part {
            name: name.into(),
            index: array_index(name),
        };
        Self {
            parts: std::iter::once(outer).chain(self.parts.iter().cloned()).collect(),
        }
    }

    /// Its first part: a field of the document itself.
    pub(in crate::store) fn first(&self) -> &str {
        self.parts.first().map_or("", |part| &part.name)
    }

    /// True if it goes into the document's field `name`.
    pub(in crate::store) fn is_inside(&self, name: &str) -> bool {
        self.parts.len() > 1 && self.first() == name
    }

    /// The path as it was written.
    pub(in crate::store) fn text(&self) -> String {
        let names: Vec<&str> = self.parts.iter().map(|part| &*part.name).collect();
        names.join(".")
    }

    /// True if any value at the path is accepted. A document without one is asked once with `None`; a path that ends
    /// in an array without fitting elements is not asked at all. The number given along is the place in the outermost
    /// array that was passed.
    pub(in crate::store) fn any<'d>(
        &self,
        document: &'d RawDocument,
        leaf: Leaf,
        accepts: &mut dyn FnMut(Option<RawBsonRef<'d>>, Option<usize>) -> bool,
    ) -> bool {
        walk(document, &self.parts, leaf, None, accepts)
    }

    /// The value at the path where no array is on the way; `Err` where one is passed before the end.
    pub(in crate::store) fn straight<'d>(&self, document: &'d RawDocument) -> Result<Option<RawBsonRef<'d>>, Forked> {
        let mut current = document;
        let (last, way) = self.parts.split_last().ok_or(Forked)?;
        for part in way {
            match current.get(&part.name) {
                Ok(Some(RawBsonRef::Document(inner))) => current = inner,
                Ok(Some(RawBsonRef::Array(_))) => return Err(Forked),
                _ => return Ok(None),
            }
        }
        Ok(current.get(&last.name).ok().flatten())
    }
}

/// A path that passes an array leads to any number of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Forked;

type Accepts<'a, 'd> = &'a mut dyn FnMut(Option<RawBsonRef<'d>>, Option<usize>) -> bool;

fn walk<'d>(
    document: &'d RawDocument,
    parts: &[Part],
    leaf: Leaf,
    place: Option<usize>,
    accepts: Accepts<'_, 'd>,
) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        return false;
    };
    match document.get(&first.name).ok().flatten() {
        Some(RawBsonRef::Array(array)) => walk_array(array, rest, leaf, place, accepts),
        Some(RawBsonRef::Document(inner)) if !rest.is_empty() => walk(inner, rest, leaf, place, accepts),
        Some(value) if rest.is_empty() => accepts(Some(value), place),
        _ => accepts(None, place),
    }
}

fn walk_array<'d>(
    array: &'d RawArray,
    rest: &[Part],
    leaf: Leaf,
    place: Option<usize>,
    accepts: Accepts<'_, 'd>,
) -> bool {
    let Some((next, beyond)) = rest.split_first() else {
        return match leaf {
            Leaf::Whole => accepts(Some(RawBsonRef::Array(array)), place),
            Leaf::Keys if array.is_empty() => accepts(Some(RawBsonRef::Undefined), place),
            Leaf::Keys => any_element(array, place, accepts),
            Leaf::Elements => any_element(array, place, accepts) || accepts(Some(RawBsonRef::Array(array)), place),
        };
    };
    if leaf == Leaf::Keys
        && let Some(value) = next.index.and_then(|index| array.get(index).ok().flatten())
    {
        return enter(value, beyond, leaf, place, accepts);
    }
    for (index, value) in array.into_iter().flatten().enumerate() {
        let passed = place.or(Some(index));
        let found = match value {
            RawBsonRef::Document(inner) => walk(inner, rest, leaf, passed, accepts),
            _ if leaf == Leaf::Keys => accepts(None, passed),
            _ => false,
        };
        if found || (next.index == Some(index) && enter(value, beyond, leaf, place, accepts)) {
            return true;
        }
    }
    false
}

/// Goes on from an element that the path names by its place.
fn enter<'d>(
    value: RawBsonRef<'d>,
    beyond: &[Part],
    leaf: Leaf,
    place: Option<usize>,
    accepts: Accepts<'_, 'd>,
) -> bool {
    match value {
        RawBsonRef::Array(inner) if beyond.is_empty() && leaf == Leaf::Keys && inner.is_empty() => {
            accepts(Some(RawBsonRef::Undefined), place)
        }
        value if beyond.is_empty() => accepts(Some(value), place),
        RawBsonRef::Document(inner) => walk(inner, beyond, leaf, place, accepts),
        RawBsonRef::Array(inner) => walk_array(inner, beyond, leaf, place, accepts),
        _ if leaf == Leaf::Keys => accepts(None, place),
        _ => false,
    }
}

fn any_element<'d>(array: &'d RawArray, place: Option<usize>, accepts: Accepts<'_, 'd>) -> bool {
    array
        .into_iter()
        .flatten()
        .enumerate()
        .any(|(index, value)| accepts(Some(value), place.or(Some(index))))
}
