//! The `/clients` routes.

use bson::oid::ObjectId;
use bson::{Document, doc};
use http::Method;
use serde_json::{Value, json};

use super::{PASSWORD, ROOT, TestApi};
use crate::model::role::Permission;
use crate::store::Collection;

async fn add(api: &TestApi, name: &str, more: Document) -> ObjectId {
    let id = ObjectId::new();
    let mut client = doc! {"_id": id, "clientID": name, "name": name.to_uppercase(), "roles": ["a"], "__v": 0};
    client.extend(more);
    api.insert(Collection::Clients, client).await;
    id
}

#[tokio::test]
async fn a_client_is_added_read_changed_and_deleted() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let body = json!({"clientID": "clinic", "name": "Clinic", "roles": ["ward"], "customTokenID": "t", "$promise": {}, "text": 1});
    root.post("/clients", &body)
        .await
        .is(201, "Client successfully created");

    let listed = root.get("/clients").await.json();
    let id = listed[0]["_id"].as_str().unwrap().to_owned();
    assert_eq!(
        listed,
        json!([{"_id": id, "clientID": "clinic", "name": "Clinic", "roles": ["ward"], "__v": 0, "customTokenSet": true}])
    );
    assert_eq!(root.get(&format!("/clients/{id}")).await.json(), listed[0]);
    assert_eq!(root.get("/clients/clinic?byNamedClientID=true").await.json(), listed[0]);
    assert_eq!(
        root.get(&format!("/clients/{id}/clientName")).await.json(),
        json!({"name": "Clinic"})
    );

    let change = json!({"_id": "ignored", "name": "Hospital", "customTokenID": null, "unknown": 1});
    root.put(&format!("/clients/{id}"), &change)
        .await
        .is(200, "Successfully updated client.");
    let stored = api.stored(Collection::Clients, doc! {}).await;
    assert_eq!(stored[0].get_str("name").unwrap(), "Hospital");
    assert!(stored[0].get("customTokenID").unwrap().as_null().is_some());
    assert!(!stored[0].contains_key("unknown"));

    let removed = format!("Successfully removed client with ID {id}");
    root.delete(&format!("/clients/{id}")).await.is(200, &removed);
    root.delete(&format!("/clients/{id}")).await.is(200, &removed);
    root.get(&format!("/clients/{id}"))
        .await
        .is(404, &format!("Client with id {id} could not be found."));
}

#[tokio::test]
async fn what_is_wrong_with_a_client_is_said() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    add(&api, "taken", doc! {}).await;
    for (body, status, text) in [
        (
            json!({"clientID": "admin", "name": "x", "roles": []}),
            409,
            "A role name conflicts with clientID 'admin'. A role name cannot be the same as a clientID.",
        ),
        (
            json!({"clientID": "x", "name": "x", "roles": ["x"]}),
            400,
            "ClientID 'x' cannot be the same as a role name.",
        ),
        (
            json!({"clientID": "x", "roles": []}),
            400,
            "Client validation failed: name: Path `name` is required.",
        ),
        (
            json!({"clientID": "x", "name": "x"}),
            400,
            "Client validation failed: roles: Path `roles` is required.",
        ),
        (
            json!({"clientID": "taken", "name": "x", "roles": []}),
            400,
            "E11000 duplicate key error collection: openhim.clients index: clientID_1 dup key: { clientID: \"taken\" }",
        ),
    ] {
        root.post("/clients", &body).await.is(status, text);
    }
    let odd = root
        .post(
            "/clients",
            &json!({"clientID": {"$ne": ""}, "name": ["a"], "roles": {"x": 1}}),
        )
        .await;
    assert_eq!(odd.status, 400, "{}", odd.text());
}

#[tokio::test]
async fn an_update_may_not_take_a_roles_name_or_use_operators() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let id = add(&api, "clinic", doc! {}).await.to_hex();
    let put = async |body: Value| root.put(&format!("/clients/{id}"), &body).await;
    assert_eq!(put(json!({"clientID": "admin"})).await.status, 409);
    assert_eq!(put(json!({"$unset": {"name": 1}})).await.status, 400);
    assert_eq!(put(json!({"name": {"a": 1}})).await.status, 500);
    assert_eq!(put(json!([])).await.status, 200);
    let stored = api.stored(Collection::Clients, doc! {}).await;
    assert_eq!(stored[0].get_str("name").unwrap(), "CLINIC");
}

#[tokio::test]
async fn ids_that_are_none_are_an_error_of_the_mapper() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let text = "Cast to ObjectId failed for value \"notanid\" (type string) at path \"_id\" for model \"Client\"";
    root.get("/clients/notanid").await.is(500, text);
    root.put("/clients/notanid", &json!({})).await.is(500, text);
    root.delete("/clients/notanid").await.is(500, text);
    root.get("/clients/twelve-bytes")
        .await
        .is(404, "Client with id twelve-bytes could not be found.");
    root.get("/clients/x/secret")
        .await
        .is(404, "The property (secret) you are trying to retrieve is not found.");
}

#[tokio::test]
async fn callers_see_the_clients_that_their_roles_name() {
    let api = TestApi::start().await;
    let seen = add(&api, "seen", doc! {"clientDomain": "seen.org"}).await.to_hex();
    let hidden = add(
        &api,
        "hidden",
        doc! {"clientDomain": "hidden.org", "customTokenID": "secret"},
    )
    .await
    .to_hex();
    let some = api
        .log_in_with(&[], doc! {"client-view-specified": [&seen, "seen"]})
        .await;
    let denied = |operation: &str| {
        format!(
            "User tested@openhim.org does not have the \"client-view-all\" permission, API access to {operation} denied."
        )
    };

    assert_eq!(some.get(&format!("/clients/{seen}")).await.status, 200);
    assert_eq!(
        some.get(&format!("/clients/{seen}/clientName")).await.json(),
        json!({"name": "SEEN"})
    );
    some.get(&format!("/clients/{hidden}"))
        .await
        .is(403, &denied("getClient"));
    some.get(&format!("/clients/{hidden}/clientName"))
        .await
        .is(403, &denied("getClient"));
    assert_eq!(some.get("/clients/domain/seen.org").await.json()["clientID"], "seen");
    some.get("/clients/domain/hidden.org")
        .await
        .is(403, &denied("getClientByDomain"));
    some.get("/clients/domain/none.org")
        .await
        .is(404, "Could not find client with clientDomain none.org");
    some.put(&format!("/clients/{seen}"), &json!({})).await.is(
        403,
        "User tested@openhim.org does not have the \"client-manage-all\" permission, API access to updateClient denied.",
    );
}

#[tokio::test]
async fn the_list_shows_what_the_roles_name_and_is_refused_to_others() {
    let api = TestApi::start().await;
    let seen = add(&api, "seen", doc! {}).await.to_hex();
    add(&api, "hidden", doc! {}).await;
    let some = api.log_in_with(&[], doc! {"client-view-specified": [&seen]}).await;
    let listed = some.get("/clients").await;
    assert_eq!(listed.status, 200);
    assert_eq!(listed.json().as_array().unwrap().len(), 1);

    api.add_user("nobody@openhim.org", &[]).await;
    let nobody = api
        .ask(Method::GET, "/clients")
        .basic("nobody@openhim.org", PASSWORD)
        .send()
        .await;
    nobody.is(403, "User nobody@openhim.org does not have an access role specified.");
    api.add_user("operator@openhim.org", &["operator"]).await;
    let operator = api.log_in("operator@openhim.org").await;
    operator.get("/clients").await.is(
        403,
        "User operator@openhim.org does not have the \"client-view-all\" permission, API access to getClients denied.",
    );
}

#[tokio::test]
async fn who_manages_some_clients_may_change_those() {
    let api = TestApi::start().await;
    let own = add(&api, "own", doc! {}).await.to_hex();
    let other = add(&api, "other", doc! {}).await.to_hex();
    let some = api
        .log_in_with(&[Permission::AuditTrailView], doc! {"client-manage-specified": [&own]})
        .await;
    assert_eq!(
        some.put(&format!("/clients/{own}"), &json!({"name": "new"}))
            .await
            .status,
        200
    );
    assert_eq!(some.get(&format!("/clients/{own}")).await.status, 200);
    assert_eq!(
        some.put(&format!("/clients/{other}"), &json!({"name": "new"}))
            .await
            .status,
        403
    );
    assert_eq!(
        some.post("/clients", &json!({"clientID": "n", "name": "n", "roles": []}))
            .await
            .status,
        403
    );
    assert_eq!(some.delete(&format!("/clients/{own}")).await.status, 200);
}
