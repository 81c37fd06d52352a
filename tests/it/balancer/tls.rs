//! TLS: ended for clients, begun to backends, passed through by name.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use openhim_balancer::proxy_protocol::{Progress, parse};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::support::{Backend, Client, Running, balancer, list, within};

/// An authority, and a folder with what it signs.
struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("written");
        Self { folder, issuer }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn text(&self, file: &str) -> String {
        self.path(file).to_str().expect("plain").to_owned()
    }

    /// Writes NAME.crt and NAME.key for these names, the first of which is its common name.
    fn sign(&self, file: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, names[0].clone());
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        fs::write(self.path(&format!("{file}.crt")), certificate.pem()).expect("written");
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).expect("written");
    }

    fn pair(&self, file: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_file(self.path(&format!("{file}.crt"))).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{file}.key"))).expect("a key");
        (vec![certificate], key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.path("ca.pem")).expect("PEM"))
            .expect("an authority");
        roots
    }

    /// A client that trusts it, and shows what it signed under this name.
    fn client(&self, shows: Option<&str>) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(self.roots());
        match shows {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let (chain, key) = self.pair(file);
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        }
    }

    fn server(&self, file: &str) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let (chain, key) = self.pair(file);
        let config = builder
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key);
        Arc::new(config.expect("a pair"))
    }
}

/// Connects with TLS; the error if that fails.
async fn connect(to: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = within("a connect", TcpStream::connect(to)).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    within(
        "a handshake",
        TlsConnector::from(Arc::clone(config)).connect(name, stream),
    )
    .await
}

async fn line(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut line = Vec::new();
    loop {
        match within("a line", stream.read_u8()).await {
            Ok(b'\n') => return String::from_utf8(line).expect("text"),
            Ok(byte) => line.push(byte),
            Err(error) => panic!("{error} after {line:?}"),
        }
    }
}

/// The common name, or first name, of the certificate a server has shown.
fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone()
}

async fn ending_tls(authority: &Authority, backend: &str, more: &[(&str, &str)]) -> Running {
    let (cert, key) = (authority.text("server.crt"), authority.text("server.key"));
    let mut options = vec![
        ("backends", backend),
        ("tls-cert", &*cert),
        ("tls-key", &*key),
        ("check", "none"),
    ];
    options.retain(|(name, _)| more.iter().all(|(it, _)| it != name));
    options.extend(more);
    balancer(&options).await
}

#[tokio::test]
async fn bytes_pass_both_ways_and_either_side_may_finish_first() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let backend = Backend::start().await;
    let balancer = ending_tls(&authority, &list(&[&backend]), &[]).await;
    let config = Arc::new(authority.client(None));
    let mut client = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    assert_eq!(line(&mut client).await, backend.address.to_string());

    // More than all buffers hold; the backend echoes while it is still being sent.
    let sent: Vec<u8> = (0..4_000_000_u32).map(|it| (it % 251) as u8).collect();
    let (mut from, mut to) = tokio::io::split(client);
    let sending = async {
        to.write_all(&sent).await.expect("sent");
        to.shutdown().await.expect("finished");
    };
    let mut received = Vec::new();
    let receiving = async { from.read_to_end(&mut received).await.expect("a proper end") };
    within("an echo", async { tokio::join!(sending, receiving) }).await;

    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    let report = balancer
        .until("counted", |it| it.services[0].bytes_in >= 4_000_000)
        .await;
    assert_eq!(
        (report.services[0].tls_handshakes, report.services[0].tls_failed),
        (1, 0)
    );
}

#[tokio::test]
async fn with_either_version_a_client_that_has_finished_still_gets_the_whole_answer() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("bound").to_string();
    let balancer = ending_tls(&authority, &backend, &[]).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let config = builder.expect("a version").with_root_certificates(authority.roots());
        let config = Arc::new(config.with_no_client_auth());
        let mut client = connect(balancer.address(), &config, "balancer.example")
            .await
            .expect("TLS");
        client.write_all(b"question").await.expect("sent");
        client.shutdown().await.expect("finished");

        let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
        let mut question = Vec::new();
        within("the question", stream.read_to_end(&mut question))
            .await
            .expect("a proper end");
        assert_eq!(question, b"question");
        let answer = vec![7; 300_000];
        let sending = async {
            stream.write_all(&answer).await.expect("sent");
            stream.shutdown().await.expect("finished");
        };
        let mut received = Vec::new();
        let receiving = async { client.read_to_end(&mut received).await.expect("a proper end") };
        within("an answer", async { tokio::join!(sending, receiving) }).await;
        assert!(received == answer, "{} bytes", received.len());
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_backend_back_and_loses_nothing() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    authority.sign("node", &["localhost"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("bound").to_string();
    let ca = authority.text("ca.pem");
    let more = [
        ("backend-tls", "true"),
        ("backend-ca", &*ca),
        ("backend-name", "localhost"),
    ];
    let balancer = ending_tls(&authority, &backend, &more).await;
    let config = Arc::new(authority.client(None));
    let connecting = connect(balancer.address(), &config, "balancer.example");
    let accepting = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        TlsAcceptor::from(authority.server("node"))
            .accept(stream)
            .await
            .expect("TLS")
    };
    let (client, mut stream) = within("both ends", async { tokio::join!(connecting, accepting) }).await;
    let mut client = client.expect("TLS");

    // Until nothing goes any more for a while: what is on the way is bounded.
    let piece: Vec<u8> = (0..65_536_u32).map(|it| (it % 253) as u8).collect();
    let mut sent = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), stream.write(&piece[sent % piece.len()..])).await
    {
        sent += written.expect("the connection stands");
        assert!(sent < 64 << 20, "nobody holds it back");
    }
    let sending = async {
        stream.shutdown().await.expect("finished");
    };
    let mut received = Vec::new();
    let receiving = async { client.read_to_end(&mut received).await.expect("a proper end") };
    within("everything", async { tokio::join!(sending, receiving) }).await;

    assert_eq!(received.len(), sent);
    let expected = |index: usize| piece[index % piece.len()];
    assert!(
        received
            .iter()
            .enumerate()
            .all(|(index, byte)| *byte == expected(index))
    );
}

#[tokio::test]
async fn handshakes_have_a_time_limit_in_both_modes() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let backend = Backend::start().await;
    for mode in ["tcp", "http"] {
        let more = [("handshake-timeout", "300ms"), ("mode", mode)];
        let balancer = ending_tls(&authority, &list(&[&backend]), &more).await;
        for first in [&b""[..], b"\x16\x03\x01"] {
            let begun = std::time::Instant::now();
            let mut stream = TcpStream::connect(balancer.address()).await.expect("connected");
            stream.write_all(first).await.expect("sent");
            let mut rest = Vec::new();
            let _ = within("the end", stream.read_to_end(&mut rest)).await;
            assert!(
                (250..3000).contains(&begun.elapsed().as_millis()),
                "{:?}",
                begun.elapsed()
            );
        }
        let mut stream = TcpStream::connect(balancer.address()).await.expect("connected");
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
        let mut rest = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut rest)).await;
        balancer.until("counted", |it| it.services[0].tls_failed == 3).await;
    }
}

#[tokio::test]
async fn an_end_without_a_farewell_is_a_reset_for_the_other_side_and_a_reset_is_one_too() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("bound").to_string();
    let balancer = ending_tls(&authority, &backend, &[]).await;
    let config = Arc::new(authority.client(None));

    let mut client = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    client.write_all(b"half a mess").await.expect("sent");
    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
    let mut begin = [0; 11];
    within("the beginning", stream.read_exact(&mut begin))
        .await
        .expect("delivered");
    // A FIN below TLS, without close_notify.
    client.get_mut().0.shutdown().await.expect("finished");
    let end = within("the end", stream.read(&mut begin)).await;
    assert_eq!(
        end.expect_err("no proper end").kind(),
        std::io::ErrorKind::ConnectionReset
    );

    let mut client = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
    stream.write_all(b"half an answ").await.expect("sent");
    let mut begin = [0; 12];
    within("the beginning", client.read_exact(&mut begin))
        .await
        .expect("delivered");
    stream.set_zero_linger().expect("an option");
    drop(stream);
    let end = within("the end", client.read(&mut begin)).await;
    assert_eq!(
        end.expect_err("no proper end").kind(),
        std::io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let authority = Authority::new();
    authority.sign("server", &["first.example"]);
    authority.sign("wild", &["*.sites.example", "sites.example"]);
    let backend = Backend::start().await;
    let certificates = format!("{},{}", authority.text("server.crt"), authority.text("wild.crt"));
    let keys = format!("{},{}", authority.text("server.key"), authority.text("wild.key"));
    let options = [("tls-cert", &*certificates), ("tls-key", &*keys)];
    let balancer = ending_tls(&authority, &list(&[&backend]), &options).await;
    let config = Arc::new(authority.client(None));

    for (name, file) in [
        ("first.example", "server"),
        ("FIRST.example", "server"),
        ("a.sites.example", "wild"),
        ("sites.example", "wild"),
    ] {
        let client = connect(balancer.address(), &config, name).await.expect("TLS");
        assert_eq!(shown(&client), authority.pair(file).0[0], "{name}");
    }
    for name in ["other.example", "a.b.sites.example"] {
        let error = connect(balancer.address(), &config, name)
            .await
            .expect_err("not for that name");
        assert!(error.to_string().contains("certificate"), "{name}: {error}");
    }
}

#[tokio::test]
async fn both_versions_are_spoken_unless_the_older_is_refused_and_sessions_go_on_on_any_thread() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let backend = Backend::start().await;
    let balancer = ending_tls(&authority, &list(&[&backend]), &[("threads", "2")]).await;
    for (version, expected) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let config = builder.expect("a version").with_root_certificates(authority.roots());
        let config = Arc::new(config.with_no_client_auth());
        for round in 0..6 {
            let mut client = connect(balancer.address(), &config, "balancer.example")
                .await
                .expect("TLS");
            line(&mut client).await;
            let session = client.get_ref().1;
            assert_eq!(session.protocol_version(), Some(expected));
            let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(resumed, round > 0, "round {round} of {expected:?}");
            client.shutdown().await.expect("finished");
        }
    }
    assert_eq!(balancer.report().await.services[0].tls_resumed, 10);

    let strict = ending_tls(&authority, &list(&[&backend]), &[("tls-min", "1.3")]).await;
    let old = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &strict.address().to_string()])
        .stdin(std::process::Stdio::null())
        .output();
    if let Ok(old) = old {
        assert!(!old.status.success(), "{}", String::from_utf8_lossy(&old.stdout));
    }
}

#[tokio::test]
async fn a_new_pair_is_taken_up_and_a_broken_one_refused_with_the_old_kept() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    let backend = Backend::start().await;
    let balancer = ending_tls(&authority, &list(&[&backend]), &[]).await;
    let config = Arc::new(authority.client(None));
    let first = authority.pair("server").0[0].clone();
    let mut held = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    line(&mut held).await;

    // A key that does not belong to it, then no key at all.
    authority.sign("other", &["balancer.example"]);
    fs::copy(authority.path("other.key"), authority.path("server.key")).expect("copied");
    let says = |text: &'static str| {
        move |it: &openhim_balancer::Report| it.reloads.problems.iter().any(|it| it.contains(text))
    };
    balancer
        .until("refused", says("does not belong to the certificate in"))
        .await;
    fs::write(authority.path("server.key"), "nothing").expect("written");
    let report = balancer.until("refused", says("holds no private key")).await;
    assert!(report.reloads.bad >= 2 && report.reloads.problems[0].contains("the certificates before stay in use"));
    let client = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    assert_eq!(shown(&client), first);

    fs::copy(authority.path("other.crt"), authority.path("server.crt")).expect("copied");
    fs::copy(authority.path("other.key"), authority.path("server.key")).expect("copied");
    let second = authority.pair("other").0[0].clone();
    within("the new certificate", async {
        loop {
            let fresh = Arc::new(authority.client(None));
            let client = connect(balancer.address(), &fresh, "balancer.example")
                .await
                .expect("never refused");
            if shown(&client) == second {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    balancer.until("well", |it| it.reloads.problems.is_empty()).await;
    held.write_all(b"still there").await.expect("the connection stands");
    let mut back = [0; 11];
    within("an echo", held.read_exact(&mut back))
        .await
        .expect("the connection stands");
}

#[tokio::test]
async fn certificates_of_clients_are_verified_and_told_to_backends() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("server", &["balancer.example"]);
    authority.sign("clinic", &["clinic-7"]);
    stranger.sign("clinic", &["clinic-7"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("bound").to_string();
    let ca = authority.text("ca.pem");
    let options = [
        ("tls-client-ca", &*ca),
        ("client-ip", "proxy-v2"),
        ("alpn", "mllp"),
        ("tls-client", "optional"),
    ];
    let balancer = ending_tls(&authority, &backend, &options).await;
    let header = async || {
        let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
        let mut bytes = vec![0; 4096];
        let length = within("a header", stream.read(&mut bytes)).await.expect("no reset");
        bytes.truncate(length);
        bytes
    };

    let mut config = authority.client(Some("clinic"));
    config.alpn_protocols = vec![b"mllp".to_vec()];
    let client = connect(balancer.address(), &Arc::new(config), "balancer.example")
        .await
        .expect("TLS");
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"mllp"[..]));
    let bytes = header().await;
    let Ok(Progress::Complete(told)) = parse(&bytes) else {
        panic!("{bytes:?}")
    };
    let ssl = told.tlvs.ssl().expect("TLS is told");
    assert!(ssl.certificate && ssl.verified);
    assert_eq!((ssl.common_name, ssl.version), (Some("clinic-7"), Some("TLSv1.3")));
    assert!(ssl.cipher.is_some_and(|it| it.starts_with("TLS_")), "{ssl:?}");
    assert_eq!(told.tlvs.authority(), Some("balancer.example"));

    let _client = connect(
        balancer.address(),
        &Arc::new(authority.client(None)),
        "balancer.example",
    )
    .await
    .expect("optional");
    let bytes = header().await;
    let Ok(Progress::Complete(told)) = parse(&bytes) else {
        panic!("{bytes:?}")
    };
    let ssl = told.tlvs.ssl().expect("TLS is told");
    assert!(!ssl.certificate && !ssl.verified && ssl.common_name.is_none());

    let (chain, key) = stranger.pair("clinic");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_root_certificates(authority.roots());
    let wrong = builder.with_client_auth_cert(chain, key).expect("a pair");
    let refused = async {
        let mut client = connect(balancer.address(), &Arc::new(wrong), "balancer.example").await?;
        client.read_u8().await
    };
    assert!(
        within("a refusal", refused).await.is_err(),
        "a wrong one is worse than none"
    );
    balancer.until("counted", |it| it.services[0].tls_failed == 1).await;
}

#[tokio::test]
async fn http_is_served_over_tls_in_both_versions_and_learns_of_the_certificate() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    authority.sign("clinic", &["clinic-7"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("bound").to_string();
    let ca = authority.text("ca.pem");
    let balancer = ending_tls(&authority, &backend, &[("mode", "http"), ("tls-client-ca", &ca)]).await;
    let mut config = authority.client(Some("clinic"));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = connect(balancer.address(), &Arc::new(config), "balancer.example")
        .await
        .expect("TLS");
    client
        .write_all(b"GET /x HTTP/1.1\r\nHost: balancer.example\r\n\r\n")
        .await
        .expect("sent");

    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(within("a request", stream.read_u8()).await.expect("no reset"));
    }
    let seen = String::from_utf8(seen).expect("text").to_lowercase();
    assert!(seen.contains("x-forwarded-proto: https\r\n"), "{seen}");
    assert!(seen.contains("x-ssl-client-cn: clinic-7\r\n"), "{seen}");
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .expect("sent");
    let mut answer = vec![0; 15];
    within("an answer", client.read_exact(&mut answer))
        .await
        .expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 200 OK");

    let mut config = authority.client(Some("clinic"));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = connect(balancer.address(), &Arc::new(config), "balancer.example")
        .await
        .expect("TLS");
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_session_is_worth_nothing_once_other_authorities_are_believed() {
    let (old, new) = (Authority::new(), Authority::new());
    old.sign("server", &["balancer.example"]);
    old.sign("clinic", &["clinic-7"]);
    let backend = Backend::start().await;
    let ca = old.text("clients.pem");
    fs::copy(old.path("ca.pem"), &ca).expect("copied");
    let balancer = ending_tls(&old, &list(&[&backend]), &[("tls-client-ca", &ca)]).await;
    let config = Arc::new(old.client(Some("clinic")));
    let served = async || {
        let mut client = connect(balancer.address(), &config, "balancer.example").await.ok()?;
        let mut first = [0];
        within("an answer", client.read_exact(&mut first)).await.ok()?;
        client.get_ref().1.handshake_kind()
    };
    assert_eq!(served().await, Some(HandshakeKind::Full));
    assert_eq!(served().await, Some(HandshakeKind::Resumed));

    // The same session is good after a new certificate ...
    old.sign("server", &["balancer.example"]);
    balancer
        .until("a good reload", |it| {
            it.reloads.good > 0 && it.reloads.problems.is_empty()
        })
        .await;
    assert_eq!(served().await, Some(HandshakeKind::Resumed));

    // ... and not when its holder would not be let in today.
    fs::copy(new.path("ca.pem"), &ca).expect("copied");
    within("a refusal", async {
        while served().await.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_go_to_backends_over_tls_that_is_kept_and_tell_the_client_before_it() {
    let authority = Authority::new();
    authority.sign("node", &["localhost"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("bound").to_string();
    let ca = authority.text("ca.pem");
    for client_ip in ["none", "proxy-v1"] {
        let options = [
            ("backends", &*backend),
            ("mode", "http"),
            ("backend-tls", "true"),
            ("backend-ca", &*ca),
            ("backend-name", "localhost"),
            ("check", "none"),
            ("client-ip", client_ip),
        ];
        let balancer = balancer(&options).await;
        let mut client = TcpStream::connect(balancer.address()).await.expect("connected");
        let mut kept = None;
        for _ in 0..2 {
            let request = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
            client.write_all(request).await.expect("sent");
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => {
                    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
                    if client_ip == "proxy-v1" {
                        assert!(line(&mut stream).await.starts_with("PROXY TCP4 127.0.0.1 "));
                    }
                    let acceptor = TlsAcceptor::from(authority.server("node"));
                    within("a handshake", acceptor.accept(stream)).await.expect("TLS")
                }
            };
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                seen.push(within("a request", stream.read_u8()).await.expect("no reset"));
            }
            assert!(
                seen.starts_with(b"GET /x HTTP/1.1\r\n"),
                "{}",
                String::from_utf8_lossy(&seen)
            );
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.expect("sent");
            stream.flush().await.expect("sent");
            let mut received = vec![0; answer.len()];
            within("an answer", client.read_exact(&mut received))
                .await
                .expect("an answer");
            assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n") && received.ends_with(b"ok"));
            // A connection that tells of one client is not for another request.
            kept = (client_ip == "none").then_some(stream);
        }
    }
}

#[tokio::test]
async fn openssl_is_understood_in_both_versions() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    authority.sign("clinic", &["clinic-7"]);
    let backend = Backend::start().await;
    let ca = authority.text("ca.pem");
    let balancer = ending_tls(&authority, &list(&[&backend]), &[("tls-client-ca", &ca)]).await;
    for version in ["-tls1_2", "-tls1_3"] {
        let address = balancer.address().to_string();
        let files = ["ca.pem", "clinic.crt", "clinic.key"].map(|file| authority.text(file));
        let asked = tokio::task::spawn_blocking(move || {
            Command::new("openssl")
                .args([
                    "s_client",
                    version,
                    "-brief",
                    "-verify_return_error",
                    "-servername",
                    "balancer.example",
                ])
                .args([
                    "-connect", &address, "-CAfile", &files[0], "-cert", &files[1], "-key", &files[2],
                ])
                .stdin(std::process::Stdio::null())
                .output()
        });
        let Ok(output) = within("openssl", asked).await.expect("no panic") else {
            return println!("skipped: openssl is not installed");
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && said.contains("Verification: OK"),
            "{version}: {said}"
        );
    }
    assert_eq!(balancer.report().await.services[0].tls_handshakes, 2);
}

/// A backend that speaks TLS, says its name, and echoes; it counts resumed sessions.
async fn tls_backend(config: Arc<ServerConfig>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let session = stream.get_ref().1;
                let name = session.server_name().unwrap_or("-").to_owned();
                let kind = format!("{:?}", session.handshake_kind().expect("done"));
                let greeting = format!("{name} {kind}\n");
                let _ = stream.write_all(greeting.as_bytes()).await;
                let (mut from, mut to) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn backends_are_spoken_to_in_tls_verified_named_and_resumed() {
    let authority = Authority::new();
    authority.sign("node", &["localhost"]);
    let (address, _task) = tls_backend(authority.server("node")).await;
    let (backend, ca) = (format!("localhost:{}", address.port()), authority.text("ca.pem"));
    let options = [
        ("backends", &*backend),
        ("backend-tls", "true"),
        ("backend-ca", &*ca),
        ("check", "tcp"),
    ];
    let balancer = balancer(&options).await;
    balancer.until_state(address, "up").await;

    let mut client = Client::connect(balancer.address()).await;
    assert_eq!(line(&mut client.stream).await.split(' ').next(), Some("localhost"));
    client.echo(b"through").await;
    client.finish().await;
    let mut client = Client::connect(balancer.address()).await;
    assert_eq!(line(&mut client.stream).await, "localhost Resumed");
}

#[tokio::test]
async fn a_backend_with_a_wrong_certificate_gets_nobody() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("node", &["localhost"]);
    stranger.sign("node", &["localhost"]);
    let (right, _one) = tls_backend(authority.server("node")).await;
    let (wrong, _two) = tls_backend(stranger.server("node")).await;
    let backends = format!("127.0.0.1:{},127.0.0.1:{}", right.port(), wrong.port());
    let ca = authority.text("ca.pem");
    let options = [
        ("backends", &*backends),
        ("backend-tls", "true"),
        ("backend-ca", &*ca),
        ("backend-name", "localhost"),
        ("threads", "1"),
    ];
    for check in ["tcp", "none"] {
        let mut options = options.to_vec();
        options.push(("check", check));
        let balancer = balancer(&options).await;
        for _ in 0..6 {
            let mut client = Client::connect(balancer.address()).await;
            assert!(line(&mut client.stream).await.starts_with("localhost "), "{check}");
        }
        let state = if check == "tcp" { "down" } else { "ejected" };
        balancer.until_state(wrong, state).await;
    }
    let mut options = options.to_vec();
    options.retain(|(name, _)| *name != "backend-ca");
    options.push(("backend-insecure", "true"));
    let balancer = balancer(&options).await;
    balancer.until_state(wrong, "up").await;
}

#[tokio::test]
async fn a_proxy_header_goes_before_tls_to_a_backend() {
    let authority = Authority::new();
    authority.sign("node", &["localhost"]);
    authority.sign("server", &["balancer.example"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("bound").to_string();
    let ca = authority.text("ca.pem");
    let more = [
        ("backend-tls", "true"),
        ("backend-ca", &*ca),
        ("backend-name", "localhost"),
        ("client-ip", "proxy-v1"),
    ];
    let balancer = ending_tls(&authority, &backend, &more).await;
    let config = Arc::new(authority.client(None));
    let mut client = connect(balancer.address(), &config, "balancer.example")
        .await
        .expect("TLS");
    client.write_all(b"hello").await.expect("sent");

    let (mut stream, _) = within("a connection", listener.accept()).await.expect("accepted");
    assert!(line(&mut stream).await.starts_with("PROXY TCP4 127.0.0.1 "));
    let mut stream = within(
        "a handshake",
        TlsAcceptor::from(authority.server("node")).accept(stream),
    )
    .await
    .expect("TLS");
    let mut hello = [0; 5];
    within("the bytes", stream.read_exact(&mut hello))
        .await
        .expect("delivered");
    assert_eq!(&hello, b"hello");
}

#[tokio::test]
async fn tls_passes_through_to_the_group_of_its_name_and_the_rest_to_the_default() {
    let authority = Authority::new();
    for file in ["a", "b", "default"] {
        authority.sign(file, &["a.example", "x.b.example", "c.example"]);
    }
    let (a, _a) = tls_backend(authority.server("a")).await;
    let (b, _b) = tls_backend(authority.server("b")).await;
    let (default, _default) = tls_backend(authority.server("default")).await;
    let (own, groups) = (default.to_string(), [format!("a={a}"), format!("b={b}")]);
    let options = [
        ("backends", &*own),
        ("groups", &*groups[0]),
        ("groups", &*groups[1]),
        ("sni", "a.example=a,*.b.example=b"),
        ("handshake-timeout", "500ms"),
    ];
    let balancer = balancer(&options).await;
    let config = Arc::new(authority.client(None));
    for (name, file) in [
        ("a.example", "a"),
        ("x.b.example", "b"),
        ("c.example", "default"),
        ("A.Example", "a"),
    ] {
        let mut client = connect(balancer.address(), &config, name).await.expect("TLS");
        assert_eq!(shown(&client), authority.pair(file).0[0], "{name}");
        line(&mut client).await;
        client.write_all(b"through").await.expect("sent");
        let mut back = [0; 7];
        within("an echo", client.read_exact(&mut back))
            .await
            .expect("delivered");
    }

    // A byte at a time, so that nothing of the first message is there at once.
    let mut client = rustls::ClientConnection::new(
        Arc::clone(&config),
        ServerName::try_from("x.b.example").expect("a name"),
    )
    .expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("written");
    let mut stream = TcpStream::connect(balancer.address()).await.expect("connected");
    stream.set_nodelay(true).expect("an option");
    for byte in &hello {
        stream.write_all(&[*byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    let mut record = [0; 3];
    within("an answer", stream.read_exact(&mut record))
        .await
        .expect("a server hello");
    assert_eq!(record, [22, 3, 3]);

    let report = balancer.report().await;
    let counted: Vec<_> = report
        .services
        .iter()
        .map(|it| (it.name.rsplit('/').next().unwrap_or(""), it.backends[0].connections))
        .collect();
    assert_eq!(counted[1..], [("a", 2), ("b", 2)], "{counted:?}");

    for hostile in [
        &b"\x16\x03\x01\x00\x00"[..],
        b"\x16\x03\x01\x40\x00\x02",
        b"\x16\x03\x01\x02\x00\x01",
    ] {
        let begun = std::time::Instant::now();
        let mut stream = TcpStream::connect(balancer.address()).await.expect("connected");
        stream.write_all(hostile).await.expect("sent");
        let end = within("an end", stream.read(&mut record)).await;
        assert!(!matches!(end, Ok(1..)), "{hostile:?} was passed on");
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
    balancer.until("counted", |it| it.services[0].tls_failed == 3).await;
}

#[tokio::test]
async fn what_is_wrong_with_files_is_told_with_its_place_before_anything_is_bound() {
    let authority = Authority::new();
    authority.sign("server", &["balancer.example"]);
    authority.sign("other", &["balancer.example"]);
    for (cert, key, says) in [
        ("server.crt", "other.key", "does not belong to the certificate in"),
        ("server.key", "server.key", "holds no certificate in PEM"),
        ("server.crt", "server.crt", "holds no private key in PEM"),
        ("missing.crt", "server.key", "cannot be read: No such file"),
    ] {
        let text = format!("listen: 127.0.0.1:0\nbackends: 127.0.0.1:1\ntls_cert: {cert}\ntls_key: {key}\n");
        let path = authority.path("balancer.yaml");
        fs::write(&path, text).expect("written");
        let checked = Command::new(env!("CARGO_BIN_EXE_openhim-core"))
            .args(["check-config".as_ref(), "balancer".as_ref(), path.as_os_str()])
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.code() == Some(1) && said.contains(says), "{said}");
        assert!(said.contains("balancer.yaml:"), "{said}");
        let refused = Command::new(env!("CARGO_BIN_EXE_openhim-core"))
            .args(["balancer".as_ref(), "--config".as_ref(), path.as_os_str()])
            .output()
            .expect("it runs");
        assert_eq!(
            refused.status.code(),
            Some(64),
            "{}",
            String::from_utf8_lossy(&refused.stderr)
        );
    }
    assert!(Path::new(&authority.path("ca.pem")).exists());
}
