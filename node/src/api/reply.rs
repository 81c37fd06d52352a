//! What a handler answers, before it becomes bytes.
//!
//! A body that is only the status in words ([`Content::Phrase`]) is kept apart from text, because OpenHIM's Basic
//! authentication leaves its own sentence there. Cookies are not set here: a handler says what becomes of the
//! session, [`super::auth::session`] does it.

use bson::Document;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::sync::mpsc;

use super::error::Fault;
use crate::model::json;

/// A part of a long body, or the failure that cuts it off.
pub(super) type Chunk = Result<Bytes, std::io::Error>;

/// The body of a [`Reply`].
#[derive(Debug)]
pub(super) enum Content {
    /// The status in words, as text.
    Phrase,
    Text(String),
    /// Rendered JSON.
    Json(Vec<u8>),
    /// JSON that is still being made.
    JsonStream(mpsc::Receiver<Chunk>),
    /// No body and no type.
    Nothing,
}

/// What becomes of the caller's session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum SessionChange {
    #[default]
    Keep,
    /// A new session for the user with this e-mail, in place of any other.
    Begin(String),
    End,
}

/// An answer: status, body, extra headers, and what becomes of the session.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content: Content,
    pub(super) headers: HeaderMap,
    pub(super) session: SessionChange,
}

impl Reply {
    fn new(status: StatusCode, content: Content) -> Self {
        Self {
            status,
            content,
            headers: HeaderMap::new(),
            session: SessionChange::Keep,
        }
    }

    /// The status in words.
    pub(super) fn phrase(status: StatusCode) -> Self {
        Self::new(status, Content::Phrase)
    }

    /// Plain text.
    pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self::new(status, Content::Text(text.into()))
    }

    /// 200 with plain text.
    pub(super) fn ok_text(text: impl Into<String>) -> Self {
        Self::text(StatusCode::OK, text)
    }

    /// 201 with plain text.
    pub(super) fn created_text(text: impl Into<String>) -> Self {
        Self::text(StatusCode::CREATED, text)
    }

    /// A JSON value; `null` becomes 204 without a body, as Koa has it.
    pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) if bytes == b"null" => Self::nothing(),
            Ok(bytes) => Self::new(status, Content::Json(bytes)),
            Err(_) => Self::phrase(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// 200 with a JSON value.
    pub(super) fn ok(value: &impl Serialize) -> Self {
        Self::json(StatusCode::OK, value)
    }

    /// 200 with a document.
    ///
    /// # Errors
    /// It is nested too deeply.
    pub(super) fn document(document: &Document) -> Result<Self, Fault> {
        Ok(Self::new(StatusCode::OK, Content::Json(json::of_document(document)?)))
    }

    /// 200 with a list of documents.
    ///
    /// # Errors
    /// One is nested too deeply.
    pub(super) fn documents(documents: &[Document]) -> Result<Self, Fault> {
        Ok(Self::new(StatusCode::OK, Content::Json(json::of_documents(documents)?)))
    }

    /// 200 with JSON that was written already.
    pub(super) fn rendered(bytes: Vec<u8>) -> Self {
        Self::new(StatusCode::OK, Content::Json(bytes))
    }

    /// 200 with JSON that is still being made.
    pub(super) fn stream(chunks: mpsc::Receiver<Chunk>) -> Self {
        Self::new(StatusCode::OK, Content::JsonStream(chunks))
    }

    /// 204.
    pub(super) fn nothing() -> Self {
        Self::new(StatusCode::NO_CONTENT, Content::Nothing)
    }

    /// With this change of the session.
    pub(super) fn with_session(mut self, change: SessionChange) -> Self {
        self.session = change;
        self
    }

    /// With this header.
    pub(super) fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The media type of the body.
    pub(super) fn media_type(&self) -> Option<&'static str> {
        match &self.content {
            Content::Phrase => Some(TEXT),
            Content::Text(text) if text.trim_start().starts_with('<') => Some("text/html; charset=utf-8"),
            Content::Text(_) => Some(TEXT),
            Content::Json(_) | Content::JsonStream(_) => Some("application/json; charset=utf-8"),
            Content::Nothing => None,
        }
    }
}

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
