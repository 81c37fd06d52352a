//! The `/audits` routes.

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use serde_json::json;

use super::{NOW, ROOT, TestApi};
use crate::model::role::Permission;
use crate::store::Collection;

/// A record of something that happened `at`.
async fn record(api: &TestApi, code: &str, patient: &str, at: i64) -> String {
    let id = ObjectId::new();
    let record = doc! {
        "_id": id, "rawMessage": "<raw>", "syslog": {},
        "eventIdentification": {"eventDateTime": DateTime::from_millis(at), "eventID": {"code": code}},
        "activeParticipant": [{"userID": "u"}],
        "participantObjectIdentification": [{"participantObjectID": patient}, {"participantObjectID": "other"}], "__v": 0,
    };
    api.insert(Collection::Audits, record).await;
    id.to_hex()
}

/// What reading the trail has left in it.
async fn reads(api: &TestApi) -> Vec<Document> {
    api.service.api.auditor.flush().await;
    api.stored(Collection::Audits, doc! {"eventIdentification.eventID.code": "110101"})
        .await
}

#[tokio::test]
async fn a_record_is_added_and_its_values_become_options() {
    let api = TestApi::start().await;
    let manager = api
        .log_in_with(&[Permission::AuditTrailManage, Permission::AuditTrailView], doc! {})
        .await;
    let body = json!({"eventIdentification": {"eventID": {"code": "1", "displayName": "One", "codeSystemName": "S"}},
                      "auditSourceIdentification": {"auditSourceID": "src"}, "bogus": 1});

    manager
        .post("/audits", &body)
        .await
        .is(201, "Audit successfully created");

    let stored = api
        .stored(
            Collection::Audits,
            doc! {"auditSourceIdentification.auditSourceID": "src"},
        )
        .await;
    assert_eq!(
        stored[0]
            .get_document("eventIdentification")
            .unwrap()
            .get_datetime("eventDateTime")
            .unwrap(),
        &DateTime::from_millis(NOW)
    );
    let options = manager.get("/audits-filter-options").await.json();
    assert_eq!(options["eventID"][0]["displayName"], "One");
    assert_eq!(options["auditSourceID"], json!(["src"]));
    assert!(options["activeParticipantRoleID"].is_array());
}

#[tokio::test]
async fn before_the_first_record_there_are_no_options() {
    let api = TestApi::start_with(|config| config.auditing.audit_events = None).await;
    let root = api.log_in(ROOT).await;

    assert_eq!(root.get("/audits-filter-options").await.status, 204);
}

#[tokio::test]
async fn a_list_is_short_unless_it_is_asked_for_in_full_which_is_recorded() {
    let api = TestApi::start().await;
    let viewer = api.log_in_with(&[Permission::AuditTrailView], doc! {}).await;
    record(&api, "x", "p1", NOW - 1000).await;
    let newest = record(&api, "x", "p2", NOW).await;
    let query = "filters=%7B%22eventIdentification.eventID.code%22%3A%22x%22%7D";

    let short = viewer
        .get(&format!("/audits?filterPage=0&filterLimit=1&{query}"))
        .await
        .json();

    assert_eq!(short.as_array().unwrap().len(), 1);
    assert_eq!(short[0]["_id"], newest.as_str());
    for left_out in [
        "rawMessage",
        "activeParticipant",
        "participantObjectIdentification",
        "syslog",
    ] {
        assert!(short[0].get(left_out).is_none(), "{left_out}");
    }
    assert!(reads(&api).await.is_empty());

    let full = viewer
        .get(&format!("/audits?filterRepresentation=full&{query}"))
        .await
        .json();

    assert_eq!(full[0]["rawMessage"], "<raw>");
    assert_eq!(full.as_array().unwrap().len(), 2);
    let reads = reads(&api).await;
    assert_eq!(reads.len(), 2);
    assert!(
        reads[0]
            .to_string()
            .contains(&format!("https://localhost:8080/audits/{newest}"))
    );
}

#[tokio::test]
async fn patients_are_found_by_pattern_and_by_nothing_else() {
    let api = TestApi::start().await;
    let viewer = api.log_in_with(&[Permission::AuditTrailView], doc! {}).await;
    record(&api, "x", "12^^^&1.2.3&ISO", NOW).await;
    record(&api, "x", "99^^^&1.2.3&ISO", NOW).await;
    let find = async |participant: serde_json::Value| {
        let filters = json!({"participantObjectIdentification.participantObjectID": participant}).to_string();
        let encoded = percent_encoding::utf8_percent_encode(&filters, percent_encoding::NON_ALPHANUMERIC);
        viewer.get(&format!("/audits?filters={encoded}")).await
    };

    let found = find(json!(r#""12\\^\\^\\^&1.2.3&ISO""#)).await.json();
    assert_eq!(found.as_array().unwrap().len(), 1);
    let both = json!({"type": "AND", "patientID": r#""12\\^""#, "objectID": "^oth"});
    assert_eq!(find(both).await.json().as_array().unwrap().len(), 1);
    find(json!(r#"".*\\^""#)).await.is(
        400,
        "Special characters (except for hyphens(-)) not allowed in PatientID filter field",
    );
    assert_eq!(find(json!("12")).await.status, 500);
}

#[tokio::test]
async fn reading_one_record_is_recorded_however_it_ends() {
    let api = TestApi::start().await;
    let viewer = api.log_in_with(&[Permission::AuditTrailView], doc! {}).await;
    let id = record(&api, "x", "p", NOW).await;

    assert_eq!(viewer.get(&format!("/audits/{id}")).await.json()["rawMessage"], "<raw>");
    viewer
        .get("/audits/000000000000000000000000")
        .await
        .is(404, "Could not find audits record with ID: 000000000000000000000000");
    assert_eq!(viewer.get("/audits/notanid").await.status, 500);

    let outcomes: Vec<String> = reads(&api)
        .await
        .iter()
        .map(|read| {
            read.get_document("eventIdentification")
                .unwrap()
                .get_str("eventOutcomeIndicator")
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(outcomes, ["0", "4", "12"]);
}
