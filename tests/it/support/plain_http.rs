//! A client and a server that speak just enough HTTP/1.1 for tests, over blocking sockets: what they put on the wire is
//! plain to see, and they share no code with what they test.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha1::Digest as _;

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The cookies that it sets, as a client sends them back.
    pub(crate) fn cookies(&self) -> String {
        let pairs = self.head.lines().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.eq_ignore_ascii_case("set-cookie")).then(|| value.trim().split(';').next().unwrap_or_default())
        });
        pairs.collect::<Vec<_>>().join("; ")
    }
}

/// TLS that trusts any server, with or without a certificate of its own.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    config: Arc<rustls::ClientConfig>,
    certificate: Option<(String, CertificateDer<'static>)>,
}

impl Tls {
    pub(crate) fn anonymous() -> Self {
        let config = builder().with_no_client_auth();
        Self {
            config: Arc::new(config),
            certificate: None,
        }
    }

    /// A self-signed certificate made for this test.
    pub(crate) fn with_fresh_certificate(name: &str) -> Self {
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let der = certificate.der().clone();
        let config = builder()
            .with_client_auth_cert(
                vec![der.clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("a pair");
        Self {
            config: Arc::new(config),
            certificate: Some((certificate.pem(), der)),
        }
    }

    pub(crate) fn config(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate.as_ref().expect("a certificate").0
    }

    /// SHA-1 over the DER form, as OpenHIM writes it.
    pub(crate) fn fingerprint(&self) -> String {
        let digest = sha1::Sha1::digest(&self.certificate.as_ref().expect("a certificate").1);
        digest
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect::<Vec<_>>()
            .join(":")
    }
}

fn builder() -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone))
}

#[derive(Debug)]
struct TrustAnyone;

impl rustls::client::danger::ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

/// A plain GET.
pub(crate) fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    request(address, None, "GET", path, None, "")
}

/// One request on a new connection, which the server is asked to close.
pub(crate) fn request(
    address: SocketAddr,
    tls: Option<&Tls>,
    method: &str,
    path: &str,
    login: Option<(&str, &str)>,
    body: &str,
) -> io::Result<Answer> {
    let basic = login.map(|(user, password)| {
        let token = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        format!("Basic {token}")
    });
    let headers: Vec<(&str, &str)> = basic.iter().map(|value| ("Authorization", value.as_str())).collect();
    request_with(address, tls, method, path, &headers, body)
}

/// One request with these headers on a new connection, which the server is asked to close.
pub(crate) fn request_with(
    address: SocketAddr,
    tls: Option<&Tls>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Answer> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    text += body;
    match tls {
        None => exchange(&mut socket, &text),
        Some(tls) => {
            let name = ServerName::from(address.ip());
            let mut connection =
                rustls::ClientConnection::new(Arc::clone(&tls.config), name).map_err(io::Error::other)?;
            exchange(&mut rustls::Stream::new(&mut connection, &mut socket), &text)
        }
    }
}

fn exchange(stream: &mut (impl Read + Write), text: &str) -> io::Result<Answer> {
    stream.write_all(text.as_bytes())?;
    stream.flush()?;
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // A peer that closes without TLS's goodbye has still said all if the length says so; `parse` checks that.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        outcome => drop(outcome?),
    }
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> io::Result<Answer> {
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut short");
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(cut)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(cut)?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let rest = &bytes[end + 4..];
    let body = match header("transfer-encoding") {
        Some(_) => unchunk(rest).ok_or_else(cut)?,
        None => match header("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => rest.get(..length).ok_or_else(cut)?.to_vec(),
            None => rest.to_vec(),
        },
    };
    Ok(Answer {
        status,
        head,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

/// Answers every request with what `answer` says of the peer and the path, one thread a connection, for ever.
pub(crate) fn serve(address: SocketAddr, answer: impl Fn(IpAddr, &str) -> (u16, String) + Send + Sync + 'static) {
    let listener = TcpListener::bind(address).expect("a free port");
    let answer = Arc::new(answer);
    for socket in listener.incoming().flatten() {
        let answer = Arc::clone(&answer);
        std::thread::spawn(move || {
            let _ends_with_the_peer = serve_connection(socket, &*answer);
        });
    }
}

fn serve_connection(socket: TcpStream, answer: &(impl Fn(IpAddr, &str) -> (u16, String) + ?Sized)) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let peer = socket.peer_addr()?.ip();
    let mut writer = socket.try_clone()?;
    let mut reader = BufReader::new(socket);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let (mut length, mut chunked) = (0, false);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or(("", ""));
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            chunked |= name.eq_ignore_ascii_case("transfer-encoding");
        }
        if chunked {
            skip_chunks(&mut reader)?;
        } else {
            io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        }
        let (status, body) = answer(peer, first.split(' ').nth(1).unwrap_or("/"));
        write!(
            writer,
            "HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

fn skip_chunks(reader: &mut BufReader<TcpStream>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        io::copy(&mut reader.by_ref().take(size + 2), &mut io::sink())?;
        if size == 0 {
            return Ok(());
        }
    }
}
