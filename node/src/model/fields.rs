//! Reading fields of stored documents, whoever wrote them.
//!
//! A number may be stored as any of BSON's three, a list may be missing or a bare value, `null` is the same as absent.
//! What cannot be read as the wanted type is `None`: the caller decides whether that matters.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document};

use super::{date, id};

/// A stored (sub-)document and the ways to read its fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a Document);

impl<'a> Fields<'a> {
    /// The value, unless it is `null` or `undefined`.
    pub(super) fn value(self, key: &str) -> Option<&'a Bson> {
        self.0
            .get(key)
            .filter(|value| !matches!(value, Bson::Null | Bson::Undefined))
    }

    pub(super) fn text(self, key: &str) -> Option<String> {
        self.value(key).and_then(text)
    }

    pub(super) fn number(self, key: &str) -> Option<f64> {
        self.value(key).and_then(number)
    }

    /// A number that is whole and not negative.
    pub(super) fn count(self, key: &str) -> Option<u64> {
        self.number(key)
            .filter(|n| *n >= 0.0 && n.fract() == 0.0 && *n < 9.0e15)
            .map(|n| n as u64)
    }

    pub(super) fn port(self, key: &str) -> Option<u16> {
        self.count(key).and_then(|port| u16::try_from(port).ok())
    }

    pub(super) fn flag(self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Bson::Boolean(flag) => Some(*flag),
            Bson::String(text) => match text.as_str() {
                "true" | "1" | "yes" => Some(true),
                "false" | "0" | "no" => Some(false),
                _ => None,
            },
            other => match number(other)? {
                1.0 => Some(true),
                0.0 => Some(false),
                _ => None,
            },
        }
    }

    pub(super) fn date(self, key: &str) -> Option<DateTime> {
        match self.value(key)? {
            Bson::DateTime(date) => Some(*date),
            Bson::String(text) => date::parse(text).map(DateTime::from_millis),
            other => number(other).map(|millis| DateTime::from_millis(millis as i64)),
        }
    }

    pub(super) fn id(self, key: &str) -> Option<ObjectId> {
        self.value(key).and_then(object_id)
    }

    pub(super) fn document(self, key: &str) -> Option<Fields<'a>> {
        self.value(key)?.as_document().map(Fields)
    }

    /// The elements of a list; a bare value counts as a list of one.
    pub(super) fn list(self, key: &str) -> &'a [Bson] {
        match self.value(key) {
            Some(Bson::Array(items)) => items,
            Some(one) => std::slice::from_ref(one),
            None => &[],
        }
    }

    /// The readable texts of a list.
    pub(super) fn texts(self, key: &str) -> Vec<String> {
        self.list(key).iter().filter_map(text).collect()
    }

    /// The documents of a list.
    pub(super) fn documents(self, key: &str) -> impl Iterator<Item = Fields<'a>> + 'a {
        self.list(key).iter().filter_map(Bson::as_document).map(Fields)
    }
}

/// Text, or what has an obvious text form. Key material is sometimes stored as bytes.
pub(super) fn text(value: &Bson) -> Option<String> {
    match value {
        Bson::String(text) | Bson::Symbol(text) => Some(text.clone()),
        Bson::ObjectId(id) => Some(id.to_hex()),
        Bson::Boolean(flag) => Some(flag.to_string()),
        Bson::Binary(binary) => String::from_utf8(binary.bytes.clone()).ok(),
        other => number(other).map(|n| n.to_string()),
    }
}

/// A number in any of its stored forms, numeric text included.
pub(super) fn number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(n) => Some(f64::from(*n)),
        Bson::Int64(n) => Some(*n as f64),
        Bson::Double(n) => Some(*n).filter(|n| n.is_finite()),
        Bson::Decimal128(n) => n.to_string().parse().ok().filter(|n: &f64| n.is_finite()),
        Bson::String(text) => text.trim().parse().ok().filter(|n: &f64| n.is_finite()),
        _ => None,
    }
}

/// An id, stored as such or as text.
pub(super) fn object_id(value: &Bson) -> Option<ObjectId> {
    match value {
        Bson::ObjectId(id) => Some(*id),
        Bson::String(text) => id::parse(text).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn numbers_are_read_in_whatever_form_they_were_stored() {
        let document = doc! {"int": 5_i32, "long": 5_i64, "double": 5.0, "text": "5", "word": "five", "none": null};
        let fields = Fields(&document);

        for key in ["int", "long", "double", "text"] {
            assert_eq!(fields.port(key), Some(5), "{key}");
        }
        for key in ["word", "none", "absent"] {
            assert_eq!(fields.number(key), None, "{key}");
        }
        assert_eq!(Fields(&doc! {"port": 65_536}).port("port"), None);
        assert_eq!(Fields(&doc! {"n": 1.5}).count("n"), None);
        assert_eq!(Fields(&doc! {"n": -1}).count("n"), None);
    }

    #[test]
    fn dates_are_read_in_whatever_form_they_were_stored() {
        let noon = DateTime::from_millis(1_795_347_048_000);
        let document = doc! {"date": noon, "millis": 1_795_347_048_000_i64, "text": "Sun, 22 Nov 2026 11:30:48 GMT", "word": "soon"};
        let fields = Fields(&document);

        for key in ["date", "millis", "text"] {
            assert_eq!(fields.date(key), Some(noon), "{key}");
        }
        assert_eq!(fields.date("word"), None);
    }

    #[test]
    fn a_list_may_be_missing_or_bare() {
        let document = doc! {"list": ["a", 1, {"no": "text"}, null], "bare": "a"};
        let fields = Fields(&document);

        assert_eq!(fields.texts("list"), ["a", "1"]);
        assert_eq!(fields.texts("bare"), ["a"]);
        assert!(fields.texts("absent").is_empty());
    }
}
