//! The keystore, certificates and the restart.

use std::time::Duration;

use bson::doc;
use serde_json::{Value, json};

use super::{ROOT, TestApi};
use crate::crypto::certificate::{Pair, SelfSigned};
use crate::keystore::cert_document;
use crate::model::role::Permission;
use crate::store::Collection;

fn pair(name: &str) -> Pair {
    let wanted = SelfSigned {
        common_name: Some(name.into()),
        organization: "Org".into(),
        ..SelfSigned::default()
    };
    wanted.generate(super::NOW).unwrap()
}

async fn with_keystore() -> (TestApi, Pair) {
    let api = TestApi::start().await;
    let pair = pair("server");
    let keystore = doc! {"_id": bson::oid::ObjectId::new(), "cert": cert_document(&pair.certificate).unwrap(), "key": &pair.key, "ca": [], "__v": 0};
    api.insert(Collection::Keystores, keystore).await;
    (api, pair)
}

#[tokio::test]
async fn certificate_and_key_are_read_replaced_and_checked() {
    let (api, old) = with_keystore().await;
    let root = api.log_in(ROOT).await;
    let shown = root.get("/keystore/cert").await.json();
    assert_eq!(
        (&shown["commonName"], &shown["watchFSForCert"]),
        (&json!("server"), &json!(false))
    );
    assert_eq!(shown["data"], old.certificate);
    assert_eq!(root.get("/keystore/validity").await.json(), json!({"valid": true}));

    let new = pair("new");
    root.post("/keystore/cert", &json!({"cert": new.certificate}))
        .await
        .is(201, "Created");
    assert_eq!(root.get("/keystore/validity").await.json(), json!({"valid": false}));
    root.post("/restart", &json!({}))
        .await
        .is(400, "Certificates and Key did not match. Cancelling restart...");
    root.post("/keystore/key", &json!({"key": new.key, "passphrase": "p"}))
        .await
        .is(201, "Created");
    assert_eq!(root.get("/keystore/validity").await.json(), json!({"valid": true}));
    root.post("/keystore/passphrase", &json!({"passphrase": "q"}))
        .await
        .is(201, "Created");
    let stored = api.stored(Collection::Keystores, doc! {}).await.pop().unwrap();
    assert_eq!(stored.get_str("passphrase").unwrap(), "q");

    let odd = root.post("/keystore/cert", &json!({"cert": "nonsense"})).await;
    assert_eq!(odd.status, 400);
    assert!(
        odd.text().starts_with("Could not add server cert via the API: "),
        "{}",
        odd.text()
    );
    root.post("/keystore/key", &json!({"key": "nonsense"}))
        .await
        .is(201, "Created");
    let odd = root.get("/keystore/validity").await;
    assert_eq!(odd.status, 400);
    assert!(
        odd.text()
            .starts_with("Could not verify certificate and key, are they valid? "),
        "{}",
        odd.text()
    );
}

#[tokio::test]
async fn an_encrypted_key_without_passphrase_is_not_valid() {
    let (api, _) = with_keystore().await;
    let root = api.log_in(ROOT).await;
    let key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAA==\n-----END RSA PRIVATE KEY-----\n";
    root.post("/keystore/key", &json!({"key": key}))
        .await
        .is(201, "Created");
    assert_eq!(root.get("/keystore/validity").await.json(), json!({"valid": false}));
}

#[tokio::test]
async fn trusted_certificates_are_added_listed_and_removed() {
    let (api, _) = with_keystore().await;
    let root = api.log_in(ROOT).await;
    let chain = format!("\n{}\n\n{}", pair("one").certificate, pair("two").certificate);
    root.post("/keystore/ca/cert", &json!({"cert": chain}))
        .await
        .is(201, "Created");
    let half = format!(
        "{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        pair("three").certificate
    );
    let answer = root.post("/keystore/ca/cert", &json!({"cert": half})).await;
    assert_eq!(answer.status, 400);
    assert!(
        answer
            .text()
            .starts_with("Failed to add one more cert, are they valid? Error"),
        "{}",
        answer.text()
    );
    root.post("/keystore/ca/cert", &json!({"cert": "none"}))
        .await
        .is(400, "Failed to add one more cert, are they valid? undefined");
    assert_eq!(root.post("/keystore/ca/cert", &json!({})).await.status, 500);

    let listed = root.get("/keystore/ca").await.json();
    let names: Vec<&Value> = listed.as_array().unwrap().iter().map(|it| &it["commonName"]).collect();
    assert_eq!(names, ["one", "two", "three"]);
    let id = listed[1]["_id"].as_str().unwrap();
    assert_eq!(root.get(&format!("/keystore/ca/{id}")).await.json(), listed[1]);
    root.delete(&format!("/keystore/ca/{id}")).await.is(200, "OK");
    root.get(&format!("/keystore/ca/{id}")).await.is(204, "");
    root.get("/keystore/ca/notanid").await.is(204, "");
    assert_eq!(root.delete(&format!("/keystore/ca/{id}")).await.status, 500);
    assert_eq!(root.get("/keystore/ca").await.json().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn certificates_are_made_for_server_and_clients() {
    let (api, _) = with_keystore().await;
    let root = api.log_in(ROOT).await;
    let made = root
        .post(
            "/certificates",
            &json!({"type": "client", "commonName": "clinic", "days": "30", "country": "ZA"}),
        )
        .await;
    assert_eq!(made.status, 201);
    assert!(made.json()["key"].as_str().unwrap().contains("PRIVATE KEY"));
    let trusted = root.get("/keystore/ca").await.json();
    assert_eq!(
        (&trusted[0]["commonName"], &trusted[0]["data"]),
        (&json!("clinic"), &made.json()["certificate"])
    );
    assert!(trusted[0].get("key").is_none());

    let made = root
        .post("/certificates", &json!({"type": "server", "commonName": "hie"}))
        .await;
    assert_eq!(made.status, 201);
    assert_eq!(root.get("/keystore/cert").await.json()["commonName"], "hie");
    assert_eq!(root.get("/keystore/validity").await.json(), json!({"valid": true}));

    for odd in [
        json!({"days": "x"}),
        json!({"keyBitsize": 17}),
        json!({"country": "nowhere"}),
    ] {
        root.post("/certificates", &odd).await.is(500, "Internal Server Error");
    }
}

#[tokio::test]
async fn a_restart_is_announced_and_then_asked_for() {
    let (api, _) = with_keystore().await;
    let root = api.log_in(ROOT).await;
    root.post("/restart", &json!({}))
        .await
        .is(200, "Server being restarted");
    let asked = api.service.api.restart.notified();
    tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap();
}

#[tokio::test]
async fn without_a_keystore_reads_fail_and_say_so() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    for (path, start) in [
        (
            "/keystore/cert",
            "Could not fetch the server cert via the API: TypeError",
        ),
        (
            "/keystore/ca",
            "Could not fetch the ca certs trusted by this server via the API: TypeError",
        ),
        ("/keystore/ca/x", "Could not fetch ca cert by id via the API: TypeError"),
    ] {
        let answer = root.get(path).await;
        assert_eq!(answer.status, 500);
        assert!(answer.text().starts_with(start), "{}", answer.text());
    }
}

#[tokio::test]
async fn permissions_and_watched_files_are_respected() {
    let api = TestApi::start_with(|config| config.certificate_management.watch_fs_for_cert = true).await;
    let viewer = api.log_in_with(&[Permission::CertificatesView], doc! {}).await;
    viewer.post("/keystore/cert", &json!({})).await.is(
        400,
        "Failed to upload server certificate: Uploading of certificate while watchFSForCert is true is not allowed.",
    );
    let denied = |operation: &str| {
        format!(
            "User tested@openhim.org does not have the \"certificates-manage\" permission, API access to {operation} denied."
        )
    };
    viewer
        .get("/keystore/validity")
        .await
        .is(403, &denied("verifyServerKeys"));
    viewer
        .post("/keystore/key", &json!({}))
        .await
        .is(403, &denied("setServerKey"));
    viewer
        .post("/keystore/ca/cert", &json!({}))
        .await
        .is(403, &denied("addTrustedCert"));
    viewer
        .post("/keystore/passphrase", &json!({}))
        .await
        .is(403, &denied("setServerPassphrase"));
    viewer.delete("/keystore/ca/x").await.is(403, &denied("removeCACert"));
    viewer
        .post("/certificates", &json!({}))
        .await
        .is(403, &denied("generateCert"));
    viewer
        .post("/restart", &json!({}))
        .await
        .is(403, &denied("restartService"));
}

#[tokio::test]
async fn a_trusted_certificate_is_trusted_at_once() {
    let (api, _) = with_keystore().await;
    let root = api.log_in(ROOT).await;
    let certificate = pair("clinic").certificate;
    root.post("/keystore/ca/cert", &json!({"cert": certificate}))
        .await
        .is(201, "Created");
    assert_eq!(api.service.api.keystore.load().trusted_named("clinic").count(), 1);
}
