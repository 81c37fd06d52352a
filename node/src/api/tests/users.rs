//! The `/users` routes and the links by mail.

use bson::{Bson, DateTime, Document, doc};
use serde_json::{Value, json};

use super::{NOW, PASSWORD, ROOT, TestApi};
use crate::model::role::Permission;
use crate::store::Collection;

async fn user(api: &TestApi, email: &str) -> Document {
    api.stored(Collection::Users, doc! {"email": email}).await.remove(0)
}

async fn passports(api: &TestApi, email: &str) -> Vec<Document> {
    let mut passports = api.stored(Collection::Passports, doc! {"email": email}).await;
    passports.sort_by_key(|passport| passport.get_str("protocol").unwrap().to_owned());
    passports
}

async fn log_in(api: &TestApi, email: &str, password: &str) -> u16 {
    let body = json!({"username": email, "password": password});
    let answer = api
        .ask(http::Method::POST, "/authenticate/local")
        .json(&body)
        .send()
        .await;
    answer.status.as_u16()
}

fn bill() -> Value {
    json!({"firstname": "Bill", "surname": "Newman", "email": "Bill@Newman.com", "password": "secret", "groups": ["HISP"],
           "$resolved": true})
}

#[tokio::test]
async fn a_new_user_gets_a_mail_and_can_log_in_by_both_ways() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;

    root.post("/users", &bill()).await.is(201, "User successfully created");

    let stored = user(&api, "bill@newman.com").await;
    let token = stored.get_str("token").unwrap();
    assert_eq!(token.len(), 32);
    assert_eq!(stored.get_str("tokenType").unwrap(), "newUser");
    assert!(stored.get_bool("locked").unwrap());
    assert_eq!(
        stored.get_datetime("expiry").unwrap(),
        &DateTime::from_millis(NOW + 7 * 86_400_000)
    );
    assert!(!stored.contains_key("password"));
    let [local, digest] = passports(&api, "bill@newman.com").await.try_into().unwrap();
    assert!(local.get_str("password").unwrap().starts_with("$2a$10$"));
    assert_eq!(digest.get_str("passwordAlgorithm").unwrap(), "sha512");
    assert_eq!(log_in(&api, "bill@newman.com", "secret").await, 200);
    let salt = api.get("/authenticate/bill@newman.com").await;
    assert!(salt.json()["salt"].as_str().is_some_and(|salt| !salt.is_empty()));
    let mail = api.mailbox.first().await;
    assert_eq!(
        (mail.to.as_str(), mail.subject.as_str()),
        ("bill@newman.com", "OpenHIM Console Profile")
    );
    assert!(mail.text.contains("Hi Bill,"));
    assert!(
        mail.text
            .contains(&format!("http://localhost:9000/#!/set-password/{token}"))
    );
}

#[tokio::test]
async fn a_user_without_a_password_cannot_log_in_yet() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let mut body = bill();
    body.as_object_mut().unwrap().remove("password");

    root.post("/users", &body).await.is(201, "User successfully created");

    let [passport] = passports(&api, "bill@newman.com").await.try_into().unwrap();
    assert_eq!(passport.get_str("protocol").unwrap(), "token");
    assert!(!passport.contains_key("passwordHash"));
    assert_eq!(
        user(&api, "bill@newman.com").await.get_str("provider").unwrap(),
        "local"
    );
    assert_eq!(log_in(&api, "bill@newman.com", "").await, 400);
}

#[tokio::test]
async fn the_old_hash_trio_makes_a_token_user() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let hash = crate::crypto::password::token_hash("sha512", "salt", "secret").unwrap();
    let body = json!({"firstname": "A", "surname": "B", "email": "a@b.c",
                      "passwordAlgorithm": "sha512", "passwordSalt": "salt", "passwordHash": hash});

    root.post("/users", &body).await.is(201, "User successfully created");

    assert_eq!(user(&api, "a@b.c").await.get_str("provider").unwrap(), "token");
    assert!(!user(&api, "a@b.c").await.contains_key("passwordHash"));
    assert_eq!(log_in(&api, "a@b.c", "secret").await, 200);
    root.put(
        "/users/a@b.c",
        &json!({"passwordAlgorithm": "sha512", "passwordSalt": "salt", "passwordHash": "0".repeat(128)}),
    )
    .await
    .is(200, "Successfully updated user.");
    assert_eq!(log_in(&api, "a@b.c", "secret").await, 401);
    assert_eq!(user(&api, "a@b.c").await.get_str("provider").unwrap(), "token");
}

#[tokio::test]
async fn what_is_wrong_with_a_user_is_said() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;

    root.post("/users", &json!({"email": "x@y.z"})).await.is(
        500,
        "Could not add user via the API ValidationError: surname: Path `surname` is required., \
         firstname: Path `firstname` is required.",
    );
    let twice = json!({"firstname": "a", "surname": "b", "email": "ROOT@openhim.org", "password": "x"});
    let answer = root.post("/users", &twice).await;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("MongoServerError: E11000"), "{}", answer.text());
    assert_eq!(log_in(&api, ROOT, PASSWORD).await, 200);
    root.post("/users", &json!({})).await.is(500, "Internal Server Error");
}

#[tokio::test]
async fn users_are_read_without_what_would_let_somebody_take_them_over() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.post("/users", &bill()).await;

    let listed = root.get("/users").await.json();
    let read = root.get("/users/BILL@newman.com").await.json();

    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(read["groups"], json!(["HISP"]));
    assert!(read.get("token").is_none());
    assert!(
        listed
            .as_array()
            .unwrap()
            .iter()
            .all(|user| user.get("token").is_none())
    );
    root.get("/users/x@y.z")
        .await
        .is(404, "User with email x@y.z could not be found.");
    let nobody = api.log_in_with(&[], doc! {}).await;
    assert_eq!(nobody.get("/users").await.status, 403);
    assert_eq!(nobody.get("/users/tested@openhim.org").await.status, 200);
    assert_eq!(nobody.get("/users/root@openhim.org").await.status, 403);
}

#[tokio::test]
async fn a_user_changes_himself_but_not_his_groups() {
    let api = TestApi::start().await;
    let me = api.log_in_with(&[], doc! {}).await;

    me.put(
        "/users/tested@openhim.org",
        &json!({"_id": "bogus", "firstname": "New", "groups": ["admin"], "settings": {"a": 1}, "password": "changed"}),
    )
    .await
    .is(200, "Successfully updated user.");

    let stored = user(&api, "tested@openhim.org").await;
    assert_eq!(stored.get_str("firstname").unwrap(), "New");
    assert_eq!(stored.get_array("groups").unwrap(), &vec![Bson::from("tested")]);
    assert_eq!(stored.get_document("settings").unwrap(), &doc! {"a": 1});
    assert_eq!(stored.get("token"), Some(&Bson::Null));
    assert_eq!(log_in(&api, "tested@openhim.org", "changed").await, 200);
    assert_eq!(log_in(&api, "tested@openhim.org", PASSWORD).await, 401);
    assert_eq!(me.put("/users/root@openhim.org", &json!({})).await.status, 403);
}

#[tokio::test]
async fn a_manager_changes_others() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    api.add_user("a@b.c", &["x"]).await;

    root.put("/users/A@B.C", &json!({"groups": ["y"], "email": "new@b.c"}))
        .await
        .is(200, "Successfully updated user.");

    assert_eq!(
        user(&api, "new@b.c").await.get_array("groups").unwrap(),
        &vec![Bson::from("y")]
    );
    assert_eq!(log_in(&api, "new@b.c", PASSWORD).await, 200);
    assert!(passports(&api, "a@b.c").await.is_empty());
    root.put("/users/x@y.z", &json!({}))
        .await
        .is(404, "User with email x@y.z could not be found.");
}

#[tokio::test]
async fn a_user_of_a_provider_keeps_what_the_provider_says() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let user_id = bson::oid::ObjectId::new();
    let openid = doc! {"_id": user_id, "email": "o@p.q", "firstname": "O", "surname": "P", "provider": "openid", "groups": ["x"]};
    api.insert(Collection::Users, openid).await;

    root.put(
        "/users/o@p.q",
        &json!({"firstname": "Z", "provider": "local", "msisdn": "27", "password": "x"}),
    )
    .await
    .is(200, "Successfully updated user.");

    let stored = user(&api, "o@p.q").await;
    assert_eq!(stored.get_str("firstname").unwrap(), "O");
    assert_eq!(stored.get_str("provider").unwrap(), "openid");
    assert_eq!(stored.get_str("msisdn").unwrap(), "27");
    assert!(passports(&api, "o@p.q").await.is_empty());
}

#[tokio::test]
async fn a_deleted_user_leaves_no_password_behind() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    api.add_user("a@b.c", &[]).await;

    let removed = "Successfully removed user with email A@b.c";
    root.delete("/users/A@b.c").await.is(200, removed);
    root.delete("/users/A@b.c").await.is(200, removed);

    assert!(passports(&api, "a@b.c").await.is_empty());
    for email in [ROOT, "ROOT@openhim.org"] {
        root.delete(&format!("/users/{email}")).await.is(
            403,
            "User root@openhim.org is OpenHIM root, User cannot be deleted through the API",
        );
    }
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_by_a_mailed_link() {
    let api = TestApi::start().await;
    api.add_user("a@b.c", &["x"]).await;

    api.get("/password-reset-request/A@b.c")
        .await
        .is(201, "Successfully set user token/expiry for password reset.");

    let mail = api.mailbox.first().await;
    assert_eq!(
        (mail.to.as_str(), mail.subject.as_str()),
        ("a@b.c", "OpenHIM Console Password Reset")
    );
    let token = user(&api, "a@b.c").await.get_str("token").unwrap().to_owned();
    assert!(mail.html.contains(&token));
    assert_eq!(
        api.get(&format!("/token/{token}")).await.json(),
        json!({"email": "a@b.c", "firstname": "Super", "surname": "User", "token": token, "tokenType": "existingUser",
               "expiry": "2026-11-22T12:39:08.000Z"})
    );
    let put = async |body: Value| {
        api.ask(http::Method::PUT, &format!("/token/{token}"))
            .json(&body)
            .send()
            .await
    };
    put(json!({})).await.is(200, "Successfully set new user password.");
    assert_eq!(log_in(&api, "a@b.c", PASSWORD).await, 200);
    put(json!({"password": "fresh", "firstname": "Not"}))
        .await
        .is(200, "Successfully set new user password.");
    assert_eq!(log_in(&api, "a@b.c", "fresh").await, 200);
    let stored = user(&api, "a@b.c").await;
    assert_eq!(stored.get_str("firstname").unwrap(), "Super");
    assert_eq!(
        (stored.get("token"), stored.get("expiry")),
        (Some(&Bson::Null), Some(&Bson::Null))
    );
    put(json!({"password": "again"}))
        .await
        .is(404, &format!("User with token {token} could not be found."));
}

#[tokio::test]
async fn a_new_user_completes_the_profile_by_the_link() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.post("/users", &bill()).await;
    let token = user(&api, "bill@newman.com").await.get_str("token").unwrap().to_owned();
    let body = json!({"password": "x", "firstname": "William", "surname": "N", "msisdn": "27", "groups": ["admin"]});

    let answer = api
        .ask(http::Method::PUT, &format!("/token/{token}"))
        .json(&body)
        .send()
        .await;

    answer.is(200, "Successfully set new user password.");
    let stored = user(&api, "bill@newman.com").await;
    assert_eq!(stored.get_str("firstname").unwrap(), "William");
    assert_eq!(stored.get_str("msisdn").unwrap(), "27");
    assert!(!stored.get_bool("locked").unwrap());
    assert_eq!(stored.get_array("groups").unwrap(), &vec![Bson::from("HISP")]);
}

#[tokio::test]
async fn a_link_ends_and_not_everybody_gets_one() {
    let api = TestApi::start().await;
    api.add_user("a@b.c", &[]).await;
    api.get("/password-reset-request/a@b.c").await;
    let token = user(&api, "a@b.c").await.get_str("token").unwrap().to_owned();
    api.clock.advance(3_600_001);

    api.get(&format!("/token/{token}"))
        .await
        .is(410, &format!("Token {token} has expired"));
    api.ask(http::Method::PUT, &format!("/token/{token}"))
        .json(&json!({"password": "x"}))
        .send()
        .await
        .is(
            410,
            &format!("User with token {token} has expired to set their password."),
        );
    api.get("/password-reset-request/Root@openhim.org")
        .await
        .is(403, "Cannot request password reset for 'root@openhim.org'");
    api.get("/password-reset-request/x@y.z")
        .await
        .is(404, "Tried to request password reset for invalid email address: x@y.z");
    api.mailbox.close();
    api.get("/password-reset-request/a@b.c").await.is(
        500,
        "Could not update user with email a@b.c via the API Error: No email config found",
    );
}

#[tokio::test]
async fn managing_users_takes_the_permission() {
    let api = TestApi::start().await;
    let viewer = api.log_in_with(&[Permission::UserView], doc! {}).await;

    assert_eq!(viewer.get("/users").await.status, 200);
    viewer.post("/users", &bill()).await.is(
        403,
        "User tested@openhim.org does not have the \"user-manage\" permission, API access to addUser denied.",
    );
    assert_eq!(viewer.delete("/users/a@b.c").await.status, 403);
}
