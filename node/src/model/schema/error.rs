//! What is wrong with input, in the words that API clients know.

use std::fmt;

use bson::Bson;

use super::Kind;
use super::inspect::{inspect, type_name};

/// Why input was refused. `Display` is the message alone; [`SchemaError::named`] puts the error's name before it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SchemaError {
    #[error(transparent)]
    Cast(#[from] CastError),
    #[error(transparent)]
    Validation(#[from] ValidationError),
    /// An operator that does not exist, is not allowed or has a wrong operand.
    #[error("{0}")]
    Operator(String),
    /// An operator that means nothing for its path.
    #[error("{0}")]
    Unusable(String),
    #[error("{0}")]
    Version(String),
    /// A text that should contain JSON.
    #[error("{0}")]
    Syntax(String),
    #[error("the query is too large")]
    TooLarge,
}

impl SchemaError {
    /// The error as JavaScript prints it: name, colon, message.
    pub fn named(&self) -> String {
        match self {
            Self::Cast(error) => format!("CastError: {error}"),
            Self::Validation(error) => error.named(),
            Self::Operator(message) => format!("MongoServerError: {message}"),
            Self::Version(message) => format!("VersionError: {message}"),
            Self::Syntax(message) => format!("SyntaxError: {message}"),
            Self::Unusable(_) | Self::TooLarge => format!("Error: {self}"),
        }
    }
}

/// A value that is not of its path's type and cannot be made to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CastError(Box<Failure>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    /// The wanted type.
    kind: String,
    /// As JavaScript's console would show it.
    value: String,
    value_type: String,
    path: String,
    /// Queries name the model.
    model: Option<&'static str>,
    /// Name of the error behind this one, where the original shows it.
    reason: Option<&'static str>,
}

impl CastError {
    pub(super) fn new(kind: Kind, value: &Bson, path: &str) -> Self {
        let (kind, reason) = match kind {
            Kind::Text => ("string", None),
            Kind::Number => ("Number", None),
            Kind::Flag => ("Boolean", Some("CastError")),
            Kind::Date => ("date", None),
            Kind::Id => ("ObjectId", Some("BSONTypeError")),
            Kind::Mixed => ("Mixed", None),
            Kind::Group(_) => ("Object", None),
            Kind::SubDocument(_) => ("Embedded", Some("ObjectExpectedError")),
            Kind::List(_) => ("Array", None),
            Kind::Documents(_) => ("embedded", Some("ObjectParameterError")),
        };
        Self(Box::new(Failure {
            kind: kind.to_owned(),
            value: quoted(value),
            value_type: type_name(value),
            path: path.to_owned(),
            model: None,
            reason,
        }))
    }

    /// The id of a path is none; for handlers that look documents up by an id from the URL.
    pub fn id(value: &str, path: &str, model: &'static str) -> Self {
        Self::new(Kind::Id, &Bson::String(value.to_owned()), path).in_model(model)
    }

    /// One element of a list is wrong: the original then shows the whole list, as text.
    pub(super) fn element(self, list: &[Bson], path: &str) -> Self {
        let shown = Bson::String(inspect(&Bson::Array(list.to_vec())));
        Self(Box::new(Failure {
            kind: format!("[{}]", self.0.kind),
            value: quoted(&shown),
            value_type: "string".to_owned(),
            path: path.to_owned(),
            model: None,
            reason: Some("CastError"),
        }))
    }

    /// The same error as a query reports it.
    pub(super) fn in_model(mut self, model: &'static str) -> Self {
        self.0.model = Some(model);
        self
    }

    /// The same error, with another one behind it.
    pub(super) fn because(mut self, reason: &'static str) -> Self {
        self.0.reason = Some(reason);
        self
    }

    /// The same error where the original says `boolean` instead of `Boolean`.
    pub(super) fn operand(mut self) -> Self {
        self.0.kind = self.0.kind.to_lowercase();
        self
    }
}

fn quoted(value: &Bson) -> String {
    let shown = inspect(value);
    match shown.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inner) => format!("\"{inner}\""),
        None if shown.starts_with('"') => shown,
        None => format!("\"{shown}\""),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            value,
            value_type,
            path,
            ..
        } = self;
        write!(
            f,
            "Cast to {kind} failed for value {value} (type {value_type}) at path \"{path}\""
        )?;
        match (self.model, self.reason) {
            (Some(model), _) => write!(f, " for model \"{model}\""),
            (None, Some(reason)) => write!(f, " because of \"{reason}\""),
            (None, None) => Ok(()),
        }
    }
}

/// Everything that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ValidationError {
    /// Absent where the original knows only that something is wrong.
    pub(super) model: Option<&'static str>,
    pub(super) problems: Vec<Problem>,
}

/// What is wrong with one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: String,
    pub message: String,
}

impl ValidationError {
    /// The error with its name instead of the model's.
    pub fn named(&self) -> String {
        format!("ValidationError: {}", self.list())
    }

    /// Each path with what is wrong with it.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn list(&self) -> String {
        let texts: Vec<_> = self
            .problems
            .iter()
            .map(|problem| format!("{}: {}", problem.path, problem.message))
            .collect();
        texts.join(", ")
    }
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.model {
            Some(model) => write!(f, "{model} validation failed: {}", self.list()),
            None => write!(f, "Validation failed: {}", self.list()),
        }
    }
}
