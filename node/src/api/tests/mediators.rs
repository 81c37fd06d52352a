//! The `/mediators` routes.

use bson::{Bson, DateTime, Document, doc};
use http::Method;
use serde_json::{Value, json};

use super::{NOW, PASSWORD, ROOT, TestApi};
use crate::model::role::Permission;
use crate::store::Collection;

const URN: &str = "urn:mediator:lab";

fn mediator() -> Value {
    json!({
        "urn": URN, "version": "1.0.0", "name": "Lab", "endpoints": [{"name": "e", "host": "lab.example", "port": "80"}],
        "configDefs": [{"param": "url", "type": "string"}, {"param": "pw", "type": "password"}],
        "config": {"url": "http://a", "pw": "secret"},
        "defaultChannelConfig": [
            {"name": "Lab channel", "urlPattern": "^/lab$", "routes": [{"name": "r", "host": "h", "primary": true}]},
            {"name": "Second", "urlPattern": "^/2$", "routes": []},
        ],
    })
}

async fn stored(api: &TestApi) -> Document {
    api.stored(Collection::Mediators, doc! {"urn": URN}).await.remove(0)
}

#[tokio::test]
async fn a_mediator_registers_at_each_start() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;

    root.post("/mediators", &mediator()).await.is(201, "Created");
    root.post("/mediators", &mediator()).await.is(201, "Created");

    let stored = stored(&api).await;
    assert_eq!(stored.get_str("name").unwrap(), "Lab");
    assert_eq!(
        stored.get_array("endpoints").unwrap()[0]
            .as_document()
            .unwrap()
            .get_i32("port")
            .unwrap(),
        80
    );
    let started = doc! {"eventIdentification.eventTypeCode.code": "110120"};
    api.service.api.auditor.flush().await;
    let audits = api.stored(Collection::Audits, started).await;
    assert_eq!(audits.len(), 2);
    assert!(audits[0].to_string().contains("lab.example"));
    let basic = api
        .ask(Method::POST, "/mediators")
        .basic(ROOT, PASSWORD)
        .json(&mediator())
        .send()
        .await;
    basic.is(201, "User Authenticated Successfully");
}

#[tokio::test]
async fn a_newer_version_renews_the_mediator_and_keeps_what_was_set() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.post("/mediators", &mediator()).await;
    root.put(
        &format!("/mediators/{URN}/config"),
        &json!({"url": "http://mine", "pw": "mine"}),
    )
    .await;
    let mut newer = mediator();
    newer["name"] = "Newer".into();
    newer["config"] = json!({"url": "http://default", "extra": 1});
    newer["configDefs"] = json!([{"param": "url", "type": "string"}, {"param": "extra", "type": "number"}]);

    root.post("/mediators", &newer).await.is(201, "Created");
    assert_eq!(stored(&api).await.get_str("name").unwrap(), "Lab");
    newer["version"] = "1.0.1".into();
    root.post("/mediators", &newer).await.is(201, "Created");

    let stored = stored(&api).await;
    assert_eq!(stored.get_str("name").unwrap(), "Newer");
    assert_eq!(
        stored.get_document("config").unwrap(),
        &doc! {"url": "http://mine", "extra": 1}
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_registration_is_said() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let post = async |key: &str, value: Value| {
        let mut body = mediator();
        body[key] = value;
        root.post("/mediators", &body).await
    };
    const DOING: &str = "Could not add Mediator via the API: ValidationError:";

    post("urn", json!(""))
        .await
        .is(400, &format!("{DOING} URN is required"));
    post("version", json!("1")).await.is(
        400,
        &format!("{DOING} Version is required. Must be in SemVer form x.y.z"),
    );
    post("endpoints", json!([]))
        .await
        .is(400, &format!("{DOING} At least 1 endpoint is required"));
    post("config", json!({"x": 1}))
        .await
        .is(400, &format!("{DOING} No config definition found for parameter x"));
    post("name", Value::Null)
        .await
        .is(400, &format!("{DOING} name: Path `name` is required."));
    assert!(api.stored(Collection::Mediators, doc! {}).await.is_empty());
}

#[tokio::test]
async fn passwords_are_shown_to_the_mediator_alone() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.post("/mediators", &mediator()).await;

    let read = root.get(&format!("/mediators/{URN}")).await.json();
    let listed = root.get("/mediators").await.json();

    assert_eq!(read["config"], json!({"url": "http://a", "pw": "**********"}));
    assert_eq!(listed[0]["config"], read["config"]);
    let beat = root
        .post(
            &format!("/mediators/{URN}/heartbeat"),
            &json!({"uptime": 1, "config": true}),
        )
        .await;
    assert_eq!(beat.json(), json!({"url": "http://a", "pw": "secret"}));
    let url = format!("/mediators/{URN}/config");
    root.put(&url, &json!({"url": "http://b", "pw": "**********"}))
        .await
        .is(200, "OK");
    assert_eq!(
        stored(&api).await.get_document("config").unwrap(),
        &doc! {"url": "http://b", "pw": "secret"}
    );
    root.put(&url, &json!({"url": 1}))
        .await
        .is(400, "Expected config param url to be a string.");
    root.put("/mediators/urn:x/config", &json!({}))
        .await
        .is(404, "No mediator found for this urn.");
    root.get("/mediators/urn:x").await.is(404, "Not Found");
}

#[tokio::test]
async fn a_sign_of_life_is_answered_with_new_settings_once() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.post("/mediators", &mediator()).await;
    let beat = async || {
        root.post(&format!("/mediators/{URN}/heartbeat"), &json!({"uptime": 50.25}))
            .await
    };

    beat().await.is(200, "");
    let seen = stored(&api).await;
    assert_eq!(seen.get("_uptime"), Some(&Bson::Double(50.25)));
    assert_eq!(
        seen.get_datetime("_lastHeartbeat").unwrap(),
        &DateTime::from_millis(NOW)
    );
    api.clock.advance(1000);
    root.put(&format!("/mediators/{URN}/config"), &json!({"url": "http://new"}))
        .await;
    api.clock.advance(1000);
    assert_eq!(beat().await.json(), json!({"url": "http://new"}));
    beat().await.is(200, "");
    root.post(&format!("/mediators/{URN}/heartbeat"), &json!({}))
        .await
        .is(400, "Bad Request");
    root.post("/mediators/urn:x/heartbeat", &json!({"uptime": 1}))
        .await
        .is(404, "Not Found");
}

#[tokio::test]
async fn a_mediators_channels_are_added_as_it_describes_them() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.post("/mediators", &mediator()).await;
    let url = format!("/mediators/{URN}/channels");

    root.post(&url, &json!({})).await.is(201, "Created");
    assert!(api.stored(Collection::Channels, doc! {}).await.is_empty());
    root.post(&url, &json!(["Unknown"])).await.is(
        400,
        &format!(
            "Could not load mediator default channel config, one or more channels in the request body not found in the \
             mediator config (urn: {URN})"
        ),
    );
    root.post(&url, &json!(["Lab channel"])).await.is(201, "Created");
    let channels = api.stored(Collection::Channels, doc! {}).await;
    assert_eq!(channels[0].get_str("name").unwrap(), "Lab channel");
    assert_eq!(
        channels[0].get_document("updatedBy").unwrap().get_str("name").unwrap(),
        "Super User"
    );
    assert_eq!(api.stored(Collection::ChannelAudits, doc! {}).await.len(), 1);
    let twice = root.post(&url, &json!([])).await;
    assert_eq!(twice.status, 500);
    assert!(twice.text().contains("E11000"), "{}", twice.text());
}

#[tokio::test]
async fn mediators_can_be_given_one_by_one() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.post("/mediators", &mediator()).await;
    let mut other = mediator();
    other["urn"] = "urn:other".into();
    root.post("/mediators", &other).await;
    let owner = api.log_in_with(&[], doc! {"mediator-view-specified": [URN]}).await;

    let listed = owner.get("/mediators").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(owner.get("/mediators/urn:other").await.status, 403);
    owner
        .post(&format!("/mediators/{URN}/heartbeat"), &json!({"uptime": 1}))
        .await
        .is(200, "");
    assert_eq!(owner.delete(&format!("/mediators/{URN}")).await.status, 403);
    root.delete(&format!("/mediators/{URN}")).await.is(
        200,
        &format!("Mediator with urn {URN} has been successfully removed by root@openhim.org"),
    );
    api.add_role("none", &[Permission::LogsView], doc! {}).await;
    api.add_user("none@openhim.org", &["none"]).await;
    api.log_in("none@openhim.org").await.get("/mediators").await.is(
        403,
        "Could not fetch mediators via the API: User does not have the right permissions",
    );
}

#[tokio::test]
async fn settings_that_are_set_at_the_instant_of_a_sign_of_life_are_told() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let mediator = json!({
        "urn": "urn:busy", "version": "1.0.0", "name": "Busy", "endpoints": [{"name": "e"}],
        "configDefs": [{"param": "limit", "type": "number"}], "config": {"limit": 1},
    });
    assert_eq!(root.post("/mediators", &mediator).await.status, 201);
    let beat = json!({"uptime": 1});
    root.post("/mediators/urn:busy/heartbeat", &beat).await.is(200, "");

    // The clock of a test stands still.
    let set = root.put("/mediators/urn:busy/config", &json!({"limit": 7})).await;

    assert_eq!(set.status, 200, "{}", set.text());
    let told = root.post("/mediators/urn:busy/heartbeat", &beat).await;
    assert_eq!(told.json(), json!({"limit": 7}));
}
