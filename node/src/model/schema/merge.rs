//! A body merged into a stored document: load, set, validate, save.

use bson::{Bson, Document, doc};

use super::build::{Builder, Place, minimize};
use super::validate::validate;
use super::{Kind, Schema, SchemaError, VERSION, ValidationError, cast};
use crate::clock::Millis;
use crate::model::number;

/// A stored document with changes applied, and how to save it.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// As it was, with defaults.
    pub before: Document,
    /// As it will be, with defaults; `__v` is still the old one.
    pub after: Document,
    /// What the stored document has to match for the save to be right. If it does not, somebody else was faster.
    pub filter: Document,
    /// The change; empty if there is none.
    pub update: Document,
}

impl Schema {
    /// Sets the known keys of `body` on the stored document, one by one, and validates the whole. `null` is stored; to
    /// remove a field, give it as `undefined`. The body's `_id` is ignored.
    ///
    /// # Errors
    /// The result is not valid, or a list is replaced by someone who read another version of the document.
    pub fn merge(&'static self, stored: Document, mut body: Document, now: Millis) -> Result<Merged, SchemaError> {
        body.remove("_id");
        let claimed = match body.remove("__v") {
            Some(version) => Some(cast::plain(VERSION.kind, version, "__v")?),
            None => None,
        };
        let original = stored.clone();
        let mut before = self.init(stored, &[], now);
        let mut builder = Builder { now, problems: vec![] };
        let mut after = before.clone();
        for field in self.fields {
            match (field.kind, body.remove(field.name)) {
                (_, None) => {}
                (_, Some(Bson::Undefined)) => {
                    after.remove(field.name);
                }
                (Kind::Group(_), Some(Bson::Null)) => {
                    after.insert(field.name, Bson::Null);
                }
                (_, Some(value)) => {
                    if let Some(value) = builder.value(field, value, &Place::ROOT) {
                        after.insert(field.name, value);
                    }
                }
            }
        }
        let mut problems = builder.problems;
        problems.extend(validate(self.fields, &after, &problems));
        if !problems.is_empty() {
            return Err(SchemaError::Validation(ValidationError {
                model: Some(self.model),
                problems,
            }));
        }
        minimize(&mut before);
        minimize(&mut after);
        self.save(original, before, after, claimed)
    }

    fn save(
        &'static self,
        original: Document,
        before: Document,
        after: Document,
        claimed: Option<Bson>,
    ) -> Result<Merged, SchemaError> {
        let id = original.get("_id").cloned().unwrap_or(Bson::Null);
        let version = original.get("__v").cloned();
        let (mut set, mut unset) = (Document::new(), Document::new());
        let mut replaces_list = false;
        for field in self.fields {
            match (before.get(field.name), after.get(field.name)) {
                (was, Some(is)) => {
                    let is_changed = !was.is_some_and(|was| same(was, is));
                    replaces_list |= is_changed && matches!(is, Bson::Array(_));
                    if is_changed || !original.contains_key(field.name) {
                        set.insert(field.name, is.clone());
                    }
                }
                (Some(_), None) => {
                    unset.insert(field.name, 1);
                }
                (None, None) => {}
            }
        }
        let mut filter = doc! {"_id": id.clone()};
        let mut update = Document::new();
        if replaces_list {
            if let (Some(claimed), Some(version)) = (&claimed, &version)
                && !same(claimed, version)
            {
                return Err(SchemaError::Version(format!(
                    "No matching document found for id \"{}\" version {claimed} modifiedPaths \"{}\"",
                    id.as_object_id().map_or_else(|| id.to_string(), |id| id.to_hex()),
                    set.keys().cloned().collect::<Vec<_>>().join(", ")
                )));
            }
            filter.insert("__v", version.unwrap_or(Bson::Null));
            update.insert("$inc", doc! {"__v": 1});
        } else if let Some(claimed) = claimed.filter(|claimed| !version.is_some_and(|version| same(claimed, &version)))
        {
            set.insert("__v", claimed);
        }
        if !set.is_empty() {
            update.insert("$set", set);
        }
        if !unset.is_empty() {
            update.insert("$unset", unset);
        }
        Ok(Merged {
            before,
            after,
            filter,
            update,
        })
    }
}

/// Equal to a client: 5 is 5 in whatever form it is stored.
fn same(one: &Bson, other: &Bson) -> bool {
    match (one, other) {
        (Bson::Document(one), Bson::Document(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        (Bson::Array(one), Bson::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => match (number::of_bson(one), number::of_bson(other)) {
            (Some(one), Some(other)) => one == other,
            _ => one == other,
        },
    }
}
