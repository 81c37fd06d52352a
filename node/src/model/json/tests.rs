use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, RawDocumentBuf, doc};
use serde_json::json;

use super::*;

fn sample() -> Document {
    doc! {
        "id": ObjectId::from_bytes([0xAB; 12]), "when": DateTime::from_millis(1_500), "never": DateTime::from_millis(i64::MAX),
        "int": 1, "long": 5_000_000_000_i64, "whole": 1.0, "part": 1.5, "nan": f64::NAN, "yes": true, "none": null,
        "text": "a\"b\\c\n\r\t\u{8}\u{c}\u{1}é😀/", "list": [1, "x", {"a": []}], "empty": {}, "undefined": Bson::Undefined,
        "bytes": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] }, "key\"": 0,
    }
}

const EXPECTED: &str = concat!(
    r#"{"id":"abababababababababababab","when":"1970-01-01T00:00:01.500Z","never":null,"int":1,"long":5000000000,"#,
    r#""whole":1,"part":1.5,"nan":null,"yes":true,"none":null,"text":"a\"b\\c\n\r\t\b\f\u0001é😀/","#,
    r#""list":[1,"x",{"a":[]}],"empty":{},"bytes":"AQID","key\"":0}"#
);

#[test]
fn stored_bytes_are_written_as_javascript_prints_them() {
    let raw = RawDocumentBuf::try_from(&sample()).unwrap();

    assert_eq!(String::from_utf8(of_raw(&raw).unwrap()).unwrap(), EXPECTED);
}

#[test]
fn documents_in_memory_are_written_alike() {
    assert_eq!(String::from_utf8(of_document(&sample()).unwrap()).unwrap(), EXPECTED);
    assert_eq!(of_documents([]).unwrap(), b"[]");
    assert_eq!(of_documents(&[doc! {"a": 1}, doc! {}]).unwrap(), br#"[{"a":1},{}]"#);
    let tree: Value = serde_json::from_str(EXPECTED).unwrap();
    assert_eq!(to_value(&Bson::Document(sample())), tree);
}

#[test]
fn json_becomes_what_the_original_would_store() {
    let value = json!({"a": 1, "b": 1.0, "c": 1.5, "d": 3_000_000_000_u64, "e": [null, "x"], "f": {"g": false}});

    assert_eq!(
        to_document(value).unwrap(),
        doc! {"a": 1, "b": 1, "c": 1.5, "d": 3_000_000_000.0, "e": [null, "x"], "f": {"g": false}}
    );
    assert_eq!(to_document(json!([1])).unwrap(), doc! {});
}

#[test]
fn hostile_values_are_refused() {
    assert_eq!(to_bson(json!({"a\0b": 1})), Err(JsonError::NulInKey));
    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    assert_eq!(to_bson(deep), Err(JsonError::TooDeep));
    let mut document = doc! {};
    for _ in 0..200 {
        document = doc! {"a": document};
    }
    assert_eq!(of_document(&document), Err(JsonError::TooDeep));
    let raw = RawDocumentBuf::try_from(&document).unwrap();
    assert_eq!(of_raw(&raw), Err(JsonError::TooDeep));
}

#[test]
fn bytes_that_are_no_document_do_not_panic() {
    let raw = RawDocumentBuf::try_from(&doc! {"a": "text", "b": [1, 2, 3]}).unwrap();
    for at in 4..raw.as_bytes().len() - 1 {
        let mut bytes = raw.as_bytes().to_vec();
        bytes[at] ^= 0xFF;
        if let Ok(document) = RawDocument::from_bytes(&bytes) {
            let _ = of_raw(document);
        }
    }
}
