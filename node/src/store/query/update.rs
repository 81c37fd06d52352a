//! What an update does to a document.
//!
//! As in MongoDB, the fields of one update are changed in the order of their paths, an update that fails changes
//! nothing, and `_id` never changes.

mod array;
mod number;
mod parse;
mod splice;
mod step;

use bson::{Bson, DateTime, Document, RawDocument, Timestamp};

use super::filter::Filter;
use super::{bad, compare};
use crate::store::Result;
pub(in crate::store) use splice::splice;
use step::{Missing, Step};

/// A compiled update document.
#[derive(Clone, Debug)]
pub struct Update {
    /// In the order of their paths.
    changes: Vec<Change>,
    /// Paths that `$rename` reads, by the place of the change that writes the value.
    renames: Vec<(Vec<Step>, usize)>,
}

/// One path and what happens to it.
#[derive(Clone, Debug)]
struct Change {
    path: Vec<Step>,
    action: Action,
}

#[derive(Clone, Debug)]
enum Action {
    Set(Bson),
    SetOnInsert(Bson),
    Unset,
    Increment(Bson),
    Multiply(Bson),
    /// Keeps the smaller of both.
    Min(Bson),
    Max(Bson),
    CurrentDate,
    CurrentTimestamp,
    Push(array::Push),
    AddToSet(Vec<Bson>),
    Pull(array::Pull),
    PullAll(Vec<Bson>),
    PopFirst,
    PopLast,
    /// The value is put in when the update is applied.
    RenamedTo,
}

/// The circumstances of one application.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// What `$currentDate` writes.
    pub now: DateTime,
    /// The document is being made by an upsert.
    pub inserting: bool,
}

/// What became of one value.
enum Effect {
    Unchanged,
    /// Changed in place.
    Changed,
    Put(Bson),
    Remove,
}

impl Update {
    /// Reads an update document.
    ///
    /// # Errors
    /// An operator is unknown, its operand makes no sense, or two paths are in each other's way.
    pub fn compile(update: &Document) -> Result<Self> {
        parse::update(update)
    }

    /// Changes `document`; answers whether it is different now. `matched` is the filter that found it (for `$`).
    ///
    /// # Errors
    /// A value has a type that the operator can't change. `document` may then be half changed: drop it.
    pub fn apply(
        &self,
        document: &mut Document,
        matched: Option<(&Filter, &RawDocument)>,
        moment: Moment,
    ) -> Result<bool> {
        let position = if self.needs_position() {
            let (filter, before) = matched.ok_or_else(no_position)?;
            Some(filter.position(before).ok_or_else(no_position)?)
        } else {
            None
        };
        let id = document.get("_id").cloned();
        let renamed = self.renamed(document)?;
        let mut changed = false;
        for (place, change) in self.changes.iter().enumerate() {
            let path = step::resolve(&change.path, position);
            changed |= match (&change.action, renamed.iter().find(|(to, _)| *to == place)) {
                (Action::RenamedTo, None) => false,
                (_, Some((_, value))) => Action::Set(value.clone()).apply(document, &path, moment)?,
                (action, None) => action.apply(document, &path, moment)?,
            };
        }
        if id.is_some() && id.as_ref() != document.get("_id") {
            return Err(bad(
                "Performing an update on the path '_id' would modify the immutable field '_id'",
            ));
        }
        Ok(changed)
    }

    /// The document that an upsert makes when nothing matched `filter`.
    ///
    /// # Errors
    /// The filter's values and the update don't fit together.
    pub fn upsert(&self, filter: &Filter, now: DateTime) -> Result<Document> {
        let mut document = seed(filter)?;
        let moment = Moment { now, inserting: true };
        self.apply(&mut document, None, moment)?;
        Ok(with_id(document))
    }

    fn needs_position(&self) -> bool {
        self.changes.iter().any(|change| change.path.contains(&Step::Matched))
    }

    fn renamed(&self, document: &Document) -> Result<Vec<(usize, Bson)>> {
        let mut found = Vec::new();
        for (from, to) in &self.renames {
            if let Some(value) = step::read(document, from)? {
                let destination = &self.changes[*to].path;
                if step::passes_array(document, destination) {
                    let text = step::text(destination);
                    return Err(bad(format!(
                        "The destination field cannot be an array element, '{text}'"
                    )));
                }
                found.push((*to, value.clone()));
            }
        }
        Ok(found)
    }
}

/// The document that replaces another one, or that an upsert by replacement makes.
///
/// # Errors
/// The replacement has another `_id`, or starts with an operator.
pub(in crate::store) fn replacement(document: &Document, id: Option<&Bson>) -> Result<Document> {
    if let Some(operator) = document.keys().next().filter(|key| key.starts_with('$')) {
        return Err(bad(format!(
            "the replacement document may not contain operators: {operator}"
        )));
    }
    match (document.get("_id"), id) {
        (Some(own), Some(id)) if compare_bson(own, id)?.is_ne() => Err(bad(
            "After applying the update, the (immutable) field '_id' was found to have been altered",
        )),
        (Some(_), _) => Ok(with_id(document.clone())),
        (None, id) => {
            let mut whole = Document::new();
            whole.insert(
                "_id",
                id.cloned()
                    .unwrap_or_else(|| Bson::ObjectId(bson::oid::ObjectId::new())),
            );
            whole.extend(document.clone());
            Ok(whole)
        }
    }
}

/// The `_id` that a filter asks for, if it asks for one.
pub(in crate::store) fn asked_id(filter: &Filter) -> Option<Bson> {
    let found = filter.equalities();
    found
        .into_iter()
        .find(|(path, _)| path == "_id")
        .map(|(_, value)| value)
}

/// What a filter's equalities say about a document that does not exist yet.
fn seed(filter: &Filter) -> Result<Document> {
    let mut document = Document::new();
    let mut known: Vec<Vec<Step>> = Vec::new();
    for (path, value) in filter.equalities() {
        let steps = step::parse(&path)?;
        if known
            .iter()
            .any(|other| other.starts_with(&steps) || steps.starts_with(other))
        {
            return Err(bad(format!(
                "cannot infer query fields to set, path '{path}' is matched twice"
            )));
        }
        known.push(steps.clone());
        step::edit(&mut document, &steps, Missing::Make, &mut |_| {
            Ok(Effect::Put(value.clone()))
        })?;
    }
    Ok(document)
}

/// `_id` first, made if it is not there.
pub(in crate::store) fn with_id(mut document: Document) -> Document {
    if document.keys().next().is_some_and(|key| key == "_id") {
        return document;
    }
    let id = document
        .remove("_id")
        .unwrap_or_else(|| Bson::ObjectId(bson::oid::ObjectId::new()));
    let mut whole = Document::new();
    whole.insert("_id", id);
    whole.extend(document);
    whole
}

fn no_position() -> crate::store::StoreError {
    bad("The positional operator did not find the match needed from the query.")
}

impl Action {
    /// Applies to one path; answers whether anything changed.
    fn apply(&self, document: &mut Document, path: &[Step], moment: Moment) -> Result<bool> {
        if matches!(self, Self::SetOnInsert(_)) && !moment.inserting {
            return Ok(false);
        }
        let id = document.get("_id").cloned();
        let described = move || {
            id.as_ref()
                .map_or_else(|| "no _id".to_owned(), |id| format!("_id: {id}"))
        };
        step::edit(document, path, self.missing(), &mut |current| {
            self.effect(current, path, moment, &described)
        })
    }

    /// What it does where its path leads nowhere.
    fn missing(&self) -> Missing {
        match self {
            Self::Unset => Missing::SkipAll,
            Self::Pull(_) | Self::PullAll(_) | Self::PopFirst | Self::PopLast => Missing::Skip,
            _ => Missing::Make,
        }
    }

    fn effect(
        &self,
        current: Option<&mut Bson>,
        path: &[Step],
        moment: Moment,
        described: &dyn Fn() -> String,
    ) -> Result<Effect> {
        match self {
            Self::Set(value) | Self::SetOnInsert(value) => Ok(put_if_different(current, value.clone())),
            Self::Unset => Ok(current.map_or(Effect::Unchanged, |_| Effect::Remove)),
            Self::Increment(by) => number::add(current, by, path, described),
            Self::Multiply(by) => number::multiply(current, by, path, described),
            Self::Min(value) => put_if(current, value, std::cmp::Ordering::is_lt),
            Self::Max(value) => put_if(current, value, std::cmp::Ordering::is_gt),
            Self::CurrentDate => Ok(put_if_different(current, Bson::DateTime(moment.now))),
            Self::CurrentTimestamp => {
                let seconds = moment.now.timestamp_millis() / 1000;
                let time = u32::try_from(seconds).unwrap_or(u32::MAX);
                Ok(put_if_different(
                    current,
                    Bson::Timestamp(Timestamp { time, increment: 1 }),
                ))
            }
            Self::Push(push) => push.apply(array::of(current, path, described)?),
            Self::AddToSet(values) => array::add_to_set(array::of(current, path, described)?, values),
            Self::Pull(pull) => pull.apply(array::existing(current, "$pull")?),
            Self::PullAll(values) => array::pull_all(array::existing(current, "$pull")?, values),
            Self::PopFirst => Ok(array::pop(array::popped(current, path)?, true)),
            Self::PopLast => Ok(array::pop(array::popped(current, path)?, false)),
            Self::RenamedTo => Ok(Effect::Unchanged),
        }
    }
}

fn put_if_different(current: Option<&mut Bson>, value: Bson) -> Effect {
    match current {
        Some(current) if identical(current, &value) => Effect::Unchanged,
        _ => Effect::Put(value),
    }
}

fn put_if(current: Option<&mut Bson>, value: &Bson, wanted: fn(std::cmp::Ordering) -> bool) -> Result<Effect> {
    match current {
        Some(current) if !wanted(compare_bson(value, current)?) => Ok(Effect::Unchanged),
        _ => Ok(Effect::Put(value.clone())),
    }
}

/// The same type and bytes, fields in the same order.
fn identical(a: &Bson, b: &Bson) -> bool {
    match (a, b) {
        (Bson::Document(a), Bson::Document(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|((a_name, a), (b_name, b))| a_name == b_name && identical(a, b))
        }
        (Bson::Array(a), Bson::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| identical(a, b)),
        (a, b) => a == b,
    }
}

/// MongoDB's order for decoded values.
fn compare_bson(a: &Bson, b: &Bson) -> Result<std::cmp::Ordering> {
    match (a, b) {
        (Bson::String(a), Bson::String(b)) => return Ok(a.as_bytes().cmp(b.as_bytes())),
        (Bson::ObjectId(a), Bson::ObjectId(b)) => return Ok(a.bytes().cmp(&b.bytes())),
        _ => {}
    }
    let raw = |value: &Bson| bson::RawBson::try_from(value.clone()).map_err(|error| bad(error.to_string()));
    Ok(compare((&raw(a)?).into(), (&raw(b)?).into()))
}
