//! The `/jobs` and `/retries` routes.

use bson::oid::ObjectId;
use bson::{DateTime, doc};
use serde_json::json;

use super::{NOW, ROOT, TestApi};
use crate::store::Collection;

#[tokio::test]
async fn jobs_say_what_runs_when_and_how_it_ended() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let at = |millis: i64| DateTime::from_millis(NOW + millis);
    let went_well = doc! {
        "_id": ObjectId::new(), "name": "a", "repeatInterval": "1 minutes", "lastRunAt": at(-10), "lastFinishedAt": at(-5),
        "nextRunAt": at(60_000), "data": {"seen": 3},
    };
    let failed = doc! {
        "_id": ObjectId::new(), "name": "b", "repeatInterval": "0 7 * * *", "lastFinishedAt": at(-5), "failedAt": at(-5),
        "failReason": "no", "failCount": 2,
    };
    let running = doc! {"_id": ObjectId::new(), "name": "c", "repeatInterval": "1 minutes"};
    for job in [went_well, failed, running] {
        api.insert(Collection::AgendaJobs, job).await;
    }
    api.insert(
        Collection::Leases,
        doc! {"_id": "job:c", "owner": "node-1/token", "beats": 1_i64},
    )
    .await;

    let jobs = root.get("/jobs").await.json();

    let states: Vec<_> = jobs
        .as_array()
        .unwrap()
        .iter()
        .map(|job| (&job["name"], &job["state"]))
        .collect();
    assert_eq!(
        json!(states),
        json!([["a", "succeeded"], ["b", "failed"], ["c", "running"]])
    );
    assert_eq!(jobs[0]["data"], json!({"seen": 3}));
    assert_eq!(
        (&jobs[1]["failReason"], &jobs[1]["failCount"]),
        (&json!("no"), &json!(2))
    );
    assert_eq!(jobs[2]["node"], "node-1");
}

#[tokio::test]
async fn waiting_retries_are_seen_and_purged_by_channel() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let (one, other) = (ObjectId::new(), ObjectId::new());
    for (channel, age) in [(one, 5), (one, 9), (other, 1)] {
        let entry = doc! {
            "_id": ObjectId::new(), "channelID": channel, "transactionID": ObjectId::new(),
            "requestTimestamp": DateTime::from_millis(NOW - age),
        };
        api.insert(Collection::AutoRetries, entry).await;
    }

    let queues = root.get("/retries").await.json();
    let mine = queues
        .as_array()
        .unwrap()
        .iter()
        .find(|queue| queue["channelID"] == one.to_hex())
        .unwrap();
    assert_eq!(mine["waiting"], 2);
    let purged = root.delete(&format!("/retries/{one}")).await;

    assert_eq!(purged.json(), json!({"purged": 2}));
    assert_eq!(api.stored(Collection::AutoRetries, doc! {}).await.len(), 1);
}
