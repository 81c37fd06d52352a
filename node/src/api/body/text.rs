//! JSON text with a bound on the number of values.
//!
//! A body of fifty megabytes can hold twenty-five million zeros, which take a hundred times their text in memory.
//! Nesting is bounded by the parser itself.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Most values (scalars, arrays, objects) in one body.
const MOST_VALUES: usize = 2_000_000;

/// Reads an object or array.
///
/// # Errors
/// The text is not JSON, is a bare scalar, is nested deeper than 128 levels or has more than two million values.
pub(super) fn parse(text: &str) -> Result<Value, serde_json::Error> {
    parse_bounded(text, MOST_VALUES)
}

fn parse_bounded(text: &str, most: usize) -> Result<Value, serde_json::Error> {
    if !text.trim_start().starts_with(['{', '[']) {
        return Err(serde_json::Error::custom("neither an object nor an array"));
    }
    let left = Cell::new(most);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Counted(&left).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Counted<'c>(&'c Cell<usize>);

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self
            .0
            .get()
            .checked_sub(1)
            .ok_or_else(|| D::Error::custom("too many values"))?;
        self.0.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are() {
        let text = r#"{"b":1,"a":[true,null,-2,1.5,"x"],"c":{"d":18446744073709551615}}"#;
        assert_eq!(parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn too_many_values_are_refused() {
        let text = format!("[{}0]", "0,".repeat(99));
        assert!(parse_bounded(&text, 101).is_ok());
        assert!(parse_bounded(&text, 100).is_err());
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_crash() {
        let text = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&text).is_err());
    }

    #[test]
    fn text_after_the_value_is_refused() {
        assert!(parse("{} {}").is_err());
    }
}
