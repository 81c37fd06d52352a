//! The `/apps` and `/importmaps` routes.

use bson::doc;
use serde_json::{Value, json};

use super::{ROOT, TestApi};
use crate::model::role::Permission;

fn app(name: &str) -> Value {
    json!({"name": name, "url": format!("http://x/{name}"), "type": "external", "category": "Tools"})
}

#[tokio::test]
async fn an_app_is_added_read_changed_and_deleted() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;

    let created = root.post("/apps", &app("one")).await;

    assert_eq!(created.status, 201);
    let id = created.json()["_id"].as_str().unwrap().to_owned();
    assert_eq!(
        created.json(),
        json!({"_id": id, "name": "one", "url": "http://x/one", "type": "external", "category": "Tools",
               "access_roles": [], "showInPortal": true, "__v": 0})
    );
    assert_eq!(root.get(&format!("/apps/{id}")).await.json(), created.json());
    let changed = root.put(&format!("/apps/{id}"), &json!({"description": "d"})).await;
    assert_eq!(
        (changed.status.as_u16(), changed.json()["description"].clone()),
        (200, json!("d"))
    );
    assert_eq!(
        root.delete(&format!("/apps/{id}")).await.json(),
        json!({"success": true})
    );
    let gone = root.delete(&format!("/apps/{id}")).await;
    assert_eq!(gone.status, 404);
    assert_eq!(
        gone.json(),
        json!({"error": format!("App with id {id} does not exist")})
    );
}

#[tokio::test]
async fn everybody_may_list_apps_and_query_them_by_field() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    for name in ["one", "two", "three"] {
        root.post("/apps", &app(name)).await;
    }
    let names = async |query: &str| -> Vec<String> {
        let apps = api.get(&format!("/apps{query}")).await.json();
        apps.as_array()
            .unwrap()
            .iter()
            .map(|app| app["name"].as_str().unwrap().to_owned())
            .collect()
    };

    assert_eq!(names("").await.len(), 3);
    assert_eq!(names("?name=two&unknown=1").await, ["two"]);
    assert_eq!(names("?name=two&name=one").await.len(), 2);
    assert_eq!(names("?showInPortal=false").await.len(), 0);
    assert_eq!(api.get("/apps?$where=1").await.status, 500);
}

#[tokio::test]
async fn the_import_map_has_the_console_and_the_apps() {
    let api = TestApi::start_with(|config| config.openhim_console_base_url = "http://console".into()).await;
    let root = api.log_in(ROOT).await;
    root.post("/apps", &app("mine")).await;

    let imports = api.get("/importmaps").await.json()["imports"].clone();

    assert_eq!(imports.as_object().unwrap().len(), 17);
    assert_eq!(
        imports["@jembi/legacy-console"],
        "http://console/libs/@jembi/legacy-console/dist/bundle.js"
    );
    assert_eq!(imports["mine"], "http://x/mine");
}

#[tokio::test]
async fn what_is_wrong_with_an_app_is_said_in_json() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = root.post("/apps", &app("one")).await.json()["_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let error = async |answer: super::Answer| {
        (
            answer.status.as_u16(),
            answer.json()["error"].as_str().unwrap().to_owned(),
        )
    };

    let (status, text) = error(root.post("/apps", &app("one")).await).await;
    assert_eq!((status, text.starts_with("E11000")), (400, true));
    assert_eq!(
        error(root.post("/apps", &json!({"name": "x"})).await).await,
        (400, "App validation failed: url: Path `url` is required.".to_owned())
    );
    assert_eq!(
        error(root.put(&format!("/apps/{id}"), &json!({"type": "x"})).await).await,
        (
            400,
            "Validation failed: type: `x` is not a valid enum value for path `type`.".to_owned()
        )
    );
    assert_eq!(
        error(root.get("/apps/twelve-chars").await).await,
        (
            400,
            "App id \"twelve-chars\" is invalid. ObjectId should contain 24 characters".to_owned()
        )
    );
}

#[tokio::test]
async fn one_app_needs_a_permission_for_it() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = root.post("/apps", &app("one")).await.json()["_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let viewer = api
        .log_in_with(&[Permission::LogsView], doc! {"app-view-specified": [&id]})
        .await;

    assert_eq!(viewer.get(&format!("/apps/{id}")).await.status, 200);
    let refused = viewer.get("/apps/000000000000000000000000").await;
    refused.is(
        403,
        "User tested@openhim.org does not have the \"app-view-all\" permission, API access to getApp denied.",
    );
}
