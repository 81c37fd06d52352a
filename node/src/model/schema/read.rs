//! A stored document as it is shown.

use bson::oid::ObjectId;
use bson::{Bson, Document};

use super::build::{minimize, set_defaults};
use super::{Field, ID, Kind, Schema, VERSION, cast};
use crate::clock::Millis;

impl Schema {
    /// The document with every default filled in, values of its types, and fields unknown here as they are. Values that
    /// cannot be cast are left out, objects without content too.
    ///
    /// `excluded` names fields that were left out on purpose: they get no default.
    pub fn show(&'static self, stored: Document, excluded: &[&str], now: Millis) -> Document {
        let mut document = self.init(stored, excluded, now);
        minimize(&mut document);
        document
    }

    /// [`Schema::show`] with its empty objects: what the rules of a merge work on.
    pub(super) fn init(&'static self, mut stored: Document, excluded: &[&str], now: Millis) -> Document {
        let id = stored.remove("_id");
        let mut document = Document::new();
        if let Some(id) = id {
            document.insert("_id", cast::plain(ID.kind, id.clone(), "_id").unwrap_or(id));
        }
        let version = stored.remove("__v");
        document.extend(read_fields(self.fields, stored, now));
        set_defaults(self.fields, &mut document, excluded, now);
        if let Some(version) = version.and_then(|version| cast::plain(VERSION.kind, version, "__v").ok()) {
            document.insert("__v", version);
        }
        document
    }
}

fn read_fields(fields: &'static [Field], stored: Document, now: Millis) -> Document {
    stored
        .into_iter()
        .filter(|(_, value)| *value != Bson::Undefined)
        .filter_map(|(key, value)| {
            let value = match fields.iter().find(|field| field.name == key) {
                Some(field) => read_value(field, value, now)?,
                None => value,
            };
            Some((key, value))
        })
        .collect()
}

fn read_value(field: &'static Field, value: Bson, now: Millis) -> Option<Bson> {
    if value == Bson::Null {
        return Some(value);
    }
    match field.kind {
        Kind::Group(fields) => match value {
            Bson::Document(group) => Some(Bson::Document(read_fields(fields, group, now))),
            other => Some(other),
        },
        Kind::SubDocument(fields) => match value {
            Bson::Document(inner) => Some(Bson::Document(read_document(fields, inner, now))),
            _ => None,
        },
        Kind::Documents(fields) => {
            let items = match value {
                Bson::Array(items) => items,
                one => vec![one],
            };
            let documents = items.into_iter().filter_map(|item| match item {
                Bson::Document(inner) => Some(Bson::Document(read_document(fields, inner, now))),
                Bson::Null => Some(Bson::Null),
                _ => None,
            });
            Some(Bson::Array(documents.collect()))
        }
        Kind::List(element) => {
            let items = match value {
                Bson::Array(items) => items,
                one => vec![one],
            };
            let cast = items
                .into_iter()
                .filter_map(|item| cast::plain(element.kind, item, "").ok());
            Some(Bson::Array(cast.collect()))
        }
        kind => cast::plain(kind, value, "").ok(),
    }
}

/// A sub-document that was stored without an id gets one, a different one each time.
fn read_document(fields: &'static [Field], stored: Document, now: Millis) -> Document {
    let mut document = read_fields(fields, stored, now);
    set_defaults(fields, &mut document, &[], now);
    match document.get("_id") {
        Some(Bson::String(text)) => {
            if let Ok(id) = crate::model::id::parse(text) {
                document.insert("_id", id);
            }
        }
        Some(_) => {}
        None => {
            document.insert("_id", ObjectId::new());
        }
    }
    document
}
