//! JSON in and out of BSON.
//!
//! Answers are written straight from the stored bytes, without a tree in between, and look as JavaScript would print
//! them: compact, ids as hexadecimal digits, dates in ISO form, `1` and not `1.0`. What JSON has no word for looks as
//! OpenHIM's database driver shows it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::raw::RawBsonRef;
use bson::{Bson, Document, RawArray, RawDocument};
use serde_json::Value;

use super::{date, number};

/// The database takes documents of about this depth; hostile ones go deeper.
const DEEPEST: usize = 128;

/// Why a JSON value cannot be stored, or stored bytes cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("a key must not contain null bytes")]
    NulInKey,
    #[error("the value is nested too deeply")]
    TooDeep,
    #[error("the stored document is not valid BSON")]
    NotBson,
}

/// The value as OpenHIM's driver would store it: whole numbers of 32 bits as integers, all others as doubles.
///
/// # Errors
/// A key contains a null byte, or the value is nested too deeply.
pub fn to_bson(value: Value) -> Result<Bson, JsonError> {
    to_bson_within(value, DEEPEST)
}

fn to_bson_within(value: Value, depth: usize) -> Result<Bson, JsonError> {
    let deeper = || depth.checked_sub(1).ok_or(JsonError::TooDeep);
    Ok(match value {
        Value::Null => Bson::Null,
        Value::Bool(flag) => Bson::Boolean(flag),
        Value::Number(n) => number::to_bson(n.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Bson::String(text),
        Value::Array(items) => {
            let depth = deeper()?;
            let items: Result<_, _> = items.into_iter().map(|item| to_bson_within(item, depth)).collect();
            Bson::Array(items?)
        }
        Value::Object(fields) => {
            let depth = deeper()?;
            let mut document = Document::new();
            for (key, value) in fields {
                if key.contains('\0') {
                    return Err(JsonError::NulInKey);
                }
                document.insert(key, to_bson_within(value, depth)?);
            }
            Bson::Document(document)
        }
    })
}

/// The object as a document; [`to_bson`] for anything else makes an empty one.
///
/// # Errors
/// As [`to_bson`].
pub fn to_document(value: Value) -> Result<Document, JsonError> {
    Ok(match to_bson(value)? {
        Bson::Document(document) => document,
        _ => Document::new(),
    })
}

/// The document as JSON text.
///
/// # Errors
/// The stored bytes are not valid, or nested too deeply.
pub fn of_raw(document: &RawDocument) -> Result<Vec<u8>, JsonError> {
    let mut out = Vec::with_capacity(document.as_bytes().len() * 5 / 4);
    write_raw(document, &mut out)?;
    Ok(out)
}

/// Appends the document as JSON text.
///
/// # Errors
/// The stored bytes are not valid, or nested too deeply; `out` then holds a part of it.
pub fn write_raw(document: &RawDocument, out: &mut Vec<u8>) -> Result<(), JsonError> {
    write_document(document, out, DEEPEST)
}

fn write_document(document: &RawDocument, out: &mut Vec<u8>, depth: usize) -> Result<(), JsonError> {
    let depth = depth.checked_sub(1).ok_or(JsonError::TooDeep)?;
    out.push(b'{');
    let mut is_first = true;
    for element in document.iter() {
        let (key, value) = element.map_err(|_| JsonError::NotBson)?;
        if matches!(value, RawBsonRef::Undefined) {
            continue;
        }
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        write_text(key.as_str(), out);
        out.push(b':');
        write_value(value, out, depth)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_array(array: &RawArray, out: &mut Vec<u8>, depth: usize) -> Result<(), JsonError> {
    let depth = depth.checked_sub(1).ok_or(JsonError::TooDeep)?;
    out.push(b'[');
    for (at, value) in array.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_value(value.map_err(|_| JsonError::NotBson)?, out, depth)?;
    }
    out.push(b']');
    Ok(())
}

fn write_value(value: RawBsonRef<'_>, out: &mut Vec<u8>, depth: usize) -> Result<(), JsonError> {
    match value {
        RawBsonRef::Document(document) => return write_document(document, out, depth),
        RawBsonRef::Array(array) => return write_array(array, out, depth),
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => write_text(text, out),
        RawBsonRef::Boolean(flag) => out.extend_from_slice(if flag { b"true" } else { b"false" }),
        RawBsonRef::Null | RawBsonRef::Undefined => out.extend_from_slice(b"null"),
        RawBsonRef::Int32(n) => write_display(n, out),
        RawBsonRef::Int64(n) => write_display(n, out),
        RawBsonRef::Double(n) => write_double(n, out),
        RawBsonRef::ObjectId(id) => write_text(&id.to_hex(), out),
        RawBsonRef::DateTime(date) => write_date(date.timestamp_millis(), out),
        RawBsonRef::Binary(binary) => write_text(&STANDARD.encode(binary.bytes), out),
        RawBsonRef::Decimal128(n) => {
            out.extend_from_slice(b"{\"$numberDecimal\":");
            write_text(&n.to_string(), out);
            out.push(b'}');
        }
        RawBsonRef::Timestamp(stamp) => {
            let text = (u64::from(stamp.time) << 32 | u64::from(stamp.increment)).to_string();
            out.extend_from_slice(b"{\"$timestamp\":");
            write_text(&text, out);
            out.push(b'}');
        }
        RawBsonRef::RegularExpression(_)
        | RawBsonRef::JavaScriptCode(_)
        | RawBsonRef::JavaScriptCodeWithScope(_)
        | RawBsonRef::DbPointer(_)
        | RawBsonRef::MaxKey
        | RawBsonRef::MinKey => out.extend_from_slice(b"{}"),
    }
    Ok(())
}

fn write_display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing to memory does not fail.
    let _ = write!(out, "{value}");
}

fn write_double(n: f64, out: &mut Vec<u8>) {
    if n.is_finite() {
        out.extend_from_slice(number::to_text(n).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

fn write_date(instant: i64, out: &mut Vec<u8>) {
    out.push(b'"');
    if date::write_iso(instant, out) {
        out.push(b'"');
    } else {
        out.pop();
        out.extend_from_slice(b"null");
    }
}

/// Appends a JSON string.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

/// The value as JSON text.
///
/// # Errors
/// It is nested too deeply, or a key contains a null byte.
pub fn of_bson(value: &Bson) -> Result<Vec<u8>, JsonError> {
    let mut out = Vec::new();
    write_bson(value, &mut out, DEEPEST)?;
    Ok(out)
}

/// The document as JSON text.
///
/// # Errors
/// As [`of_bson`].
pub fn of_document(document: &Document) -> Result<Vec<u8>, JsonError> {
    let mut out = Vec::new();
    write_fields(document, &mut out, DEEPEST)?;
    Ok(out)
}

/// The documents as a JSON array.
///
/// # Errors
/// As [`of_bson`].
pub fn of_documents<'a>(documents: impl IntoIterator<Item = &'a Document>) -> Result<Vec<u8>, JsonError> {
    let mut out = vec![b'['];
    for document in documents {
        if out.len() > 1 {
            out.push(b',');
        }
        write_fields(document, &mut out, DEEPEST)?;
    }
    out.push(b']');
    Ok(out)
}

fn write_fields(document: &Document, out: &mut Vec<u8>, depth: usize) -> Result<(), JsonError> {
    let depth = depth.checked_sub(1).ok_or(JsonError::TooDeep)?;
    out.push(b'{');
    let mut is_first = true;
    for (key, value) in document.iter().filter(|(_, value)| **value != Bson::Undefined) {
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        write_text(key, out);
        out.push(b':');
        write_bson(value, out, depth)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_bson(value: &Bson, out: &mut Vec<u8>, depth: usize) -> Result<(), JsonError> {
    match value {
        Bson::Document(document) => return write_fields(document, out, depth),
        Bson::Array(items) => {
            let depth = depth.checked_sub(1).ok_or(JsonError::TooDeep)?;
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_bson(item, out, depth)?;
            }
            out.push(b']');
        }
        Bson::String(text) | Bson::Symbol(text) => write_text(text, out),
        Bson::Boolean(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        Bson::Null | Bson::Undefined => out.extend_from_slice(b"null"),
        Bson::Int32(n) => write_display(n, out),
        Bson::Int64(n) => write_display(n, out),
        Bson::Double(n) => write_double(*n, out),
        Bson::ObjectId(id) => write_text(&id.to_hex(), out),
        Bson::DateTime(date) => write_date(date.timestamp_millis(), out),
        Bson::Binary(binary) => write_text(&STANDARD.encode(&binary.bytes), out),
        Bson::Decimal128(n) => {
            out.extend_from_slice(b"{\"$numberDecimal\":");
            write_text(&n.to_string(), out);
            out.push(b'}');
        }
        _ => out.extend_from_slice(b"{}"),
    }
    Ok(())
}

/// The value as a JSON tree, for those who compare or take apart; answers are written with [`of_raw`].
pub fn to_value(value: &Bson) -> Value {
    match value {
        Bson::Document(document) => Value::Object(
            document
                .iter()
                .filter(|(_, value)| **value != Bson::Undefined)
                .map(|(key, value)| (key.clone(), to_value(value)))
                .collect(),
        ),
        Bson::Array(items) => Value::Array(items.iter().map(to_value).collect()),
        Bson::String(text) | Bson::Symbol(text) => Value::String(text.clone()),
        Bson::Boolean(flag) => Value::Bool(*flag),
        Bson::Int32(n) => Value::from(*n),
        Bson::Int64(n) => Value::from(*n),
        Bson::Double(n) if n.fract() == 0.0 && n.abs() < 9.0e15 => Value::from(*n as i64),
        Bson::Double(n) => Value::from(*n),
        Bson::ObjectId(id) => Value::String(id.to_hex()),
        Bson::DateTime(date) => date::to_iso(date.timestamp_millis()).map_or(Value::Null, Value::String),
        Bson::Binary(binary) => Value::String(STANDARD.encode(&binary.bytes)),
        Bson::Decimal128(n) => serde_json::json!({"$numberDecimal": n.to_string()}),
        Bson::Null | Bson::Undefined => Value::Null,
        _ => Value::Object(serde_json::Map::new()),
    }
}

#[cfg(test)]
mod tests;
