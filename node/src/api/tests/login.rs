//! Logging in by all ways, sessions, audits of logins.

use bson::doc;
use http::Method;
use serde_json::{Value, json};

use super::{Answer, NOW, PASSWORD, ROOT, TestApi};
use crate::crypto::password::token_hash;
use crate::model::date;
use crate::store::Collection;

async fn log_in(api: &TestApi, body: Value) -> Answer {
    api.ask(Method::POST, "/authenticate/local").json(&body).send().await
}

#[tokio::test]
async fn a_login_answers_with_the_user_and_begins_a_session() {
    let api = TestApi::start().await;
    let answer = log_in(&api, json!({"username": ROOT, "password": PASSWORD})).await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["result"], "User authenticated successfully");
    assert_eq!(answer.json()["user"]["email"], ROOT);
    let attributes = "path=/; expires=Sun, 22 Nov 2026 13:39:08 GMT; samesite=none; secure; httponly";
    let cookies = answer.cookies();
    let (id, rest) = cookies[0].strip_prefix("koa.sess=").unwrap().split_once("; ").unwrap();
    assert_eq!(rest, attributes);
    assert!(cookies[1].starts_with("koa.sess.sig=") && cookies[1].ends_with(attributes));

    let sessions = api.stored(Collection::Sessions, doc! {}).await;
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].get_str("_id").unwrap(), id);
    assert_eq!(
        sessions[0].get_document("data").unwrap(),
        &doc! {"passport": {"user": ROOT}, "_expire": (NOW + 7_200_000) as f64, "_maxAge": 7_200_000}
    );
}

#[tokio::test]
async fn credentials_may_come_in_a_form_or_in_the_query() {
    let api = TestApi::start().await;
    let form = "username=root%40openhim.org&password=openhim-password";
    let ask = || api.ask(Method::POST, "/authenticate/local");
    let by_form = ask().raw("application/x-www-form-urlencoded", form).send().await;
    assert_eq!(by_form.status, 200);
    let by_query = api
        .ask(Method::POST, &format!("/authenticate/local?{form}"))
        .send()
        .await;
    assert_eq!(by_query.status, 200);
}

#[tokio::test]
async fn a_login_without_credentials_is_400_and_a_wrong_one_401() {
    let api = TestApi::start().await;
    log_in(&api, json!({"username": ROOT})).await.is(400, "Bad Request");
    log_in(&api, json!({"username": ROOT, "password": ""}))
        .await
        .is(400, "Bad Request");
    log_in(&api, json!({"username": ROOT, "password": "wrong"}))
        .await
        .is(401, "Unauthorized");
    log_in(&api, json!({"username": "ROOT@openhim.org", "password": PASSWORD}))
        .await
        .is(401, "Unauthorized");
    log_in(&api, json!({"username": {"$ne": null}, "password": {"$ne": null}}))
        .await
        .is(401, "Unauthorized");
    assert!(api.audits().await.is_empty());
}

#[tokio::test]
async fn a_disabled_way_is_refused_and_sessions_keep_working() {
    let api = TestApi::start_with(|config| config.api.authentication_types = vec!["local".into()]).await;
    let root = api.log_in(ROOT).await;
    api.ask(Method::GET, "/channels")
        .basic(ROOT, PASSWORD)
        .send()
        .await
        .is(401, "Unauthorized");
    assert_eq!(root.get("/channels").await.status, 200);
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let api = TestApi::start().await;
    for _ in 0..20 {
        log_in(&api, json!({"username": ROOT, "password": "guess"}))
            .await
            .is(401, "Unauthorized");
    }
    let refused = log_in(&api, json!({"username": ROOT, "password": PASSWORD})).await;
    refused.is(429, "Too Many Requests");
    assert_eq!(refused.header("retry-after"), Some("60"));
    api.clock.advance(60_000);
    assert_eq!(
        log_in(&api, json!({"username": ROOT, "password": PASSWORD}))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn me_is_the_user_of_the_session_only() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let me = root.get("/me").await.json();
    assert_eq!(me["user"]["email"], ROOT);
    assert_eq!(me["user"]["groups"], json!(["admin"]));
    let basic = api.ask(Method::GET, "/me").basic(ROOT, PASSWORD).send().await;
    basic.is(404, "Not authenticated");
}

#[tokio::test]
async fn a_logout_ends_the_session_and_clears_the_cookies() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let answer = root.get("/logout").await;
    answer.is(200, "OK");
    assert_eq!(
        answer.cookies(),
        [
            "koa.sess=; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; samesite=none; secure; httponly",
            "koa.sess.sig=5_7Op2aKO7YY73SH2akh4AL7eQM; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; samesite=none; secure; httponly",
        ]
    );
    assert!(api.stored(Collection::Sessions, doc! {}).await.is_empty());
    root.get("/channels").await.is(401, "Unauthorized");
}

#[tokio::test]
async fn a_session_ends_at_its_time_however_often_it_is_used() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    api.clock.advance(7_200_000);
    assert_eq!(root.get("/about").await.status, 200);
    api.clock.advance(1);
    assert_eq!(root.get("/about").await.status, 401);
}

#[tokio::test]
async fn a_login_replaces_the_session_before() {
    let api = TestApi::start().await;
    let first = api.log_in(ROOT).await;
    let body = json!({"username": ROOT, "password": PASSWORD});
    let again = first.post("/authenticate/local", &body).await;
    assert_ne!(again.cookie_header(), first.cookie);
    assert_eq!(first.get("/about").await.status, 401);
    assert_eq!(api.stored(Collection::Sessions, doc! {}).await.len(), 1);
}

#[tokio::test]
async fn a_forged_cookie_is_no_session_and_is_cleared() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let forged = root.cookie.replace("koa.sess.sig=", "koa.sess.sig=x");
    let answer = api.ask(Method::GET, "/channels").header("cookie", &forged).send().await;
    answer.is(401, "Unauthorized");
    assert_eq!(
        answer.cookies(),
        ["koa.sess.sig=; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; httponly"]
    );
}

#[tokio::test]
async fn the_session_of_a_deleted_user_is_emptied() {
    let api = TestApi::start().await;
    let session = api.log_in_with(&[], doc! {}).await;
    api.store
        .delete(Collection::Users, doc! {"email": "tested@openhim.org"})
        .await
        .unwrap();
    session.get("/channels").await.is(401, "Unauthorized");
    let left = api.stored(Collection::Sessions, doc! {}).await;
    assert_eq!(
        left[0].get_document("data").unwrap().get_document("passport").unwrap(),
        &doc! {}
    );
}

#[tokio::test]
async fn a_secure_cookie_is_not_sent_in_the_clear() {
    let mut api = TestApi::start_with(|config| config.api.trust_proxy = true).await;
    api.peer.encrypted = false;
    let body = json!({"username": ROOT, "password": PASSWORD});
    let answer = log_in(&api, body.clone()).await;
    answer.is(500, "Internal Server Error");
    assert!(answer.cookies().is_empty());
    let proxied = api
        .ask(Method::POST, "/authenticate/local")
        .header("x-forwarded-proto", "https");
    assert_eq!(proxied.json(&body).send().await.status, 200);
}

#[tokio::test]
async fn a_mediator_logs_in_with_a_token_as_old_libraries_do() {
    let api = TestApi::start().await;
    let answer = api.get("/authenticate/ROOT%40openhim.org").await;
    let salt = answer.json()["salt"].as_str().unwrap().to_owned();
    let ts = answer.json()["ts"].as_str().unwrap().to_owned();
    assert_eq!(date::parse(&ts), Some(NOW));

    let password_hash = token_hash("sha512", &salt, PASSWORD).unwrap();
    let token = token_hash("sha512", &password_hash, &format!("{salt}{ts}")).unwrap();
    let ask = |ts: &str, token: &str| {
        api.ask(Method::GET, "/channels")
            .header("auth-username", "Root@openhim.org")
            .header("auth-ts", ts)
            .header("auth-salt", &salt)
            .header("auth-token", token)
    };
    let done = ask(&ts, &token).send().await;
    assert_eq!(done.status, 200);
    assert_eq!(done.cookies().len(), 2);

    ask(&ts, "0".repeat(128).as_str()).send().await.is(401, "Unauthorized");
    ask("nonsense", &token).send().await.is(401, "Unauthorized");
    api.clock.advance(10_001);
    ask(&ts, &token).send().await.is(401, "Unauthorized");
}

#[tokio::test]
async fn the_salt_of_an_unknown_user_is_not_found_and_the_question_is_audited() {
    let api = TestApi::start().await;
    api.get("/authenticate/nobody@x.y")
        .await
        .is(404, "Could not find user by email nobody@x.y");
    let audits = api.audits().await;
    assert_eq!(audits.len(), 1);
    let participant = audits[0].get_array("activeParticipant").unwrap()[1]
        .as_document()
        .unwrap();
    assert_eq!(participant.get_str("userID").unwrap(), "nobody@x.y");
    assert_eq!(
        audits[0]
            .get_document("eventIdentification")
            .unwrap()
            .get_str("eventOutcomeIndicator")
            .unwrap(),
        "8"
    );
}

#[tokio::test]
async fn logins_are_audited_except_on_paths_that_are_polled() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    for path in [
        "/transactions",
        "/metrics",
        "/logs",
        "/tasks",
        "/audits-filter-options",
        "/mediators/urn:x/heartbeat",
    ] {
        root.get(path).await;
    }
    assert!(api.audits().await.is_empty());

    root.get("/channels").await;
    root.get("/transactions?filterRepresentation=full").await;
    root.get("/Transactions").await;
    let audits = api.audits().await;
    assert_eq!(audits.len(), 3);
    assert_eq!(audits[0].get_array("activeParticipant").unwrap().len(), 2);

    api.get("/metrics").await;
    let failed = api.audits().await.pop().unwrap();
    let user = failed.get_array("activeParticipant").unwrap()[1]
        .as_document()
        .unwrap()
        .clone();
    assert_eq!(user.get_str("userID").unwrap(), "Unknown with ip 127.0.0.1");

    let options = api.stored(Collection::AuditMeta, doc! {}).await;
    assert_eq!(options.len(), 1);
    assert_eq!(options[0].get_array("eventType").unwrap().len(), 1);
    assert_eq!(options[0].get_array("activeParticipantRoleID").unwrap().len(), 2);
}

#[tokio::test]
async fn a_user_of_provider_token_logs_in_by_the_token_passport() {
    let api = TestApi::start().await;
    api.store
        .update(
            Collection::Users,
            doc! {"email": ROOT},
            doc! {"$set": {"provider": "token"}},
        )
        .await
        .unwrap();
    api.store
        .delete(Collection::Passports, doc! {"protocol": "local"})
        .await
        .unwrap();
    assert_eq!(
        log_in(&api, json!({"username": ROOT, "password": PASSWORD}))
            .await
            .status,
        200
    );
    log_in(&api, json!({"username": ROOT, "password": "wrong"}))
        .await
        .is(401, "Unauthorized");
}
