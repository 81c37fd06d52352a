//! Routes over TLS, of every kind: whom they trust, and what they show of themselves.

use std::sync::{Arc, Mutex};

use bson::oid::ObjectId;
use bson::{Document, doc};
use openhim_node::store::{Collection, Find};
use openhim_node::testing::{NodeBuilder, TestNode, Transaction, eventually, node, path};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const ADT: &str = "MSH|^~\\&|LAB|CLINIC|HIM|MOH|1||ADT^A01|C42|P|2.5\rPID|1\r";
const ACK: &[u8] = b"\x0bMSH|^~\\&|HIM|MOH|LAB|CLINIC|1||ACK|C42|P|2.5\rMSA|AA|C42\r\x1c\r";
const KINDS: [&str; 3] = ["http", "tcp", "mllp"];

/// A server's certificate and key.
struct Identity {
    pem: String,
    der: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    /// For these names, signed by itself.
    fn of(names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        let number = ObjectId::new().to_hex();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, number);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }
}

/// Certificates that a server was shown.
type Shown = Arc<Mutex<Vec<CertificateDer<'static>>>>;

/// A server of all three kinds that insists on a client's certificate, whichever that is.
async fn server(identity: &Identity) -> (u16, Shown) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyoneWithACertificate))
        .with_single_cert(
            vec![identity.der.clone()],
            PrivateKeyDer::try_from(identity.key.clone()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shown = Shown::default();
    let seen = Arc::clone(&shown);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                // A client that does not trust us is gone before it says anything.
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
                seen.lock().unwrap().extend(certificates.first().cloned());
                talk(stream).await;
            });
        }
    });
    (port, shown)
}

/// Answers in the language in which it is spoken to.
async fn talk(mut stream: TlsStream<TcpStream>) {
    let mut heard = Vec::new();
    loop {
        let count = stream.read_buf(&mut heard).await.unwrap_or(0);
        if heard.starts_with(b"\x0b") {
            if heard.ends_with(b"\x1c\r") {
                heard.clear();
                stream.write_all(ACK).await.unwrap();
            }
        } else if heard.starts_with(b"POST ") {
            if heard.ends_with(ADT.as_bytes()) {
                heard.clear();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsafe";
                stream.write_all(answer).await.unwrap();
            }
        } else if count == 0 && !heard.is_empty() {
            heard.clear();
            stream.write_all(b"safe").await.unwrap();
            let _ = stream.shutdown().await;
        }
        if count == 0 {
            return;
        }
    }
}

#[derive(Debug)]
struct AnyoneWithACertificate;

impl rustls::server::danger::ClientCertVerifier for AnyoneWithACertificate {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
        Ok(rustls::server::danger::ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A channel `/KIND` for each kind, with a route to this server.
fn with_routes(mut node: NodeBuilder, port: u16, more: &Document) -> NodeBuilder {
    for kind in KINDS {
        let mut route = doc! {"type": kind, "primary": true, "secured": true};
        route.extend(more.clone());
        node = node.channel(path(&format!("^/{kind}$")).route("primary", port, route));
    }
    node
}

/// Puts a certificate on the trusted list.
async fn trust(node: &TestNode, id: ObjectId, identity: &Identity) {
    let trusted = doc! {"_id": id, "commonName": "peer", "data": &identity.pem};
    let push = doc! {"$push": {"ca": trusted}};
    node.store().update(Collection::Keystores, doc! {}, push).await.unwrap();
}

async fn own_certificate(node: &TestNode) -> CertificateDer<'static> {
    let stored = node
        .store()
        .all(Collection::Keystores, Find::by(doc! {}))
        .await
        .unwrap();
    let pem = stored[0].get_document("cert").unwrap().get_str("data").unwrap();
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

async fn is_answered(node: &TestNode, kind: &str) {
    eventually(&format!("the {kind} route works"), async || {
        (node.post(&format!("/{kind}"), ADT).await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn routes_of_every_kind_trust_the_certificate_they_name_and_show_the_nodes_own() {
    let identity = Identity::of(&["127.0.0.1"]);
    let (port, shown) = server(&identity).await;
    let id = ObjectId::new();
    let node = with_routes(node(), port, &doc! {"cert": id}).start().await;
    trust(&node, id, &identity).await;

    for kind in KINDS {
        is_answered(&node, kind).await;
    }

    let own = own_certificate(&node).await;
    let shown = shown.lock().unwrap().clone();
    assert_eq!(shown.len(), KINDS.len());
    assert!(shown.iter().all(|certificate| *certificate == own));
    let answered = node.post("/mllp", ADT).await;
    assert!(answered.text().contains("MSA|AA|C42"), "{}", answered.text());
}

#[tokio::test]
async fn a_peer_that_the_route_does_not_trust_is_told_nothing() {
    let (identity, other) = (Identity::of(&["127.0.0.1"]), Identity::of(&["127.0.0.1"]));
    let (port, shown) = server(&identity).await;
    let id = ObjectId::new();
    let publicly = with_routes(node(), port, &doc! {}).start().await;
    let pinned = with_routes(node(), port, &doc! {"cert": id}).start().await;
    trust(&pinned, id, &other).await;
    eventually("the list is in force", async || {
        let reply = pinned.post("/http", ADT).await;
        assert_eq!(reply.status(), 500);
        let all = pinned.recorded().all().await;
        let told = |tx: &Transaction| {
            tx.text("error.message")
                .is_some_and(|text| text.contains("unable to verify"))
        };
        all.iter().any(told).then_some(())
    })
    .await;

    for node in [&publicly, &pinned] {
        for kind in KINDS {
            let reply = node.post(&format!("/{kind}"), ADT).await;
            assert_eq!(
                (reply.status(), reply.text()),
                (500, "An internal server error occurred"),
                "{kind}"
            );
        }
    }

    assert!(shown.lock().unwrap().is_empty());
    let recorded = publicly.recorded().closed(KINDS.len()).await;
    for tx in recorded {
        assert_eq!((tx.status(), tx.flag("autoRetry")), ("Failed", Some(true)));
        assert!(tx.text("error.message").is_some_and(|text| !text.is_empty()));
    }
}

#[tokio::test]
async fn a_peer_has_to_bear_the_name_that_the_route_knows_it_by() {
    let identity = Identity::of(&["localhost"]);
    let (port, _) = server(&identity).await;
    let id = ObjectId::new();
    let by_address = with_routes(node(), port, &doc! {"cert": id}).start().await;
    let by_name = with_routes(node(), port, &doc! {"cert": id, "host": "localhost"})
        .start()
        .await;
    for node in [&by_address, &by_name] {
        trust(node, id, &identity).await;
    }

    for kind in KINDS {
        is_answered(&by_name, kind).await;
    }
    for kind in KINDS {
        assert_eq!(by_address.post(&format!("/{kind}"), ADT).await.status(), 500, "{kind}");
    }
}

#[tokio::test]
async fn a_new_key_of_the_node_reaches_its_routes_without_a_restart() {
    let identity = Identity::of(&["127.0.0.1"]);
    let (port, shown) = server(&identity).await;
    let id = ObjectId::new();
    let node = with_routes(node(), port, &doc! {"cert": id}).start().await;
    trust(&node, id, &identity).await;
    is_answered(&node, "tcp").await;

    let renewed = Identity::of(&["him.example"]);
    let key = rcgen::KeyPair::try_from(renewed.key.as_slice())
        .unwrap()
        .serialize_pem();
    let set = doc! {"$set": {"key": key, "cert.data": &renewed.pem}};
    node.store().update(Collection::Keystores, doc! {}, set).await.unwrap();

    eventually("the peer is shown the new certificate", async || {
        assert_eq!(node.post("/tcp", ADT).await.status(), 200);
        (shown.lock().unwrap().last() == Some(&renewed.der)).then_some(())
    })
    .await;
}
