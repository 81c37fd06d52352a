//! How much of a document is handed out.

use bson::raw::{RawArray, RawArrayBuf};
use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf};

use super::bad;
use crate::store::Result;

/// A compiled projection document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Projection {
    kind: Kind,
    fields: Fields,
    keep_id: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// Whole documents.
    #[default]
    Everything,
    /// Only the fields named.
    Only,
    /// All but the fields named.
    Without,
}

/// A tree of field names; a leaf names the whole field.
#[derive(Clone, Debug, Default, PartialEq)]
struct Fields(Vec<(Box<str>, Fields)>);

impl Projection {
    /// Reads a projection document: only inclusions (`1`) or only exclusions (`0`), `_id` apart.
    ///
    /// # Errors
    /// Both are mixed, a path is in another's way, or a value is an expression.
    pub fn compile(projection: &Document) -> Result<Self> {
        let mut kind = None;
        let mut keep_id = None;
        let mut fields = Fields::default();
        for (path, value) in projection {
            let included = inclusion(path, value)?;
            if path == "_id" {
                keep_id = Some(included);
                continue;
            }
            let this = if included { Kind::Only } else { Kind::Without };
            if *kind.get_or_insert(this) != this {
                return Err(bad(format!(
                    "Cannot do inclusion and exclusion of '{path}' in one projection"
                )));
            }
            fields.add(path)?;
        }
        Ok(Self {
            kind: kind.unwrap_or(match keep_id {
                Some(true) => Kind::Only,
                Some(false) => Kind::Without,
                None => Kind::Everything,
            }),
            fields,
            keep_id: keep_id.unwrap_or(true),
        })
    }

    /// True if documents are handed out whole.
    pub fn is_everything(&self) -> bool {
        self.kind == Kind::Everything
    }

    /// The part of `document` that is asked for, in its own order.
    pub fn apply(&self, document: &RawDocument) -> RawDocumentBuf {
        let mut out = RawDocumentBuf::new();
        for (name, value) in document.iter().flatten() {
            let kept = match (name.as_str(), self.kind) {
                ("_id", _) => self.keep_id.then(|| value.into()),
                (_, Kind::Everything) => Some(value.into()),
                (name, Kind::Only) => self.fields.only(name, value),
                (name, Kind::Without) => self.fields.without(name, value),
            };
            if let Some(kept) = kept {
                kept.append_to(&mut out, name);
            }
        }
        out
    }
}

fn inclusion(path: &str, value: &Bson) -> Result<bool> {
    if path.is_empty() || path.starts_with('$') || path.contains(".$") {
        return Err(bad(format!("the projection of '{path}' is not supported")));
    }
    match value {
        Bson::Boolean(value) => Ok(*value),
        Bson::Int32(value) => Ok(*value != 0),
        Bson::Int64(value) => Ok(*value != 0),
        Bson::Double(value) => Ok(*value != 0.0),
        _ => Err(bad(format!("the projection of '{path}' must be 0 or 1"))),
    }
}

impl Fields {
    fn add(&mut self, path: &str) -> Result<()> {
        let (name, rest) = path
            .split_once('.')
            .map_or((path, None), |(name, rest)| (name, Some(rest)));
        let known = self.0.iter().position(|(known, _)| **known == *name);
        match (known, rest) {
            (None, rest) => {
                let mut inner = Self::default();
                if let Some(rest) = rest {
                    inner.add(rest)?;
                }
                self.0.push((name.into(), inner));
                Ok(())
            }
            (Some(place), Some(rest)) if !self.0[place].1.0.is_empty() => self.0[place].1.add(rest),
            _ => Err(bad(format!("Path collision at {path}"))),
        }
    }

    fn get(&self, name: &str) -> Option<&Self> {
        self.0
            .iter()
            .find(|(known, _)| **known == *name)
            .map(|(_, inner)| inner)
    }

    fn is_leaf(&self) -> bool {
        self.0.is_empty()
    }

    fn only<'d>(&self, name: &str, value: RawBsonRef<'d>) -> Option<Kept<'d>> {
        let inner = self.get(name)?;
        if inner.is_leaf() {
            return Some(value.into());
        }
        inner.only_inside(value)
    }

    fn only_inside<'d>(&self, value: RawBsonRef<'d>) -> Option<Kept<'d>> {
        match value {
            RawBsonRef::Document(document) => {
                Some(Kept::Document(rebuild(document, |name, value| self.only(name, value))))
            }
            RawBsonRef::Array(array) => Some(Kept::Array(rebuild_array(array, |value| self.only_inside(value)))),
            _ => None,
        }
    }

    fn without<'d>(&self, name: &str, value: RawBsonRef<'d>) -> Option<Kept<'d>> {
        match self.get(name) {
            None => Some(value.into()),
            Some(inner) if inner.is_leaf() => None,
            Some(inner) => Some(inner.without_inside(value)),
        }
    }

    fn without_inside<'d>(&self, value: RawBsonRef<'d>) -> Kept<'d> {
        match value {
            RawBsonRef::Document(document) => {
                Kept::Document(rebuild(document, |name, value| self.without(name, value)))
            }
            RawBsonRef::Array(array) => Kept::Array(rebuild_array(array, |value| Some(self.without_inside(value)))),
            other => other.into(),
        }
    }
}

/// A value as it is, or a part of one.
enum Kept<'d> {
    Value(RawBsonRef<'d>),
    Document(RawDocumentBuf),
    Array(RawArrayBuf),
}

impl<'d> From<RawBsonRef<'d>> for Kept<'d> {
    fn from(value: RawBsonRef<'d>) -> Self {
        Self::Value(value)
    }
}

impl Kept<'_> {
    fn append_to(self, out: &mut RawDocumentBuf, name: &bson::raw::CStr) {
        match self {
            Self::Value(value) => out.append(name, value),
            Self::Document(document) => out.append(name, &document),
            Self::Array(array) => out.append(name, &array),
        }
    }
}

fn rebuild<'d>(
    document: &'d RawDocument,
    mut part: impl FnMut(&str, RawBsonRef<'d>) -> Option<Kept<'d>>,
) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    for (name, value) in document.iter().flatten() {
        if let Some(kept) = part(name.as_str(), value) {
            kept.append_to(&mut out, name);
        }
    }
    out
}

fn rebuild_array<'d>(array: &'d RawArray, mut part: impl FnMut(RawBsonRef<'d>) -> Option<Kept<'d>>) -> RawArrayBuf {
    let mut out = RawArrayBuf::new();
    for value in array.into_iter().flatten() {
        match part(value) {
            Some(Kept::Value(value)) => out.push(value),
            Some(Kept::Document(document)) => out.push(document),
            Some(Kept::Array(array)) => out.push(array),
            None => {}
        }
    }
    out
}
