//! What clients ask about transactions: which ones, and how much of each.

use std::borrow::Cow;

use bson::{Bson, Document, doc};

use super::body_budget::BodyBudget;
use super::json;
use super::schema::tables::TRANSACTION;
use super::schema::{Operators, SchemaError};
use crate::clock::Millis;

/// How much of a transaction is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Representation {
    /// No bodies, headers, routes or orchestrations.
    #[default]
    Simple,
    /// Everything but the bodies.
    SimpleDetails,
    Full,
    /// Everything, long bodies cut.
    FullTruncate,
    /// Only what tells whether it can run again; lists answer with their length alone.
    BulkRerun,
}

impl Representation {
    /// The representation of this name; unknown ones are the simple one.
    pub fn named(name: &str) -> Self {
        match name {
            "simpledetails" => Self::SimpleDetails,
            "full" => Self::Full,
            "fulltruncate" => Self::FullTruncate,
            "bulkrerun" => Self::BulkRerun,
            _ => Self::Simple,
        }
    }

    /// What to ask the store for.
    pub fn projection(self) -> Document {
        match self {
            Self::Simple => doc! {
                "request.body": 0, "request.headers": 0, "response.body": 0, "response.headers": 0,
                "orchestrations": 0, "routes": 0,
            },
            Self::SimpleDetails => doc! {
                "request.body": 0, "response.body": 0, "routes.request.body": 0, "routes.response.body": 0,
                "orchestrations.request.body": 0, "orchestrations.response.body": 0,
            },
            Self::Full | Self::FullTruncate => doc! {},
            Self::BulkRerun => doc! {"_id": 1, "childIDs": 1, "canRerun": 1, "channelID": 1},
        }
    }
}

/// Cuts each body of the transaction, its routes and its orchestrations that is longer than `units` UTF-16 units, and
/// marks it with `append`.
pub fn truncate_bodies(transaction: &mut Document, units: usize, append: &str) {
    truncate_message(transaction, units, append);
    for key in ["routes", "orchestrations"] {
        if let Some(Bson::Array(items)) = transaction.get_mut(key) {
            for item in items.iter_mut().filter_map(Bson::as_document_mut) {
                truncate_message(item, units, append);
            }
        }
    }
}

fn truncate_message(message: &mut Document, units: usize, append: &str) {
    for body in bodies(message) {
        if let Some(end) = utf16_boundary(body, units) {
            body.truncate(end);
            body.push_str(append);
        }
    }
}

/// The bodies of a request and its response.
fn bodies(message: &mut Document) -> impl Iterator<Item = &mut String> {
    message
        .iter_mut()
        .filter(|(key, _)| matches!(key.as_str(), "request" | "response"))
        .filter_map(|(_, part)| part.as_document_mut()?.get_mut("body"))
        .filter_map(|body| match body {
            Bson::String(text) => Some(text),
            _ => None,
        })
}

/// Where to cut a text of more than `units` UTF-16 units; a character that does not fit is left out.
fn utf16_boundary(text: &str, units: usize) -> Option<usize> {
    if text.len() <= units {
        return None;
    }
    let mut counted = 0;
    for (at, c) in text.char_indices() {
        counted += c.len_utf16();
        if counted > units {
            return Some(at);
        }
    }
    None
}

/// A client's `filters` as a query. Some keys have their own forms: dates are JSON inside JSON, paths are searched for
/// as patterns, `2xx` stands for a class of status codes.
///
/// # Errors
/// A value is not what its key takes.
pub fn filter(filters: Document) -> Result<Document, SchemaError> {
    let mut query = Document::new();
    for (key, value) in filters {
        let (key, value) = special(key, value)?;
        query.insert(key, value);
    }
    TRANSACTION.filter(query)
}

fn special(key: String, value: Bson) -> Result<(String, Bson), SchemaError> {
    let field = key
        .strip_prefix("routes.")
        .or(key.strip_prefix("orchestrations."))
        .unwrap_or(&key);
    let value = match field {
        _ if is_falsy(&value) => value,
        "request.timestamp" if field == key => nested_json(value)?,
        "childIDs" => nested_json(value)?,
        "request.path" | "request.querystring" => pattern(value),
        "response.status" => status(value),
        "properties" if field == key => return Ok(property(key, value)),
        _ => value,
    };
    Ok((key, value))
}

fn is_falsy(value: &Bson) -> bool {
    match value {
        Bson::Null | Bson::Boolean(false) => true,
        Bson::String(text) => text.is_empty(),
        other => super::number::of_bson(other) == Some(0.0),
    }
}

/// A text that contains JSON; a text that does not is taken as it is if it can be an id.
fn nested_json(value: Bson) -> Result<Bson, SchemaError> {
    let Bson::String(text) = value else {
        return Ok(value);
    };
    match serde_json::from_str(&text) {
        Ok(inner) => json::to_bson(inner).map_err(|_| SchemaError::TooLarge),
        Err(_) if super::id::parse(&text).is_ok() => Ok(Bson::String(text)),
        Err(error) => Err(SchemaError::Syntax(error.to_string())),
    }
}

fn pattern(value: Bson) -> Bson {
    match value {
        Bson::String(pattern) => Bson::Document(doc! {"$regex": pattern, "$options": "i"}),
        other => other,
    }
}

/// `2xx` becomes a range; the class is the text's first character, as in the original.
fn status(value: Bson) -> Bson {
    let text: Cow<'_, str> = match &value {
        Bson::String(text) => Cow::Borrowed(text.as_str()),
        _ => return value,
    };
    let is_class = text
        .as_bytes()
        .windows(3)
        .any(|window| window[0].is_ascii_digit() && &window[1..] == b"xx");
    match text.chars().next().and_then(|first| first.to_digit(10)) {
        Some(class) if is_class => {
            let class = class as i32;
            Bson::Document(doc! {"$gte": class * 100, "$lt": class * 100 + 100})
        }
        _ => value,
    }
}

/// Only the first property counts; without a value it only has to exist.
fn property(key: String, value: Bson) -> (String, Bson) {
    let Bson::Document(properties) = value else {
        return (key, value);
    };
    match properties.into_iter().next() {
        Some((name, Bson::Null)) => (format!("properties.{name}"), Bson::Document(doc! {"$exists": true})),
        Some((name, value)) => (format!("properties.{name}"), value),
        None => (key, Bson::Document(Document::new())),
    }
}

/// The changes that a client wants to make to a transaction, with operators.
///
/// # Errors
/// A value cannot be cast, or an operator does not exist.
pub fn changes(body: Document, now: Millis) -> Result<Document, SchemaError> {
    TRANSACTION.change(body, Operators::Allowed, now)
}

/// True if the changes say that something went wrong: then the transaction may have to be repeated.
pub fn reports_error(changes: &Document) -> bool {
    let has_error = |part: &Document| part.get("error").is_some_and(|error| *error != Bson::Null);
    let pushed = changes.get_document("$push").ok().and_then(|push| push.get("routes"));
    let routes = changes.get("routes");
    has_error(changes)
        || [routes, pushed].into_iter().flatten().any(|routes| match routes {
            Bson::Array(routes) => routes.iter().filter_map(Bson::as_document).any(has_error),
            Bson::Document(route) => has_error(route),
            _ => false,
        })
}

/// Cuts the bodies in a transaction, or in changes to one, that exceed the budget; the request's and response's own
/// first, then those of what is nested, in order. True if the request's own body was cut: it cannot run again.
pub fn limit_bodies(transaction: &mut Document, budget: &mut BodyBudget<'_>) -> bool {
    let mut is_cut = false;
    for key in ["request", "response"] {
        if let Some(Bson::String(body)) = transaction
            .get_mut(key)
            .and_then(Bson::as_document_mut)
            .and_then(|part| part.get_mut("body"))
        {
            let cut = budget.fit(body);
            is_cut |= cut && key == "request";
        }
    }
    for (_, value) in transaction.iter_mut() {
        limit_nested(value, budget);
    }
    is_cut
}

fn limit_nested(value: &mut Bson, budget: &mut BodyBudget<'_>) {
    match value {
        Bson::Document(document) => {
            limit_bodies(document, budget);
        }
        Bson::Array(items) => items.iter_mut().for_each(|item| limit_nested(item, budget)),
        _ => {}
    }
}

/// Bytes of all bodies in a stored transaction.
pub fn size_of_bodies(transaction: &Document) -> u64 {
    let own: usize = ["request", "response"]
        .into_iter()
        .filter_map(|key| transaction.get_document(key).ok()?.get_str("body").ok())
        .map(str::len)
        .sum();
    let nested: u64 = transaction.iter().map(|(_, value)| size_of_nested(value)).sum();
    own as u64 + nested
}

fn size_of_nested(value: &Bson) -> u64 {
    match value {
        Bson::Document(document) => size_of_bodies(document),
        Bson::Array(items) => items.iter().map(size_of_nested).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
