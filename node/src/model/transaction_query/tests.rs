use bson::DateTime;
use bson::oid::ObjectId;

use super::*;

const MARKER: &str = "\n[truncated ...]";

fn only(key: &str, value: impl Into<Bson>) -> Bson {
    let mut filters = Document::new();
    filters.insert(key, value);
    let query = filter(filters).unwrap();
    assert_eq!(query.len(), 1, "{query}");
    query.into_iter().next().unwrap().1
}

#[test]
fn dates_are_json_inside_json() {
    assert_eq!(
        only(
            "request.timestamp",
            r#"{"$gte":"2026-11-22T13:30:48+02:00","$lte":1795347049000}"#
        ),
        Bson::Document(
            doc! {"$gte": DateTime::from_millis(1_795_347_048_000), "$lte": DateTime::from_millis(1_795_347_049_000)}
        )
    );
    assert_eq!(
        filter(doc! {"request.timestamp": "{oops"})
            .unwrap_err()
            .named()
            .split(':')
            .next(),
        Some("SyntaxError")
    );
}

#[test]
fn paths_are_searched_for_as_patterns() {
    for key in [
        "request.path",
        "routes.request.querystring",
        "orchestrations.request.path",
    ] {
        assert_eq!(
            only(key, "a.c"),
            Bson::Document(doc! {"$regex": "a.c", "$options": "i"})
        );
    }
    assert_eq!(only("request.path", ""), Bson::String(String::new()));
}

#[test]
fn a_status_may_be_a_class() {
    assert_eq!(
        only("response.status", "4xx"),
        Bson::Document(doc! {"$gte": 400, "$lt": 500})
    );
    assert_eq!(only("routes.response.status", "404"), Bson::Int32(404));
    assert_eq!(only("orchestrations.response.status", 500), Bson::Int32(500));
}

#[test]
fn only_the_first_property_counts() {
    assert_eq!(
        filter(doc! {"properties": {"prop": "v", "other": 1}}).unwrap(),
        doc! {"properties.prop": "v"}
    );
    assert_eq!(
        filter(doc! {"properties": {"prop": null}}).unwrap(),
        doc! {"properties.prop": {"$exists": true}}
    );
}

#[test]
fn reruns_are_found_by_their_children() {
    let id = ObjectId::from_bytes([7; 12]);

    assert_eq!(
        only("childIDs", r#"{"$exists":true,"$ne":[]}"#),
        Bson::Document(doc! {"$exists": true, "$ne": []})
    );
    assert_eq!(only("childIDs", r#"{"$eq":[]}"#), Bson::Document(doc! {"$eq": []}));
    assert_eq!(only("childIDs", id.to_hex()), Bson::ObjectId(id));
    assert_eq!(only("childIDs", format!("\"{}\"", id.to_hex())), Bson::ObjectId(id));
}

#[test]
fn unknown_paths_are_ignored_and_the_rest_is_cast() {
    let id = ObjectId::from_bytes([7; 12]);

    assert_eq!(
        filter(doc! {"bogus": 1, "status": "Failed", "channelID": {"$in": [id.to_hex()]}, "wasRerun": "true", "request.port": 80})
            .unwrap(),
        doc! {"status": "Failed", "channelID": {"$in": [id]}, "wasRerun": true, "request.port": "80"}
    );
}

#[test]
fn long_bodies_are_cut_by_utf16_units() {
    let mut transaction = doc! {
        "request": {"body": "12345678901"}, "response": {"body": "1234567890"},
        "routes": [{"response": {"body": "ééééééééééé"}, "orchestrations": [{"request": {"body": "12345678901"}}]}],
        "orchestrations": [{"request": {"body": "123456789😀"}}, 1],
    };

    truncate_bodies(&mut transaction, 10, "...");

    assert_eq!(
        transaction,
        doc! {
            "request": {"body": "1234567890..."}, "response": {"body": "1234567890"},
            "routes": [{"response": {"body": "éééééééééé..."}, "orchestrations": [{"request": {"body": "12345678901"}}]}],
            "orchestrations": [{"request": {"body": "123456789..."}}, 1],
        }
    );
}

#[test]
fn the_body_that_exceeds_the_budget_is_cut_and_its_request_cannot_run_again() {
    let mut changes = doc! {
        "$push": {"routes": {"request": {"body": "c".repeat(30)}, "response": {"body": "d"}}},
        "response": {"body": "b".repeat(30)}, "request": {"body": "a".repeat(30)},
    };
    let room_for_two = || BodyBudget::new(Some(1.0), MARKER).spent(1_048_576 - 80);

    let is_cut = limit_bodies(&mut changes, &mut room_for_two());

    assert!(!is_cut);
    let pushed = changes.get_document("$push").unwrap().get_document("routes").unwrap();
    assert_eq!(
        pushed.get_document("request").unwrap().get_str("body").unwrap(),
        format!("cccc{MARKER}")
    );
    assert_eq!(
        pushed.get_document("response").unwrap().get_str("body").unwrap(),
        MARKER
    );
    let mut large = doc! {"request": {"body": "a".repeat(90)}};
    assert!(limit_bodies(&mut large, &mut room_for_two()));
}

#[test]
fn the_size_of_a_transaction_is_that_of_all_its_bodies() {
    let transaction = doc! {
        "request": {"body": "é"}, "response": {"body": "1"}, "error": null,
        "routes": [{"response": {"body": "22"}, "orchestrations": [{"request": {"body": "333"}}]}],
    };

    assert_eq!(size_of_bodies(&transaction), 2 + 1 + 2 + 3);
}

#[test]
fn errors_are_seen_wherever_changes_put_them() {
    assert!(reports_error(&doc! {"error": {"message": "x"}}));
    assert!(reports_error(&doc! {"routes": [{"name": "a"}, {"error": {}}]}));
    assert!(reports_error(&doc! {"$push": {"routes": {"error": {"message": "x"}}}}));
    assert!(!reports_error(
        &doc! {"error": null, "status": "Failed", "routes": [{"name": "a"}]}
    ));
}

#[test]
fn each_representation_leaves_out_what_it_says() {
    assert_eq!(Representation::named(""), Representation::Simple);
    assert_eq!(Representation::named("full").projection(), doc! {});
    assert!(Representation::Simple.projection().contains_key("routes"));
    assert!(
        !Representation::SimpleDetails
            .projection()
            .contains_key("request.headers")
    );
    assert_eq!(Representation::BulkRerun.projection().len(), 4);
}
