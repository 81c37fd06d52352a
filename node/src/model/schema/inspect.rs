//! Values as JavaScript's console shows them, because error texts contain them.

use bson::{Bson, Document};

use crate::model::{date, number};

/// Objects deeper than this are shown by their type only.
const DEEPEST: usize = 2;

/// Lines are broken beyond this.
const LINE: usize = 72;

/// Elements of a list that are shown.
const SHOWN: usize = 100;

/// The value as `util.inspect` prints it.
pub(super) fn inspect(value: &Bson) -> String {
    inspect_at(value, 0)
}

fn inspect_at(value: &Bson, depth: usize) -> String {
    match value {
        Bson::String(text) => quote(text),
        Bson::Array(items) if depth > DEEPEST && !items.is_empty() => "[Array]".to_owned(),
        Bson::Document(inner) if depth > DEEPEST && !inner.is_empty() => "[Object]".to_owned(),
        Bson::Array(items) => {
            let mut shown: Vec<_> = items
                .iter()
                .take(SHOWN)
                .map(|item| inspect_at(item, depth + 1))
                .collect();
            if items.len() > SHOWN {
                shown.push(format!("... {} more items", items.len() - SHOWN));
            }
            enclose('[', shown, ']', depth)
        }
        Bson::Document(document) => enclose('{', inspect_fields(document, depth), '}', depth),
        Bson::Null => "null".to_owned(),
        Bson::Undefined => "undefined".to_owned(),
        Bson::Boolean(flag) => flag.to_string(),
        Bson::DateTime(instant) => {
            date::to_iso(instant.timestamp_millis()).unwrap_or_else(|| "Invalid Date".to_owned())
        }
        Bson::ObjectId(id) => format!("new ObjectId(\"{}\")", id.to_hex()),
        other => number::of_bson(other).map_or_else(|| other.to_string(), number::to_text),
    }
}

fn inspect_fields(document: &Document, depth: usize) -> Vec<String> {
    document
        .iter()
        .map(|(key, value)| {
            let is_plain = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '$')
                && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$');
            let key = if is_plain { key.clone() } else { quote(key) };
            format!("{key}: {}", inspect_at(value, depth + 1))
        })
        .collect()
}

fn enclose(open: char, parts: Vec<String>, close: char, depth: usize) -> String {
    if parts.is_empty() {
        return format!("{open}{close}");
    }
    let length: usize = parts.iter().map(|part| part.chars().count() + 2).sum();
    if length <= LINE && !parts.iter().any(|part| part.contains('\n')) {
        return format!("{open} {} {close}", parts.join(", "));
    }
    let indent = "  ".repeat(depth + 1);
    let lines: Vec<_> = parts.iter().map(|part| format!("{indent}{part}")).collect();
    format!("{open}\n{}\n{}{close}", lines.join(",\n"), "  ".repeat(depth))
}

/// Single quotes, unless the text has some and another kind is free.
fn quote(text: &str) -> String {
    let mark = if !text.contains('\'') {
        '\''
    } else if !text.contains('"') {
        '"'
    } else if !text.contains('`') && !text.contains("${") {
        '`'
    } else {
        '\''
    };
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(mark);
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            c if c == mark => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control() => quoted.push_str(&format!("\\x{:02X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push(mark);
    quoted
}

/// What JavaScript calls the value's type.
pub(super) fn type_name(value: &Bson) -> String {
    match value {
        Bson::String(_) => "string",
        Bson::Boolean(_) => "boolean",
        Bson::Array(_) => "Array",
        Bson::Document(_) => "Object",
        Bson::Null => "null",
        Bson::Undefined => "undefined",
        Bson::DateTime(_) => "Date",
        Bson::ObjectId(_) => "ObjectID",
        other if number::of_bson(other).is_some() => "number",
        _ => "Object",
    }
    .to_owned()
}
