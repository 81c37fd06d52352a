//! A new document from a request's body.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document};

use super::validate::validate;
use super::{CastError, Field, ID, Kind, Preset, Problem, Schema, ValidationError, cast};
use crate::clock::Millis;
use crate::model::number;

impl Schema {
    /// Makes a document of `input`: known fields are cast, unknown ones dropped, defaults filled in, ids given to it and
    /// to the elements of its lists of documents; then it is validated. `_id` is kept if it is given.
    ///
    /// # Errors
    /// Everything that is wrong with the input, at once.
    pub fn build(&'static self, input: Document, now: Millis) -> Result<Document, ValidationError> {
        let (document, problems) = self.make(input, now);
        if !problems.is_empty() {
            return Err(ValidationError {
                model: Some(self.model),
                problems,
            });
        }
        Ok(document)
    }

    /// Like [`Schema::build`], for those who show the document together with what is wrong with it.
    pub fn make(&'static self, input: Document, now: Millis) -> (Document, Vec<Problem>) {
        let mut builder = Builder { now, problems: vec![] };
        let mut document = builder.document(self.fields, input, &Place::ROOT);
        let mut problems = builder.problems;
        problems.extend(validate(self.fields, &document, &problems));
        minimize(&mut document);
        document.insert("__v", 0);
        (document, problems)
    }
}

impl Schema {
    /// Elements for the list of documents at `list`, cast as far as they can be: fields that cannot be are left out, and
    /// so are elements that are no documents. For input that must not be lost because a part of it is wrong.
    pub fn salvage(&'static self, list: &str, items: Vec<Bson>, now: Millis) -> Vec<Document> {
        let fields = self.fields.iter().find_map(|field| match field.kind {
            Kind::Documents(fields) if field.name == list => Some(fields),
            _ => None,
        });
        let mut builder = Builder { now, problems: vec![] };
        items
            .into_iter()
            .filter_map(|item| match item {
                Bson::Document(input) => {
                    let mut document = builder.document(fields?, input, &Place::ROOT);
                    minimize(&mut document);
                    Some(document)
                }
                _ => None,
            })
            .collect()
    }
}

/// Where in a document a value stands: messages count from the innermost sub-document, keys from the root.
#[derive(Clone, Debug)]
pub(super) struct Place {
    document: String,
    group: String,
}

impl Place {
    pub(super) const ROOT: Self = Self {
        document: String::new(),
        group: String::new(),
    };

    /// What a message calls the field.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.group)
    }

    /// What the field is called from the root.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{}{name}", self.document, self.group)
    }

    pub(super) fn group(&self, name: &str) -> Self {
        Self {
            document: self.document.clone(),
            group: format!("{}{name}.", self.group),
        }
    }

    pub(super) fn sub_document(&self, name: &str) -> Self {
        Self {
            document: format!("{}.", self.key(name)),
            group: String::new(),
        }
    }

    pub(super) fn element(&self, name: &str, position: usize) -> Self {
        Self {
            document: format!("{}.{position}.", self.key(name)),
            group: String::new(),
        }
    }
}

/// Builds documents and collects what cannot be cast.
pub(super) struct Builder {
    pub(super) now: Millis,
    pub(super) problems: Vec<Problem>,
}

impl Builder {
    /// A document with its id. Lists of documents that are not given come last, as in the original.
    pub(super) fn document(&mut self, fields: &'static [Field], mut input: Document, place: &Place) -> Document {
        let given = input.remove("_id");
        let mut document = self.group(fields, input, place);
        let id = given.and_then(|id| self.plain(&ID, id, place));
        document.insert("_id", id.unwrap_or_else(|| Bson::ObjectId(ObjectId::new())));
        set_late_defaults(fields, &mut document, self.now);
        document
    }

    fn group(&mut self, fields: &'static [Field], mut input: Document, place: &Place) -> Document {
        let mut document = Document::new();
        for field in fields {
            let given = input.remove(field.name).filter(|value| *value != Bson::Undefined);
            if let Some(value) = given.and_then(|value| self.value(field, value, place)) {
                document.insert(field.name, value);
            } else if let Some(value) = early_default(field) {
                document.insert(field.name, value);
            }
        }
        document
    }

    /// The value as the field wants it; `None` leaves the field to its default.
    pub(super) fn value(&mut self, field: &'static Field, value: Bson, place: &Place) -> Option<Bson> {
        match field.kind {
            Kind::Group(fields) => match value {
                Bson::Document(input) => Some(Bson::Document(self.group(fields, input, &place.group(field.name)))),
                other if place.group.is_empty() || is_nothing(&other) => None,
                other => self.refuse(
                    CastError::new(field.kind, &other, &place.path(field.name)),
                    field,
                    place,
                ),
            },
            Kind::SubDocument(fields) => match value {
                Bson::Document(input) => {
                    let place = place.sub_document(field.name);
                    Some(Bson::Document(self.document(fields, input, &place)))
                }
                Bson::Null => Some(Bson::Null),
                other => self.refuse(
                    CastError::new(field.kind, &other, &place.path(field.name)),
                    field,
                    place,
                ),
            },
            Kind::List(element) => self.list(field, element, value, place),
            Kind::Documents(fields) => self.documents(field, fields, value, place),
            _ => self.plain(field, value, place),
        }
    }

    fn plain(&mut self, field: &Field, value: Bson, place: &Place) -> Option<Bson> {
        match cast::plain(field.kind, value, &place.path(field.name)) {
            Ok(value) => Some(value),
            Err(error) => self.refuse(error, field, place),
        }
    }

    fn list(&mut self, field: &Field, element: &Field, value: Bson, place: &Place) -> Option<Bson> {
        match cast_list(element, value, &place.path(field.name)) {
            Ok(list) => Some(list),
            Err((position, error)) => {
                let path = format!("{}.{position}", place.key(field.name));
                self.problems.push(Problem {
                    path,
                    message: error.to_string(),
                });
                None
            }
        }
    }

    fn documents(&mut self, field: &Field, fields: &'static [Field], value: Bson, place: &Place) -> Option<Bson> {
        let items = match value {
            Bson::Null => return Some(Bson::Null),
            Bson::Array(items) => items,
            one => vec![one],
        };
        let mut documents = Vec::with_capacity(items.len());
        for (position, item) in items.into_iter().enumerate() {
            documents.push(match item {
                Bson::Document(input) => {
                    let place = place.element(field.name, position);
                    Bson::Document(self.document(fields, input, &place))
                }
                nothing if is_nothing(&nothing) => Bson::Null,
                wrong => {
                    let error = CastError::new(field.kind, &wrong, &place.path(field.name));
                    return self.refuse(error, field, place);
                }
            });
        }
        Some(Bson::Array(documents))
    }

    fn refuse(&mut self, error: CastError, field: &Field, place: &Place) -> Option<Bson> {
        self.problems.push(Problem {
            path: place.key(field.name),
            message: error.to_string(),
        });
        None
    }
}

/// What JavaScript takes for false.
fn is_nothing(value: &Bson) -> bool {
    match value {
        Bson::Null | Bson::Undefined | Bson::Boolean(false) => true,
        Bson::String(text) => text.is_empty(),
        other => number::of_bson(other) == Some(0.0),
    }
}

/// Casts a list of plain values; a bare value becomes a list of one. The error comes with its position.
pub(super) fn cast_list(element: &Field, value: Bson, path: &str) -> Result<Bson, (usize, CastError)> {
    let mut items = match value {
        Bson::Null => return Ok(Bson::Null),
        Bson::Array(items) => items,
        one => vec![one],
    };
    for position in 0..items.len() {
        let item = std::mem::replace(&mut items[position], Bson::Null);
        match cast::plain(element.kind, item.clone(), path) {
            Ok(cast) => items[position] = cast,
            Err(error) => {
                items[position] = item;
                return Err((position, error.element(&items, &format!("{path}.{position}"))));
            }
        }
    }
    Ok(Bson::Array(items))
}

/// The default that stands where the field would.
fn early_default(field: &'static Field) -> Option<Bson> {
    match field.kind {
        Kind::Group(fields) => {
            let defaults: Document = fields
                .iter()
                .filter_map(|field| Some((field.name.to_owned(), early_default(field)?)))
                .collect();
            Some(Bson::Document(defaults)).filter(|_| !fields.is_empty())
        }
        Kind::List(_) => Some(Bson::Array(vec![])),
        _ => match field.default {
            Preset::Text(text) => Some(Bson::String(text.to_owned())),
            Preset::Number(n) => Some(Bson::Int32(n)),
            Preset::Flag(flag) => Some(Bson::Boolean(flag)),
            Preset::Nothing | Preset::Now => None,
        },
    }
}

/// Fills in what the original computes when everything else is there: empty lists of documents, and the time.
pub(super) fn set_late_defaults(fields: &'static [Field], document: &mut Document, now: Millis) {
    for field in fields {
        if let Kind::Group(fields) = field.kind {
            if let Some(Bson::Document(group)) = document.get_mut(field.name) {
                set_late_defaults(fields, group, now);
            }
            continue;
        }
        if document.contains_key(field.name) {
            continue;
        }
        if matches!(field.kind, Kind::Documents(_)) {
            document.insert(field.name, Bson::Array(vec![]));
        } else if matches!(field.default, Preset::Now) {
            document.insert(field.name, DateTime::from_millis(now));
        }
    }
}

/// Fills in every default of an absent field.
pub(super) fn set_defaults(fields: &'static [Field], document: &mut Document, excluded: &[&str], now: Millis) {
    for field in fields.iter().filter(|field| !excluded.contains(&field.name)) {
        match (field.kind, document.get_mut(field.name)) {
            (Kind::Group(fields), Some(Bson::Document(group))) => set_defaults(fields, group, &[], now),
            (_, Some(_)) => {}
            (Kind::Group(fields), None) => {
                let mut group = Document::new();
                set_defaults(fields, &mut group, &[], now);
                document.insert(field.name, group);
            }
            (Kind::Documents(_), None) => {
                document.insert(field.name, Bson::Array(vec![]));
            }
            (_, None) => {
                let default = match field.default {
                    Preset::Now => Some(Bson::DateTime(DateTime::from_millis(now))),
                    _ => early_default(field),
                };
                if let Some(default) = default {
                    document.insert(field.name, default);
                }
            }
        }
    }
}

/// Removes objects without content, as the original does before it stores or shows a document. Elements of lists stay.
pub(super) fn minimize(document: &mut Document) {
    let empty: Vec<String> = document
        .iter_mut()
        .filter_map(|(key, value)| {
            minimize_value(value);
            matches!(value, Bson::Document(inner) if inner.is_empty()).then(|| key.clone())
        })
        .collect();
    for key in empty {
        document.remove(key);
    }
}

fn minimize_value(value: &mut Bson) {
    match value {
        Bson::Document(inner) => minimize(inner),
        Bson::Array(items) => items.iter_mut().for_each(minimize_value),
        _ => {}
    }
}
