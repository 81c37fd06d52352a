//! The `/channels` routes.

use bson::oid::ObjectId;
use bson::{Document, doc};
use serde_json::{Value, json};

use super::{ROOT, Session, TestApi};
use crate::store::Collection;

fn channel(name: &str) -> Value {
    json!({
        "name": name, "urlPattern": "test/sample", "allow": ["PoC"],
        "routes": [{"name": "r", "host": "localhost", "port": 9876, "primary": true}],
    })
}

async fn add(root: &Session<'_>, name: &str) -> String {
    root.post("/channels", &channel(name))
        .await
        .is(201, "Channel successfully created");
    let listed = root.get("/channels").await.json();
    let all = listed.as_array().unwrap();
    let found = all.iter().find(|channel| channel["name"] == name).unwrap();
    found["_id"].as_str().unwrap().to_owned()
}

async fn add_stored(api: &TestApi, fields: Document) -> ObjectId {
    let id = ObjectId::new();
    let mut stored = doc! {"_id": id, "name": id.to_hex(), "urlPattern": "x"};
    stored.extend(fields);
    api.insert(Collection::Channels, stored).await;
    id
}

fn without(value: &Value, keys: &[&str]) -> Value {
    let mut value = value.clone();
    for key in keys {
        value.as_object_mut().unwrap().shift_remove(*key);
    }
    value
}

#[tokio::test]
async fn a_minimal_channel_is_read_back_with_all_defaults() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = add(&root, "TestChannel1").await;
    let read = root.get(&format!("/channels/{id}")).await.json();
    assert_eq!(
        without(&read["routes"][0], &["_id"]),
        json!({"name": "r", "type": "http", "status": "enabled", "host": "localhost", "port": 9876, "primary": true, "forwardAuthHeader": false})
    );
    assert_eq!(read["updatedBy"]["name"], "Super User");
    assert_eq!(
        without(&read, &["_id", "routes", "updatedBy"]),
        json!({
            "name": "TestChannel1", "urlPattern": "test/sample", "isAsynchronousProcess": false, "methods": [], "type": "http",
            "allow": ["PoC"], "whitelist": [], "authType": "private", "matchContentTypes": [], "properties": [],
            "txViewAcl": [], "txViewFullAcl": [], "txRerunAcl": [], "alerts": [], "status": "enabled", "rewriteUrls": false,
            "addAutoRewriteRules": true, "rewriteUrlsConfig": [], "autoRetryEnabled": false, "autoRetryPeriodMinutes": 60, "__v": 0,
        })
    );
}

#[tokio::test]
async fn the_first_record_of_the_history_adds_every_field() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = add(&root, "a").await;
    let history = root.get(&format!("/channels/{id}/audits")).await.json();
    assert_eq!(history.as_array().unwrap().len(), 1);
    assert_eq!(history[0]["ref"], id);
    assert_eq!(history[0]["updatedBy"]["name"], "Super User");
    let ops = history[0]["ops"].as_array().unwrap();
    assert_eq!(ops.len(), 22);
    assert!(ops.iter().all(|op| op["op"] == "add"));
    let route = ops.iter().find(|op| op["path"] == "/routes").unwrap();
    assert!(route["value"][0].get("_id").is_none());
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_is_remembered() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = add(&root, "a").await;
    let change = json!({"_id": "other", "urlPattern": "new", "methods": ["GET"], "text": "dropped"});
    root.put(&format!("/channels/{id}"), &change)
        .await
        .is(200, "The channel was successfully updated");

    let read = root.get(&format!("/channels/{id}")).await.json();
    assert_eq!(
        (&read["urlPattern"], &read["methods"], &read["name"]),
        (&json!("new"), &json!(["GET"]), &json!("a"))
    );
    assert!(read.get("text").is_none());
    let history = root.get(&format!("/channels/{id}/audits")).await.json();
    assert_eq!(
        history[0]["ops"],
        json!([{"op": "add", "path": "/methods/0", "value": "GET"}, {"op": "replace", "path": "/urlPattern", "value": "new"}])
    );
}

#[tokio::test]
async fn the_rules_of_channels_are_said_as_bad_requests() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = add(&root, "a").await;
    let primary = "Channel must have a primary route";
    let timeout = "Channel property timeoutSeconds has to be a number greater than 1 and less than an 3600";
    for (fields, text) in [
        (json!({"routes": []}), primary),
        (json!({"timeout": 0}), timeout),
        (
            json!({"priority": 0}),
            "Channel priority cannot be below 1 (= Highest priority)",
        ),
        (
            json!({"methods": ["GET", "GET"]}),
            "Channel methods can't be repeated. Repeated methods are GET",
        ),
    ] {
        let mut body = channel("b");
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        root.post("/channels", &body).await.is(400, text);
        root.put(&format!("/channels/{id}"), &fields).await.is(400, text);
    }
    let mut tcp = channel("b");
    tcp["type"] = "tcp".into();
    tcp["methods"] = json!(["GET"]);
    root.post("/channels", &tcp)
        .await
        .is(400, "Channel method can't be defined if channel type is not http");
}

#[tokio::test]
async fn a_type_without_methods_empties_them() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = add(&root, "a").await;
    root.put(&format!("/channels/{id}"), &json!({"methods": ["GET"]})).await;
    root.put(&format!("/channels/{id}"), &json!({"type": "polling"}))
        .await
        .is(200, "The channel was successfully updated");
    assert_eq!(root.get(&format!("/channels/{id}")).await.json()["methods"], json!([]));
}

#[tokio::test]
async fn what_the_schema_refuses_is_400_on_creation_and_500_on_update() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = add(&root, "a").await;
    root.post("/channels", &channel("a")).await.is(
        400,
        "Could not add channel via the API: MongoServerError: E11000 duplicate key error collection: openhim.channels index: name_1 dup key: { name: \"a\" }",
    );
    let mut nameless = channel("");
    nameless["name"] = Value::Null;
    root.post("/channels", &nameless).await.is(
        400,
        "Could not add channel via the API: ValidationError: name: Path `name` is required.",
    );
    root.put(&format!("/channels/{id}"), &json!({"authType": "odd"}))
        .await
        .is(500, "Internal Server Error");
    root.put(&format!("/channels/{}", ObjectId::new()), &json!({}))
        .await
        .is(500, "Internal Server Error");
    root.put("/channels/notanid", &json!({}))
        .await
        .is(500, "Internal Server Error");
    assert_eq!(api.stored(Collection::ChannelAudits, doc! {}).await.len(), 1);
}

#[tokio::test]
async fn a_list_replaced_by_who_read_an_older_version_is_a_conflict() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = add(&root, "a").await;
    let put = async |body: Value| root.put(&format!("/channels/{id}"), &body).await.status.as_u16();
    assert_eq!(put(json!({"allow": ["x"], "__v": 0})).await, 200);
    assert_eq!(put(json!({"allow": ["y"], "__v": 0})).await, 500);
    assert_eq!(put(json!({"allow": ["y"], "__v": 1})).await, 200);
    assert_eq!(root.get(&format!("/channels/{id}")).await.json()["__v"], 2);
}

#[tokio::test]
async fn a_channel_is_deleted_with_its_history_unless_it_has_transactions() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let (unused, used) = (add(&root, "unused").await, add(&root, "used").await);
    let transaction =
        doc! {"_id": ObjectId::new(), "channelID": ObjectId::parse_str(&used).unwrap(), "status": "Failed"};
    api.insert(Collection::Transactions, transaction).await;

    root.delete(&format!("/channels/{unused}"))
        .await
        .is(200, "The channel was successfully deleted");
    root.delete(&format!("/channels/{used}"))
        .await
        .is(200, "The channel was successfully deleted");

    root.get(&format!("/channels/{unused}"))
        .await
        .is(404, &format!("We could not find a channel with Id:'{unused}'."));
    assert_eq!(root.get(&format!("/channels/{unused}/audits")).await.text(), "[]");
    assert_eq!(root.get(&format!("/channels/{used}")).await.json()["status"], "deleted");
    assert_eq!(api.stored(Collection::ChannelAudits, doc! {}).await.len(), 2);
    let again = root.delete(&format!("/channels/{unused}")).await;
    assert_eq!(again.status, 500);
    assert!(
        again.text().starts_with(&format!(
            "Could not remove channel by id: {unused} via the API: TypeError"
        )),
        "{}",
        again.text()
    );
}

#[tokio::test]
async fn a_channel_written_by_other_tools_is_read_and_saved_with_defaults() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = add_stored(&api, doc! {"routes": [{"name": "r", "primary": true}]})
        .await
        .to_hex();
    let read = root.get(&format!("/channels/{id}")).await.json();
    assert_eq!((&read["methods"], &read["status"]), (&json!([]), &json!("enabled")));
    root.put(&format!("/channels/{id}"), &json!({"description": "d"}))
        .await
        .is(200, "The channel was successfully updated");
}

#[tokio::test]
async fn errors_of_reading_are_said() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.get("/channels/notanid").await.is(
        500,
        "Could not fetch channel by Id 'notanid' via the API: CastError: Cast to ObjectId failed for value \"notanid\" (type string) at path \"_id\" for model \"Channel\"",
    );
    let odd = root.get("/channels/notanid/audits").await;
    assert_eq!(odd.status, 500);
    assert!(
        odd.text()
            .starts_with("Could not fetch all channels via the API: CastError"),
        "{}",
        odd.text()
    );
    let unknown = ObjectId::new().to_hex();
    root.post(&format!("/channels/{unknown}/trigger"), &json!({}))
        .await
        .is(404, &format!("We could not find a channel with Id:'{unknown}'."));
}

#[tokio::test]
async fn callers_see_the_channels_that_their_roles_name() {
    let api = TestApi::start().await;
    let seen = add_stored(&api, doc! {"status": "deleted"}).await.to_hex();
    let hidden = add_stored(&api, doc! {}).await.to_hex();
    let some = api.log_in_with(&[], doc! {"channel-view-specified": [&seen]}).await;
    let listed = some.get("/channels").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["_id"], seen);
    assert_eq!(some.get(&format!("/channels/{seen}")).await.status, 200);
    assert_eq!(some.get(&format!("/channels/{hidden}")).await.status, 403);
    assert_eq!(some.put(&format!("/channels/{seen}"), &json!({})).await.status, 403);
    assert_eq!(some.delete(&format!("/channels/{seen}")).await.status, 403);
    assert_eq!(some.get(&format!("/channels/{seen}/audits")).await.status, 403);
}

#[tokio::test]
async fn an_entry_that_is_no_id_makes_the_list_fail_as_it_always_did() {
    let api = TestApi::start().await;
    let odd = api
        .log_in_with(&[], doc! {"channel-view-specified": ["nonsense"]})
        .await;
    let answer = odd.get("/channels").await;
    assert_eq!(answer.status, 500);
    assert!(
        answer
            .text()
            .starts_with("Could not fetch all channels via the API: CastError"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn a_poll_that_comes_to_nothing_is_an_error_of_the_server() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = add_stored(&api, doc! {"type": "polling"}).await.to_hex();

    root.post(&format!("/channels/{id}/trigger"), &json!({}))
        .await
        .is(500, "Internal Server Error");
}
