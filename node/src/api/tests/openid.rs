//! Logging in through an OpenID Connect provider.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bson::doc;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Answer, ROOT, TestApi};
use crate::store::Collection;

/// A provider that gives these tokens to each code; what it was asked comes back at the end.
struct Provider {
    url: String,
    asked: JoinHandle<String>,
}

async fn provider(status: &'static str, answer: impl FnOnce(&str) -> Value) -> Provider {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/realms/realm", listener.local_addr().unwrap());
    let body = answer(&url).to_string();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 65_536];
        let mut length = 0;
        while !String::from_utf8_lossy(&bytes[..length]).contains("code=") {
            length += stream.read(&mut bytes[length..]).await.unwrap();
        }
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(text.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    });
    Provider { url, asked }
}

fn token(claims: &Value) -> String {
    format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn tokens(issuer: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({
        "iss": issuer, "sub": "jane-id", "aud": "client-id", "exp": super::NOW / 1000 + 60, "iat": 1, "auth_time": 1,
        "email": "jane@hie.org", "preferred_username": "jane", "given_name": "Jane", "family_name": "Doe",
    });
    change(&mut claims);
    let access = json!({"sub": "jane-id", "resource_access": {"client-id": {"roles": ["admin"]}}});
    json!({"id_token": token(&claims), "access_token": token(&access), "refresh_token": "r", "expires_in": 60})
}

async fn api_for(url: &str) -> TestApi {
    let url = url.to_owned();
    TestApi::start_with(|config| {
        let openid = config.api.openid.as_mut().unwrap();
        openid.url = url;
        openid.client_id = "client-id".into();
        openid.client_secret = "s&cret".into();
    })
    .await
}

async fn log_in(api: &TestApi, body: &Value) -> Answer {
    api.ask(Method::POST, "/authenticate/openid").json(body).send().await
}

/// Logs in at a provider whose tokens are these.
async fn log_in_with(change: impl FnOnce(&mut Value)) -> (TestApi, Answer) {
    let provider = provider("200 OK", |url| tokens(url, change)).await;
    let api = api_for(&provider.url).await;
    let answer = log_in(&api, &json!({"code": "c", "sessionState": "s", "state": "t"})).await;
    provider.asked.await.unwrap();
    (api, answer)
}

#[tokio::test]
async fn a_code_makes_a_user_with_the_groups_of_the_token() {
    let (api, answer) = log_in_with(|_| {}).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.cookies().len(), 2);
    let user = &answer.json()["user"];
    assert_eq!(
        (&user["email"], &user["groups"], &user["provider"]),
        (&json!("jane@hie.org"), &json!(["admin"]), &json!("openid"))
    );

    let passports = api.stored(Collection::Passports, doc! {"protocol": "openid"}).await;
    assert_eq!(passports.len(), 1);
    assert_eq!(passports[0].get_str("identifier").unwrap(), "jane-id");
    assert!(
        !passports[0]
            .get_document("tokens")
            .unwrap()
            .contains_key("refresh_token")
    );
    let channels = api
        .ask(Method::GET, "/channels")
        .header("cookie", &answer.cookie_header())
        .send()
        .await;
    assert_eq!(channels.status, 200);
}

#[tokio::test]
async fn a_local_user_of_the_same_e_mail_is_converted() {
    let (api, answer) = log_in_with(|claims| claims["email"] = json!(ROOT)).await;
    assert_eq!(answer.status, 200);
    let users = api.stored(Collection::Users, doc! {}).await;
    assert_eq!(users.len(), 1);
    assert_eq!(users[0].get_str("provider").unwrap(), "openid");
    assert_eq!(users[0].get_str("firstname").unwrap(), "Jane");
}

#[tokio::test]
async fn a_token_for_somebody_else_is_forbidden() {
    let (_, answer) = log_in_with(|claims| claims["aud"] = json!("other")).await;
    answer.is(403, "Forbidden");
    let (_, answer) = log_in_with(|claims| claims["exp"] = json!(1)).await;
    answer.is(403, "Forbidden");
}

#[tokio::test]
async fn tokens_that_do_not_say_who_it_is_are_refused() {
    let (_, answer) = log_in_with(|claims| {
        claims["email"] = Value::Null;
        claims["preferred_username"] = Value::Null;
    })
    .await;
    answer.is(401, "Unauthorized");
    let (api, answer) = log_in_with(|claims| {
        claims["given_name"] = Value::Null;
        claims["preferred_username"] = Value::Null;
    })
    .await;
    answer.is(401, "Unauthorized");
    assert_eq!(api.stored(Collection::Users, doc! {}).await.len(), 1);
}

#[tokio::test]
async fn the_code_is_exchanged_as_the_provider_expects() {
    let provider = provider("400 Bad Request", |_| json!({"error": "invalid_grant"})).await;
    let api = api_for(&provider.url).await;
    log_in(&api, &json!({"code": "the code"}))
        .await
        .is(500, "Internal Server Error");
    let asked = provider.asked.await.unwrap();
    assert!(
        asked.starts_with("POST /realms/realm/protocol/openid-connect/token HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(!asked.to_lowercase().contains("authorization:"), "{asked}");
    let form = asked.split("\r\n\r\n").nth(1).unwrap();
    assert_eq!(
        form,
        "grant_type=authorization_code&redirect_uri=http%3A%2F%2Flocalhost%3A9000&client_id=client-id&client_secret=s%26cret&code=the+code"
    );
}

#[tokio::test]
async fn what_the_provider_refused_is_passed_on() {
    let api = api_for("http://127.0.0.1:1/realms/realm").await;
    log_in(&api, &json!({"error": "access_denied"}))
        .await
        .is(401, "Unauthorized");
    log_in(&api, &json!({"error": "server_error"}))
        .await
        .is(502, "Bad Gateway");
    log_in(&api, &json!({"error": "temporarily_unavailable"}))
        .await
        .is(503, "Service Unavailable");
    log_in(&api, &json!({"error": "other"}))
        .await
        .is(500, "Internal Server Error");
    log_in(&api, &json!({})).await.is(500, "Internal Server Error");
    log_in(&api, &json!({"code": "c"}))
        .await
        .is(500, "Internal Server Error");
}
