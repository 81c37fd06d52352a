//! The shape of a collection's documents as JSON Schema, for the API's description.
//!
//! It describes what a careful client sends. Casting accepts more: numbers as texts, one value where a list is wanted.

use serde_json::{Map, Value, json};

use super::{Field, Kind, Preset, Schema};

/// Text that is an id.
const ID: &str = "^[0-9a-f]{24}$";

impl Schema {
    /// What makes a document.
    pub fn describe_new(&self) -> Value {
        object(self.fields, true)
    }

    /// What changes one: nothing is required.
    pub fn describe_change(&self) -> Value {
        object(self.fields, false)
    }
}

fn object(fields: &[Field], is_new: bool) -> Value {
    let mut properties = Map::new();
    let mut required: Vec<&str> = Vec::new();
    for field in fields {
        properties.insert(field.name.to_owned(), describe(field, is_new));
        if is_new && field.required && matches!(field.default, Preset::Nothing) {
            required.push(field.name);
        }
    }
    let mut described = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        described["required"] = json!(required);
    }
    described
}

fn describe(field: &Field, is_new: bool) -> Value {
    match field.kind {
        Kind::Text => text(field),
        Kind::Number => number(field),
        Kind::Flag => json!({"type": or_null("boolean", field)}),
        Kind::Date => json!({"type": or_null("string", field), "format": "date-time"}),
        Kind::Id => json!({"type": or_null("string", field), "pattern": ID}),
        Kind::Mixed => json!({"description": "Any JSON"}),
        Kind::Group(fields) | Kind::SubDocument(fields) => object(fields, is_new),
        Kind::List(element) => json!({"type": "array", "items": describe(element, is_new)}),
        // Elements of a list are always whole: a change replaces the list.
        Kind::Documents(fields) => json!({"type": "array", "items": object(fields, true)}),
    }
}

fn text(field: &Field) -> Value {
    if !field.allowed.is_empty() {
        let mut allowed: Vec<Value> = field.allowed.iter().map(|text| json!(text)).collect();
        if !field.required {
            allowed.push(Value::Null);
        }
        return json!({"enum": allowed});
    }
    let mut described = json!({"type": or_null("string", field)});
    if field.required {
        described["minLength"] = json!(1);
    }
    described
}

fn number(field: &Field) -> Value {
    let mut described = json!({"type": or_null("number", field)});
    if let Some(min) = field.min {
        described["minimum"] = json!(min as i64);
    }
    if let Some(max) = field.max {
        described["maximum"] = json!(max as i64);
    }
    described
}

/// Only what is required has to have a value.
fn or_null(kind: &str, field: &Field) -> Value {
    if field.required {
        json!(kind)
    } else {
        json!([kind, "null"])
    }
}
