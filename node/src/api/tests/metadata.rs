//! The `/metadata` routes.

use bson::doc;
use bson::oid::ObjectId;
use serde_json::{Value, json};

use super::{ROOT, TestApi};
use crate::model::role::Permission;
use crate::store::Collection;

async fn client(api: &TestApi, name: &str) {
    let client = doc! {"_id": ObjectId::new(), "clientID": name, "name": "Old", "roles": ["a"], "__v": 0};
    api.insert(Collection::Clients, client).await;
}

fn states(answer: &Value) -> Vec<(String, String)> {
    let entries = answer.as_array().unwrap().iter();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    entries
        .map(|entry| (text(entry, "status"), text(entry, "message")))
        .collect()
}

#[tokio::test]
async fn an_export_has_everything_without_ids() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    client(&api, "clinic").await;
    let channel =
        doc! {"_id": ObjectId::new(), "name": "Lab", "routes": [{"_id": ObjectId::new(), "name": "r"}], "__v": 3};
    api.insert(Collection::Channels, channel).await;

    let exported = root.get("/metadata").await.json();

    let kinds = exported[0].as_object().unwrap();
    for kind in [
        "Channels",
        "Clients",
        "Mediators",
        "Users",
        "Passports",
        "ContactGroups",
        "KeystoreModelAPI",
        "Keystore",
    ] {
        assert!(kinds[kind].is_array(), "{kind}");
    }
    assert_eq!(kinds["Channels"], json!([{"name": "Lab", "routes": [{"name": "r"}]}]));
    assert_eq!(
        kinds["Clients"],
        json!([{"clientID": "clinic", "name": "Old", "roles": ["a"]}])
    );
}

#[tokio::test]
async fn a_validation_says_what_an_import_would_do_and_does_nothing() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    client(&api, "known").await;
    let body = json!({"Clients": [{"clientID": "a", "name": "b"}, {}, {"clientID": "known", "name": "x"}],
                      "Bogus": [{"a": 1}], "Users": "none"});

    let answer = root.post("/metadata/validate", &body).await;

    assert_eq!(answer.status, 201);
    let answer = answer.json();
    assert_eq!(
        states(&answer),
        [
            ("Valid".to_owned(), String::new()),
            (
                "Error".to_owned(),
                "Document Validation failed: ValidationError: name: Path `name` is required., \
                 clientID: Path `clientID` is required."
                    .to_owned()
            ),
            ("Conflict".to_owned(), String::new()),
            ("Error".to_owned(), "Invalid Collection in Import Object".to_owned()),
        ]
    );
    let id = answer[0]["record"]["_id"].clone();
    assert_eq!(
        answer[0],
        json!({"model": "Clients", "record": {"clientID": "a", "name": "b", "roles": [], "_id": id}, "status": "Valid",
               "message": "", "uid": "a"})
    );
    assert!(answer[1].get("uid").is_none());
    assert_eq!(answer[2]["record"], json!({"clientID": "known", "name": "x"}));
    assert_eq!(api.stored(Collection::Clients, doc! {}).await.len(), 1);
}

#[tokio::test]
async fn an_import_inserts_updates_and_goes_on_after_errors() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    client(&api, "known").await;
    api.insert(
        Collection::ContactGroups,
        doc! {"_id": ObjectId::new(), "group": "other", "users": []},
    )
    .await;
    let body = json!({
        "Clients": [{"_id": "ignored", "clientID": "known", "name": "New"}, {"clientID": "fresh", "name": "F", "roles": []}, {"name": "x"}],
        "Channels": [{"name": "Lab", "urlPattern": "/lab", "routes": []}],
        "ContactGroups": [{"group": "mine", "users": []}],
    });

    let answer = root.post("/metadata", &body).await.json();

    let words: Vec<String> = states(&answer).into_iter().map(|(status, _)| status).collect();
    assert_eq!(words, ["Updated", "Inserted", "Error", "Inserted", "Inserted"]);
    assert_eq!(answer[0]["record"], json!({"clientID": "known", "name": "New"}));
    assert_eq!(answer[1]["record"]["__v"], 0);
    let known = api
        .stored(Collection::Clients, doc! {"clientID": "known"})
        .await
        .remove(0);
    assert_eq!(known.get_str("name").unwrap(), "New");
    assert_eq!(known.get_array("roles").unwrap().len(), 1);
    assert_eq!(api.stored(Collection::ContactGroups, doc! {}).await.len(), 2);
    let lab = api.stored(Collection::Channels, doc! {"name": "Lab"}).await.remove(0);
    assert_eq!(
        lab.get_document("updatedBy").unwrap().get_str("name").unwrap(),
        "Super User"
    );
    assert_eq!(api.stored(Collection::ChannelAudits, doc! {}).await.len(), 1);

    let again = root
        .post("/metadata", &json!({"Channels": [{"name": "Lab", "description": "d"}]}))
        .await
        .json();
    assert_eq!(states(&again)[0].0, "Updated");
    assert_eq!(api.stored(Collection::ChannelAudits, doc! {}).await.len(), 2);
}

#[tokio::test]
async fn an_installation_can_be_carried_to_another_one() {
    let from = TestApi::start().await;
    client(&from, "clinic").await;
    let exported = from.log_in(ROOT).await.get("/metadata").await.json();
    let to = TestApi::start().await;
    let root = to.log_in(ROOT).await;

    let answer = root.post("/metadata", &exported[0]).await.json();

    assert!(states(&answer).iter().all(|(status, _)| status != "Error"), "{answer}");
    assert_eq!(
        to.stored(Collection::Clients, doc! {"clientID": "clinic"}).await.len(),
        1
    );
    assert_eq!(to.stored(Collection::Users, doc! {}).await.len(), 1);
    assert_eq!(to.stored(Collection::Passports, doc! {}).await.len(), 2);
    to.log_in(ROOT).await;
}

#[tokio::test]
async fn keys_that_do_not_fit_are_not_taken_over() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let body = json!({"Keystore": [{"key": "no key", "cert": {"data": "no certificate"}, "ca": []}]});

    let answer = root.post("/metadata", &body).await.json();

    assert_eq!(states(&answer)[0].0, "Error");
    assert!(api.stored(Collection::Keystores, doc! {}).await.is_empty());
}

#[tokio::test]
async fn a_null_instead_of_a_list_ends_the_import() {
    let api = TestApi::start().await;
    let importer = api.log_in_with(&[Permission::ImportExport], doc! {}).await;

    let answer = importer.post("/metadata", &json!({"Clients": null})).await;
    assert_eq!(answer.status, 500);
    assert!(
        answer
            .text()
            .starts_with("Could not import metadata via the API TypeError")
    );
    assert_eq!(importer.post("/metadata", &json!([])).await.json(), json!([]));
}
