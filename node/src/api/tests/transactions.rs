//! The `/transactions` routes.

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use http::Method;
use serde_json::{Value, json};

use super::{ROOT, Session, TestApi};
use crate::model::role::Permission;
use crate::store::{Collection, Write};

const CHANNEL: [u8; 12] = [8; 12];
const CLIENT: [u8; 12] = [9; 12];

fn transaction(number: u32) -> Document {
    let at = DateTime::from_millis(1_402_312_645_000 + i64::from(number) * 1000);
    doc! {
        "_id": ObjectId::new(), "clientID": ObjectId::from_bytes(CLIENT), "channelID": ObjectId::from_bytes(CHANNEL), "childIDs": [],
        "request": {"path": format!("/api/{number}"), "headers": {"a": "b"}, "querystring": "p=1", "body": "<in>", "method": "POST", "timestamp": at},
        "response": {"status": 200 + (number as i32 % 3) * 100, "headers": {"h": "v"}, "body": "<out>", "timestamp": at},
        "routes": [{"name": "route", "request": {"path": "/api", "body": "<route>", "timestamp": at}, "response": {"status": 200}}],
        "orchestrations": [{"name": "step", "request": {"body": "<step>", "timestamp": at}, "response": {"status": 200}}],
        "properties": {"prop1": "v"}, "canRerun": true, "status": if number.is_multiple_of(2) { "Successful" } else { "Failed" }, "__v": 0,
    }
}

async fn add(api: &TestApi, transaction: Document) -> String {
    let id = transaction.get_object_id("_id").unwrap();
    api.insert(Collection::Transactions, transaction).await;
    id.to_hex()
}

async fn add_channel(api: &TestApi, id: [u8; 12], fields: Document) {
    let mut channel = doc! {"_id": ObjectId::from_bytes(id), "name": format!("channel {}", id[0]), "urlPattern": "x"};
    channel.extend(fields);
    api.insert(Collection::Channels, channel).await;
}

fn filters(filters: &Value) -> String {
    let text = filters.to_string();
    let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC);
    format!("/transactions?filters={encoded}")
}

async fn paths(session: &Session<'_>, path: &str) -> Vec<String> {
    let listed = session.get(path).await.json();
    let rows = listed.as_array().unwrap().iter();
    rows.map(|row| row["request"]["path"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_list_is_simple_newest_first_and_paged() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    for number in 0..5 {
        add(&api, transaction(number)).await;
    }
    assert_eq!(
        paths(&root, "/transactions").await,
        ["/api/4", "/api/3", "/api/2", "/api/1", "/api/0"]
    );
    assert_eq!(
        paths(&root, "/transactions?filterLimit=2&filterPage=1").await,
        ["/api/2", "/api/1"]
    );
    let row = &root.get("/transactions?filterLimit=1").await.json()[0];
    assert_eq!(
        row["response"],
        json!({"status": 300, "timestamp": "2014-06-09T11:17:29.000Z"})
    );
    assert!(row.get("routes").is_none() && row.get("orchestrations").is_none());
    assert!(row["request"].get("body").is_none() && row["request"].get("headers").is_none());
    assert_eq!(row["channelID"], "080808080808080808080808");
}

#[tokio::test]
async fn each_representation_shows_its_part() {
    let api = TestApi::start_with(|config| config.api.truncate_size = 4).await;
    let root = api.log_in(ROOT).await;
    let id = add(&api, transaction(0)).await;
    let list = async |name: &str| {
        root.get(&format!("/transactions?filterRepresentation={name}"))
            .await
            .json()
    };

    let details = &list("simpledetails").await[0];
    assert_eq!(details["request"]["headers"], json!({"a": "b"}));
    assert!(details["request"].get("body").is_none());
    assert!(details["routes"][0]["request"].get("body").is_none());
    assert_eq!(list("full").await[0]["orchestrations"][0]["request"]["body"], "<step>");
    let cut = &list("fulltruncate").await[0];
    assert_eq!(cut["request"]["body"], "<in>");
    assert_eq!(cut["response"]["body"], "<out\n[truncated ...]");
    assert_eq!(cut["routes"][0]["request"]["body"], "<rou\n[truncated ...]");
    assert_eq!(list("bulkrerun").await, json!({"count": 1}));

    let one = async |query: &str| root.get(&format!("/transactions/{id}{query}")).await.json();
    assert_eq!(one("").await["request"]["body"], "<in>");
    assert!(one("?filterRepresentation=simple").await.get("routes").is_none());
    assert_eq!(
        one("?filterRepresentation=fulltruncate").await["response"]["body"],
        "<out\n[truncated ...]"
    );
}

#[tokio::test]
async fn filters_select() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    for number in 0..6 {
        add(&api, transaction(number)).await;
    }
    for (filter, expected) in [
        (json!({"status": "Failed"}), vec!["/api/5", "/api/3", "/api/1"]),
        (json!({"response.status": "2xx"}), vec!["/api/3", "/api/0"]),
        (json!({"response.status": "400"}), vec!["/api/5", "/api/2"]),
        (json!({"request.path": "API/[45]$"}), vec!["/api/5", "/api/4"]),
        (
            json!({"request.timestamp": r#"{"$gte":"2014-06-09T13:17:29+02:00"}"#}),
            vec!["/api/5", "/api/4"],
        ),
        (json!({"properties": {"prop1": "other"}}), vec![]),
        (
            json!({"properties": {"prop1": null}, "status": {"$in": ["Failed"]}}),
            vec!["/api/5", "/api/3", "/api/1"],
        ),
        (json!({"childIDs": r#"{"$exists":true,"$ne":[]}"#}), vec![]),
        (json!({"parentID": "010101010101010101010101"}), vec![]),
    ] {
        assert_eq!(paths(&root, &filters(&filter)).await, expected, "{filter}");
    }
    let all = paths(&root, &filters(&json!({"unknown": 1}))).await;
    assert_eq!(all.len(), 6);
}

#[tokio::test]
async fn hostile_filters_are_refused_and_do_no_harm() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    add(&api, transaction(0)).await;
    for (filter, status) in [
        (json!({"$where": "sleep(10000)"}), 400),
        (
            json!({"$expr": {"$function": {"body": "x", "args": [], "lang": "js"}}}),
            400,
        ),
        (json!({"request.path": "("}), 500),
        (json!({"request.path": "x".repeat(5000)}), 400),
        (json!({"request.timestamp": "{"}), 500),
        (json!({"channelID": "notanid"}), 500),
    ] {
        let answer = root.get(&filters(&filter)).await;
        assert_eq!(answer.status, status, "{filter}");
        assert!(
            answer
                .text()
                .starts_with("Could not retrieve transactions via the API: "),
            "{}",
            answer.text()
        );
    }
    for query in ["filters=%5B1%5D", "filters=5", "filters=null", "filters=%7B"] {
        assert_eq!(root.get(&format!("/transactions?{query}")).await.status, 500, "{query}");
    }
    let backtracking = root
        .get(&filters(&json!({"request.path": "^(\\/a|\\/a.?)+$(?=x)"})))
        .await;
    assert!(backtracking.status == 200 || backtracking.status == 500);
}

#[tokio::test]
async fn a_long_list_is_streamed_whole() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let batch = (0..400).map(|number| {
        let mut document = transaction(number);
        document
            .get_document_mut("request")
            .unwrap()
            .insert("body", "x".repeat(10_000));
        Write::Insert {
            into: Collection::Transactions,
            document,
        }
    });
    for outcome in api.store.write(&batch.collect::<Vec<_>>()).await.unwrap() {
        outcome.unwrap();
    }
    let answer = root.get("/transactions?filterRepresentation=full").await;
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(answer.json().as_array().unwrap().len(), 400);
}

#[tokio::test]
async fn callers_see_transactions_of_their_channels_as_the_lists_of_these_allow() {
    let api = TestApi::start().await;
    add_channel(&api, CHANNEL, doc! {"txViewAcl": ["tested"]}).await;
    add_channel(&api, [7; 12], doc! {}).await;
    let seen = add(&api, transaction(0)).await;
    let mut other = transaction(1);
    other.insert("channelID", ObjectId::from_bytes([7; 12]));
    let hidden = add(&api, other).await;
    let some = api
        .log_in_with(&[], doc! {"channel-view-specified": ["080808080808080808080808"]})
        .await;

    let listed = some.get("/transactions?filterRepresentation=full").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert!(listed[0]["request"].get("headers").is_some() && listed[0]["request"].get("body").is_none());
    let forbidden = "Forbidden: Unauthorized channel 070707070707070707070707";
    some.get(&filters(&json!({"channelID": "070707070707070707070707"})))
        .await
        .is(403, forbidden);
    assert_eq!(
        some.get(&filters(&json!({"channelID": {"$ne": null}}))).await.status,
        403
    );
    assert!(
        some.get(&format!("/transactions/{seen}")).await.json()["request"]
            .get("body")
            .is_none()
    );
    some.get(&format!("/transactions/{hidden}")).await.is(
        403,
        &format!("User tested@openhim.org is not authenticated to retrieve transaction {hidden}"),
    );
    let of_client = some.get("/transactions/clients/090909090909090909090909").await.json();
    assert_eq!(of_client.as_array().unwrap().len(), 1);
    assert_eq!(
        some.get("/transactions?filterRepresentation=bulkrerun").await.json(),
        json!({"count": 1})
    );

    let full = doc! {"$set": {"txViewFullAcl": ["tested"]}};
    api.store
        .update(Collection::Channels, doc! {"_id": ObjectId::from_bytes(CHANNEL)}, full)
        .await
        .unwrap();
    assert_eq!(some.get("/transactions").await.json()[0]["request"]["body"], "<in>");
    assert_eq!(
        some.get(&format!("/transactions/{seen}")).await.json()["request"]["body"],
        "<in>"
    );
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let unknown = ObjectId::new().to_hex();
    root.get(&format!("/transactions/{unknown}"))
        .await
        .is(404, &format!("Could not find transaction with ID: {unknown}"));
    let text = "TypeError: Cannot read properties of null (reading 'channelID')";
    root.put(&format!("/transactions/{unknown}"), &json!({}))
        .await
        .is(500, &format!("Could not update transaction via the API: {text}"));
    root.delete(&format!("/transactions/{unknown}"))
        .await
        .is(500, &format!("Could not remove transaction via the API: {text}"));
    let odd = root.get("/transactions/clients/notanid").await;
    assert_eq!(odd.status, 500);
    assert!(
        odd.text()
            .starts_with("Could not get transaction by clientID via the API: CastError"),
        "{}",
        odd.text()
    );
    let some = api.log_in_with(&[], doc! {}).await;
    assert_eq!(some.get("/transactions").await.text(), "[]");
    assert_eq!(some.get(&format!("/transactions/{unknown}")).await.status, 500);
}

#[tokio::test]
async fn a_mediator_adds_and_completes_a_transaction() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = "111111111111111111111111";
    let body = json!({
        "_id": id, "status": "Processing", "channelID": "080808080808080808080808", "x-mediator-urn": "urn:x",
        "request": {"path": "/a", "timestamp": "2014-06-09T11:17:25.929Z"},
    });
    root.post("/transactions", &body).await.is(201, "Created");
    let basic = api.ask(Method::POST, "/transactions").basic(ROOT, super::PASSWORD);
    let again = json!({"status": "Processing", "request": {"timestamp": 1}});
    basic
        .json(&again)
        .send()
        .await
        .is(201, "User Authenticated Successfully");

    let route = json!({"name": "async", "request": {"path": "/b", "timestamp": "2014-06-09T11:17:26Z"}});
    let push = json!({"$push": {"routes": route}, "status": "Successful", "response": {"status": 200, "body": "done"}});
    root.put(&format!("/transactions/{id}"), &push)
        .await
        .is(200, &format!("Transaction with ID: {id} successfully updated"));
    let read = root.get(&format!("/transactions/{id}")).await.json();
    assert_eq!(
        (&read["status"], &read["response"]["body"]),
        (&json!("Successful"), &json!("done"))
    );
    assert_eq!(read["routes"][0]["name"], "async");
    assert!(read.get("x-mediator-urn").is_none());

    root.delete(&format!("/transactions/{id}"))
        .await
        .is(200, "Transaction successfully deleted");
    assert_eq!(root.get(&format!("/transactions/{id}")).await.status, 404);
}

#[tokio::test]
async fn a_transaction_that_lacks_something_is_refused() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.post("/transactions", &json!({})).await.is(
        500,
        "Could not add a transaction via the API: ValidationError: status: Path `status` is required., request.timestamp: Path `request.timestamp` is required.",
    );
}

#[tokio::test]
async fn bodies_are_cut_to_what_all_of_them_may_have() {
    let api = TestApi::start_with(|config| config.api.max_bodies_size_mb = 1.0).await;
    let root = api.log_in(ROOT).await;
    let body = json!({
        "status": "Successful",
        "request": {"timestamp": 1, "body": "x".repeat(700_000)},
        "response": {"body": "y".repeat(700_000)},
    });
    root.post("/transactions", &body).await.is(201, "Created");
    let stored = api.stored(Collection::Transactions, doc! {}).await.pop().unwrap();
    let length = |half: &str| stored.get_document(half).unwrap().get_str("body").unwrap().len();
    assert_eq!(length("request"), 700_000);
    assert_eq!(length("request") + length("response"), 1_048_576);
    assert!(stored.get_bool("canRerun").unwrap());
}

#[tokio::test]
async fn an_error_reported_by_a_mediator_queues_a_retry_only_for_who_may_report() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    add_channel(
        &api,
        CHANNEL,
        doc! {"autoRetryEnabled": true, "autoRetryMaxAttempts": 2},
    )
    .await;
    let fresh = add(&api, transaction(0)).await;
    let mut tried = transaction(1);
    tried.insert("autoRetryAttempt", 2);
    let tried = add(&api, tried).await;
    let error = json!({"error": {"message": "oops"}});

    let some = api.log_in_with(&[Permission::ChannelViewAll], doc! {}).await;
    assert_eq!(some.put(&format!("/transactions/{fresh}"), &error).await.status, 403);
    assert!(api.stored(Collection::AutoRetries, doc! {}).await.is_empty());

    assert_eq!(root.put(&format!("/transactions/{fresh}"), &error).await.status, 200);
    assert_eq!(root.put(&format!("/transactions/{tried}"), &error).await.status, 200);
    let queued = api.stored(Collection::AutoRetries, doc! {}).await;
    assert_eq!(queued.len(), 1);
    assert_eq!(queued[0].get_object_id("transactionID").unwrap().to_hex(), fresh);
    assert_eq!(
        root.get(&format!("/transactions/{fresh}")).await.json()["autoRetry"],
        true
    );
}

#[tokio::test]
async fn a_transaction_that_is_added_has_six_events_and_a_change_has_its_own() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    add_channel(
        &api,
        CHANNEL,
        doc! {"routes": [{"name": "test route", "primary": true}]},
    )
    .await;
    let at = "2014-06-09T11:17:25.929Z";
    let half = |name: &str| json!({"name": name, "request": {"path": "/api/test", "timestamp": at}, "response": {"status": 200, "timestamp": at}});
    let body = json!({
        "_id": "111111111111111111111111", "channelID": "080808080808080808080808", "status": "Processing",
        "request": {"path": "/api/test", "timestamp": at}, "response": {"status": 500, "timestamp": at},
        "routes": [half("dummy-route")], "orchestrations": [half("dummy-orchestration")],
    });
    root.post("/transactions", &body).await.is(201, "Created");

    let stored = api.stored(Collection::Events, doc! {}).await;
    let mut seen: Vec<_> = stored
        .iter()
        .map(|event| {
            let text = |field| event.get_str(field).unwrap_or_default();
            format!(
                "{}-{}-{} {}",
                text("type"),
                text("name"),
                text("event"),
                text("statusType")
            )
        })
        .collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            "orchestration-dummy-orchestration-end success",
            "orchestration-dummy-orchestration-start ",
            "primary-test route-end error",
            "primary-test route-start ",
            "route-dummy-route-end success",
            "route-dummy-route-start ",
        ]
    );
    assert!(stored.iter().all(|event| event.get_object_id("transactionID").is_ok()));

    let change = json!({"orchestrations": [half("late")]});
    assert_eq!(
        root.put("/transactions/111111111111111111111111", &change).await.status,
        200
    );
    let late = api.stored(Collection::Events, doc! {"name": "late"}).await;
    assert_eq!(late.len(), 2);
    assert!(
        late.iter()
            .all(|event| event.get("transactionID") == Some(&bson::Bson::Null))
    );
}
