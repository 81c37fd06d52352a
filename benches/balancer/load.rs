//! Clients and a backend, on one thread.
//!
//! The backend's protocol: a request is 100 bytes, the first eight of which say how long the answer shall be. Over HTTP
//! the path says it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const REQUEST: usize = 100;
const CHUNK: usize = 256 * 1024;
/// Any one answer takes less, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Tcp,
    Http,
    /// TLS of clients is ended, and bytes go on.
    Tls,
}

#[derive(Clone)]
pub(crate) struct Load {
    mode: Mode,
    tls: Option<TlsConnector>,
}

/// A certificate for P-256, and its key, in PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What the certificate is for.
const NAME: &str = "bench.example.org";

impl Identity {
    pub(crate) fn new() -> Result<Self> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = rcgen::CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A client that resumes no session, and leaves no choice: every proxy does the same work.
    fn client(&self) -> Result<TlsConnector> {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![kx_group::X25519];
        provider.cipher_suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384];
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

/// A connection, whatever carries it.
trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}
pub(crate) struct Stream(Box<dyn Both>);

impl Load {
    pub(crate) fn new(mode: Mode, identity: &Identity) -> Result<Self> {
        let tls = (mode == Mode::Tls).then(|| identity.client()).transpose()?;
        Ok(Self { mode, tls })
    }

    /// A backend of its own for each proxy, so that none runs out of ports because of another.
    pub(crate) async fn backend(&self) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mode = self.mode;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match mode {
                    Mode::Tcp | Mode::Tls => tokio::spawn(serve(stream)),
                    Mode::Http => tokio::spawn(serve_http(stream)),
                };
            }
        });
        Ok(address)
    }

    /// Opens `count` connections, `at_once` at a time, each for one request.
    pub(crate) async fn connections(&self, to: SocketAddr, count: u32, at_once: u32) -> Result<u32> {
        self.spread(count, at_once, move |load, share| async move {
            let mut buffer = vec![0; 4096];
            for _ in 0..share {
                let mut stream = load.connect(to).await?;
                load.exchange(&mut stream, REQUEST, &mut buffer).await?;
                if load.mode == Mode::Tls {
                    // Without a farewell the end would be a broken one.
                    stream.0.shutdown().await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Makes `count` requests with answers of `length` bytes over `over` connections.
    pub(crate) async fn requests(&self, to: SocketAddr, count: u32, over: u32, length: usize) -> Result<u32> {
        self.spread(count, over, move |load, share| async move {
            let mut stream = load.connect(to).await?;
            let mut buffer = vec![0; CHUNK];
            for _ in 0..share {
                load.exchange(&mut stream, length, &mut buffer).await?;
            }
            Ok(())
        })
        .await
    }

    /// Fetches `bytes` over one connection.
    pub(crate) async fn bulk(&self, to: SocketAddr, bytes: usize) -> Result<usize> {
        let mut stream = self.connect(to).await?;
        self.exchange(&mut stream, bytes, &mut vec![0; CHUNK]).await?;
        Ok(bytes)
    }

    /// Opens `count` connections, makes one request on each, and leaves them open.
    pub(crate) async fn idle(&self, to: SocketAddr, count: usize) -> Result<Vec<Stream>> {
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            let mut stream = self.connect(to).await?;
            self.exchange(&mut stream, REQUEST, &mut [0; 4096]).await?;
            streams.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(streams)
    }

    async fn spread<F>(&self, count: u32, over: u32, work: impl Fn(Self, u32) -> F) -> Result<u32>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let share = count / over;
        let mut tasks = JoinSet::new();
        for _ in 0..over {
            tasks.spawn(work(self.clone(), share));
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(share * over)
    }

    async fn connect(&self, to: SocketAddr) -> Result<Stream> {
        let stream = timeout(LONG, TcpStream::connect(to))
            .await?
            .context("the proxy does not answer")?;
        stream.set_nodelay(true)?;
        Ok(Stream(match &self.tls {
            None => Box::new(stream),
            Some(connector) => {
                let handshake = connector.connect(ServerName::try_from(NAME)?, stream);
                Box::new(timeout(LONG, handshake).await?.context("no TLS with the proxy")?)
            }
        }))
    }

    async fn exchange(&self, stream: &mut Stream, length: usize, buffer: &mut [u8]) -> Result<()> {
        let stream = &mut *stream.0;
        match self.mode {
            Mode::Tcp | Mode::Tls => exchange_bytes(stream, length, buffer).await,
            Mode::Http => exchange_http(stream, length, buffer).await,
        }
    }
}

async fn exchange_http(stream: &mut dyn Both, length: usize, buffer: &mut [u8]) -> Result<()> {
    let request =
        format!("GET /{length} HTTP/1.1\r\nHost: bench.example.org\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let (mut filled, mut left) = (0, None);
    while left != Some(0) {
        let read = timeout(LONG, stream.read(&mut buffer[filled..]))
            .await?
            .context("the proxy broke off")?;
        anyhow::ensure!(read > 0, "the proxy ended an answer early");
        match &mut left {
            Some(left) => *left -= read,
            None => {
                filled += read;
                if let Some(end) = head_end(&buffer[..filled]) {
                    anyhow::ensure!(buffer.starts_with(b"HTTP/1.1 200"), "not answered with 200");
                    left = Some(length - (filled - end));
                    filled = 0;
                }
            }
        }
    }
    Ok(())
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|it| it == b"\r\n\r\n").map(|at| at + 4)
}

async fn serve_http(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let body = vec![b'x'; CHUNK];
    let mut held = Vec::with_capacity(4096);
    while stream.read_buf(&mut held).await? > 0 {
        while let Some(end) = head_end(&held) {
            let target = held[..end].split(|&it| it == b' ').nth(1).context("no target")?;
            let length: usize = std::str::from_utf8(&target[1..])?.parse()?;
            held.drain(..end);
            let mut out = format!("HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Length: {length}\r\n\r\n").into_bytes();
            let first = length.min(body.len());
            out.extend_from_slice(&body[..first]);
            stream.write_all(&out).await?;
            let mut left = length - first;
            while left > 0 {
                let most = left.min(body.len());
                left -= stream.write(&body[..most]).await?;
            }
        }
    }
    Ok(())
}

async fn exchange_bytes(stream: &mut dyn Both, length: usize, buffer: &mut [u8]) -> Result<()> {
    let mut request = [0; REQUEST];
    request[..8].copy_from_slice(&(length as u64).to_be_bytes());
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut left = length;
    while left > 0 {
        let most = left.min(buffer.len());
        let read = timeout(LONG, stream.read(&mut buffer[..most]))
            .await?
            .context("the proxy broke off")?;
        anyhow::ensure!(read > 0, "the proxy ended an answer early");
        left -= read;
    }
    Ok(())
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let answer = vec![b'x'; CHUNK];
    let mut request = [0; REQUEST];
    // Checks of a balancer connect and say nothing.
    while stream.read_exact(&mut request).await.is_ok() {
        let mut length = [0; 8];
        length.copy_from_slice(&request[..8]);
        let mut left = usize::try_from(u64::from_be_bytes(length))?;
        while left > 0 {
            let most = left.min(answer.len());
            left -= stream.write(&answer[..most]).await?;
        }
    }
    Ok(())
}
