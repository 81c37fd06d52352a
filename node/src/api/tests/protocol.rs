//! What holds for every route: paths, methods, bodies, cross-origin rules.

use http::Method;
use serde_json::json;

use super::{PASSWORD, ROOT, TestApi};

#[tokio::test]
async fn the_heartbeat_is_open_to_everybody() {
    let api = TestApi::start().await;
    let answer = api.get("/heartbeat").await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert!(body["master"].is_number());
    assert_eq!(body["now"], super::NOW);
    assert!(body.get("mediators").is_none());
}

#[tokio::test]
async fn unknown_paths_are_hidden_from_strangers() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    api.get("/nowhere").await.is(401, "Unauthorized");
    api.ask(Method::DELETE, "/heartbeat")
        .send()
        .await
        .is(401, "Unauthorized");
    root.get("/nowhere").await.is(404, "Not Found");
    root.delete("/heartbeat").await.is(404, "Not Found");
    root.ask(Method::PATCH, "/channels").send().await.is(404, "Not Found");
}

#[tokio::test]
async fn basic_leaves_its_sentence_where_only_a_status_is_set() {
    let api = TestApi::start().await;
    let ask = |path: &str| api.ask(Method::GET, path).basic(ROOT, PASSWORD);
    ask("/nowhere").send().await.is(200, "User Authenticated Successfully");
    ask("/logout").send().await.is(200, "User Authenticated Successfully");
    ask("/metrics/channels/nochannel")
        .send()
        .await
        .is(401, "User Authenticated Successfully");
    assert_eq!(ask("/channels").send().await.text(), "[]");
}

#[tokio::test]
async fn paths_match_in_any_case_and_head_answers_like_get() {
    let api = TestApi::start().await;
    assert_eq!(api.get("/HeartBeat/").await.status, 200);
    let head = api.ask(Method::HEAD, "/heartbeat").send().await;
    assert_eq!(head.status, 200);
    assert!(head.body.is_empty());
    assert_eq!(head.header("content-type"), Some("application/json; charset=utf-8"));
    assert!(head.header("content-length").is_some_and(|length| length != "0"));
}

#[tokio::test]
async fn any_origin_may_call_with_credentials_and_is_named() {
    let api = TestApi::start().await;
    let plain = api.get("/heartbeat").await;
    assert_eq!(plain.header("vary"), Some("Origin"));
    assert_eq!(plain.header("access-control-allow-origin"), None);

    for path in ["/heartbeat", "/channels"] {
        let answer = api
            .ask(Method::GET, path)
            .header("origin", "http://console")
            .send()
            .await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some("http://console"),
            "{path}"
        );
        assert_eq!(
            answer.header("access-control-allow-credentials"),
            Some("true"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_preflight_is_answered_without_login() {
    let api = TestApi::start().await;
    let ask = || api.ask(Method::OPTIONS, "/channels").header("origin", "http://console");
    let answer = ask()
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "content-type,x-y")
        .send()
        .await;
    answer.is(204, "");
    assert_eq!(
        answer.header("access-control-allow-methods"),
        Some("GET,HEAD,PUT,POST,DELETE")
    );
    assert_eq!(answer.header("access-control-allow-headers"), Some("content-type,x-y"));
    assert_eq!(answer.header("access-control-max-age"), None);
    assert_eq!(ask().send().await.status, 401);
}

#[tokio::test]
async fn bodies_that_make_no_sense_are_refused_before_anything_else() {
    let api = TestApi::start_with(|config| config.api.max_payload_size_mb = 1.0).await;
    let send = |media_type: &str, body: Vec<u8>| api.ask(Method::POST, "/channels").raw(media_type, body).send();
    send("application/json", b"{\"a\":".to_vec())
        .await
        .is(400, "Bad Request");
    send("application/json", b"12".to_vec()).await.is(400, "Bad Request");
    send("application/json", "[".repeat(200_000).into_bytes())
        .await
        .is(400, "Bad Request");
    send("application/json", vec![b' '; 1_048_577])
        .await
        .is(413, "request entity too large");
    send("application/x-www-form-urlencoded", vec![b'a'; 57_345])
        .await
        .is(413, "request entity too large");
    let encoded = api
        .ask(Method::POST, "/channels")
        .header("content-encoding", "br")
        .raw("application/json", "{}");
    encoded.send().await.is(415, "Unsupported Media Type");
    send("application/json", b"{}".to_vec()).await.is(401, "Unauthorized");
}

#[tokio::test]
async fn a_malformed_path_is_an_error_and_no_crash() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    root.get("/clients/%E0%A4%A").await.is(500, "Internal Server Error");
    root.get("/clients/%ff").await.is(500, "Internal Server Error");
}

#[tokio::test]
async fn about_names_the_version_that_consoles_compare() {
    let api = TestApi::start().await;
    api.get("/about").await.is(401, "Unauthorized");
    let about = api.log_in(ROOT).await.get("/about").await.json();
    assert_eq!(about["currentCoreVersion"], "8.5.0");
    assert!(about["serverTimezone"].is_string());
}

#[tokio::test]
async fn the_ways_to_identify_clients_are_listed_for_who_manages_them() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    assert_eq!(
        root.get("/authentication/types").await.json(),
        json!(["mutual-tls-auth", "basic-auth"])
    );
    let viewer = api
        .log_in_with(&[crate::model::role::Permission::ClientViewAll], bson::doc! {})
        .await;
    viewer.get("/authentication/types").await.is(
        403,
        "User tested@openhim.org does not have the \"client-manage-all\" permission, API access to getAuthType denied.",
    );
}

#[tokio::test]
async fn the_api_describes_itself() {
    let api = TestApi::start().await;
    let described = api.get("/openapi.json").await.json();
    assert_eq!(described["openapi"], "3.1.0");
    assert!(described["paths"]["/channels/{channelId}"]["put"].is_object());
    let page = api.get("/openapi").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
}
