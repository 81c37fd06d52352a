//! The rules that a document has to keep besides its types.

use bson::{Bson, Document};

use super::build::Place;
use super::{Field, Kind, Problem};
use crate::model::number;

/// What is wrong with a document; paths that could not be cast (`known`) are not mentioned again. Absent required fields
/// come first, the last of the schema before the others, then all else in the schema's order, and elements of lists of
/// plain values at the end.
pub(super) fn validate(fields: &[Field], document: &Document, known: &[Problem]) -> Vec<Problem> {
    let mut validator = Validator {
        known,
        absent: vec![],
        wrong: vec![],
        elements: vec![],
    };
    validator.fields(fields, Some(document), &Place::ROOT);
    validator.finish()
}

/// What is wrong with one value that is to be put at this path.
pub(super) fn validate_value(field: &Field, value: &Bson, path: &str) -> Option<Problem> {
    problem(field, value, path).map(|message| Problem {
        path: path.to_owned(),
        message,
    })
}

struct Validator<'a> {
    known: &'a [Problem],
    absent: Vec<Problem>,
    wrong: Vec<Problem>,
    elements: Vec<Problem>,
}

impl Validator<'_> {
    fn finish(mut self) -> Vec<Problem> {
        self.absent.reverse();
        self.absent.append(&mut self.wrong);
        self.absent.append(&mut self.elements);
        self.absent
    }

    fn fields(&mut self, fields: &[Field], document: Option<&Document>, place: &Place) {
        for field in fields {
            let value = document.and_then(|document| document.get(field.name));
            match field.kind {
                Kind::Group(fields) => {
                    let group = value.and_then(Bson::as_document);
                    self.fields(fields, group, &place.group(field.name));
                }
                Kind::SubDocument(fields) => {
                    if let Some(Bson::Document(inner)) = value {
                        self.document(fields, inner, &place.sub_document(field.name));
                    }
                }
                Kind::Documents(fields) => {
                    for (position, item) in items(value).iter().enumerate() {
                        if let Bson::Document(inner) = item {
                            self.document(fields, inner, &place.element(field.name, position));
                        }
                    }
                }
                Kind::List(element) => {
                    for (position, item) in items(value).iter().enumerate() {
                        let name = format!("{}.{position}", field.name);
                        if let Some(message) = problem(element, item, &place.path(&name)) {
                            self.elements.push(Problem {
                                path: place.key(&name),
                                message,
                            });
                        }
                    }
                }
                _ => match value {
                    Some(value) => self.present(field, value, place),
                    None => self.absent(field, place),
                },
            }
        }
    }

    fn document(&mut self, fields: &[Field], document: &Document, place: &Place) {
        let mut inner = Validator {
            known: self.known,
            absent: vec![],
            wrong: vec![],
            elements: vec![],
        };
        inner.fields(fields, Some(document), place);
        self.wrong.extend(inner.finish());
    }

    fn present(&mut self, field: &Field, value: &Bson, place: &Place) {
        if let Some(message) = problem(field, value, &place.path(field.name)) {
            self.wrong.push(Problem {
                path: place.key(field.name),
                message,
            });
        }
    }

    fn absent(&mut self, field: &Field, place: &Place) {
        let key = place.key(field.name);
        if field.required && !self.known.iter().any(|problem| problem.path == key) {
            self.absent.push(Problem {
                path: key,
                message: required(&place.path(field.name)),
            });
        }
    }
}

fn items(value: Option<&Bson>) -> &[Bson] {
    value.and_then(Bson::as_array).map_or(&[], Vec::as_slice)
}

fn required(path: &str) -> String {
    format!("Path `{path}` is required.")
}

fn problem(field: &Field, value: &Bson, path: &str) -> Option<String> {
    let is_nothing = matches!(value, Bson::Null) || matches!(value, Bson::String(text) if text.is_empty());
    if field.required && is_nothing {
        return Some(required(path));
    }
    if !field.allowed.is_empty() {
        let shown = match value {
            Bson::String(text) if field.allowed.contains(&text.as_str()) => return None,
            Bson::Null if field.allows_null => return None,
            Bson::String(text) => text,
            _ => "null",
        };
        return Some(format!("`{shown}` is not a valid enum value for path `{path}`."));
    }
    let n = number::of_bson(value)?;
    let shown = || number::to_text(n);
    match (field.min, field.max) {
        (Some(min), _) if n < min => Some(format!(
            "Path `{path}` ({}) is less than minimum allowed value ({}).",
            shown(),
            number::to_text(min)
        )),
        (_, Some(max)) if n > max => Some(format!(
            "Path `{path}` ({}) is more than maximum allowed value ({}).",
            shown(),
            number::to_text(max)
        )),
        _ => None,
    }
}
