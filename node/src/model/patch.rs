//! What changed between two versions of a channel, as JSON-Patch operations: the channel's history.

use bson::{Bson, Document, doc};
use serde_json::{Map, Value};

use super::json::{self, JsonError};

/// A channel as its history sees it: JSON without `__v` and without any `_id`.
pub fn snapshot(channel: &Document) -> Value {
    let mut snapshot = json::to_value(&Bson::Document(channel.clone()));
    strip(&mut snapshot);
    if let Value::Object(fields) = &mut snapshot {
        fields.shift_remove("__v");
    }
    snapshot
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.shift_remove("_id");
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The operations that turn `before` into `after`: differences first, the last field before the others, then what is
/// new. Nothing if both are alike.
///
/// # Errors
/// A value is nested too deeply to be stored.
pub fn operations(before: &Value, after: &Value) -> Result<Vec<Document>, JsonError> {
    let mut operations = Vec::new();
    compare(before, after, "", &mut operations)?;
    Ok(operations)
}

/// The operations that make `snapshot` from nothing: one for each field.
///
/// # Errors
/// As [`operations`].
pub fn creation(snapshot: &Value) -> Result<Vec<Document>, JsonError> {
    operations(&Value::Object(Map::new()), snapshot)
}

fn compare(before: &Value, after: &Value, path: &str, out: &mut Vec<Document>) -> Result<(), JsonError> {
    let (was, is) = (Members::of(before), Members::of(after));
    let mut has_removed = false;
    for (key, old) in was.entries().into_iter().rev() {
        let path = format!("{path}/{}", escape(&key));
        match is.get(&key) {
            Some(new) if same_shape(old, new) => compare(old, new, &path, out)?,
            Some(new) if old != new => out.push(operation("replace", &path, Some(new))?),
            Some(_) => {}
            None => {
                out.push(operation("remove", &path, None)?);
                has_removed = true;
            }
        }
    }
    if !has_removed && was.len() == is.len() {
        return Ok(());
    }
    for (key, new) in is.entries() {
        if was.get(&key).is_none() {
            out.push(operation("add", &format!("{path}/{}", escape(&key)), Some(new))?);
        }
    }
    Ok(())
}

fn same_shape(one: &Value, other: &Value) -> bool {
    (one.is_object() && other.is_object()) || (one.is_array() && other.is_array())
}

fn operation(op: &str, path: &str, value: Option<&Value>) -> Result<Document, JsonError> {
    let mut operation = doc! {"op": op, "path": path};
    if let Some(value) = value {
        operation.insert("value", json::to_bson(value.clone())?);
    }
    Ok(operation)
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// An object's fields, or a list's elements by position.
enum Members<'a> {
    Object(&'a Map<String, Value>),
    Array(&'a [Value]),
    None,
}

impl<'a> Members<'a> {
    fn of(value: &'a Value) -> Self {
        match value {
            Value::Object(fields) => Self::Object(fields),
            Value::Array(items) => Self::Array(items),
            _ => Self::None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Object(fields) => fields.len(),
            Self::Array(items) => items.len(),
            Self::None => 0,
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        match self {
            Self::Object(fields) => fields.get(key),
            Self::Array(items) => items.get(key.parse::<usize>().ok()?),
            Self::None => None,
        }
    }

    fn entries(&self) -> Vec<(String, &'a Value)> {
        match self {
            Self::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), value)).collect(),
            Self::Array(items) => items
                .iter()
                .enumerate()
                .map(|(position, value)| (position.to_string(), value))
                .collect(),
            Self::None => vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use serde_json::json;

    use super::*;

    fn between(before: Value, after: Value) -> Value {
        let operations = operations(&before, &after).unwrap();
        json::to_value(&Bson::Array(operations.into_iter().map(Bson::Document).collect()))
    }

    #[test]
    fn differences_come_from_the_last_field_to_the_first() {
        assert_eq!(
            between(
                json!({"name": "c", "urlPattern": "u", "allow": [], "routes": [{"name": "r", "host": "h1"}],
                       "updatedBy": {"id": "1", "name": "A B"}}),
                json!({"name": "c", "urlPattern": "v", "allow": ["a"], "routes": [{"name": "r", "host": "h2"}],
                       "updatedBy": {"id": "2", "name": "X Y"}}),
            ),
            json!([
                {"op": "replace", "path": "/updatedBy/name", "value": "X Y"},
                {"op": "replace", "path": "/updatedBy/id", "value": "2"},
                {"op": "replace", "path": "/routes/0/host", "value": "h2"},
                {"op": "add", "path": "/allow/0", "value": "a"},
                {"op": "replace", "path": "/urlPattern", "value": "v"},
            ])
        );
    }

    #[test]
    fn what_is_gone_is_removed_and_what_changes_its_kind_is_replaced() {
        assert_eq!(
            between(
                json!({"a": 1, "b/c~d": [1, 2, 3], "e": [1]}),
                json!({"b/c~d": [1], "e": {"0": 1}, "f": null})
            ),
            json!([
                {"op": "replace", "path": "/e", "value": {"0": 1}},
                {"op": "remove", "path": "/b~1c~0d/2"},
                {"op": "remove", "path": "/b~1c~0d/1"},
                {"op": "remove", "path": "/a"},
                {"op": "add", "path": "/f", "value": null},
            ])
        );
        assert_eq!(
            between(json!({"a": [1, {"b": 2}]}), json!({"a": [1, {"b": 2}]})),
            json!([])
        );
    }

    #[test]
    fn a_new_channel_is_one_addition_for_each_field() {
        let snapshot = snapshot(&doc! {
            "_id": ObjectId::new(), "name": "c", "routes": [{"_id": ObjectId::new(), "name": "r"}], "__v": 0,
        });

        let operations = creation(&snapshot).unwrap();

        assert_eq!(
            operations,
            [
                doc! {"op": "add", "path": "/name", "value": "c"},
                doc! {"op": "add", "path": "/routes", "value": [{"name": "r"}]},
            ]
        );
    }
}
