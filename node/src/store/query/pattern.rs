//! Regular expressions in filters, with a bound on their work.

use bson::{RawBsonRef, raw::RawRegexRef};

use super::bad;
use crate::store::Result;

/// Back-tracking steps on one value before it counts as not matching.
const STEPS: usize = 200_000;
/// Bytes that a compiled pattern may occupy.
const SIZE: usize = 4 << 20;

/// A compiled pattern: the linear-time engine where it understands the pattern, else the bounded back-tracking one.
#[derive(Clone, Debug)]
pub(in crate::store) struct Pattern {
    source: String,
    options: String,
    engine: Engine,
}

#[derive(Clone, Debug)]
enum Engine {
    Linear(regex::Regex),
    Backtracking(fancy_regex::Regex),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        (&self.source, &self.options) == (&other.source, &other.options)
    }
}

impl Pattern {
    /// Compiles `source` with MongoDB's option letters (`i`, `m`, `x`, `s`, `u`).
    ///
    /// # Errors
    /// The pattern or an option is not understood.
    pub(super) fn compile(source: &str, options: &str) -> Result<Self> {
        if let Some(letter) = options.chars().find(|letter| !"imxsu".contains(*letter)) {
            return Err(bad(format!("invalid flag in regex options: {letter}")));
        }
        let has = |letter| options.contains(letter);
        let linear = regex::RegexBuilder::new(source)
            .case_insensitive(has('i'))
            .multi_line(has('m'))
            .ignore_whitespace(has('x'))
            .dot_matches_new_line(has('s'))
            .size_limit(SIZE)
            .build();
        let engine = match linear {
            Ok(engine) => Engine::Linear(engine),
            Err(regex::Error::CompiledTooBig(_)) => return Err(bad("Regular expression is invalid: too large")),
            Err(_) => fancy_regex::RegexBuilder::new(source)
                .case_insensitive(has('i'))
                .multi_line(has('m'))
                .ignore_whitespace(has('x'))
                .dot_matches_new_line(has('s'))
                .backtrack_limit(STEPS)
                .delegate_size_limit(SIZE)
                .build()
                .map(Engine::Backtracking)
                .map_err(|error| bad(format!("Regular expression is invalid: {error}")))?,
        };
        Ok(Self {
            source: source.to_owned(),
            options: options.to_owned(),
            engine,
        })
    }

    /// The pattern of a BSON regular expression.
    pub(super) fn from_bson(regex: RawRegexRef<'_>) -> Result<Self> {
        Self::compile(regex.pattern.as_str(), regex.options.as_str())
    }

    /// True if the text contains a match; a match that takes too many steps counts as none.
    pub(in crate::store) fn is_match(&self, text: &str) -> bool {
        match &self.engine {
            Engine::Linear(engine) => engine.is_match(text),
            Engine::Backtracking(engine) => engine.is_match(text).unwrap_or(false),
        }
    }

    /// True if a stored value matches: text that contains a match, or the very same regular expression.
    pub(super) fn accepts(&self, value: RawBsonRef<'_>) -> bool {
        match value {
            RawBsonRef::String(text) | RawBsonRef::Symbol(text) => self.is_match(text),
            RawBsonRef::RegularExpression(stored) => {
                stored.pattern.as_str() == self.source && stored.options.as_str() == self.options
            }
            _ => false,
        }
    }
}
