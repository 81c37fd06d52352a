//! The `/events` and `/logs` routes.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use serde_json::{Value, json};

use super::{NOW, ROOT, TestApi};
use crate::model::role::Permission;
use crate::store::Collection;

fn event(name: &str, created: i64, normalized: i64) -> Document {
    doc! {
        "_id": ObjectId::new(), "created": DateTime::from_millis(created), "channelID": ObjectId::new(), "transactionID": Bson::Null,
        "type": "channel", "event": "end", "name": name, "status": 200, "statusType": "success",
        "normalizedTimestamp": normalized, "mediator": Bson::Null,
    }
}

#[tokio::test]
async fn events_since_an_instant_come_in_the_order_of_their_normalized_time() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    for (name, created, normalized) in [("old", NOW - 1, 1), ("later", NOW, 30), ("sooner", NOW + 5, 20)] {
        api.insert(Collection::Events, event(name, created, normalized)).await;
    }

    let events = root.get(&format!("/events/{NOW}")).await.json()["events"].clone();

    let names: Vec<&Value> = events.as_array().unwrap().iter().map(|event| &event["name"]).collect();
    assert_eq!(names, ["sooner", "later"]);
    assert_eq!(events[0]["normalizedTimestamp"], "20");
    assert_eq!(
        (&events[0]["mediator"], &events[0]["autoRetryAttempt"]),
        (&Value::Null, &Value::Null)
    );
    assert!(events[0].get("__v").is_none());
    let bad = root.get("/events/now").await;
    assert_eq!(bad.status, 500);
    assert!(
        bad.text()
            .starts_with("Could not fetch the latest events via the API: CastError:"),
        "{}",
        bad.text()
    );
}

async fn log(api: &TestApi, level: &str, message: &str, at: i64) {
    let entry = doc! {"_id": ObjectId::new(), "timestamp": DateTime::from_millis(at), "level": level, "message": message, "meta": Bson::Null};
    api.insert(Collection::Log, entry).await;
}

async fn messages(session: &super::Session<'_>, query: &str) -> Vec<String> {
    let entries = session.get(&format!("/logs{query}")).await.json();
    let messages = entries.as_array().unwrap().iter();
    messages
        .map(|entry| entry["message"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_log_is_skipped_before_the_level_counts_and_limited_after() {
    let api = TestApi::start().await;
    let viewer = api.log_in_with(&[Permission::LogsView], doc! {}).await;
    for (level, message, at) in [
        ("error", "ancient", NOW - 400_000),
        ("debug", "a", NOW - 5000),
        ("info", "b", NOW - 4000),
        ("error", "c", NOW - 3000),
        ("warn", "d", NOW - 2000),
        ("silly", "e", NOW - 1000),
    ] {
        log(&api, level, message, at).await;
    }

    assert_eq!(messages(&viewer, "").await, ["b", "c", "d"]);
    assert_eq!(messages(&viewer, "?level=debug").await, ["a", "b", "c", "d"]);
    assert_eq!(messages(&viewer, "?level=warn").await, ["c", "d"]);
    assert_eq!(messages(&viewer, "?start=2").await, ["c", "d"]);
    assert_eq!(messages(&viewer, "?limit=1").await, ["b"]);
    assert!(messages(&viewer, "?level=loud").await.is_empty());
    assert_eq!(
        messages(&viewer, "?from=2026-11-22T11:30:00Z&level=error").await,
        ["ancient", "c"]
    );
    let first = viewer.get("/logs").await.json()[0].clone();
    assert_eq!(
        first,
        json!({"timestamp": "2026-11-22T11:39:04.000Z", "level": "info", "message": "b", "meta": null})
    );
}

#[tokio::test]
async fn without_a_log_in_the_store_there_is_none_to_read() {
    let api = TestApi::start_with(|config| config.logger.log_to_db = false).await;
    let root = api.log_in(ROOT).await;

    let answer = root.get("/logs").await;

    assert_eq!(answer.status, 500);
    assert!(answer.text().starts_with("Could not get logs via the API: TypeError"));
}
