//! TLS: ended for clients, begun to backends, passed through by name.

mod backends;
mod certificates;
mod flows;
mod names;
mod requests;

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

/// A backend's port that the test answers at, and its address as an option takes it.
async fn backend() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    (listener, address)
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
