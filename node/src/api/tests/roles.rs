//! The `/roles` routes.

use bson::oid::ObjectId;
use bson::{Document, doc};
use serde_json::{Value, json};

use super::{ROOT, TestApi};
use crate::model::role::Permission;
use crate::store::Collection;

fn named<'a>(roles: &'a Value, name: &str) -> &'a Value {
    roles
        .as_array()
        .unwrap()
        .iter()
        .find(|role| role["name"] == name)
        .unwrap()
}

async fn client(api: &TestApi, name: &str, roles: &[&str]) -> String {
    let id = ObjectId::new();
    let client = doc! {"_id": id, "clientID": name, "name": name, "roles": roles, "__v": 0};
    api.insert(Collection::Clients, client).await;
    id.to_hex()
}

async fn channel(api: &TestApi, name: &str, allow: &[&str]) -> String {
    let id = ObjectId::new();
    let channel = doc! {"_id": id, "name": name, "urlPattern": "/", "allow": allow, "routes": [{"name": "r", "primary": true}], "__v": 0};
    api.insert(Collection::Channels, channel).await;
    id.to_hex()
}

async fn one(api: &TestApi, of: Collection, name: &str) -> Document {
    api.stored(of, doc! {"name": name}).await.remove(0)
}

#[tokio::test]
async fn a_role_is_added_read_changed_and_deleted() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;

    root.post(
        "/roles",
        &json!({"name": "r", "permissions": {"user-view": true, "bogus": true}}),
    )
    .await
    .is(201, "Role successfully created");

    let read = root.get("/roles/r").await.json();
    assert_eq!(read["permissions"].as_object().unwrap().len(), 40);
    assert_eq!(read["permissions"]["user-view"], true);
    assert_eq!((&read["channels"], &read["clients"]), (&json!([]), &json!([])));
    root.put("/roles/r", &json!({"_id": "x", "permissions": {"logs-view": true}}))
        .await
        .is(200, "Successfully updated role");
    let permissions = root.get("/roles/r").await.json()["permissions"].clone();
    assert_eq!(
        (&permissions["user-view"], &permissions["logs-view"]),
        (&json!(false), &json!(true))
    );
    root.put("/roles/r", &json!({"name": "admin"}))
        .await
        .is(400, "Cannot rename role to existing role name");
    root.delete("/roles/r").await.is(200, "Successfully deleted role");
    for answer in [
        root.delete("/roles/r").await,
        root.get("/roles/r").await,
        root.put("/roles/r", &json!({})).await,
    ] {
        answer.is(404, "Role r does not exist");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_role_is_said() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    client(&api, "clinic", &[]).await;

    root.post("/roles", &json!({}))
        .await
        .is(400, "Must specify a role name");
    root.post("/roles", &json!({"name": "clinic"}))
        .await
        .is(409, "Role name matches an existing clientID");
    root.put("/roles/manager", &json!({"name": "clinic"}))
        .await
        .is(409, "Role name matches an existing clientID");
    let twice = root.post("/roles", &json!({"name": "admin"})).await;
    assert_eq!(twice.status, 400);
    assert!(twice.text().starts_with("E11000"), "{}", twice.text());
}

#[tokio::test]
async fn the_admin_role_stays() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;

    assert_eq!(root.delete("/roles/admin").await.status, 403);
    assert_eq!(root.put("/roles/admin", &json!({"name": "boss"})).await.status, 403);
    assert_eq!(api.stored(Collection::Roles, doc! {"name": "admin"}).await.len(), 1);
}

#[tokio::test]
async fn reading_roles_takes_the_view_permission_itself() {
    let api = TestApi::start().await;
    let manager = api.log_in_with(&[Permission::UserRoleManage], doc! {}).await;

    manager.get("/roles").await.is(
        403,
        "User tested@openhim.org does not have the \"user-role-view\" permission, API access to getRoles denied.",
    );
    assert_eq!(manager.post("/roles", &json!({"name": "x"})).await.status, 201);
}

#[tokio::test]
async fn names_of_clients_and_channels_are_roles_too() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let clinic = client(&api, "clinic", &["ward", "admin"]).await;
    let lab = channel(&api, "Lab", &["ward", "clinic"]).await;

    let roles = root.get("/roles").await.json();

    let ward = named(&roles, "ward");
    assert_eq!(ward["channels"], json!([{"_id": lab, "name": "Lab"}]));
    assert_eq!(ward["clients"], json!([{"_id": clinic, "clientID": "clinic"}]));
    assert_eq!(ward["permissions"]["user-view"], false);
    assert_eq!(named(&roles, "admin")["clients"], ward["clients"]);
    assert_eq!(roles.as_array().unwrap().len(), 4);
    assert_eq!(&root.get("/roles/ward").await.json(), ward);
}

#[tokio::test]
async fn a_matrix_gives_and_takes_roles_and_keeps_the_history() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    client(&api, "one", &["ward"]).await;
    let two = client(&api, "two", &["other"]).await;
    channel(&api, "A", &["ward"]).await;
    let b = channel(&api, "B", &["x"]).await;

    root.put(
        "/roles/ward",
        &json!({"channels": [{"_id": b, "name": "B"}], "clients": [{"_id": two, "name": "two"}]}),
    )
    .await
    .is(200, "Successfully updated role");

    let list = |document: &Document, key: &str| -> Vec<String> {
        document
            .get_array(key)
            .unwrap()
            .iter()
            .map(|it| it.as_str().unwrap().to_owned())
            .collect()
    };
    assert!(list(&one(&api, Collection::Channels, "A").await, "allow").is_empty());
    assert_eq!(
        list(&one(&api, Collection::Channels, "B").await, "allow"),
        ["x", "ward"]
    );
    assert!(list(&one(&api, Collection::Clients, "one").await, "roles").is_empty());
    assert_eq!(
        list(&one(&api, Collection::Clients, "two").await, "roles"),
        ["other", "ward"]
    );
    assert_eq!(api.stored(Collection::ChannelAudits, doc! {}).await.len(), 2);

    root.put("/roles/ward", &json!({"name": "unit"}))
        .await
        .is(200, "Successfully updated role");
    assert_eq!(
        list(&one(&api, Collection::Channels, "B").await, "allow"),
        ["x", "unit"]
    );
    root.delete("/roles/unit").await.is(200, "Successfully deleted role");
    assert_eq!(list(&one(&api, Collection::Clients, "two").await, "roles"), ["other"]);
}

#[tokio::test]
async fn a_matrix_does_not_lend_the_right_to_change_channels() {
    let api = TestApi::start().await;
    let id = channel(&api, "A", &["ward"]).await;
    let manager = api.log_in_with(&[Permission::UserRoleManage], doc! {}).await;

    let answer = manager.put("/roles/ward", &json!({"channels": [{"_id": id}]})).await;

    assert_eq!(answer.status, 403);
    assert_eq!(manager.delete("/roles/ward").await.status, 403);
}
