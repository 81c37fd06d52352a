//! Stored documents as JSON: ids as hexadecimal digits, dates in ISO form, numbers as JavaScript prints them.

use bson::{Bson, Document};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A stored value that serialises as clients expect it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json<'a>(pub(super) &'a Bson);

/// A stored document that serialises as clients expect it.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonDocument<'a>(pub(super) &'a Document);

impl Serialize for JsonDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            if !matches!(value, Bson::Undefined) {
                map.serialize_entry(key, &Json(value))?;
            }
        }
        map.end()
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Bson::Document(document) => JsonDocument(document).serialize(serializer),
            Bson::Array(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&Json(item))?;
                }
                list.end()
            }
            Bson::String(text) | Bson::Symbol(text) => serializer.serialize_str(text),
            Bson::ObjectId(id) => serializer.serialize_str(&id.to_hex()),
            Bson::DateTime(at) => serializer.serialize_str(&crate::clock::iso(at.timestamp_millis())),
            Bson::Boolean(flag) => serializer.serialize_bool(*flag),
            Bson::Int32(n) => serializer.serialize_i32(*n),
            Bson::Int64(n) => serializer.serialize_i64(*n),
            Bson::Double(n) if n.fract() == 0.0 && n.abs() < 9.0e15 => serializer.serialize_i64(*n as i64),
            Bson::Double(n) if n.is_finite() => serializer.serialize_f64(*n),
            Bson::Double(_) | Bson::Null | Bson::Undefined => serializer.serialize_unit(),
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use bson::{DateTime, doc};

    use super::*;

    #[test]
    fn values_look_as_javascript_prints_them() {
        let document = doc! {
            "_id": ObjectId::from_bytes([1; 12]), "at": DateTime::from_millis(1_402_312_646_009), "n": 3.0, "f": 1.5,
            "big": 1_795_354_748_539_f64, "nan": f64::NAN, "null": null, "list": [1, {"a": true}], "none": Bson::Undefined,
        };
        assert_eq!(
            serde_json::to_string(&JsonDocument(&document)).unwrap(),
            r#"{"_id":"010101010101010101010101","at":"2014-06-09T11:17:26.009Z","n":3,"f":1.5,"big":1795354748539,"nan":null,"null":null,"list":[1,{"a":true}]}"#
        );
    }
}
