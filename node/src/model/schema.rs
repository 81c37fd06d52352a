//! What the documents of each collection look like, and the rules by which API input becomes one.
//!
//! The tables in [`tables`] are data; the modules beside them give them their meaning: [`build`] a new document from a
//! request's body, [`change`] an update, [`filter`] a query, [`merge`] a body into a stored document, [`read`] a stored
//! document as it is shown. Casting, defaults, messages and their order are those of the object mapper that OpenHIM uses,
//! because consoles, scripts and stored data depend on them. Nothing here reads or writes the store.

mod build;
mod cast;
mod change;
mod describe;
mod error;
mod filter;
mod inspect;
mod merge;
mod read;
pub mod tables;
mod validate;

pub use change::Operators;
pub use error::{CastError, Problem, SchemaError, ValidationError};
pub use merge::Merged;

/// The shape of one collection's documents.
#[derive(Debug)]
pub struct Schema {
    /// OpenHIM's name for it, which error texts contain.
    pub model: &'static str,
    pub fields: &'static [Field],
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    required: bool,
    default: Preset,
    /// The only texts it may have; empty: any.
    allowed: &'static [&'static str],
    /// Whether `null` is one of the allowed ones.
    allows_null: bool,
    min: Option<f64>,
    max: Option<f64>,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Text,
    Number,
    Flag,
    Date,
    Id,
    /// Any JSON.
    Mixed,
    /// Fields grouped under a name; it is there as soon as one of them is.
    Group(&'static [Field]),
    /// A document with an id of its own, or nothing.
    SubDocument(&'static [Field]),
    /// A list of plain values, all like this (nameless) field.
    List(&'static Field),
    /// A list of documents with ids of their own.
    Documents(&'static [Field]),
}

/// What an absent field gets.
#[derive(Clone, Copy, Debug)]
enum Preset {
    Nothing,
    Text(&'static str),
    Number(i32),
    Flag(bool),
    Now,
}

/// A field of this name and kind.
const fn field(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        required: false,
        default: Preset::Nothing,
        allowed: &[],
        allows_null: false,
        min: None,
        max: None,
    }
}

const fn text(name: &'static str) -> Field {
    field(name, Kind::Text)
}

const fn number(name: &'static str) -> Field {
    field(name, Kind::Number)
}

const fn flag(name: &'static str) -> Field {
    field(name, Kind::Flag)
}

const fn date(name: &'static str) -> Field {
    field(name, Kind::Date)
}

const fn id(name: &'static str) -> Field {
    field(name, Kind::Id)
}

const fn mixed(name: &'static str) -> Field {
    field(name, Kind::Mixed)
}

const fn group(name: &'static str, fields: &'static [Field]) -> Field {
    field(name, Kind::Group(fields))
}

const fn texts(name: &'static str) -> Field {
    const TEXT: Field = text("");
    field(name, Kind::List(&TEXT))
}

const fn list(name: &'static str, element: &'static Field) -> Field {
    field(name, Kind::List(element))
}

const fn documents(name: &'static str, fields: &'static [Field]) -> Field {
    field(name, Kind::Documents(fields))
}

impl Field {
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn one_of(mut self, allowed: &'static [&'static str]) -> Self {
        self.allowed = allowed;
        self
    }

    const fn or_null(mut self) -> Self {
        self.allows_null = true;
        self
    }

    const fn or(mut self, default: &'static str) -> Self {
        self.default = Preset::Text(default);
        self
    }

    const fn or_number(mut self, default: i32) -> Self {
        self.default = Preset::Number(default);
        self
    }

    const fn or_flag(mut self, default: bool) -> Self {
        self.default = Preset::Flag(default);
        self
    }

    const fn or_now(mut self) -> Self {
        self.default = Preset::Now;
        self
    }

    const fn at_least(mut self, min: i32) -> Self {
        self.min = Some(min as f64);
        self
    }

    const fn at_most(mut self, max: i32) -> Self {
        self.max = Some(max as f64);
        self
    }
}

/// Every document has an id and a version.
const ID: Field = id("_id");
const VERSION: Field = number("__v");

/// What a dotted path leads to.
#[derive(Clone, Copy, Debug)]
enum Target {
    Field(&'static Field),
    /// An element of a list of documents.
    Element(&'static [Field]),
    /// Somewhere inside a field that holds anything.
    Anything,
}

impl Schema {
    /// Follows a dotted path; list positions (`0`, `$`, `$[]`) may be left out. `None` if there is no such path.
    fn resolve(&'static self, path: &str) -> Option<Target> {
        match path {
            "_id" => Some(Target::Field(&ID)),
            "__v" => Some(Target::Field(&VERSION)),
            _ => resolve(self.fields, path),
        }
    }
}

fn resolve(fields: &'static [Field], path: &str) -> Option<Target> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let field = fields.iter().find(|field| field.name == name)?;
    let Some(rest) = rest else {
        return Some(Target::Field(field));
    };
    match field.kind {
        Kind::Mixed => Some(Target::Anything),
        Kind::Group(fields) => resolve(fields, rest),
        Kind::SubDocument(fields) => resolve_in_document(fields, rest),
        Kind::Documents(fields) => match rest.split_once('.') {
            Some((position, rest)) if is_position(position) => resolve_in_document(fields, rest),
            None if is_position(rest) => Some(Target::Element(fields)),
            _ => resolve_in_document(fields, rest),
        },
        Kind::List(element) => match rest.split_once('.') {
            None if is_position(rest) => Some(Target::Field(element)),
            _ => matches!(element.kind, Kind::Mixed).then_some(Target::Anything),
        },
        Kind::Text | Kind::Number | Kind::Flag | Kind::Date | Kind::Id => None,
    }
}

fn resolve_in_document(fields: &'static [Field], path: &str) -> Option<Target> {
    if path == "_id" {
        return Some(Target::Field(&ID));
    }
    resolve(fields, path)
}

fn is_position(segment: &str) -> bool {
    segment.starts_with('$') || (!segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
