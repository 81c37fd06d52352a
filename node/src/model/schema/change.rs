//! An update from a request's body.

use bson::{Bson, Document};

use super::build::{Builder, Place, cast_list, minimize};
use super::validate::validate_value;
use super::{CastError, Field, Kind, Problem, Schema, SchemaError, Target, ValidationError, cast};
use crate::clock::Millis;

/// Whether a body may contain update operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operators {
    Allowed,
    Refused,
}

/// The operators that API clients use; none of them runs code.
const KNOWN: [&str; 12] = [
    "$set",
    "$unset",
    "$push",
    "$addToSet",
    "$pull",
    "$pullAll",
    "$pop",
    "$inc",
    "$mul",
    "$min",
    "$max",
    "$setOnInsert",
];

impl Schema {
    /// Makes an update of `body`: each known top-level key, or dotted path, is cast and set as a whole; unknown ones are
    /// dropped. Required fields, allowed values and limits are not looked at. An empty document means no change.
    ///
    /// # Errors
    /// A value cannot be cast, or there are operators that do not exist or are not allowed.
    pub fn change(&'static self, body: Document, operators: Operators, now: Millis) -> Result<Document, SchemaError> {
        let mut set = Document::new();
        let mut update = Document::new();
        for (key, value) in body {
            if !key.starts_with('$') {
                self.put(&mut set, key, value, now)?;
                continue;
            }
            if operators == Operators::Refused || !KNOWN.contains(&key.as_str()) {
                return Err(SchemaError::Operator(format!(
                    "Unknown modifier: {key}. Expected a valid update modifier or pipeline-style update specified as an array"
                )));
            }
            let Bson::Document(operands) = value else {
                return Err(SchemaError::Operator(format!(
                    "Modifiers operate on fields but we found another type for {key}"
                )));
            };
            let operands = self.operands(&key, operands, now)?;
            if key == "$set" {
                set.extend(operands);
            } else if !operands.is_empty() {
                update.insert(key, operands);
            }
        }
        if !set.is_empty() {
            update.insert("$set", set);
        }
        Ok(update)
    }

    /// What is wrong with the values that an update sets: allowed values, limits, and required ones that are emptied.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn check_change(&'static self, update: &Document) -> Result<(), ValidationError> {
        let set = update.get_document("$set").ok();
        let mut problems: Vec<Problem> = set
            .into_iter()
            .flatten()
            .filter_map(|(path, value)| match self.resolve(path)? {
                Target::Field(field) => validate_value(field, value, path),
                _ => None,
            })
            .collect();
        // As in the original, the last one comes first.
        problems.reverse();
        if problems.is_empty() {
            return Ok(());
        }
        Err(ValidationError { model: None, problems })
    }

    fn put(&'static self, set: &mut Document, path: String, value: Bson, now: Millis) -> Result<(), SchemaError> {
        if let Some(target) = self.resolve(&path)
            && value != Bson::Undefined
        {
            let value = set_value(target, value, &path, now)?;
            set.insert(path, value);
        }
        Ok(())
    }

    fn operands(&'static self, operator: &str, operands: Document, now: Millis) -> Result<Document, SchemaError> {
        let mut cast = Document::new();
        for (path, value) in operands {
            let Some(target) = self.resolve(&path) else {
                continue;
            };
            let value = match operator {
                "$unset" | "$pop" => value,
                "$push" | "$addToSet" => add_value(target, value, &path, now)?,
                "$pull" | "$pullAll" => pull_value(target, value, &path, now)?,
                _ => set_value(target, value, &path, now)?,
            };
            cast.insert(path, value);
        }
        Ok(cast)
    }
}

/// A value that takes a path's place.
fn set_value(target: Target, value: Bson, path: &str, now: Millis) -> Result<Bson, SchemaError> {
    match target {
        Target::Anything => Ok(value),
        Target::Element(fields) => sub_document(Kind::SubDocument(fields), fields, value, path, now),
        Target::Field(field) => match field.kind {
            Kind::Group(fields) => Ok(group(fields, value, path, now)?),
            Kind::SubDocument(fields) => sub_document(field.kind, fields, value, path, now),
            Kind::List(element) => cast_list(element, value, path).map_err(|(_, error)| SchemaError::Cast(error)),
            Kind::Documents(fields) => {
                let items = match value {
                    Bson::Null => return Ok(Bson::Null),
                    Bson::Array(items) => items,
                    one => vec![one],
                };
                let documents: Result<_, _> = items
                    .into_iter()
                    .map(|item| sub_document(field.kind, fields, item, path, now))
                    .collect();
                Ok(Bson::Array(documents?))
            }
            kind => Ok(cast::plain(kind, value, path)?),
        },
    }
}

/// The known fields of a group, without defaults. What is no object is taken as it is.
fn group(fields: &'static [Field], value: Bson, path: &str, now: Millis) -> Result<Bson, SchemaError> {
    let Bson::Document(input) = value else {
        return Ok(value);
    };
    let mut group = Document::new();
    for (key, value) in input {
        if let Some(field) = fields.iter().find(|field| field.name == key) {
            let value = set_value(Target::Field(field), value, &format!("{path}.{key}"), now)?;
            group.insert(key, value);
        }
    }
    Ok(Bson::Document(group))
}

/// A new sub-document, with its id and defaults.
fn sub_document(
    kind: Kind,
    fields: &'static [Field],
    value: Bson,
    path: &str,
    now: Millis,
) -> Result<Bson, SchemaError> {
    let input = match value {
        Bson::Document(input) => input,
        Bson::Null => return Ok(Bson::Null),
        other => return Err(CastError::new(kind, &other, path).into()),
    };
    let shown = input.clone();
    let mut builder = Builder { now, problems: vec![] };
    let mut document = builder.document(fields, input, &Place::ROOT);
    if !builder.problems.is_empty() {
        return Err(CastError::new(kind, &Bson::Document(shown), path)
            .because("CastError")
            .into());
    }
    minimize(&mut document);
    Ok(Bson::Document(document))
}

/// What `$push` and `$addToSet` take: one element, or several after `$each`.
fn add_value(target: Target, value: Bson, path: &str, now: Millis) -> Result<Bson, SchemaError> {
    let Target::Field(field) = target else {
        return Ok(value);
    };
    match value {
        Bson::Document(mut modifiers) if modifiers.contains_key("$each") => {
            let items = match modifiers.remove("$each") {
                Some(Bson::Array(items)) => items,
                other => other.into_iter().collect(),
            };
            let items: Result<_, _> = items.into_iter().map(|item| element(field, item, path, now)).collect();
            let mut cast = Document::new();
            cast.insert("$each", Bson::Array(items?));
            for key in ["$position", "$slice"] {
                if let Some(n) = modifiers.remove(key) {
                    cast.insert(key, cast::plain(Kind::Number, n, path)?);
                }
            }
            Ok(Bson::Document(cast))
        }
        one => element(field, one, path, now),
    }
}

/// What `$pull` and `$pullAll` take: values of the elements' type; a condition on documents is taken as it is.
fn pull_value(target: Target, value: Bson, path: &str, now: Millis) -> Result<Bson, SchemaError> {
    match (target, value) {
        (
            Target::Field(Field {
                kind: Kind::List(element),
                ..
            }),
            Bson::Array(items),
        ) => cast_list(element, Bson::Array(items), path).map_err(|(_, error)| SchemaError::Cast(error)),
        (Target::Field(field), value @ (Bson::String(_) | Bson::Int32(_) | Bson::Double(_))) => {
            element(field, value, path, now)
        }
        (_, value) => Ok(value),
    }
}

fn element(field: &'static Field, value: Bson, path: &str, now: Millis) -> Result<Bson, SchemaError> {
    match field.kind {
        Kind::List(element) => Ok(cast::plain(element.kind, value, path)?),
        Kind::Documents(fields) => sub_document(field.kind, fields, value, path, now),
        _ => Ok(value),
    }
}
