//! The transaction document: its status, and how its parts are written.
//!
//! The pipeline builds the document piece by piece: [`Opening`] before anything is routed, [`Answer`] when the primary
//! route has answered, [`route_entry`] for each secondary one. The shapes are OpenHIM's.

use std::borrow::Cow;

use bson::oid::ObjectId;
use bson::raw::{BindRawBsonRef, CStr, cstr};
use bson::{Bson, DateTime, Document, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, doc, rawdoc};

use super::json;
use super::raw::RawWriter;
use super::schema::tables::TRANSACTION;
use super::text::Text;

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
    pub headers: RawDocumentBuf,
    /// Absent for secondary routes.
    pub body: Option<Text>,
    pub timestamp: Option<DateTime>,
}

impl RequestPart {
    /// Writes the stored form. Nothing is written for what is absent or an empty object.
    fn write(&self, key: &CStr, writer: &mut RawWriter) {
        let mut before = RawDocumentBuf::new();
        put(&mut before, cstr!("host"), self.host.as_deref());
        put(&mut before, cstr!("port"), self.port.as_deref());
        before.append(cstr!("path"), self.path.as_str());
        put_object(&mut before, cstr!("headers"), &self.headers);
        put(&mut before, cstr!("querystring"), self.querystring.as_deref());
        let mut after = RawDocumentBuf::new();
        after.append(cstr!("method"), self.method.as_str());
        put(&mut after, cstr!("timestamp"), self.timestamp);
        write_part(writer, key, &before, self.body.as_ref(), &after);
    }

    fn room(&self) -> usize {
        room(self.body.as_ref(), &self.headers)
    }
}

/// A response, as it is stored for the transaction, a route or an orchestration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponsePart {
    pub status: u16,
    /// From [`headers`].
    pub headers: RawDocumentBuf,
    pub body: Option<Text>,
    /// Absent if a mediator gave none.
    pub timestamp: Option<DateTime>,
}

impl ResponsePart {
    /// Writes the stored form.
    fn write(&self, key: &CStr, writer: &mut RawWriter) {
        let mut before = RawDocumentBuf::new();
        before.append(cstr!("status"), i32::from(self.status));
        put_object(&mut before, cstr!("headers"), &self.headers);
        let mut after = RawDocumentBuf::new();
        put(&mut after, cstr!("timestamp"), self.timestamp);
        write_part(writer, key, &before, self.body.as_ref(), &after);
    }

    fn room(&self) -> usize {
        room(self.body.as_ref(), &self.headers)
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

    /// The same as bytes.
    pub fn stored(&self) -> RawDocumentBuf {
        rawdoc! {"message": self.message.as_str(), "stack": self.stack.as_str()}
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
    pub fn stored(&self) -> RawDocumentBuf {
        let mut document = rawdoc! {"_id": self.id};
        put(&mut document, cstr!("clientID"), self.client);
        document.append(cstr!("clientIP"), self.client_ip.as_str());
        put(&mut document, cstr!("parentID"), self.parent);
        document.append(cstr!("childIDs"), RawArrayBuf::new());
        document.append(cstr!("channelID"), self.channel);
        let mut writer = RawWriter::with_room(self.request.room());
        writer.fields(&document);
        self.request.write(cstr!("request"), &mut writer);
        let mut document = rawdoc! {};
        document.append(cstr!("routes"), RawArrayBuf::new());
        document.append(cstr!("orchestrations"), RawArrayBuf::new());
        document.append(cstr!("canRerun"), self.can_rerun);
        document.append(cstr!("autoRetry"), false);
        let attempt = self.auto_retry_attempt.map(|attempt| attempt as i32);
        put(&mut document, cstr!("autoRetryAttempt"), attempt);
        document.append(cstr!("wasRerun"), false);
        document.append(cstr!("status"), self.status.name());
        document.append(cstr!("__v"), 0_i32);
        writer.fields(&document);
        writer.finish()
    }
}

/// What the primary route yielded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub response: ResponsePart,
    pub error: Option<ErrorPart>,
    /// The mediator's own, then the router's record; each from [`orchestration`].
    pub orchestrations: Vec<RawDocumentBuf>,
    /// The mediator's; any JSON.
    pub properties: Option<Bson>,
}

impl Answer {
    /// The fields to set on the transaction.
    pub fn stored(&self) -> RawDocumentBuf {
        let mut writer = RawWriter::with_room(self.response.room() + all(&self.orchestrations));
        self.response.write(cstr!("response"), &mut writer);
        let mut error = RawDocumentBuf::new();
        put(&mut error, cstr!("error"), self.error.as_ref().map(ErrorPart::stored));
        writer.fields(&error);
        writer.documents(cstr!("orchestrations"), &self.orchestrations);
        let mut properties = RawDocumentBuf::new();
        put_json(&mut properties, cstr!("properties"), self.properties.as_ref());
        writer.fields(&properties);
        writer.finish()
    }
}

/// One step of a transaction's processing, as it is stored.
pub fn orchestration(
    id: ObjectId,
    name: &str,
    request: &RequestPart,
    response: Option<&ResponsePart>,
    error: Option<&ErrorPart>,
) -> RawDocumentBuf {
    let mut writer = RawWriter::with_room(request.room() + response.map_or(0, ResponsePart::room));
    writer.fields(&rawdoc! {"_id": id, "name": name});
    request.write(cstr!("request"), &mut writer);
    if let Some(response) = response {
        response.write(cstr!("response"), &mut writer);
    }
    let mut last = RawDocumentBuf::new();
    put(&mut last, cstr!("error"), error.map(ErrorPart::stored));
    writer.fields(&last);
    writer.finish()
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
    pub orchestrations: Vec<RawDocumentBuf>,
    pub properties: Option<Bson>,
    pub error: Option<ErrorPart>,
}

/// The stored form of a secondary route's result.
pub fn route_entry(id: ObjectId, result: &RouteResult) -> RawDocumentBuf {
    let room = result.request.room() + result.response.room() + all(&result.orchestrations);
    let mut writer = RawWriter::with_room(room);
    writer.fields(&rawdoc! {"_id": id, "name": result.name.as_str()});
    result.request.write(cstr!("request"), &mut writer);
    result.response.write(cstr!("response"), &mut writer);
    writer.documents(cstr!("orchestrations"), &result.orchestrations);
    let mut last = RawDocumentBuf::new();
    put_json(&mut last, cstr!("properties"), result.properties.as_ref());
    put(&mut last, cstr!("error"), result.error.as_ref().map(ErrorPart::stored));
    writer.fields(&last);
    writer.finish()
}

/// Header fields as they are stored. A name that no header can have is left out.
pub fn headers<N: AsRef<str>, V: BindRawBsonRef>(fields: impl IntoIterator<Item = (N, V)>) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for (name, value) in fields {
        put_header(&mut document, name.as_ref(), value);
    }
    document
}

/// Adds a field to [`headers`].
pub fn put_header(headers: &mut RawDocumentBuf, name: &str, value: impl BindRawBsonRef) {
    if let Ok(name) = <&CStr>::try_from(&*escape_header_name(name)) {
        headers.append(name, value);
    }
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

fn put(document: &mut RawDocumentBuf, key: &CStr, value: Option<impl BindRawBsonRef>) {
    if let Some(value) = value {
        document.append(key, value);
    }
}

fn put_object(document: &mut RawDocumentBuf, key: &CStr, object: &RawDocumentBuf) {
    if !object.is_empty() {
        document.append(key, object);
    }
}

/// A mediator's own value; what cannot be stored is left out.
fn put_json(document: &mut RawDocumentBuf, key: &CStr, value: Option<&Bson>) {
    let Some(value) = value.filter(|value| **value != Bson::Null) else {
        return;
    };
    match RawBson::try_from(value.clone()) {
        Ok(value) => document.append(key, value),
        Err(error) => tracing::warn!(%error, "A mediator's properties cannot be stored"),
    }
}

/// Writes a request or a response, its body between the fields that come before and after it.
fn write_part(writer: &mut RawWriter, key: &CStr, before: &RawDocument, body: Option<&Text>, after: &RawDocument) {
    writer.begin_document(key);
    writer.fields(before);
    if let Some(body) = body {
        writer.text(cstr!("body"), body);
    }
    writer.fields(after);
    writer.end();
}

/// What a part occupies, with some to spare for what is added later.
fn room(body: Option<&Text>, headers: &RawDocumentBuf) -> usize {
    body.map_or(0, Text::len) + headers.as_bytes().len() + 512
}

fn all(documents: &[RawDocumentBuf]) -> usize {
    documents.iter().map(|document| document.as_bytes().len() + 16).sum()
}

#[cfg(test)]
mod tests;
