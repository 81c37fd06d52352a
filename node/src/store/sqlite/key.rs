//! The form in which a value stands in a typed column: bytes that sort as MongoDB sorts the values.
//!
//! The first byte is the value's kind, so a comparison inside one kind is a range of keys. A value that has no simple
//! place in that order (a document, an array with elements, a path that passes an array, a very long text, a whole
//! number that a double can't hold) gets the key [`INTRICATE`]; what is true of it only the matcher can say.
//! A field that is not there is SQL's `NULL`.

use bson::{RawBsonRef, RawDocument};

use crate::store::query::Path;

/// The key of an array without elements.
pub(super) const EMPTY_ARRAY: u8 = 0x05;
/// The key of `null`.
pub(super) const NULL: u8 = 0x0A;
/// The first byte of the key of every value that has no simple place in the order. It sorts above all others.
pub(super) const INTRICATE: u8 = 0xFF;
/// The key of `true`, in hexadecimal digits.
pub(super) const TRUE: &str = "6E01";

const NUMBER: u8 = 0x1E;
const TEXT: u8 = 0x3C;
const OBJECT_ID: u8 = 0x64;
const BOOLEAN: u8 = 0x6E;
const DATE: u8 = 0x78;

/// Bytes of a text that may stand in a column.
const LONGEST_TEXT: usize = 1024;
/// Whole numbers up to here are exact as doubles.
const LARGEST_EXACT: i64 = 1 << 53;

/// What stands in a column.
pub(super) type Key = Option<Vec<u8>>;

/// The key of a value that is neither missing nor intricate.
pub(super) fn simple(value: RawBsonRef<'_>) -> Option<Vec<u8>> {
    match value {
        RawBsonRef::Null => Some(vec![NULL]),
        RawBsonRef::Int32(number) => Some(number_key(f64::from(number))),
        RawBsonRef::Int64(number) if number.abs() <= LARGEST_EXACT => Some(number_key(number as f64)),
        RawBsonRef::Double(number) if !number.is_nan() && number.abs() <= LARGEST_EXACT as f64 => {
            Some(number_key(number))
        }
        RawBsonRef::String(text) if text.len() <= LONGEST_TEXT => Some(prefixed(TEXT, text.as_bytes())),
        RawBsonRef::ObjectId(id) => Some(prefixed(OBJECT_ID, &id.bytes())),
        RawBsonRef::Boolean(value) => Some(vec![BOOLEAN, value.into()]),
        RawBsonRef::DateTime(date) => Some(prefixed(DATE, &ordered(date.timestamp_millis()).to_be_bytes())),
        _ => None,
    }
}

/// The key of what stands at `path`. With `whole`, intricate values keep their bytes, so that two of them are equal
/// only if they are the same.
pub(super) fn at(path: &Path, document: &RawDocument, whole: bool) -> Key {
    match path.straight(document) {
        Ok(None) => None,
        Ok(Some(RawBsonRef::Array(array))) if array.is_empty() => Some(vec![EMPTY_ARRAY]),
        Ok(Some(value)) => Some(simple(value).unwrap_or_else(|| intricate(value, whole))),
        Err(_) => Some(vec![INTRICATE]),
    }
}

/// The bytes of a document, as a number that [`size_of`] reads.
pub(super) fn size(document: &RawDocument) -> Vec<u8> {
    let bytes = u32::try_from(document.as_bytes().len()).unwrap_or(u32::MAX);
    bytes.to_be_bytes().to_vec()
}

/// What [`size`] wrote.
pub(super) fn size_of(key: &[u8]) -> u64 {
    key.try_into().map_or(0, |bytes| u32::from_be_bytes(bytes).into())
}

/// The first key that belongs to a higher kind than `key`.
pub(super) fn end_of_kind(key: &[u8]) -> Vec<u8> {
    vec![key.first().map_or(INTRICATE, |kind| kind.saturating_add(1))]
}

/// The text that a key stands for.
pub(super) fn text(key: &[u8]) -> Option<&str> {
    match key.split_first() {
        Some((&TEXT, text)) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

fn intricate(value: RawBsonRef<'_>, whole: bool) -> Vec<u8> {
    if !whole {
        return vec![INTRICATE];
    }
    let mut holder = bson::RawDocumentBuf::new();
    holder.append(bson::raw::cstr!("v"), value);
    prefixed(INTRICATE, holder.as_bytes())
}

fn prefixed(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(bytes.len() + 1);
    key.push(kind);
    key.extend_from_slice(bytes);
    key
}

fn number_key(number: f64) -> Vec<u8> {
    // Minus zero equals zero.
    let bits = (number + 0.0).to_bits();
    let ordered = if bits >> 63 == 0 { bits | (1 << 63) } else { !bits };
    prefixed(NUMBER, &ordered.to_be_bytes())
}

fn ordered(number: i64) -> u64 {
    (number as u64) ^ (1 << 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::query::compare;
    use bson::{DateTime, RawBson, oid::ObjectId};

    fn values() -> Vec<RawBson> {
        let mut values = vec![RawBson::Null, RawBson::Boolean(false), RawBson::Boolean(true)];
        for number in [
            i64::from(i32::MIN),
            -5,
            -1,
            0,
            1,
            2,
            1 << 40,
            LARGEST_EXACT,
            -LARGEST_EXACT,
        ] {
            values.push(RawBson::Int64(number));
            values.push(RawBson::Double(number as f64));
            values.push(RawBson::DateTime(DateTime::from_millis(number)));
        }
        for number in [-2.5, -0.0, 0.5, 1e-300, -1e-300, 1e15] {
            values.push(RawBson::Double(number));
        }
        for text in ["", "a", "aa", "b", "a\0", "\u{ff}", "é"] {
            values.push(RawBson::String(text.into()));
        }
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            values.push(RawBson::ObjectId(ObjectId::from_bytes([byte; 12])));
        }
        values
    }

    #[test]
    fn keys_sort_as_the_values_do() {
        for a in &values() {
            for b in &values() {
                let (a_key, b_key) = (simple(a.into()).unwrap(), simple(b.into()).unwrap());
                assert_eq!(a_key.cmp(&b_key), compare(a.into(), b.into()), "{a:?} against {b:?}");
            }
        }
    }

    #[test]
    fn a_kind_ends_where_the_next_begins() {
        for a in &values() {
            let key = simple(a.into()).unwrap();
            assert!(key < end_of_kind(&key));
            for b in &values() {
                let other = simple(b.into()).unwrap();
                assert_eq!(other[0] == key[0], other[0] >= key[0] && other < end_of_kind(&key));
            }
        }
    }

    #[test]
    fn what_has_no_simple_place_is_intricate() {
        let document = bson::rawdoc! {
            "empty": [], "list": [1], "inner": {"a": 1}, "large": i64::MAX, "nan": f64::NAN,
            "long": "x".repeat(LONGEST_TEXT + 1),
        };
        let key = |path: &str| at(&Path::parse(path).unwrap(), &document, false);
        assert_eq!(key("missing"), None);
        assert_eq!(key("empty"), Some(vec![EMPTY_ARRAY]));
        for path in ["list", "list.a", "empty.a", "inner", "large", "nan", "long"] {
            assert_eq!(key(path), Some(vec![INTRICATE]), "{path}");
        }
        assert!(key("inner.a") < Some(vec![INTRICATE]));
    }
}
