use bson::doc;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(value: &Value) -> Envelope {
    Envelope::parse(value.to_string().as_bytes()).unwrap()
}

fn header<'a>(envelope: &'a Envelope, name: &str) -> Vec<&'a str> {
    let headers = envelope.response.headers.as_ref().unwrap();
    headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect()
}

fn without_ids(mut steps: Vec<Document>) -> Vec<Document> {
    for step in &mut steps {
        assert!(step.remove("_id").is_some());
    }
    steps
}

#[test]
fn an_envelope_is_recognised_by_its_exact_media_type() {
    for (content_type, expected) in [
        ("application/json+openhim", true),
        ("application/json+openhim; charset=utf-8", true),
        ("Application/JSON+OpenHIM", false),
        ("application/json", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(content_type));
        assert_eq!(is_envelope(&headers), expected, "{content_type}");
    }
    assert!(!is_envelope(&HeaderMap::new()));
}

#[test]
fn every_part_of_a_full_envelope_is_read() {
    let envelope = parse(&json!({
        "x-mediator-urn": "urn:mediator:test",
        "status": "Successful",
        "response": {
            "status": 201, "headers": {"Content-Type": "text/plain", "x-count": 3, "set-cookie": ["a=1", "b=2"]},
            "body": "hello", "timestamp": "2026-11-22T11:30:48.123Z",
        },
        "orchestrations": [{
            "name": "step", "group": "g",
            "request": {"host": "h", "port": 80, "path": "/p", "headers": {"x.y": "z"}, "querystring": "a=b", "body": "in",
                        "method": "GET", "timestamp": 5, "queryString": "dropped"},
            "response": {"status": "200", "headers": {}, "body": {"a": 1}, "timestamp": "6"},
            "error": {"message": "m", "stack": "s"},
        }],
        "properties": {"a.b": "c", "n": {"$x": [1, 2.5]}},
        "error": {"message": "broken"},
        "metrics": [],
    }));

    assert_eq!(envelope.urn.as_deref(), Some("urn:mediator:test"));
    assert_eq!(envelope.status.as_deref(), Some("Successful"));
    assert_eq!(envelope.response.status, StatusCode::CREATED);
    assert_eq!(envelope.response.body.as_deref(), Some(&b"hello"[..]));
    assert_eq!(
        envelope.response.timestamp,
        Some(DateTime::from_millis(1_795_347_048_123))
    );
    assert_eq!(header(&envelope, "content-type"), ["text/plain"]);
    assert_eq!(header(&envelope, "x-count"), ["3"]);
    assert_eq!(header(&envelope, "set-cookie"), ["a=1", "b=2"]);
    assert_eq!(
        without_ids(envelope.orchestrations),
        [doc! {
            "name": "step", "group": "g",
            "request": {"host": "h", "port": "80", "path": "/p", "headers": {"x．y": "z"}, "querystring": "a=b", "body": "in",
                        "method": "GET", "timestamp": DateTime::from_millis(5)},
            "response": {"status": 200, "body": "{\"a\":1}", "timestamp": DateTime::from_millis(6)},
            "error": {"message": "m", "stack": "s"},
        }]
    );
    assert_eq!(
        envelope.properties,
        Some(Bson::Document(doc! {"a．b": "c", "n": {"＄x": [1, 2.5]}}))
    );
    assert_eq!(
        envelope.error,
        Some(ErrorPart {
            message: "broken".into(),
            stack: String::new()
        })
    );
}

#[test]
fn the_least_envelope_is_a_status() {
    let envelope = parse(&json!({"response": {"status": 200}}));

    assert_eq!(envelope.response.status, StatusCode::NO_CONTENT);
    assert_eq!(envelope.response.headers, None);
    assert_eq!(envelope.response.body, None);
    assert_eq!(envelope.response.timestamp, None);
    assert_eq!(
        (envelope.orchestrations.len(), envelope.properties, envelope.error),
        (0, None, None)
    );
}

#[test]
fn a_failure_without_a_body_stays_one() {
    for (given, expected) in [(200, 204), (202, 204), (302, 302), (404, 404), (503, 503)] {
        let envelope = parse(&json!({"response": {"status": given, "body": null}}));
        assert_eq!(envelope.response.status.as_u16(), expected);
    }
    assert_eq!(
        parse(&json!({"response": {"status": 200, "body": ""}})).response.status,
        StatusCode::OK
    );
}

#[test]
fn a_status_may_be_numeric_text() {
    let status = |value: Value| {
        Envelope::parse(
            json!({"response": {"status": value, "body": ""}})
                .to_string()
                .as_bytes(),
        )
    };

    assert_eq!(status(json!("404")).unwrap().response.status, StatusCode::NOT_FOUND);
    assert_eq!(status(json!(200.0)).unwrap().response.status, StatusCode::OK);
    for (value, message) in [
        (json!("abc"), "status code must be a number"),
        (json!(""), "status code must be a number"),
        (json!(null), "status code must be a number"),
        (json!(99), "invalid status code: 99"),
        (json!(200.5), "invalid status code: 200.5"),
        (json!(100_000), "invalid status code: 100000"),
    ] {
        assert_eq!(status(value).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_body_that_is_no_text_is_sent_as_json() {
    let body = |value: Value| parse(&json!({"response": {"status": 200, "body": value}})).response;

    assert_eq!(
        body(json!({"b": 1, "a": [null]})).body.as_deref(),
        Some(&br#"{"b":1,"a":[null]}"#[..])
    );
    assert_eq!(body(json!(7)).body.as_deref(), Some(&b"7"[..]));
    assert_eq!(body(json!(false)).body.as_deref(), Some(&b"false"[..]));
    let labelled = body(json!([]));
    assert_eq!(
        labelled.headers.unwrap()["content-type"],
        "application/json; charset=utf-8"
    );
    let own =
        parse(&json!({"response": {"status": 200, "headers": {"content-type": "application/fhir+json"}, "body": {}}}));
    assert_eq!(header(&own, "content-type"), ["application/fhir+json"]);
}

#[test]
fn dates_are_read_as_mediators_write_them() {
    let at = |value: Value| {
        parse(&json!({"response": {"status": 200, "timestamp": value}}))
            .response
            .timestamp
    };
    let expected = Some(DateTime::from_millis(1_795_347_048_123));

    for value in [
        json!(1_795_347_048_123_u64),
        json!("1795347048123"),
        json!("2026-11-22T11:30:48.123+0000"),
        json!("2026-11-22T13:30:48.123+02:00"),
    ] {
        assert_eq!(at(value.clone()), expected, "{value}");
    }
    assert!(at(json!("Nov 22, 2026 11:30:48 AM")).is_some());
    for value in [json!("yesterday"), json!(""), json!(null), json!({}), json!(1e300)] {
        assert_eq!(at(value.clone()), None, "{value}");
    }
}

#[test]
fn malformed_parts_never_cost_the_answer() {
    let envelope = parse(&json!({
        "status": 5, "x-mediator-urn": {}, "properties": "", "error": "it failed",
        "response": {"status": 200, "headers": "none", "body": "ok"},
        "orchestrations": [null, "x", {"request": {"method": "GET"}}, {"name": 7, "request": [], "response": {"status": "bad", "body": 1}}],
    }));

    assert_eq!((envelope.status, envelope.urn, envelope.properties), (None, None, None));
    assert_eq!(envelope.error.unwrap().message, "it failed");
    assert_eq!(envelope.response.headers, None);
    assert_eq!(
        without_ids(envelope.orchestrations),
        [
            doc! {"name": "unnamed", "request": {"method": "GET"}},
            doc! {"name": "7", "response": {"body": "1"}}
        ]
    );
}

#[test]
fn what_has_no_answer_is_an_error() {
    for text in [
        "[]",
        "null",
        "\"x\"",
        "{}",
        r#"{"response": null}"#,
        r#"{"response": []}"#,
    ] {
        assert!(
            matches!(Envelope::parse(text.as_bytes()), Err(EnvelopeError::NoResponse)),
            "{text}"
        );
    }
    for text in ["", "{", "not json", "\u{FEFF}{}"] {
        assert!(
            matches!(Envelope::parse(text.as_bytes()), Err(EnvelopeError::Json(_))),
            "{text}"
        );
    }
    let deep = format!("{{\"response\":{}", "[".repeat(100_000));
    assert!(Envelope::parse(deep.as_bytes()).is_err());
}

#[test]
fn a_header_that_http_cannot_carry_is_an_error() {
    for headers in [
        json!({"bad name": "x"}),
        json!({"x": "a\r\nb: c"}),
        json!({"": "x"}),
        json!({"x": "\u{100}"}),
    ] {
        let text = json!({"response": {"status": 200, "headers": headers}}).to_string();
        assert!(
            matches!(Envelope::parse(text.as_bytes()), Err(EnvelopeError::Header(_))),
            "{text}"
        );
    }
    let latin = parse(&json!({"response": {"status": 200, "headers": {"x": "é", "y": null}}}));
    assert_eq!(latin.response.headers.unwrap()["x"].as_bytes(), [0xE9]);
}

#[test]
fn the_bodies_of_a_step_are_handed_out_in_order() {
    let mut step = doc! {"request": {"body": "a"}, "response": {"body": "b"}};
    let mut seen = Vec::new();

    for_each_body(&mut step, |body| {
        seen.push(body.clone());
        body.push('!');
    });

    assert_eq!(seen, ["a", "b"]);
    assert_eq!(step, doc! {"request": {"body": "a!"}, "response": {"body": "b!"}});
    for_each_body(&mut doc! {"request": 5}, |_| panic!("there is no body"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["200", "name", "é", "$x.y", "\n", "2026-11-22"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        let key = prop::sample::select(vec![
            "response",
            "status",
            "headers",
            "body",
            "timestamp",
            "orchestrations",
            "name",
            "request",
            "error",
            "message",
            "properties",
            "set-cookie",
            "a.b",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..8).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_stands_beside_a_good_response_it_is_answered(mut envelope in any_json()) {
        if let Value::Object(fields) = &mut envelope {
            fields.insert("response".into(), json!({"status": 200, "body": "ok"}));
            let parsed = parse(&envelope);
            prop_assert_eq!(parsed.response.body.as_deref(), Some(&b"ok"[..]));
        } else {
            prop_assert!(Envelope::parse(envelope.to_string().as_bytes()).is_err());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Envelope::parse(&bytes);
    }
}
