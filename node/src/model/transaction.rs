//! The transaction document: its status, and how its parts are written.
//!
//! The pipeline builds the document piece by piece: [`Opening`] before anything is routed, [`Answer`] when the primary
//! route has answered, [`route_entry`] for each secondary one. The shapes are OpenHIM's.

use std::borrow::Cow;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use super::json;
use super::schema::tables::TRANSACTION;

/// How far a transaction has come, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Processing,
    PendingAsync,
    Successful,
    Completed,
    CompletedWithErrors,
    Failed,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Processing,
        Self::PendingAsync,
        Self::Successful,
        Self::Completed,
        Self::CompletedWithErrors,
        Self::Failed,
    ];

    /// The stored text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processing => "Processing",
            Self::PendingAsync => "Pending Async",
            Self::Successful => "Successful",
            Self::Completed => "Completed",
            Self::CompletedWithErrors => "Completed with error(s)",
            Self::Failed => "Failed",
        }
    }

    /// The status of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// What a transaction of the channel starts as.
    pub const fn initial(is_asynchronous: bool) -> Self {
        if is_asynchronous {
            Self::PendingAsync
        } else {
            Self::Processing
        }
    }
}

impl From<Status> for Bson {
    fn from(status: Status) -> Self {
        Self::String(status.name().to_owned())
    }
}

/// What decides how a transaction ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The status code that the client got.
    pub primary: u16,
    /// The status code of each secondary route that ran; 500 for one that failed.
    pub secondaries: &'a [u16],
    /// `status` in the primary mediator's answer; a word that is no status is ignored.
    pub mediator: Option<&'a str>,
    pub is_asynchronous: bool,
    /// The status the transaction has had so far.
    pub current: Status,
}

impl Outcome<'_> {
    /// The transaction's final status.
    pub fn status(self) -> Status {
        if let Some(said) = self.mediator.and_then(Status::named) {
            return said;
        }
        let is = |code: u16, class: u16| code / 100 == class;
        let secondaries_succeeded = self.secondaries.iter().all(|code| is(*code, 2));
        if is(self.primary, 5) {
            Status::Failed
        } else if self.secondaries.iter().any(|code| is(*code, 5)) {
            Status::CompletedWithErrors
        } else if is(self.primary, 2) && secondaries_succeeded {
            match self.is_asynchronous {
                true => Status::PendingAsync,
                false => Status::Successful,
            }
        } else if (is(self.primary, 4) && secondaries_succeeded) || self.current == Status::Processing {
            Status::Completed
        } else {
            self.current
        }
    }
}

/// A request, as it is stored for the transaction, a route or an orchestration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestPart {
    pub host: Option<String>,
    pub port: Option<String>,
    pub path: String,
    pub querystring: Option<String>,
    pub method: String,
    /// From [`headers`].
    pub headers: Document,
    /// Absent for secondary routes.
    pub body: Option<String>,
    pub timestamp: Option<DateTime>,
}

impl RequestPart {
    /// The stored form. Nothing is written for what is absent or an empty object.
    pub fn into_document(self) -> Document {
        let mut document = Document::new();
        put(&mut document, "host", self.host);
        put(&mut document, "port", self.port);
        put(&mut document, "path", Some(self.path));
        put_object(&mut document, "headers", self.headers);
        put(&mut document, "querystring", self.querystring);
        put(&mut document, "body", self.body);
        put(&mut document, "method", Some(self.method));
        put(&mut document, "timestamp", self.timestamp);
        document
    }
}

/// A response, as it is stored for the transaction, a route or an orchestration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponsePart {
    pub status: u16,
    /// From [`headers`].
    pub headers: Document,
    pub body: Option<String>,
    /// Absent if a mediator gave none.
    pub timestamp: Option<DateTime>,
}

impl ResponsePart {
    /// The stored form.
    pub fn into_document(self) -> Document {
        let mut document = doc! {"status": i32::from(self.status)};
        put_object(&mut document, "headers", self.headers);
        put(&mut document, "body", self.body);
        put(&mut document, "timestamp", self.timestamp);
        document
    }
}

/// What went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPart {
    pub message: String,
    pub stack: String,
}

impl ErrorPart {
    /// The stored form.
    pub fn into_document(self) -> Document {
        doc! {"message": self.message, "stack": self.stack}
    }
}

/// A transaction before anything is routed.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    pub id: ObjectId,
    pub status: Status,
    /// Id of the client's document.
    pub client: Option<ObjectId>,
    pub client_ip: String,
    pub channel: ObjectId,
    /// The transaction that this one repeats.
    pub parent: Option<ObjectId>,
    /// How often it was repeated without being asked to.
    pub auto_retry_attempt: Option<u32>,
    /// False if the stored request is not the whole request.
    pub can_rerun: bool,
    pub request: RequestPart,
}

impl Opening {
    /// The document to insert.
    pub fn into_document(self) -> Document {
        let mut document = doc! {"_id": self.id};
        put(&mut document, "clientID", self.client);
        put(&mut document, "clientIP", Some(self.client_ip));
        put(&mut document, "parentID", self.parent);
        document.insert("childIDs", Bson::Array(vec![]));
        document.insert("channelID", self.channel);
        document.insert("request", self.request.into_document());
        document.insert("routes", Bson::Array(vec![]));
        document.insert("orchestrations", Bson::Array(vec![]));
        document.insert("canRerun", self.can_rerun);
        document.insert("autoRetry", false);
        put(
            &mut document,
            "autoRetryAttempt",
            self.auto_retry_attempt.map(|attempt| attempt as i32),
        );
        document.insert("wasRerun", false);
        document.insert("status", self.status);
        document.insert("__v", 0);
        document
    }
}

/// What the primary route yielded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub response: ResponsePart,
    pub error: Option<ErrorPart>,
    /// The mediator's own, then the router's record; each from [`orchestration`].
    pub orchestrations: Vec<Document>,
    /// The mediator's; any JSON.
    pub properties: Option<Bson>,
}

impl Answer {
    /// The fields to set on the transaction.
    pub fn into_fields(self) -> Document {
        let mut fields = doc! {"response": self.response.into_document()};
        put(&mut fields, "error", self.error.map(ErrorPart::into_document));
        fields.insert("orchestrations", self.orchestrations);
        put(
            &mut fields,
            "properties",
            self.properties.filter(|any| *any != Bson::Null),
        );
        fields
    }
}

/// One step of a transaction's processing, as it is stored.
pub fn orchestration(
    id: ObjectId,
    name: &str,
    request: RequestPart,
    response: Option<ResponsePart>,
    error: Option<ErrorPart>,
) -> Document {
    let mut document = doc! {"_id": id, "name": name, "request": request.into_document()};
    put(&mut document, "response", response.map(ResponsePart::into_document));
    put(&mut document, "error", error.map(ErrorPart::into_document));
    document
}

/// The orchestrations that a mediator reports, as they are stored. What cannot be stored is repaired or left out, so that
/// it does not cost the transaction its response: a body that is no text becomes JSON text, a request without a time
/// gets `received`, and an entry without a name is dropped.
pub fn mediator_orchestrations(reported: Vec<Bson>, received: DateTime) -> Vec<Document> {
    let repaired = reported.into_iter().map(|mut entry| {
        if let Bson::Document(entry) = &mut entry {
            for key in ["request", "response"] {
                if let Some(Bson::Document(part)) = entry.get_mut(key) {
                    body_as_text(part);
                }
            }
        }
        entry
    });
    let mut stored = TRANSACTION.salvage("orchestrations", repaired.collect(), received.timestamp_millis());
    stored.retain(|entry| entry.get_str("name").is_ok_and(|name| !name.is_empty()));
    for entry in &mut stored {
        if let Some(Bson::Document(request)) = entry.get_mut("request")
            && !matches!(request.get("timestamp"), Some(Bson::DateTime(_)))
        {
            request.insert("timestamp", received);
        }
    }
    stored
}

fn body_as_text(part: &mut Document) {
    if let Some(body) = part.get_mut("body")
        && !matches!(body, Bson::String(_) | Bson::Null)
    {
        let text = json::of_bson(body).unwrap_or_default();
        *body = Bson::String(String::from_utf8_lossy(&text).into_owned());
    }
}

/// What a secondary route did, to be pushed on `routes`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteResult {
    pub name: String,
    pub request: RequestPart,
    pub response: ResponsePart,
    pub orchestrations: Vec<Document>,
    pub properties: Option<Bson>,
    pub error: Option<ErrorPart>,
}

/// The stored form of a secondary route's result.
pub fn route_entry(id: ObjectId, result: RouteResult) -> Document {
    let mut document = doc! {
        "_id": id,
        "name": result.name,
        "request": result.request.into_document(),
        "response": result.response.into_document(),
        "orchestrations": result.orchestrations,
    };
    put(
        &mut document,
        "properties",
        result.properties.filter(|any| *any != Bson::Null),
    );
    put(&mut document, "error", result.error.map(ErrorPart::into_document));
    document
}

/// Header fields as they are stored; a field whose value is a list keeps it (`set-cookie`).
pub fn headers<N: AsRef<str>, V: Into<Bson>>(fields: impl IntoIterator<Item = (N, V)>) -> Document {
    fields
        .into_iter()
        .map(|(name, value)| (escape_header_name(name.as_ref()).into_owned(), value.into()))
        .collect()
}

/// A header name as the database takes it: the first `.` and the first `$` become their full-width forms.
pub fn escape_header_name(name: &str) -> Cow<'_, str> {
    if !name.contains(['.', '$']) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.replacen('.', "\u{FF0E}", 1).replacen('$', "\u{FF04}", 1))
}

/// The header name that [`escape_header_name`] was given.
pub fn unescape_header_name(stored: &str) -> Cow<'_, str> {
    if !stored.contains(['\u{FF0E}', '\u{FF04}']) {
        return Cow::Borrowed(stored);
    }
    Cow::Owned(stored.replace('\u{FF0E}', ".").replace('\u{FF04}', "$"))
}

fn put(document: &mut Document, key: &str, value: Option<impl Into<Bson>>) {
    if let Some(value) = value {
        document.insert(key, value);
    }
}

fn put_object(document: &mut Document, key: &str, object: Document) {
    if !object.is_empty() {
        document.insert(key, object);
    }
}

#[cfg(test)]
mod tests;
