//! JSON Web Tokens at the router's port: who is let in, and that a new key of a key server is good at once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use openhim_node::testing::{Backend, NodeBuilder, TestNode, backend, node, path};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const RSA_KEY: &str = include_str!("../../../node/src/crypto/testdata/rsa-pkcs8.pem");
const RSA_CERTIFICATE: &str = include_str!("../../../node/src/crypto/testdata/rsa-cert.pem");

fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "tokens are checked by the real clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn hs256(secret: &str, claims: &Value) -> String {
    encode(
        &Header::new(Algorithm::HS256),
        claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )
    .unwrap()
}

fn rs256(id: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::RS256);
    header.kid = id.map(str::to_owned);
    encode(&header, claims, &EncodingKey::from_rsa_pem(RSA_KEY.as_bytes()).unwrap()).unwrap()
}

/// A node that takes tokens of `issuer`, with a private channel for `clinic`.
fn taking_tokens(algorithms: &str, backend: &Backend) -> NodeBuilder {
    let algorithms = algorithms.to_owned();
    node()
        .set(|config| {
            config.authentication.enable_jwt = true;
            config.authentication.jwt.algorithms = algorithms;
            config.authentication.jwt.issuer = "issuer".into();
        })
        .client("clinic", "unused", &["clinics"])
        .channel(path("^/x").private(&["clinics"]).primary(backend))
        .channel(path("^/open").primary(backend))
}

async fn status(node: &TestNode, target: &str, token: &str) -> u16 {
    let caller = node.caller().header("authorization", &format!("Bearer {token}"));
    caller.get(target).await.status()
}

#[tokio::test]
async fn a_token_signed_with_the_secret_lets_its_subject_in_and_any_other_token_nobody() {
    let backend = backend().start().await;
    let node = taking_tokens("HS256", &backend)
        .set(|config| config.authentication.jwt.secret_or_public_key = "secret".into())
        .start()
        .await;
    let good = json!({"sub": "clinic", "iss": "issuer", "exp": now() + 60});
    let long = Header::new(Algorithm::HS512);
    let other_algorithm = encode(&long, &good, &EncodingKey::from_secret(b"secret")).unwrap();
    // {"alg":"none"} and the claims of a good one.
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjbGluaWMiLCJpc3MiOiJpc3N1ZXIifQ.";

    assert_eq!(status(&node, "/x", &hs256("secret", &good)).await, 200);
    assert_eq!(backend.only().header("x-openhim-clientid"), Some("clinic"));
    for (token, why) in [
        (
            hs256("secret", &json!({"sub": "clinic", "iss": "other"})),
            "another issuer",
        ),
        (hs256("secret", &json!({"sub": "clinic"})), "no issuer"),
        (hs256("guess", &good), "another key"),
        (
            hs256("secret", &json!({"sub": "clinic", "iss": "issuer", "exp": now() - 1})),
            "expired",
        ),
        (
            hs256("secret", &json!({"sub": "clinic", "iss": "issuer", "nbf": now() + 60})),
            "not yet valid",
        ),
        (hs256("secret", &json!({"iss": "issuer"})), "no subject"),
        (
            hs256("secret", &json!({"sub": "stranger", "iss": "issuer"})),
            "a subject that is no client",
        ),
        (other_algorithm, "an algorithm that is not listed"),
        (unsigned.to_owned(), "no signature"),
        ("a.b.c".to_owned(), "no token"),
    ] {
        assert_eq!(status(&node, "/x", &token).await, 401, "{why}");
        // Wrong credentials are no error where none are needed.
        assert_eq!(status(&node, "/open", &token).await, 200, "{why}");
    }
}

#[tokio::test]
async fn a_token_has_to_be_meant_for_one_of_the_audiences() {
    let backend = backend().start().await;
    let node = taking_tokens("HS256", &backend)
        .set(|config| {
            config.authentication.jwt.secret_or_public_key = "secret".into();
            config.authentication.jwt.audience = "him lab".into();
        })
        .start()
        .await;
    for (audience, expected) in [
        (json!("lab"), 200),
        (json!(["other", "him"]), 200),
        (json!("other"), 401),
        (json!([]), 401),
        (Value::Null, 401),
    ] {
        let claims = json!({"sub": "clinic", "iss": "issuer", "aud": audience});
        assert_eq!(
            status(&node, "/x", &hs256("secret", &claims)).await,
            expected,
            "{audience}"
        );
    }
}

#[tokio::test]
async fn a_public_key_in_a_file_verifies_tokens_and_is_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, RSA_CERTIFICATE).unwrap();
    let backend = backend().start().await;
    let name = file.to_str().unwrap().to_owned();
    let node = taking_tokens("RS256 HS256", &backend)
        .set(|config| config.authentication.jwt.secret_or_public_key = name)
        .start()
        .await;
    let claims = json!({"sub": "clinic", "iss": "issuer"});

    assert_eq!(status(&node, "/x", &rs256(None, &claims)).await, 200);
    assert_eq!(status(&node, "/x", &hs256(RSA_CERTIFICATE, &claims)).await, 401);
}

/// A key server that holds one key under one name at a time.
struct KeyServer {
    uri: String,
    name: Arc<Mutex<String>>,
}

impl KeyServer {
    async fn start(name: &str) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), name)
    }

    fn start_on(listener: TcpListener, name: &str) -> Self {
        let uri = format!("http://{}/jwks", listener.local_addr().unwrap());
        let name = Arc::new(Mutex::new(name.to_owned()));
        let held = Arc::clone(&name);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 2048]).await;
                let key = EncodingKey::from_rsa_pem(RSA_KEY.as_bytes()).unwrap();
                let mut key = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap()).unwrap();
                key["kid"] = json!(held.lock().unwrap().clone());
                let body = json!({"keys": [key]}).to_string();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { uri, name }
    }

    fn rotate(&self, name: &str) {
        name.clone_into(&mut self.name.lock().unwrap());
    }
}

#[tokio::test]
async fn a_new_key_of_the_key_server_is_good_at_once_and_the_old_one_no_more() {
    let server = KeyServer::start("one").await;
    let backend = backend().start().await;
    let uri = server.uri.clone();
    let node = taking_tokens("RS256", &backend)
        .set(|config| config.authentication.jwt.jwks_uri = uri)
        .start()
        .await;
    let claims = json!({"sub": "clinic", "iss": "issuer"});
    assert_eq!(status(&node, "/x", &rs256(Some("one"), &claims)).await, 200);
    assert_eq!(status(&node, "/x", &rs256(None, &claims)).await, 401);

    server.rotate("two");

    assert_eq!(status(&node, "/x", &rs256(Some("two"), &claims)).await, 200);
    assert_eq!(status(&node, "/x", &rs256(Some("one"), &claims)).await, 401);
}

#[tokio::test]
async fn a_key_server_that_is_away_at_the_start_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let backend = backend().start().await;
    let node = taking_tokens("RS256", &backend)
        .set(|config| config.authentication.jwt.jwks_uri = format!("http://{address}/jwks"))
        .start()
        .await;
    let claims = json!({"sub": "clinic", "iss": "issuer"});
    let begun = std::time::Instant::now();

    assert_eq!(status(&node, "/x", &rs256(Some("one"), &claims)).await, 401);
    assert_eq!(status(&node, "/open", &rs256(Some("one"), &claims)).await, 200);
    assert!(begun.elapsed() < Duration::from_secs(5));

    let _server = KeyServer::start_on(TcpListener::bind(address).await.unwrap(), "one");
    assert_eq!(status(&node, "/x", &rs256(Some("one"), &claims)).await, 200);
}
