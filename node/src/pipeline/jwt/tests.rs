use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock::ManualClock;

/// 2030-01-01, in seconds.
const NOW: i64 = 1_893_456_000;
const RSA_KEY: &str = include_str!("../../crypto/testdata/rsa-pkcs8.pem");
const RSA_CERTIFICATE: &str = include_str!("../../crypto/testdata/rsa-cert.pem");

fn settings(key: &str, algorithms: &str) -> Jwt {
    Jwt {
        jwks_uri: String::new(),
        secret_or_public_key: key.into(),
        algorithms: algorithms.into(),
        audience: String::new(),
        issuer: "test".into(),
    }
}

fn verifier(settings: &Jwt) -> (JwtVerifier, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(NOW * 1000));
    (JwtVerifier::new(settings, clock.clone(), Arc::new(|| None)), clock)
}

fn token(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn secret() -> EncodingKey {
    EncodingKey::from_secret(b"secret")
}

async fn verify(settings: &Jwt, token: &str) -> Result<String, JwtError> {
    verifier(settings).0.verify(token).await
}

#[tokio::test]
async fn a_good_token_speaks_for_its_subject() {
    let token = token(Algorithm::HS256, &secret(), &json!({"sub": "clinic", "iss": "test"}));

    assert_eq!(verify(&settings("secret", "HS256"), &token).await.unwrap(), "clinic");
    assert_eq!(
        verify(&settings("secret", "RS256 HS256"), &token).await.unwrap(),
        "clinic"
    );
}

#[tokio::test]
async fn a_token_that_breaks_a_rule_speaks_for_nobody() {
    let good = settings("secret", "HS256");
    for (claims, expected) in [
        (json!({"sub": "clinic", "iss": "other"}), "`iss`"),
        (json!({"sub": "clinic"}), "`iss`"),
        (json!({"iss": "test"}), "no subject"),
        (json!({"iss": "test", "sub": ""}), "no subject"),
        (json!({"iss": "test", "sub": 7}), "no subject"),
        (json!({"iss": "test", "sub": "clinic", "exp": NOW}), "expired"),
        (json!({"iss": "test", "sub": "clinic", "exp": "soon"}), "`exp`"),
        (json!({"iss": "test", "sub": "clinic", "nbf": NOW + 1}), "not yet valid"),
    ] {
        let error = verify(&good, &token(Algorithm::HS256, &secret(), &claims))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{claims}: {error}");
    }
    let fresh = json!({"iss": "test", "sub": "clinic", "exp": NOW + 1, "nbf": NOW});
    assert!(verify(&good, &token(Algorithm::HS256, &secret(), &fresh)).await.is_ok());
}

#[tokio::test]
async fn the_algorithm_must_be_listed_and_the_signature_right() {
    let claims = json!({"sub": "clinic", "iss": "test"});
    let good = settings("secret", "HS256");
    let other = token(Algorithm::HS512, &secret(), &claims);
    let forged = token(Algorithm::HS256, &EncodingKey::from_secret(b"guess"), &claims);
    // {"alg":"none"} and the claims of the good one.
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjbGluaWMiLCJpc3MiOiJ0ZXN0In0.";

    assert!(matches!(verify(&good, &other).await, Err(JwtError::Algorithm)));
    assert!(matches!(verify(&good, &forged).await, Err(JwtError::Token(_))));
    assert!(matches!(verify(&good, none).await, Err(JwtError::Token(_))));
    assert!(matches!(
        verify(&settings("secret", ""), &other).await,
        Err(JwtError::NoAlgorithms)
    ));
    assert!(matches!(
        verify(&settings("", "HS256"), &token(Algorithm::HS256, &secret(), &claims)).await,
        Err(JwtError::NoKey)
    ));
    for junk in ["", ".", "a.b.c", &"x".repeat(20_000)] {
        assert!(verify(&good, junk).await.is_err());
    }
}

#[tokio::test]
async fn one_of_the_audiences_is_enough() {
    let mut asked = settings("secret", "HS256");
    asked.audience = "him  other".into();
    for (audience, expected) in [
        (json!("him"), true),
        (json!(["x", "other"]), true),
        (json!("x"), false),
        (json!([]), false),
        (json!(null), false),
    ] {
        let claims = json!({"sub": "clinic", "iss": "test", "aud": audience});
        let verified = verify(&asked, &token(Algorithm::HS256, &secret(), &claims)).await;
        assert_eq!(verified.is_ok(), expected, "{audience}");
    }
}

#[tokio::test]
async fn a_public_key_verifies_and_is_never_a_secret() {
    let claims = json!({"sub": "clinic", "iss": "test"});
    let signed = token(
        Algorithm::RS256,
        &EncodingKey::from_rsa_pem(RSA_KEY.as_bytes()).unwrap(),
        &claims,
    );
    let confused = token(
        Algorithm::HS256,
        &EncodingKey::from_secret(RSA_CERTIFICATE.as_bytes()),
        &claims,
    );

    assert_eq!(
        verify(&settings(RSA_CERTIFICATE, "RS256 HS256"), &signed)
            .await
            .unwrap(),
        "clinic"
    );
    assert!(matches!(
        verify(&settings(RSA_CERTIFICATE, "RS256 HS256"), &confused).await,
        Err(JwtError::Algorithm)
    ));
    assert!(matches!(
        verify(&settings("secret", "RS256"), &signed).await,
        Err(JwtError::Algorithm)
    ));
    assert!(matches!(
        verify(&settings("-----BEGIN NONSENSE-----", "RS256"), &signed).await,
        Err(JwtError::BadKey)
    ));
}

#[tokio::test]
async fn the_key_may_be_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    std::fs::write(&path, RSA_CERTIFICATE).unwrap();
    let claims = json!({"sub": "clinic", "iss": "test"});
    let signed = token(
        Algorithm::RS256,
        &EncodingKey::from_rsa_pem(RSA_KEY.as_bytes()).unwrap(),
        &claims,
    );

    assert!(
        verify(&settings(path.to_str().unwrap(), "RS256"), &signed)
            .await
            .is_ok()
    );
}

/// A key server that counts how often it was asked and answers with what it holds.
struct Server {
    uri: String,
    asked: Arc<AtomicUsize>,
    answer: Arc<Mutex<String>>,
}

impl Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/keys?x=1", listener.local_addr().unwrap());
        let server = Self {
            uri,
            asked: Arc::default(),
            answer: Arc::default(),
        };
        let (asked, answer) = (Arc::clone(&server.asked), Arc::clone(&server.answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 2048];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /keys?x=1 HTTP/1.1\r\n"));
                asked.fetch_add(1, Ordering::SeqCst);
                let body = answer.lock().unwrap().clone();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        server
    }

    fn hold(&self, keys: &[Value]) {
        *self.answer.lock().unwrap() = json!({"keys": keys}).to_string();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_pem(RSA_KEY.as_bytes()).unwrap()
}

fn jwk(id: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(&rsa(), Algorithm::RS256).unwrap();
    jwk.common.key_id = Some(id.into());
    serde_json::to_value(jwk).unwrap()
}

fn signed_by(id: &str) -> String {
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(id.into());
    encode(&header, &json!({"sub": "clinic", "iss": "test"}), &rsa()).unwrap()
}

fn served(server: &Server) -> (JwtVerifier, Arc<ManualClock>) {
    let mut asked = settings("", "RS256 HS256");
    asked.jwks_uri = server.uri.clone();
    verifier(&asked)
}

#[tokio::test]
async fn keys_come_from_the_server_and_are_asked_for_once() {
    let server = Server::start().await;
    server.hold(&[json!({"kid": "odd", "kty": "new kind"}), jwk("one")]);
    let (verifier, _) = served(&server);
    verifier.prepare().await.unwrap();

    for _ in 0..3 {
        assert_eq!(verifier.verify(&signed_by("one")).await.unwrap(), "clinic");
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_new_key_is_found_and_unknown_ones_do_not_flood_the_server() {
    let server = Server::start().await;
    server.hold(&[jwk("one")]);
    let (verifier, clock) = served(&server);
    assert!(verifier.verify(&signed_by("one")).await.is_ok());
    server.hold(&[jwk("two")]);

    assert!(verifier.verify(&signed_by("two")).await.is_ok());
    assert_eq!(server.asked(), 2);
    for _ in 0..20 {
        let verified = verifier.verify(&signed_by("one")).await;
        assert!(matches!(verified, Err(JwtError::UnknownKey)));
    }
    assert_eq!(server.asked(), 5);
    server.hold(&[jwk("three")]);
    assert!(verifier.verify(&signed_by("three")).await.is_err());
    clock.advance(11_000);
    assert!(verifier.verify(&signed_by("three")).await.is_ok());
    assert_eq!(server.asked(), 6);
}

#[tokio::test]
async fn a_server_that_fails_leaves_the_keys_in_place() {
    let server = Server::start().await;
    server.hold(&[jwk("one")]);
    let (verifier, clock) = served(&server);
    verifier.prepare().await.unwrap();
    *server.answer.lock().unwrap() = "not json".into();
    clock.advance(11_000);

    assert!(matches!(
        verifier.verify(&signed_by("two")).await,
        Err(JwtError::UnknownKey)
    ));
    assert!(verifier.verify(&signed_by("one")).await.is_ok());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_and_no_panic() {
    let mut asked = settings("", "RS256");
    for uri in [
        "http://127.0.0.1:1/keys",
        "nonsense",
        "ftp://x/",
        "https://127.0.0.1:1/",
    ] {
        asked.jwks_uri = uri.into();
        let (verifier, _) = verifier(&asked);
        assert!(verifier.prepare().await.is_err(), "{uri}");
        assert!(matches!(
            verifier.verify(&signed_by("one")).await,
            Err(JwtError::UnknownKey)
        ));
    }
}

#[tokio::test]
async fn a_shared_secret_has_no_place_on_a_key_server() {
    let server = Server::start().await;
    server.hold(&[json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"})]);
    let (verifier, _) = served(&server);
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("s".into());
    let token = encode(&header, &json!({"sub": "clinic", "iss": "test"}), &secret()).unwrap();

    assert!(matches!(verifier.verify(&token).await, Err(JwtError::UnknownKey)));
}
