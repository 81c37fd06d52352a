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

/// The value at a path that passes no array.
pub(super) fn read<'d>(document: &'d Document, path: &[Step]) -> Result<Option<&'d Bson>> {
    let mut current = document;
    let Some((last, way)) = path.split_last() else {
        return Ok(None);
    };
    for step in way {
        match current.get(step.name()) {
            Some(Bson::Document(inner)) => current = inner,
            Some(Bson::Array(_)) => {
                return Err(bad(format!(
                    "The field '{}' is an array and can't be renamed through",
                    step.name()
                )));
            }
            _ => return Ok(None),
        }
    }
    Ok(current.get(last.name()))
}

type Edit<'a> = &'a mut dyn FnMut(Option<&mut Bson>) -> Result<Effect>;

/// Lets `edit` change what is at `path`. With `create`, missing fields are made on the way; else nothing happens where
/// the path leads nowhere. Answers whether anything changed.
pub(super) fn edit(document: &mut Document, path: &[Step], create: bool, edit: Edit<'_>) -> Result<bool> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(false);
    };
    let name = first.name();
    if !rest.is_empty() {
        return match document.get_mut(name) {
            Some(inner) => descend(inner, name, rest, create, edit),
            None if create => make(rest, edit, &mut |value| {
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

fn descend(inner: &mut Bson, name: &str, rest: &[Step], create: bool, edit: Edit<'_>) -> Result<bool> {
    match inner {
        Bson::Document(inner) => self::edit(inner, rest, create, edit),
        Bson::Array(inner) => edit_array(inner, name, rest, create, edit),
        _ if !create => Ok(false),
        other => Err(bad(format!(
            "Cannot create field '{}' in element {{{name}: {other}}}",
            rest.first().map_or("", Step::name)
        ))),
    }
}

/// Fills a missing field with the documents that lead to the path's end.
fn make(rest: &[Step], edit: Edit<'_>, put: &mut dyn FnMut(Bson)) -> Result<bool> {
    let mut made = Document::new();
    let changed = self::edit(&mut made, rest, true, edit)?;
    if changed {
        put(Bson::Document(made));
    }
    Ok(changed)
}

fn edit_array(array: &mut Vec<Bson>, name: &str, path: &[Step], create: bool, edit: Edit<'_>) -> Result<bool> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(false);
    };
    let index = match first {
        Step::Name(_, Some(index)) => *index,
        _ if !create => return Ok(false),
        other => {
            return Err(bad(format!(
                "Cannot create field '{}' in element {{{name}: an array}}",
                other.name()
            )));
        }
    };
    if index >= array.len() && !create {
        return Ok(false);
    }
    if index > array.len() + LARGEST_GAP {
        return Err(bad(format!("can't backfill more than {LARGEST_GAP} elements")));
    }
    if !rest.is_empty() {
        return match array.get_mut(index) {
            Some(inner) => descend(inner, first.name(), rest, create, edit),
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
