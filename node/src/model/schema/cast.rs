//! Turning a value into one of its field's type.

use bson::{Bson, DateTime};

use super::{CastError, Kind};
use crate::model::{date, id, number};

/// Beyond these years, digits alone are milliseconds.
const LAST_YEAR: f64 = 275_761.0;
const FIRST_YEAR: f64 = -271_820.0;

/// Casts a plain value; lists, groups and documents are not its business and pass as they are.
///
/// # Errors
/// The value is not of that type and has no obvious counterpart there.
pub(super) fn plain(kind: Kind, value: Bson, path: &str) -> Result<Bson, CastError> {
    if matches!(value, Bson::Null | Bson::Undefined) {
        return Ok(Bson::Null);
    }
    let cast = match kind {
        Kind::Text => text(&value),
        Kind::Number => numeric(&value),
        Kind::Flag => flag(&value),
        Kind::Date => instant(&value),
        Kind::Id => object_id(&value),
        _ => return Ok(value),
    };
    match cast {
        // Most texts are long and right already: they are not copied.
        Some(Cast::AsItIs) => Ok(value),
        Some(Cast::To(cast)) => Ok(cast),
        None => Err(CastError::new(kind, &value, path)),
    }
}

enum Cast {
    AsItIs,
    To(Bson),
}

fn text(value: &Bson) -> Option<Cast> {
    Some(Cast::To(Bson::String(match value {
        Bson::String(_) => return Some(Cast::AsItIs),
        Bson::Boolean(flag) => flag.to_string(),
        Bson::ObjectId(id) => id.to_hex(),
        Bson::DateTime(instant) => date::to_iso(instant.timestamp_millis())?,
        Bson::Document(document) => document.get_str("_id").ok()?.to_owned(),
        other => number::to_text(number::of_bson(other)?),
    })))
}

fn numeric(value: &Bson) -> Option<Cast> {
    let cast = match value {
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => return Some(Cast::AsItIs),
        Bson::String(text) if text.is_empty() => Bson::Null,
        Bson::String(text) => number::to_bson(number::from_text(text)?),
        Bson::Boolean(flag) => Bson::Int32(i32::from(*flag)),
        Bson::DateTime(instant) => number::to_bson(instant.timestamp_millis() as f64),
        _ => return None,
    };
    Some(Cast::To(cast))
}

fn flag(value: &Bson) -> Option<Cast> {
    let flag = match value {
        Bson::Boolean(_) => return Some(Cast::AsItIs),
        Bson::String(text) => match text.as_str() {
            "true" | "1" | "yes" => true,
            "false" | "0" | "no" => false,
            _ => return None,
        },
        other => match number::of_bson(other)? {
            1.0 => true,
            0.0 => false,
            _ => return None,
        },
    };
    Some(Cast::To(Bson::Boolean(flag)))
}

fn instant(value: &Bson) -> Option<Cast> {
    let millis = match value {
        Bson::DateTime(_) => return Some(Cast::AsItIs),
        Bson::String(text) if text.is_empty() => return Some(Cast::To(Bson::Null)),
        Bson::String(text) => match number::from_text(text) {
            Some(millis) if !(FIRST_YEAR..LAST_YEAR).contains(&millis) => of_number(millis)?,
            _ => date::parse(text)?,
        },
        other => of_number(number::of_bson(other)?)?,
    };
    Some(Cast::To(Bson::DateTime(DateTime::from_millis(millis))))
}

fn of_number(millis: f64) -> Option<i64> {
    (millis.abs() <= 8.64e15).then_some(millis as i64)
}

fn object_id(value: &Bson) -> Option<Cast> {
    let id = match value {
        Bson::ObjectId(_) => return Some(Cast::AsItIs),
        Bson::String(text) => id::parse(text).ok()?,
        Bson::Document(document) => match document.get("_id")? {
            Bson::ObjectId(id) => *id,
            Bson::String(text) => id::parse(text).ok()?,
            _ => return None,
        },
        // Twelve digits make an id like any other twelve characters.
        other => id::parse(&number::to_text(number::of_bson(other)?)).ok()?,
    };
    Some(Cast::To(Bson::ObjectId(id)))
}
