//! Where a value came from, and how a problem with it is said.

use std::fmt;
use std::sync::Arc;

use super::document::Place;

/// The layer that gave a value, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// Built in for one `NODE_ENV`.
    Profile(Arc<str>),
    /// The settings file, by the name it was given; without a place it is the file as a whole.
    File { name: Arc<str>, place: Option<Place> },
    /// The environment variable of this name.
    Environment(Arc<str>),
    /// A flag of the command line, as it is typed: `--set router.httpPort`.
    Flag(Arc<str>),
}

impl Origin {
    /// True when a person gave the value, by file, environment or flag.
    pub fn is_given(&self) -> bool {
        !matches!(self, Self::Default | Self::Profile(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::Profile(name) => write!(out, "default of NODE_ENV={name}"),
            Self::File {
                name,
                place: Some(place),
            } => write!(out, "{name}:{place}"),
            Self::File { name, place: None } => out.write_str(name),
            Self::Environment(name) => write!(out, "environment {name}"),
            Self::Flag(flag) => write!(out, "flag {flag}"),
        }
    }
}

/// Something in the settings that is wrong, or worth a warning.
///
/// Shown as one line: place, key, what is expected. Never holds a secret value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default | Origin::Profile(_) => out.write_str(&self.text),
            origin => write!(out, "{origin}: {}", self.text),
        }
    }
}

/// Why the settings cannot be used: every problem that was found, and the warnings beside them.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines(problems))]
pub struct Refused {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
