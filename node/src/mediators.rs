//! What a mediator may say of itself, and what becomes of its settings.
//!
//! Mediators describe their settings (`configDefs`); consoles set them (`config`), and never get to see a password. The
//! rules and their sentences are OpenHIM's. Nothing here reads or writes the store.

mod version;

use bson::{Bson, Document};

pub use version::is_newer;
use version::parse as parse_version;

/// What stands for a password.
const MASK: &str = "**********";

/// What is wrong with a mediator or its settings, as a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

fn invalid(sentence: impl Into<String>) -> Result<(), Invalid> {
    Err(Invalid(sentence.into()))
}

/// Checks what a mediator sends to register, before anything is known of it.
///
/// # Errors
/// The first rule it breaks.
pub fn check_registration(mediator: &Document) -> Result<(), Invalid> {
    if mediator.get_str("urn").unwrap_or_default().is_empty() {
        return invalid("URN is required");
    }
    if mediator.get_str("version").ok().and_then(parse_version).is_none() {
        return invalid("Version is required. Must be in SemVer form x.y.z");
    }
    let definitions = documents(mediator.get("configDefs"));
    for definition in &definitions {
        check_definition(definition)?;
    }
    match mediator.get("config") {
        Some(config) if mediator.contains_key("configDefs") && *config != Bson::Null => {
            check_config(&definitions, config)
        }
        _ => Ok(()),
    }
}

/// Checks what a mediator that is not known yet has to have besides.
///
/// # Errors
/// It has no endpoint.
pub fn check_first_registration(mediator: &Document) -> Result<(), Invalid> {
    match mediator.get("endpoints") {
        Some(Bson::Array(endpoints)) if !endpoints.is_empty() => Ok(()),
        _ => invalid("At least 1 endpoint is required"),
    }
}

fn check_definition(definition: &Document) -> Result<(), Invalid> {
    let param = text_of(definition.get("param"));
    match definition.get_str("type") {
        Ok("struct") => {
            if definition
                .get("template")
                .is_none_or(|template| *template == Bson::Null)
            {
                return invalid(format!("Must specify a template for struct param '{param}'"));
            }
            for item in documents(definition.get("template")) {
                let has = |field| item.get_str(field).is_ok_and(|text| !text.is_empty());
                if !has("param") {
                    return invalid(format!(
                        "Must specify field 'param' in template definition for param '{param}'"
                    ));
                }
                if !has("type") {
                    return invalid(format!(
                        "Must specify field 'type' in template definition for param '{param}'"
                    ));
                }
                if item.get_str("type").ok() == Some("struct") {
                    return invalid(format!(
                        "May not recursively specify 'struct' in template definitions (param '{param}')"
                    ));
                }
            }
            Ok(())
        }
        Ok("option") => match definition.get("values") {
            Some(Bson::Array(values)) if values.is_empty() => {
                invalid(format!("Must specify a values array for option param '{param}'"))
            }
            Some(Bson::Array(_)) => Ok(()),
            _ => invalid(format!(
                "Expected field 'values' to be an array (option param '{param}')"
            )),
        },
        _ => Ok(()),
    }
}

/// Checks settings against their definitions. Settings that are defined may be missing.
///
/// # Errors
/// The first rule that is broken.
pub fn check_config(definitions: &[Document], config: &Bson) -> Result<(), Invalid> {
    let Bson::Document(config) = config else {
        return Ok(());
    };
    for (param, value) in config {
        let mut defined = definitions
            .iter()
            .filter(|definition| definition.get_str("param").ok() == Some(param.as_str()))
            .peekable();
        if defined.peek().is_none() {
            return invalid(format!("No config definition found for parameter {param}"));
        }
        for definition in defined {
            check_setting(param, definition, value)?;
        }
    }
    Ok(())
}

fn check_setting(param: &str, definition: &Document, value: &Bson) -> Result<(), Invalid> {
    if !is_true(definition.get("array")) {
        return check_value(param, definition, value);
    }
    let Bson::Array(items) = value else {
        let kind = text_of(definition.get("type"));
        return invalid(format!("Expected config param {param} to be an array of type {kind}"));
    };
    for (position, item) in items.iter().enumerate() {
        check_value(&format!("{param}[{position}]"), definition, item)?;
    }
    Ok(())
}

fn check_value(param: &str, definition: &Document, value: &Bson) -> Result<(), Invalid> {
    let expect = |is_right: bool, what: &str| match is_right {
        true => Ok(()),
        false => invalid(format!("Expected config param {param} to be {what}")),
    };
    let is_text = matches!(value, Bson::String(_));
    // Lists and null count as objects, as in JavaScript.
    let is_object = matches!(value, Bson::Document(_) | Bson::Array(_) | Bson::Null);
    match definition.get_str("type").unwrap_or_default() {
        "string" => expect(is_text, "a string."),
        "bigstring" => expect(is_text, "a large string."),
        "password" => expect(is_text, "a string representing a password."),
        "number" => expect(crate::model::number::of_bson(value).is_some(), "a number."),
        "bool" => expect(matches!(value, Bson::Boolean(_)), "a boolean."),
        "option" => {
            let values = definition.get_array("values").map_or(&[][..], Vec::as_slice);
            let names: Vec<String> = values.iter().map(|value| text_of(Some(value))).collect();
            expect(values.contains(value), &format!("one of {}", names.join(",")))
        }
        "map" => {
            expect(is_object, "an object.")?;
            expect(members(value).all(|(_, member)| matches!(member, Bson::String(_))), "")
                .or_else(|_| invalid(format!("Expected config param {param} to only contain string values.")))
        }
        "struct" => {
            expect(is_object, "an object.")?;
            let template = documents(definition.get("template"));
            let is_defined = |field: &str| template.iter().any(|item| item.get_str("param").ok() == Some(field));
            match members(value).find(|(field, _)| !is_defined(field)) {
                Some((field, _)) => invalid(format!(
                    "Field {field} is not defined in template definition for config param {param}."
                )),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Puts the mask in the place of every password of a mediator's settings.
pub fn mask_passwords(mediator: &mut Document) {
    let definitions = documents(mediator.get("configDefs"));
    if let Some(Bson::Document(config)) = mediator.get_mut("config") {
        mask(&definitions, config);
    }
}

fn mask(definitions: &[Document], config: &mut Document) {
    for definition in definitions {
        let Some(value) = definition.get_str("param").ok().and_then(|param| config.get_mut(param)) else {
            continue;
        };
        match (definition.get_str("type"), value) {
            (Ok("password"), Bson::Array(items)) if is_true(definition.get("array")) => items.fill(MASK.into()),
            (Ok("password"), value) if !is_falsy(value) => *value = MASK.into(),
            (Ok("struct"), Bson::Document(inner)) => mask(&documents(definition.get("template")), inner),
            (Ok("struct"), Bson::Array(items)) => {
                for inner in items.iter_mut().filter_map(Bson::as_document_mut) {
                    mask(&documents(definition.get("template")), inner);
                }
            }
            _ => {}
        }
    }
}

/// Puts the stored passwords in the place of the masks that a console sends back.
pub fn restore_passwords(definitions: &[Document], config: &mut Document, stored: &Document) {
    for definition in definitions {
        let Ok(param) = definition.get_str("param") else {
            continue;
        };
        let (Some(value), Some(stored)) = (config.get_mut(param), stored.get(param)) else {
            continue;
        };
        match (definition.get_str("type"), value, stored) {
            (Ok("password"), Bson::Array(items), Bson::Array(stored)) => {
                for (item, stored) in items.iter_mut().zip(stored) {
                    restore(item, stored);
                }
            }
            (Ok("password"), value, stored) => restore(value, stored),
            (Ok("struct"), Bson::Document(inner), Bson::Document(stored)) => {
                restore_passwords(&documents(definition.get("template")), inner, stored);
            }
            (Ok("struct"), Bson::Array(items), Bson::Array(stored)) => {
                let template = documents(definition.get("template"));
                for (item, stored) in items.iter_mut().zip(stored) {
                    if let (Bson::Document(inner), Bson::Document(stored)) = (item, stored) {
                        restore_passwords(&template, inner, stored);
                    }
                }
            }
            _ => {}
        }
    }
}

fn restore(value: &mut Bson, stored: &Bson) {
    if value.as_str() == Some(MASK) && !is_falsy(stored) {
        *value = stored.clone();
    }
}

/// Keeps the settings that somebody has made when a newer version brings its own.
pub fn keep_settings(config: &mut Document, stored: &Document) {
    for (param, value) in config.iter_mut() {
        if let Some(kept) = stored.get(param).filter(|kept| **kept != Bson::Null) {
            *value = kept.clone();
        }
    }
}

/// The documents of a list.
pub fn documents(list: Option<&Bson>) -> Vec<Document> {
    match list {
        Some(Bson::Array(items)) => items.iter().filter_map(|item| item.as_document().cloned()).collect(),
        Some(Bson::Document(one)) => vec![one.clone()],
        _ => vec![],
    }
}

/// The members of an object or a list, by name or position.
fn members(value: &Bson) -> Box<dyn Iterator<Item = (String, &Bson)> + '_> {
    match value {
        Bson::Document(fields) => Box::new(fields.iter().map(|(name, value)| (name.clone(), value))),
        Bson::Array(items) => Box::new(items.iter().enumerate().map(|(at, value)| (at.to_string(), value))),
        _ => Box::new(std::iter::empty()),
    }
}

fn is_true(value: Option<&Bson>) -> bool {
    value.is_some_and(|value| !is_falsy(value))
}

fn is_falsy(value: &Bson) -> bool {
    match value {
        Bson::Null | Bson::Undefined | Bson::Boolean(false) => true,
        Bson::String(text) => text.is_empty(),
        other => crate::model::number::of_bson(other) == Some(0.0),
    }
}

/// A value inside a sentence.
fn text_of(value: Option<&Bson>) -> String {
    match value {
        Some(Bson::String(text)) => text.clone(),
        Some(Bson::Null) => "null".to_owned(),
        None | Some(Bson::Undefined) => "undefined".to_owned(),
        Some(other) => {
            crate::model::number::of_bson(other).map_or_else(|| other.to_string(), crate::model::number::to_text)
        }
    }
}

#[cfg(test)]
mod tests;
