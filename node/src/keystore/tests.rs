use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::ManualClock;
use crate::config::CertificateManagement;
use crate::crypto::certificate::{Pair, SelfSigned};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Collection, SharedStore};

/// 2030-01-01.
const NOW: i64 = 1_893_456_000_000;
const ROOT: &str = include_str!("../crypto/testdata/ca.pem");
const SUB: &str = include_str!("../crypto/testdata/sub.pem");
const LEAF: &str = include_str!("../crypto/testdata/leaf.pem");
const LEAF_KEY: &str = include_str!("../crypto/testdata/leaf.key");
const VERSION_1: &str = include_str!("../crypto/testdata/v1.pem");
const VERSION_1_KEY: &str = include_str!("../crypto/testdata/v1.key");
const SELF_SIGNED: &str = include_str!("../crypto/testdata/ec-cert.pem");
const SELF_SIGNED_KEY: &str = include_str!("../crypto/testdata/ec-sec1.pem");

/// Valid from 1970 for a hundred years, so that the machine's clock does not matter. Made once for each name: RSA keys
/// take their time.
fn pair(name: &str) -> Pair {
    static MADE: LazyLock<Mutex<HashMap<String, Pair>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap();
    let make = || {
        let asked = SelfSigned {
            common_name: Some(name.into()),
            days: Some(36_525),
            alternative_names: vec!["127.0.0.1".into()],
            ..SelfSigned::default()
        };
        asked.generate(0).unwrap()
    };
    made.entry(name.to_owned()).or_insert_with(make).clone()
}

fn document(pair: &Pair, trusted: &[(ObjectId, &str)]) -> Document {
    let ca: Vec<Document> = trusted
        .iter()
        .map(|(id, pem)| {
            let mut cert = cert_document(pem).unwrap();
            cert.insert("_id", *id);
            cert
        })
        .collect();
    doc! {"key": &pair.key, "cert": cert_document(&pair.certificate).unwrap(), "ca": ca}
}

fn stored(pair: &Pair, trusted: &[(ObjectId, &str)]) -> Stored {
    Stored::from_document(&document(pair, trusted))
}

fn live(pair: &Pair, trusted: &[(ObjectId, &str)]) -> LiveKeystore {
    let keystore = Keystore::from_stored(&stored(pair, trusted)).unwrap();
    LiveKeystore::new(keystore, Arc::new(ManualClock::at(NOW))).unwrap()
}

/// A client that trusts everybody and presents `certificate`, if any.
fn visitor(certificate: Option<(&str, &str)>, version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let identity = match certificate {
        None => None,
        Some((chain, key)) => {
            let chain = certificate::chain_from_pem(chain).unwrap();
            let key: PrivateKeyDer<'static> = private_key::from_pem(key, None).unwrap();
            Some(Arc::new(CertifiedKey::new(chain, any_supported_type(&key).unwrap())))
        }
    };
    let trusting = client::unverified(
        &identity
            .clone()
            .unwrap_or_else(|| Keystore::from_stored(&stored(&pair("unused"), &[])).unwrap().identity),
    );
    let mut config = ClientConfig::builder_with_provider(server::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(client::Anyone::new()))
        .with_no_client_auth();
    if identity.is_some() {
        config.client_auth_cert_resolver = Arc::clone(&trusting.unwrap().client_auth_cert_resolver);
    }
    Arc::new(config)
}

/// What the server finds out about a client, and which certificate the client is shown.
struct Met {
    client: Option<ClientCertificate>,
    presented: usize,
    server: String,
}

async fn meet(live: &LiveKeystore, client: Arc<ClientConfig>, host: &str) -> Result<Met, std::io::Error> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let acceptor = TlsAcceptor::from(live.server_config());
    let (server, client) = tokio::join!(acceptor.accept(far), TlsConnector::from(client).connect(name, near));
    let client = client?;
    let server = server?;
    let presented = server.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(Met {
        client: live.client_certificate(presented),
        presented: presented.len(),
        server: Certificate::from_der(&client.get_ref().1.peer_certificates().unwrap()[0])
            .unwrap()
            .common_name,
    })
}

#[tokio::test]
async fn a_handshake_succeeds_without_a_certificate_and_with_an_unknown_one() {
    let live = live(&pair("him"), &[(ObjectId::new(), ROOT)]);

    for version in [&TLS12, &TLS13] {
        let without = meet(&live, visitor(None, version), "him").await.unwrap();
        let unknown = meet(&live, visitor(Some((SELF_SIGNED, SELF_SIGNED_KEY)), version), "him")
            .await
            .unwrap();

        assert_eq!((without.presented, without.client), (0, None));
        assert_eq!((unknown.presented, unknown.client), (1, None));
    }
}

#[tokio::test]
async fn a_trusted_certificate_identifies_its_client() {
    let live = live(&pair("him"), &[(ObjectId::new(), ROOT), (ObjectId::new(), SELF_SIGNED)]);
    let chain = format!("{LEAF}{SUB}");

    for version in [&TLS12, &TLS13] {
        for (certificate, key, subject, issuer) in [
            (chain.as_str(), LEAF_KEY, "leaf.example", "sub.example"),
            (VERSION_1, VERSION_1_KEY, "v1.example", "Test Root"),
            (SELF_SIGNED, SELF_SIGNED_KEY, "ec.example", "ec.example"),
        ] {
            let met = meet(&live, visitor(Some((certificate, key)), version), "him")
                .await
                .unwrap();

            let fingerprint = Certificate::from_pem(certificate).unwrap().fingerprint;
            let (subject, issuer) = (subject.to_owned(), issuer.to_owned());
            assert_eq!(
                met.client,
                Some(ClientCertificate {
                    fingerprint,
                    subject,
                    issuer
                })
            );
        }
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let live = live(&pair("him"), &[(ObjectId::new(), ROOT)]);

    for version in [&TLS12, &TLS13] {
        let thief = visitor(Some((VERSION_1, LEAF_KEY)), version);
        // In TLS 1.3 the client learns of the refusal after its handshake; the server's side must fail.
        let (near, far) = tokio::io::duplex(16 * 1024);
        let acceptor = TlsAcceptor::from(live.server_config());
        let name = ServerName::try_from("him").unwrap();
        let (server, _) = tokio::join!(acceptor.accept(far), TlsConnector::from(thief).connect(name, near));
        assert!(server.is_err());
    }
}

#[test]
fn an_expired_certificate_identifies_nobody() {
    let live = live(&pair("him"), &[(ObjectId::new(), ROOT)]);
    let late = LiveKeystore::new(
        Keystore::from_stored(&stored(&pair("him"), &[(ObjectId::new(), ROOT)])).unwrap(),
        Arc::new(ManualClock::at(9_000_000_000_000)),
    );
    let presented = certificate::chain_from_pem(VERSION_1).unwrap();

    assert!(live.client_certificate(&presented).is_some());
    assert!(late.unwrap().client_certificate(&presented).is_none());
    assert!(live.client_certificate(&[]).is_none());
    assert!(
        live.client_certificate(&[CertificateDer::from(vec![1, 2, 3])])
            .is_none()
    );
}

#[tokio::test]
async fn another_keystore_is_in_use_from_the_next_handshake_on() {
    let live = live(&pair("before"), &[]);
    assert_eq!(
        meet(&live, visitor(None, &TLS13), "him").await.unwrap().server,
        "before"
    );

    live.update(&stored(&pair("after"), &[(ObjectId::new(), ROOT)]))
        .unwrap();

    let met = meet(&live, visitor(Some((VERSION_1, VERSION_1_KEY)), &TLS13), "him")
        .await
        .unwrap();
    assert_eq!(met.server, "after");
    assert!(met.client.is_some());
}

#[tokio::test]
async fn a_pair_that_does_not_fit_never_serves_but_its_trusted_list_counts() {
    let live = live(&pair("good"), &[]);
    let mut wrong = pair("wrong");
    wrong.key = pair("other").key;

    let refused = live.update(&stored(&wrong, &[(ObjectId::new(), ROOT)]));

    assert!(matches!(refused, Err(KeystoreError::Mismatch)));
    let met = meet(&live, visitor(Some((VERSION_1, VERSION_1_KEY)), &TLS13), "him")
        .await
        .unwrap();
    assert_eq!(met.server, "good");
    assert!(met.client.is_some());
}

#[test]
fn a_keystore_without_a_usable_pair_is_an_error() {
    let good = document(&pair("him"), &[]);
    for (without, expected) in [("cert", "no certificate"), ("key", "no private key")] {
        let mut document = good.clone();
        document.remove(without);
        let error = Keystore::from_stored(&Stored::from_document(&document)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn an_unreadable_trusted_certificate_does_not_stop_the_others() {
    let mut document = document(&pair("him"), &[(ObjectId::new(), ROOT)]);
    document
        .get_array_mut("ca")
        .unwrap()
        .insert(0, doc! {"data": "junk", "commonName": "x"}.into());

    let keystore = Keystore::from_stored(&Stored::from_document(&document)).unwrap();

    assert_eq!(keystore.trusted_named("Test Root").count(), 1);
}

#[test]
fn trusted_certificates_are_found_by_name_for_the_look_up_in_the_chain() {
    let keystore = live(&pair("him"), &[(ObjectId::new(), ROOT), (ObjectId::new(), SUB)]).load();

    let found: Vec<_> = keystore.trusted_named("sub.example").collect();

    let fingerprint = Certificate::from_pem(SUB).unwrap().fingerprint;
    assert_eq!(found, [(fingerprint, "sub.example".into(), "Test Root".into())]);
}

#[tokio::test]
async fn a_route_trusts_the_certificate_it_pins_and_offers_the_nodes_own() {
    let (id, other) = (ObjectId::new(), ObjectId::new());
    let backend_pair = pair("backend.example");
    let node_pair = pair("node.example");
    let backend = live(&backend_pair, &[(ObjectId::new(), &node_pair.certificate)]);
    let node = live(&node_pair, &[(id, &backend_pair.certificate), (other, ROOT)]);

    let met = meet(&backend, node.client_config(Some(id)).unwrap(), "backend.example")
        .await
        .unwrap();
    assert_eq!(met.client.unwrap().subject, "node.example");
    for host in ["127.0.0.1", "BACKEND.example"] {
        assert!(
            meet(&backend, node.client_config(Some(id)).unwrap(), host)
                .await
                .is_ok(),
            "{host}"
        );
    }
    for (pinned, host) in [
        (Some(id), "elsewhere.example"),
        (Some(other), "backend.example"),
        (None, "backend.example"),
    ] {
        assert!(
            meet(&backend, node.client_config(pinned).unwrap(), host).await.is_err(),
            "{host}"
        );
    }
    let unverified = node.load().unverified_client_config().unwrap();
    assert!(meet(&backend, unverified, "elsewhere.example").await.is_ok());
}

#[test]
fn a_route_that_pins_an_unknown_certificate_fails_and_configurations_are_made_once() {
    let id = ObjectId::new();
    let live = live(&pair("him"), &[(id, ROOT)]);

    assert!(matches!(
        live.client_config(Some(ObjectId::new())),
        Err(KeystoreError::UnknownTrusted(_))
    ));
    let (one, other) = (
        live.client_config(Some(id)).unwrap(),
        live.client_config(Some(id)).unwrap(),
    );
    assert!(Arc::ptr_eq(&one, &other));
    assert!(!Arc::ptr_eq(&one, &live.client_config(None).unwrap()));
}

fn empty_store(folder: &tempfile::TempDir) -> SharedStore {
    SqliteStore::open(folder.path().join("node.db"), SqliteOptions::default()).unwrap()
}

fn no_files() -> CertificateManagement {
    CertificateManagement {
        watch_fs_for_cert: false,
        cert_path: "/nowhere/cert.pem".into(),
        key_path: "/nowhere/key.pem".into(),
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(NOW))
}

#[tokio::test]
async fn a_first_start_makes_a_certificate_and_a_second_one_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = empty_store(&folder);

    let first = start(&store, &no_files(), &clock()).await.unwrap();
    let second = start(&store, &no_files(), &clock()).await.unwrap();

    assert_eq!(first, second);
    let cert = first.cert.as_ref().unwrap();
    assert_eq!((cert.common_name.as_str(), cert.country.as_str()), ("localhost", ""));
    assert!(Keystore::from_stored(&first).is_ok());
    assert_eq!(store.count(Collection::Keystores, doc! {}).await.unwrap(), 1);
}

#[tokio::test]
async fn of_two_nodes_that_start_at_once_one_makes_the_keystore() {
    let folder = tempfile::tempdir().unwrap();
    let store = empty_store(&folder);

    let (settings, clock) = (no_files(), clock());
    let (one, other) = tokio::join!(start(&store, &settings, &clock), start(&store, &settings, &clock));

    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(store.count(Collection::Keystores, doc! {}).await.unwrap(), 1);
}

struct Files(tempfile::TempDir);

impl Files {
    fn with(pair: &Pair) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write(pair);
        files
    }

    fn write(&self, pair: &Pair) {
        std::fs::write(self.0.path().join("cert.pem"), &pair.certificate).unwrap();
        std::fs::write(self.0.path().join("key.pem"), &pair.key).unwrap();
    }

    fn settings(&self) -> CertificateManagement {
        CertificateManagement {
            watch_fs_for_cert: true,
            cert_path: self.0.path().join("cert.pem"),
            key_path: self.0.path().join("key.pem"),
        }
    }
}

#[tokio::test]
async fn certificate_files_are_read_at_every_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = empty_store(&folder);
    let files = Files::with(&pair("first"));
    start(&store, &files.settings(), &clock()).await.unwrap();
    files.write(&pair("second"));

    let stored = start(&store, &files.settings(), &clock()).await.unwrap();

    assert_eq!(stored.cert.unwrap().common_name, "second");
}

#[tokio::test]
async fn files_that_are_missing_or_do_not_fit_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = empty_store(&folder);
    let files = Files::with(&Pair {
        key: pair("other").key,
        ..pair("him")
    });

    let mismatch = start(&store, &files.settings(), &clock()).await;
    std::fs::remove_file(files.settings().key_path).unwrap();
    let missing = start(&store, &files.settings(), &clock()).await.unwrap_err();

    assert!(matches!(mismatch, Err(StartError::Keystore(KeystoreError::Mismatch))));
    assert!(missing.to_string().contains("key.pem"), "{missing}");
    assert_eq!(store.count(Collection::Keystores, doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn changed_files_reach_the_live_keystore() {
    let folder = tempfile::tempdir().unwrap();
    let store = empty_store(&folder);
    let files = Files::with(&pair("before"));
    let stored = start(&store, &files.settings(), &clock()).await.unwrap();
    let live = Arc::new(LiveKeystore::new(Keystore::from_stored(&stored).unwrap(), clock()).unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(watch_files(files.settings(), Arc::clone(&store), stop.clone()));
    tokio::spawn(follow(
        Arc::clone(&live),
        store,
        Duration::from_millis(20),
        stop.clone(),
    ));

    files.write(&pair("after"));

    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while meet(&live, visitor(None, &TLS13), "him").await.unwrap().server != "after" {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the new certificate never came into use"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
}
