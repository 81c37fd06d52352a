//! Walking along an update's path, making what is missing on the way.

use bson::{Bson, Document};

use super::Effect;
use crate::store::Result;
use crate::store::query::bad;
use crate::store::query::path::array_index;

/// Nulls that a place beyond an array's end may need, at most.
const LARGEST_GAP: usize = 1_500_000;
/// Parts of a path, at most.
const DEEPEST: usize = 100;

/// One part of an update's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A field, or a place in an array where the index is given.
    Name(String, Option<usize>),
    /// `$`: the place that the filter matched.
    Matched,
}

impl Step {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Name(name, _) => name,
            Self::Matched => "$",
        }
    }

    /// Places sort as numbers and before names.
    pub(super) fn order(&self) -> (Option<usize>, &str) {
        match self {
            Self::Name(name, Some(index)) => (Some(*index), name),
            other => (Some(usize::MAX), other.name()),
        }
    }
}

pub(super) fn parse(path: &str) -> Result<Vec<Step>> {
    let steps: Vec<Step> = path
        .split('.')
        .map(|name| match name {
            "" => Err(bad(format!(
                "The update path '{path}' contains an empty field name, which is not allowed."
            ))),
            "$" => Ok(Step::Matched),
            name if name.starts_with('$') => Err(bad(format!(
                "The dollar ($) prefixed field '{name}' in '{path}' is not allowed in the context of an update"
            ))),
            name => Ok(Step::Name(name.to_owned(), array_index(name))),
        })
        .collect::<Result<_>>()?;
    if steps.first() == Some(&Step::Matched) {
        return Err(bad(format!(
            "Cannot have positional (i.e. '$') element in the first position in path '{path}'"
        )));
    }
    if steps.len() > DEEPEST {
        return Err(bad(format!("field path has more than {DEEPEST} parts")));
    }
    Ok(steps)
}

/// The path with the matched place put in.
pub(super) fn resolve(path: &[Step], position: Option<usize>) -> Vec<Step> {
    path.iter()
        .map(|step| match (step, position) {
            (Step::Matched, Some(index)) => Step::Name(index.to_string(), Some(index)),
            (step, _) => step.clone(),
        })
        .collect()
}

pub(super) fn text(path: &[Step]) -> String {
    let names: Vec<&str> = path.iter().map(Step::name).collect();
    names.join(".")
}

/// The value at a path.
///
/// # Errors
/// It is in an array, or something that holds no fields is in the way.
pub(super) fn read<'d>(document: &'d Document, path: &[Step]) -> Result<Option<&'d Bson>> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(None);
    };
    let mut current = document.get(first.name());
    let mut in_array = false;
    let mut passed = first;
    for step in rest {
        current = match (current, step) {
            (None, _) => return Ok(None),
            (Some(Bson::Document(inner)), step) => inner.get(step.name()),
            (Some(Bson::Array(inner)), Step::Name(_, Some(index))) => {
                in_array = true;
                inner.get(*index)
            }
            (Some(other), _) => {
                return Err(bad(format!(
                    "cannot use the part ({} of {}) to traverse the element ({other})",
                    passed.name(),
                    text(path)
                )));
            }
        };
        passed = step;
    }
    match current {
        Some(_) if in_array => Err(bad(format!("'{}' may not be an array element", text(path)))),
        found => Ok(found),
    }
}

/// True if an array is on the way to the path's end.
pub(super) fn passes_array(document: &Document, path: &[Step]) -> bool {
    let mut current = document;
    for step in path.iter().rev().skip(1).rev() {
        match current.get(step.name()) {
            Some(Bson::Document(inner)) => current = inner,
            other => return matches!(other, Some(Bson::Array(_))),
        }
    }
    false
}

/// What happens where a path leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The way is made; a value that can't hold fields is an error.
    Make,
    /// Nothing is done; a value that can't hold fields is an error all the same.
    Skip,
    /// Nothing is done, whatever stands in the way.
    SkipAll,
}

type Edit<'a> = &'a mut dyn FnMut(Option<&mut Bson>) -> Result<Effect>;

/// Lets `edit` change what is at `path`. Answers whether anything changed.
pub(super) fn edit(document: &mut Document, path: &[Step], missing: Missing, edit: Edit<'_>) -> Result<bool> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(false);
    };
    let name = first.name();
    if !rest.is_empty() {
        return match document.get_mut(name) {
            Some(inner) => descend(inner, name, rest, missing, edit),
            None if missing == Missing::Make => make(rest, edit, &mut |value| {
                document.insert(name, value);
            }),
            None => Ok(false),
        };
    }
    match edit(document.get_mut(name))? {
        Effect::Unchanged => Ok(false),
        Effect::Changed => Ok(true),
        Effect::Put(value) => {
            document.insert(name, value);
            Ok(true)
        }
        Effect::Remove => Ok(document.remove(name).is_some()),
    }
}

fn descend(inner: &mut Bson, name: &str, rest: &[Step], missing: Missing, edit: Edit<'_>) -> Result<bool> {
    match inner {
        Bson::Document(inner) => self::edit(inner, rest, missing, edit),
        Bson::Array(inner) => edit_array(inner, name, rest, missing, edit),
        _ if missing == Missing::SkipAll => Ok(false),
        other => Err(bad(format!(
            "Cannot create field '{}' in element {{{name}: {other}}}",
            rest.first().map_or("", Step::name)
        ))),
    }
}

/// Fills a missing field with the documents that lead to the path's end.
fn make(rest: &[Step], edit: Edit<'_>, put: &mut dyn FnMut(Bson)) -> Result<bool> {
    let mut made = Document::new();
    let changed = self::edit(&mut made, rest, Missing::Make, edit)?;
    if changed {
        put(Bson::Document(made));
    }
    Ok(changed)
}

fn edit_array(array: &mut Vec<Bson>, name: &str, path: &[Step], missing: Missing, edit: Edit<'_>) -> Result<bool> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(false);
    };
    let index = match first {
        Step::Name(_, Some(index)) => *index,
        _ if missing == Missing::SkipAll => return Ok(false),
        other => {
            return Err(bad(format!(
                "Cannot create field '{}' in element {{{name}: an array}}",
                other.name()
            )));
        }
    };
    if index >= array.len() && missing != Missing::Make {
        return Ok(false);
    }
    if index > array.len() + LARGEST_GAP {
        return Err(bad(format!("can't backfill more than {LARGEST_GAP} elements")));
    }
    if !rest.is_empty() {
        return match array.get_mut(index) {
            Some(inner) => descend(inner, first.name(), rest, missing, edit),
            None => make(rest, edit, &mut |value| put_at(array, index, value)),
        };
    }
    match edit(array.get_mut(index))? {
        Effect::Unchanged => Ok(false),
        Effect::Changed => Ok(true),
        Effect::Put(value) => {
            put_at(array, index, value);
            Ok(true)
        }
        Effect::Remove => {
            // An array keeps its length.
            put_at(array, index, Bson::Null);
            Ok(true)
        }
    }
}

fn put_at(array: &mut Vec<Bson>, index: usize, value: Bson) {
    if index >= array.len() {
        array.resize(index + 1, Bson::Null);
    }
    if let Some(slot) = array.get_mut(index) {
        *slot = value;
    }
}
