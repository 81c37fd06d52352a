//! The `/groups` routes.

use bson::doc;
use bson::oid::ObjectId;
use serde_json::json;

use super::{ROOT, TestApi};
use crate::model::role::Permission;
use crate::store::Collection;

#[tokio::test]
async fn a_group_is_added_read_changed_and_deleted() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let body = json!({"group": "Admins", "users": [{"user": "a@b.c", "method": "email"}], "junk": 1});

    root.post("/groups", &body)
        .await
        .is(201, "Contact Group successfully created");

    let listed = root.get("/groups").await.json();
    let id = listed[0]["_id"].as_str().unwrap().to_owned();
    let user = listed[0]["users"][0]["_id"].clone();
    assert_eq!(
        listed,
        json!([{"_id": id, "group": "Admins", "__v": 0,
                "users": [{"_id": user, "user": "a@b.c", "method": "email", "maxAlerts": "no max"}]}])
    );
    root.put(&format!("/groups/{id}"), &json!({"_id": "x", "group": "Staff"}))
        .await
        .is(200, "Successfully updated contact group.");
    assert_eq!(root.get(&format!("/groups/{id}")).await.json()["group"], "Staff");
    let removed = format!("Successfully removed contact group with ID '{id}'");
    root.delete(&format!("/groups/{id}")).await.is(200, &removed);
    root.delete(&format!("/groups/{id}")).await.is(200, &removed);
    root.get(&format!("/groups/{id}"))
        .await
        .is(404, &format!("Contact Group with id '{id}' could not be found."));
}

#[tokio::test]
async fn a_group_that_a_channel_alerts_is_kept() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let group = ObjectId::new();
    api.insert(
        Collection::ContactGroups,
        doc! {"_id": group, "group": "g", "users": []},
    )
    .await;
    let channel = doc! {"_id": ObjectId::new(), "name": "Lab", "urlPattern": "/lab", "alerts": [{"groups": [group]}]};
    api.insert(Collection::Channels, channel).await;

    let answer = root.delete(&format!("/groups/{}", group.to_hex())).await;

    assert_eq!(answer.status, 409);
    assert_eq!(answer.json()[0]["name"], "Lab");
    assert_eq!(answer.json()[0]["methods"], json!([]));
    assert_eq!(api.stored(Collection::ContactGroups, doc! {}).await.len(), 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_group_is_said() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.post("/groups", &json!({"group": "g"})).await;

    root.post("/groups", &json!({})).await.is(
        400,
        "Could not add a contact group via the API: ValidationError: group: Path `group` is required.",
    );
    let twice = root.post("/groups", &json!({"group": "g"})).await;
    assert_eq!(twice.status, 400);
    assert!(twice.text().contains("MongoServerError: E11000"), "{}", twice.text());
    root.get("/groups/notanid").await.is(
        500,
        "Could not find Contact Group by id 'notanid' via the API: CastError: Cast to ObjectId failed for value \
         \"notanid\" (type string) at path \"_id\" for model \"ContactGroup\"",
    );
}

#[tokio::test]
async fn groups_need_their_permissions() {
    let api = TestApi::start().await;
    let viewer = api.log_in_with(&[Permission::ContactListView], doc! {}).await;

    assert_eq!(viewer.get("/groups").await.status, 200);
    viewer.post("/groups", &json!({"group": "g"})).await.is(
        403,
        "User tested@openhim.org does not have the \"contact-list-manage\" permission, API access to addContactGroup denied.",
    );
}
