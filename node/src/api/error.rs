//! From a cause to a status and a body: the only place that decides it.
//!
//! Handlers say what went wrong ([`Refusal`]); the store and the schema engine say why ([`Fault`]). Clients parse
//! OpenHIM's sentences, so causes are spoken as JavaScript would (`Name: message`).
//!
//! OpenHIM answers many mistakes of the caller with 500, and its clients know it so. Only what no honest client sends
//! (operators that run code, keys that cannot be stored, queries without measure) is 400 here, and whoever sends
//! `Prefer: handling=strict` gets a 4xx for each mistake that is theirs ([`Handling`]). An answer of 500 and up is
//! logged once, here.

use bson::oid::ObjectId;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::reply::Reply;
use crate::crypto::certificate::CertificateError;
use crate::crypto::private_key::KeyError;
use crate::model::json::JsonError;
use crate::model::schema::{CastError, SchemaError, ValidationError};
use crate::store::StoreError;

/// Why something that a handler tried did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A body that no document can be made of.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// JSON inside a query parameter or a field that is none.
    #[error("{0}")]
    Syntax(String),
    /// Input that does not fit the schema.
    #[error("{0}")]
    Schema(#[from] SchemaError),
    /// Something that has to be there is missing or of the wrong kind.
    #[error("{0}")]
    Type(String),
    /// A key or certificate that cannot be used.
    #[error("{0}")]
    Unfit(String),
    /// Somebody else whom we asked on the caller's behalf.
    #[error("{0}")]
    Provider(String),
    #[error("{0}")]
    Other(String),
}

/// How mistakes of the caller are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Handling {
    /// With the statuses that OpenHIM's clients know, often 500.
    #[default]
    Known,
    /// Always with 4xx.
    Strict,
}

impl Handling {
    /// What the request prefers (RFC 7240).
    pub(super) fn preferred(headers: &HeaderMap) -> Self {
        let words = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        let mut words = words.flat_map(|value| value.split(',')).map(str::trim);
        if words.any(|word| word.eq_ignore_ascii_case("handling=strict")) {
            Self::Strict
        } else {
            Self::Known
        }
    }
}

impl Fault {
    /// The status that says whose fault it was.
    fn status(&self, handling: Handling) -> StatusCode {
        use SchemaError as E;
        match self {
            Self::Json(JsonError::NulInKey | JsonError::TooDeep) => StatusCode::BAD_REQUEST,
            Self::Schema(E::Operator(_) | E::Unusable(_) | E::TooLarge) => StatusCode::BAD_REQUEST,
            Self::Store(StoreError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            _ if handling == Handling::Known => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Store(StoreError::Duplicate { .. }) => StatusCode::CONFLICT,
            Self::Schema(_) | Self::Syntax(_) | Self::Type(_) | Self::Unfit(_) => StatusCode::BAD_REQUEST,
            Self::Store(StoreError::BadQuery(_)) => StatusCode::BAD_REQUEST,
            Self::Provider(_) => StatusCode::FAILED_DEPENDENCY,
            Self::Store(_) | Self::Json(_) | Self::Other(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// `Name: message`, as JavaScript prints an error.
    pub(super) fn spoken(&self) -> String {
        let name = match self {
            Self::Schema(error) => return error.named(),
            Self::Store(StoreError::Duplicate { .. } | StoreError::BadQuery(_)) => "MongoServerError",
            Self::Store(_) | Self::Json(_) | Self::Unfit(_) | Self::Provider(_) | Self::Other(_) => "Error",
            Self::Syntax(_) => "SyntaxError",
            Self::Type(_) => "TypeError",
        };
        format!("{name}: {self}")
    }
}

impl From<CastError> for Fault {
    fn from(error: CastError) -> Self {
        Self::Schema(error.into())
    }
}

impl From<ValidationError> for Fault {
    fn from(error: ValidationError) -> Self {
        Self::Schema(error.into())
    }
}

impl From<CertificateError> for Fault {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Generate(_) => Self::Other(error.to_string()),
            theirs => Self::Unfit(theirs.to_string()),
        }
    }
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        Self::Unfit(error.to_string())
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Syntax(error.to_string())
    }
}

/// The id that `text` is: 24 hexadecimal digits or 12 bytes.
///
/// # Errors
/// It is none; the words are those of OpenHIM's object mapper, which names the `model`.
pub(super) fn id(text: &str, model: &'static str) -> Result<ObjectId, Fault> {
    crate::model::id::parse(text).map_err(|_| CastError::id(text, "_id", model).into())
}

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Nobody is known to ask. The body never says why.
    #[error("the request could not be authenticated")]
    Unauthenticated,
    /// Credentials are missing or make no sense.
    #[error("the request is malformed")]
    BadRequest,
    #[error("the body is malformed")]
    MalformedBody,
    #[error("the body is too large")]
    BodyTooLarge,
    #[error("the body is encoded in an unknown way")]
    UnsupportedEncoding,
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("too many failed logins")]
    TooManyLogins { retry_after_seconds: u64 },
    #[error("too much is being read already")]
    Busy,
    /// A status in words.
    #[error("{0}")]
    Status(StatusCode),
    /// The caller may not; the text says what.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Gone(String),
    /// The answer to a conflict that names what is in the way.
    #[error("in use")]
    InUse(Value),
    /// 400 with the handler's words and the cause.
    #[error("{doing} {}", cause.spoken())]
    Rejected { doing: String, cause: Fault },
    /// 500 with the handler's words and the cause.
    #[error("{doing} {}", cause.spoken())]
    Failed { doing: String, cause: Fault },
    /// 500 with the cause's message alone.
    #[error("{0}")]
    Bare(Fault),
    /// 500 with a sentence.
    #[error("{0}")]
    Broken(String),
    /// 500 that says nothing.
    #[error("{0}")]
    Internal(#[from] Fault),
    /// `{"error": text}`.
    #[error("{text}")]
    Json { status: StatusCode, text: String },
}

impl Refusal {
    /// The answer.
    pub(super) fn into_reply(self, handling: Handling) -> Reply {
        let reply = self.reply(handling);
        if reply.status.is_server_error() {
            tracing::error!(status = reply.status.as_u16(), error = %self, "API request failed: {self}");
        }
        reply
    }

    fn reply(&self, handling: Handling) -> Reply {
        use StatusCode as S;
        match self {
            Self::Unauthenticated => Reply::phrase(S::UNAUTHORIZED),
            Self::BadRequest | Self::MalformedBody => Reply::text(S::BAD_REQUEST, "Bad Request"),
            Self::BodyTooLarge => Reply::text(S::PAYLOAD_TOO_LARGE, "request entity too large"),
            Self::UnsupportedEncoding => Reply::phrase(S::UNSUPPORTED_MEDIA_TYPE),
            Self::BodyTimeout => Reply::phrase(S::REQUEST_TIMEOUT),
            Self::TooManyLogins { retry_after_seconds } => Reply::phrase(S::TOO_MANY_REQUESTS)
                .with_header(header::RETRY_AFTER, HeaderValue::from(*retry_after_seconds)),
            Self::Busy => Reply::phrase(S::SERVICE_UNAVAILABLE),
            Self::Status(status) => Reply::phrase(*status),
            Self::Forbidden(text) => Reply::text(S::FORBIDDEN, text),
            Self::Invalid(text) => Reply::text(S::BAD_REQUEST, text),
            Self::NotFound(text) => Reply::text(S::NOT_FOUND, text),
            Self::Conflict(text) => Reply::text(S::CONFLICT, text),
            Self::Gone(text) => Reply::text(S::GONE, text),
            Self::InUse(by) => Reply::json(S::CONFLICT, by),
            Self::Rejected { .. } => Reply::text(S::BAD_REQUEST, self.to_string()),
            Self::Failed { cause, .. } | Self::Bare(cause) => Reply::text(cause.status(handling), self.to_string()),
            Self::Broken(_) => Reply::text(S::INTERNAL_SERVER_ERROR, self.to_string()),
            // No word to clients that know OpenHIM; the others want to know what they did wrong.
            Self::Internal(cause) => match cause.status(handling) {
                S::INTERNAL_SERVER_ERROR => Reply::text(S::INTERNAL_SERVER_ERROR, "Internal Server Error"),
                theirs => Reply::text(theirs, cause.spoken()),
            },
            Self::Json { status, text } => Reply::json(*status, &json!({ "error": text })),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.into())
    }
}

/// Says what was being done when something failed.
pub(super) trait Doing<T> {
    /// 500: `{words} {Name: message}`.
    fn doing(self, words: &str) -> Result<T, Refusal>;
    /// 400: `{words} {Name: message}`.
    fn rejected(self, words: &str) -> Result<T, Refusal>;
    /// 500: the message alone.
    fn bare(self) -> Result<T, Refusal>;
    /// 500 that says nothing.
    fn internal(self) -> Result<T, Refusal>;
}

impl<T, E: Into<Fault>> Doing<T> for Result<T, E> {
    fn doing(self, words: &str) -> Result<T, Refusal> {
        self.map_err(|cause| Refusal::Failed {
            doing: words.to_owned(),
            cause: cause.into(),
        })
    }

    fn rejected(self, words: &str) -> Result<T, Refusal> {
        self.map_err(|cause| Refusal::Rejected {
            doing: words.to_owned(),
            cause: cause.into(),
        })
    }

    fn bare(self) -> Result<T, Refusal> {
        self.map_err(|cause| Refusal::Bare(cause.into()))
    }

    fn internal(self) -> Result<T, Refusal> {
        self.map_err(|cause| Refusal::Internal(cause.into()))
    }
}
