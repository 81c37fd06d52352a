//! The `/tasks` and `/bulkrerun` routes.

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use super::{NOW, ROOT, TestApi};
use crate::model::role::Permission;
use crate::store::Collection;

async fn channel(api: &TestApi, name: &str, status: &str) -> ObjectId {
    let id = ObjectId::new();
    let channel = doc! {"_id": id, "name": name, "urlPattern": "/", "status": status};
    api.insert(Collection::Channels, channel).await;
    id
}

async fn transaction(api: &TestApi, channel: ObjectId, minute: i64) -> String {
    let id = ObjectId::new();
    let transaction = doc! {
        "_id": id, "channelID": channel, "status": "Failed", "autoRetry": true, "autoRetryAttempt": 3,
        "request": {"timestamp": DateTime::from_millis(NOW + minute * 60_000)},
    };
    api.insert(Collection::Transactions, transaction).await;
    id.to_hex()
}

async fn tasks(api: &TestApi) -> Vec<Document> {
    api.stored(Collection::Tasks, doc! {}).await
}

fn ids_of(task: &Document) -> Vec<String> {
    let entries = task.get_array("transactions").unwrap().iter();
    entries
        .map(|entry| entry.as_document().unwrap().get_str("tid").unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_task_is_created_paused_read_and_deleted() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let lab = channel(&api, "Lab", "enabled").await;
    let ids = [transaction(&api, lab, 0).await, transaction(&api, lab, 1).await];
    let waiting =
        doc! {"_id": ObjectId::new(), "transactionID": ObjectId::parse_str(&ids[0]).unwrap(), "channelID": lab};
    api.insert(Collection::AutoRetries, waiting).await;

    let created = root
        .post("/tasks", &json!({"tids": ids, "batchSize": 2, "paused": true}))
        .await;

    let task = tasks(&api).await.remove(0);
    let id = task.get_object_id("_id").unwrap().to_hex();
    created.is(201, &format!("User root@openhim.org created task with id {id}"));
    assert_eq!(ids_of(&task), ids);
    let shown = root.get("/tasks?filters={}").await.json();
    assert_eq!(
        shown,
        json!([{"_id": id, "status": "Paused", "user": ROOT, "remainingTransactions": 2, "totalTransactions": 2,
                "batchSize": 2, "created": "2026-11-22T11:39:08.000Z", "__v": 0}])
    );
    let transactions = api.stored(Collection::Transactions, doc! {}).await;
    assert!(
        transactions
            .iter()
            .all(|it| !it.get_bool("autoRetry").unwrap() && it.get_i32("autoRetryAttempt").unwrap() == 0)
    );
    assert!(api.stored(Collection::AutoRetries, doc! {}).await.is_empty());

    root.put(&format!("/tasks/{id}"), &json!({"_id": "x", "status": "Queued"}))
        .await
        .is(200, "The Task was successfully updated");
    assert_eq!(tasks(&api).await[0].get_str("status").unwrap(), "Queued");
    root.delete(&format!("/tasks/{id}"))
        .await
        .is(200, "The Task was successfully deleted");
    let gone = format!("We could not find a Task with this ID: {id}.");
    for answer in [
        root.get(&format!("/tasks/{id}")).await,
        root.put(&format!("/tasks/{id}"), &json!({})).await,
        root.delete(&format!("/tasks/{id}")).await,
    ] {
        answer.is(404, &gone);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_task_is_said_in_the_known_order() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let nobody = api.log_in_with(&[Permission::LogsView], doc! {}).await;
    let off = channel(&api, "Off", "disabled").await;
    let id = transaction(&api, off, 0).await;

    let missing = root.post("/tasks", &json!({})).await;
    assert_eq!(missing.status, 500);
    assert!(missing.text().starts_with("Could not add Task via the API: TypeError:"));
    nobody
        .post("/tasks", &json!({"tids": [], "batchSize": 0}))
        .await
        .is(400, "Invalid batch size specified");
    nobody
        .post("/tasks", &json!({"tids": [id]}))
        .await
        .is(403, "User is not authorised to create rerun tasks for any channel");
    root.post("/tasks", &json!({"tids": [id]}))
        .await
        .is(400, "Cannot rerun transactions for disabled or deleted channels - Off");
    assert_eq!(root.post("/tasks", &json!({"tids": ["notanid"]})).await.status, 500);
    assert_eq!(
        root.post("/tasks", &json!({"tids": [ObjectId::new().to_hex()]}))
            .await
            .status,
        201
    );
    assert_eq!(root.get("/tasks").await.status, 500);
}

#[tokio::test]
async fn whoever_may_rerun_single_channels_keeps_to_them() {
    let api = TestApi::start().await;
    let (mine, other) = (
        channel(&api, "Mine", "enabled").await,
        channel(&api, "Other", "enabled").await,
    );
    let (own, foreign) = (transaction(&api, mine, 0).await, transaction(&api, other, 1).await);
    let clerk = api
        .log_in_with(&[], doc! {"transaction-rerun-specified": [mine.to_hex()]})
        .await;
    let root = api.log_in(ROOT).await;

    assert_eq!(clerk.post("/tasks", &json!({"tids": [own]})).await.status, 201);
    clerk.post("/tasks", &json!({"tids": [own, foreign]})).await.is(
        403,
        &format!(
            "User is not authorised to create rerun tasks for channels {}",
            other.to_hex()
        ),
    );
    root.post("/tasks", &json!({"tids": [foreign]})).await;
    let stored = tasks(&api).await;
    let id = |at: usize| stored[at].get_object_id("_id").unwrap().to_hex();
    assert_eq!(clerk.get(&format!("/tasks/{}?filters={{}}", id(0))).await.status, 200);
    clerk.delete(&format!("/tasks/{}", id(1))).await.is(
        403,
        &format!("User is not authorised to remove task for channels {}", other.to_hex()),
    );
    let seen = clerk.get("/tasks?filters={}").await.json();
    assert_eq!(seen.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_task_shows_a_page_of_what_is_in_it() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let entry = |tid: &str, status: &str, rerun: &str| doc! {"tid": tid, "tstatus": status, "rerunStatus": rerun};
    let id = ObjectId::new();
    let task = doc! {
        "_id": id, "status": "Completed", "user": ROOT, "transactions": [
            entry("a", "Completed", "Successful"), entry("b", "Completed", "Failed"), entry("not an id", "Failed", ""),
        ],
    };
    api.insert(Collection::Tasks, task).await;
    let read = async |query: &str| root.get(&format!("/tasks/{}?{query}", id.to_hex())).await;
    let tids = |answer: &Value| -> Vec<String> {
        let entries = answer["transactions"].as_array().unwrap().iter();
        entries.map(|entry| entry["tid"].as_str().unwrap().to_owned()).collect()
    };

    let page = read("filters={}&filterPage=1&filterLimit=2").await.json();
    assert_eq!(tids(&page), ["not an id"]);
    assert_eq!(page["totalFilteredTransactions"], 3);
    let completed = read("filters={%22tstatus%22:%22Completed%22}&filterPage=0&filterLimit=10")
        .await
        .json();
    assert_eq!(tids(&completed), ["a", "b"]);
    let failed =
        read("filters={%22rerunStatus%22:%22Failed%22,%22hasErrors%22:%22no%22}&filterPage=0&filterLimit=10").await;
    assert_eq!(tids(&failed.json()), ["b"]);
    let unpaged = read("filters={}").await.json();
    assert!(tids(&unpaged).is_empty());
    assert_eq!(unpaged["totalFilteredTransactions"], 3);
    assert_eq!(read("").await.status, 500);
}

#[tokio::test]
async fn a_bulk_rerun_cuts_the_selection_into_tasks_newest_first() {
    let api = TestApi::start_with(|config| config.rerun.task_transactions_length = 2).await;
    let root = api.log_in(ROOT).await;
    let (lab, other) = (
        channel(&api, "Lab", "enabled").await,
        channel(&api, "Other", "enabled").await,
    );
    let mut ids = Vec::new();
    for minute in 0..3 {
        ids.insert(0, transaction(&api, lab, minute).await);
    }
    transaction(&api, other, 9).await;

    let answer = root
        .post(
            "/bulkrerun",
            &json!({"filters": {"channelID": lab.to_hex()}, "batchSize": 4, "pauseQueue": true}),
        )
        .await;

    assert_eq!(
        answer.json(),
        json!({"success": true, "message": "Tasks created for bulk rerun of transactions"})
    );
    let tasks = tasks(&api).await;
    assert_eq!(tasks.iter().map(ids_of).collect::<Vec<_>>(), [&ids[..2], &ids[2..]]);
    for task in &tasks {
        assert_eq!(task.get_str("status").unwrap(), "Paused");
        assert_eq!(task.get_i32("batchSize").unwrap(), 4);
        assert_eq!(task.get_str("user").unwrap(), ROOT);
    }
    root.post("/bulkrerun", &json!({"filters": {"status": "Completed"}}))
        .await;
    assert_eq!(api.stored(Collection::Tasks, doc! {}).await.len(), 2);
}

#[tokio::test]
async fn a_bulk_rerun_keeps_to_what_the_caller_may_rerun() {
    let api = TestApi::start().await;
    let (mine, seen) = (
        channel(&api, "Mine", "enabled").await,
        channel(&api, "Seen", "enabled").await,
    );
    let own = transaction(&api, mine, 0).await;
    transaction(&api, seen, 1).await;
    let clerk = api
        .log_in_with(
            &[],
            doc! {"channel-view-specified": [mine, seen], "transaction-rerun-specified": [mine.to_hex()]},
        )
        .await;

    assert_eq!(clerk.post("/bulkrerun", &json!({"filters": {}})).await.status, 200);
    assert_eq!(ids_of(&tasks(&api).await[0]), [own]);
    assert_eq!(tasks(&api).await.len(), 1);
    clerk
        .post("/bulkrerun", &json!({"filters": {"channelID": seen.to_hex()}}))
        .await
        .is(403, &format!("Forbidden: Unauthorized channel {}", seen.to_hex()));
    let sly = json!({"filters": {"channelID": {"$ne": null}}});
    assert_eq!(clerk.post("/bulkrerun", &sly).await.status, 403);
    assert_eq!(clerk.post("/bulkrerun", &json!({})).await.status, 500);
}

#[tokio::test]
async fn a_bulk_rerun_without_any_right_is_refused() {
    let api = TestApi::start().await;
    let lab = channel(&api, "Lab", "enabled").await;
    let viewer = api.log_in_with(&[], doc! {"channel-view-specified": [lab]}).await;

    viewer.post("/bulkrerun", &json!({"filters": {}})).await.is(
        403,
        "Forbidden: User not authorized to rerun transactions for any channel",
    );
}
