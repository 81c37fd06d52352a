//! The structured answer of a mediator: `application/json+openhim`.
//!
//! An envelope holds the answer for the client and what is to be recorded beside it. Mediators write it in many ways:
//! numbers as text, bodies as objects, dates as their language prints them, properties as an empty text. What can be
//! read is read; a malformed part is repaired or left out and never costs the answer. Only an envelope without a usable
//! `response` is an error, as it is for OpenHIM.

#[cfg(test)]
mod tests;

use bson::{Bson, DateTime, Document};
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value};

use crate::model::transaction::{ErrorPart, escape_header_name};
use crate::model::{date, json, number};

/// What the content type of an envelope contains, in exactly this letter case.
const MEDIA_TYPE: &[u8] = b"application/json+openhim";

/// The name of a step whose mediator gave it none.
const UNNAMED: &str = "unnamed";

/// Steps of which more are not kept.
const MAX_ORCHESTRATIONS: usize = 10_000;

/// Why an envelope yields no answer.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// In the words that OpenHIM records.
    #[error("Cannot read property 'status' of undefined")]
    NoResponse,
    #[error("status code must be a number")]
    NoStatus,
    #[error("invalid status code: {0}")]
    Status(f64),
    #[error("invalid header `{0}`")]
    Header(String),
}

/// A mediator's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// `x-mediator-urn`.
    pub urn: Option<String>,
    /// The transaction's final status, in the mediator's words.
    pub status: Option<String>,
    pub response: EnvelopeResponse,
    /// As they are stored, each with an id of its own.
    pub orchestrations: Vec<Document>,
    pub properties: Option<Bson>,
    /// Present if the mediator itself failed.
    pub error: Option<ErrorPart>,
}

/// The answer for the client.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvelopeResponse {
    pub status: StatusCode,
    /// `None` if the envelope has none: the client then gets no transaction id either.
    pub headers: Option<HeaderMap>,
    /// `None` if the envelope has none.
    pub body: Option<Bytes>,
    pub timestamp: Option<DateTime>,
}

/// True if a backend's answer with these headers is an envelope.
pub fn is_envelope(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.windows(MEDIA_TYPE.len()).any(|window| window == MEDIA_TYPE)
    })
}

impl Envelope {
    /// Reads an envelope.
    ///
    /// # Errors
    /// It is no JSON, or has no answer that could be sent.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let mut envelope = match serde_json::from_slice(bytes)? {
            Value::Object(envelope) => envelope,
            _ => return Err(EnvelopeError::NoResponse),
        };
        let Some(Value::Object(response)) = envelope.remove("response") else {
            return Err(EnvelopeError::NoResponse);
        };
        Ok(Self {
            urn: string(envelope.remove("x-mediator-urn")),
            status: string(envelope.remove("status")),
            response: EnvelopeResponse::read(response)?,
            orchestrations: orchestrations(envelope.remove("orchestrations")),
            properties: envelope.remove("properties").filter(is_truthy).and_then(stored),
            error: envelope.remove("error").filter(is_truthy).map(error),
        })
    }
}

impl EnvelopeResponse {
    fn read(mut fields: Map<String, Value>) -> Result<Self, EnvelopeError> {
        let status = status(fields.get("status"))?;
        let mut headers = match fields.remove("headers") {
            Some(Value::Object(fields)) => Some(header_map(fields)?),
            _ => None,
        };
        let body = match fields.remove("body") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(Bytes::from(text)),
            Some(other) => {
                let headers = headers.get_or_insert_default();
                if !headers.contains_key(header::CONTENT_TYPE) {
                    headers.insert(
                        header::CONTENT_TYPE,
                        HeaderValue::from_static("application/json; charset=utf-8"),
                    );
                }
                Some(Bytes::from(json_text(&other)))
            }
        };
        Ok(Self {
            // No body means 204, but a failure stays one.
            status: if body.is_none() && status.is_success() {
                StatusCode::NO_CONTENT
            } else {
                status
            },
            headers,
            body,
            timestamp: fields.get("timestamp").and_then(instant),
        })
    }
}

/// Calls `cut` with the bodies of a stored step, request first: they count against the transaction's budget.
pub fn for_each_body(orchestration: &mut Document, mut cut: impl FnMut(&mut String)) {
    for part in ["request", "response"] {
        if let Ok(part) = orchestration.get_document_mut(part)
            && let Some(Bson::String(body)) = part.get_mut("body")
        {
            cut(body);
        }
    }
}

fn status(value: Option<&Value>) -> Result<StatusCode, EnvelopeError> {
    let code = match value {
        Some(Value::Number(n)) => n.as_f64(),
        Some(Value::String(text)) if !text.trim().is_empty() => number::from_text(text),
        _ => None,
    };
    let code = code.filter(|code| !code.is_nan()).ok_or(EnvelopeError::NoStatus)?;
    let is_code = code.fract() == 0.0 && (100.0..=999.0).contains(&code);
    let status = is_code.then(|| StatusCode::from_u16(code as u16).ok()).flatten();
    status.ok_or(EnvelopeError::Status(code))
}

fn header_map(fields: Map<String, Value>) -> Result<HeaderMap, EnvelopeError> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let invalid = || EnvelopeError::Header(name.chars().take(80).collect());
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        let values = match value {
            Value::Null => continue,
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            let value = header_value(&text(&value)).ok_or_else(invalid)?;
            headers.append(parsed.clone(), value);
        }
    }
    Ok(headers)
}

/// JavaScript writes each character up to U+00FF as one byte and refuses the others.
fn header_value(text: &str) -> Option<HeaderValue> {
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    HeaderValue::from_bytes(&bytes?).ok()
}

fn orchestrations(value: Option<Value>) -> Vec<Document> {
    let steps = match value {
        Some(Value::Array(steps)) => steps,
        Some(one @ Value::Object(_)) => vec![one],
        _ => vec![],
    };
    let objects = steps.into_iter().filter_map(|step| match step {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    objects.take(MAX_ORCHESTRATIONS).map(orchestration).collect()
}

fn orchestration(mut fields: Map<String, Value>) -> Document {
    let mut document = Document::new();
    document.insert("_id", bson::oid::ObjectId::new());
    let name = fields.remove("name").filter(|name| !name.is_null());
    document.insert("name", name.map_or_else(|| UNNAMED.to_owned(), |name| text(&name)));
    put_text(&mut document, &mut fields, "group");
    if let Some(Value::Object(request)) = fields.remove("request") {
        document.insert(
            "request",
            part(
                request,
                &["host", "port", "path", "headers", "querystring", "body", "method"],
            ),
        );
    }
    if let Some(Value::Object(response)) = fields.remove("response") {
        document.insert("response", part(response, &["status", "headers", "body"]));
    }
    if let Some(failure) = fields.remove("error").filter(is_truthy) {
        document.insert("error", error(failure).into_document());
    }
    document
}

/// The known fields of a request or response, in the form in which they are stored.
fn part(mut fields: Map<String, Value>, known: &[&str]) -> Document {
    let mut document = Document::new();
    for key in known {
        match *key {
            "headers" => {
                let headers = fields.remove("headers").filter(Value::is_object).and_then(stored);
                let is_filled = |headers: &Bson| headers.as_document().is_some_and(|headers| !headers.is_empty());
                if let Some(headers) = headers.filter(is_filled) {
                    document.insert("headers", headers);
                }
            }
            "status" => {
                if let Some(code) = fields.remove("status").and_then(|code| number::from_text(&text(&code))) {
                    document.insert("status", number::to_bson(code));
                }
            }
            key => put_text(&mut document, &mut fields, key),
        }
    }
    if let Some(timestamp) = fields.get("timestamp").and_then(instant) {
        document.insert("timestamp", timestamp);
    }
    document
}

fn put_text(document: &mut Document, fields: &mut Map<String, Value>, key: &str) {
    if let Some(value) = fields.remove(key).filter(|value| !value.is_null()) {
        document.insert(key, text(&value));
    }
}

fn error(value: Value) -> ErrorPart {
    match value {
        Value::Object(mut fields) => {
            let mut field = |key| {
                fields
                    .remove(key)
                    .filter(|value| !value.is_null())
                    .map(|value| text(&value))
            };
            ErrorPart {
                message: field("message").unwrap_or_default(),
                stack: field("stack").unwrap_or_default(),
            }
        }
        other => ErrorPart {
            message: text(&other),
            stack: String::new(),
        },
    }
}

fn string(value: Option<Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// Text as it is; what is none, as JavaScript or JSON would write it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), number::to_text),
        other => json_text(other),
    }
}

fn json_text(value: &Value) -> String {
    match value {
        Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), number::to_text),
        other => other.to_string(),
    }
}

/// A date as mediators write it: JSON's number of milliseconds, the same as text, or any text that JavaScript reads.
fn instant(value: &Value) -> Option<DateTime> {
    let millis = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) if !text.trim().is_empty() => match number::from_text(text) {
            Some(millis) => Some(millis),
            None => date::parse(text).map(|millis| millis as f64),
        },
        _ => None,
    };
    millis
        .filter(|millis| millis.abs() <= 8.64e15)
        .map(|millis| DateTime::from_millis(millis as i64))
}

/// Any JSON in the form in which the store takes it; `None` if it is nested too deeply.
fn stored(value: Value) -> Option<Bson> {
    json::to_bson(with_plain_keys(value)).ok()
}

/// The store gives dots and dollar signs in keys a meaning of their own.
fn with_plain_keys(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let plain = |key: String| escape_header_name(&key).into_owned();
            Value::Object(
                fields
                    .into_iter()
                    .map(|(key, value)| (plain(key), with_plain_keys(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(with_plain_keys).collect()),
        other => other,
    }
}
