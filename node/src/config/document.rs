//! A configuration file as a tree in which every node knows its line and column.
//!
//! JSON and YAML end in the same tree, so that what follows (names, types, suggestions) is written once and every
//! problem can say where it is. This module never looks at what a key means.

mod json;
mod yaml;

use std::fmt;
use std::path::Path;

use serde_json::Value;

/// A position in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.line, self.column)
    }
}

/// One value of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) content: Content,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// Text, number, boolean or null.
    Scalar(Value),
    List(Vec<Node>),
    Object(Vec<Member>),
}

/// One `name: value` of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where the name stands.
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Node {
    /// The value without its places.
    pub(super) fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(nodes) => nodes.iter().map(Self::to_value).collect(),
            Content::Object(members) => members
                .iter()
                .map(|member| (member.name.clone(), member.node.to_value()))
                .collect(),
        }
    }
}

/// Why a file could not be read as a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) place: Place,
    /// Lowercase, without the place.
    pub(super) text: String,
}

/// Reads `text` as JSON or YAML: by the name's ending, else by its first character.
///
/// # Errors
/// The first thing that is not JSON or YAML, a name given twice in one object, or a file that is not an object.
pub(super) fn parse(path: &Path, text: &str) -> Result<Node, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let node = if is_json(path, text) {
        json::parse(text)?
    } else {
        yaml::parse(text)?
    };
    match node.content {
        Content::Object(_) => Ok(node),
        Content::Scalar(_) | Content::List(_) => Err(SyntaxError {
            place: node.place,
            text: "expected an object with the settings at the top".to_owned(),
        }),
    }
}

fn is_json(path: &Path, text: &str) -> bool {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some(ending) if ending.eq_ignore_ascii_case("json") => true,
        Some(ending) if ending.eq_ignore_ascii_case("yaml") || ending.eq_ignore_ascii_case("yml") => false,
        _ => text.trim_start().starts_with('{'),
    }
}

/// Refuses the second of two members with one name: which of them counts would be a guess.
fn refuse_twice(members: &[Member], name: &str, place: Place) -> Result<(), SyntaxError> {
    match members.iter().find(|member| member.name == name) {
        None => Ok(()),
        Some(first) => Err(SyntaxError {
            place,
            text: format!("`{name}` is given twice; the first time at {}", first.place),
        }),
    }
}

#[cfg(test)]
mod tests;
