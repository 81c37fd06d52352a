//! Clients and a backend, on one thread.
//!
//! The backend's protocol: a request is 100 bytes, the first eight of which say how long the answer shall be. Over HTTP
//! the path says it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const REQUEST: usize = 100;
const CHUNK: usize = 256 * 1024;
/// Any one answer takes less, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Tcp,
    Http,
}

#[derive(Clone, Copy)]
pub(crate) struct Load(pub(crate) Mode);

impl Load {
    /// A backend of its own for each proxy, so that none runs out of ports because of another.
    pub(crate) async fn backend(&self) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mode = self.0;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match mode {
                    Mode::Tcp => tokio::spawn(serve(stream)),
                    Mode::Http => tokio::spawn(serve_http(stream)),
                };
            }
        });
        Ok(address)
    }

    /// Opens `count` connections, `at_once` at a time, each for one request.
    pub(crate) async fn connections(&self, to: SocketAddr, count: u32, at_once: u32) -> Result<u32> {
        let mode = self.0;
        self.spread(count, at_once, move |share| async move {
            let mut buffer = vec![0; 4096];
            for _ in 0..share {
                let mut stream = connect(to).await?;
                exchange(mode, &mut stream, REQUEST, &mut buffer).await?;
            }
            Ok(())
        })
        .await
    }

    /// Makes `count` requests with answers of `length` bytes over `over` connections.
    pub(crate) async fn requests(&self, to: SocketAddr, count: u32, over: u32, length: usize) -> Result<u32> {
        let mode = self.0;
        self.spread(count, over, move |share| async move {
            let mut stream = connect(to).await?;
            let mut buffer = vec![0; CHUNK];
            for _ in 0..share {
                exchange(mode, &mut stream, length, &mut buffer).await?;
            }
            Ok(())
        })
        .await
    }

    /// Fetches `bytes` over one connection.
    pub(crate) async fn bulk(&self, to: SocketAddr, bytes: usize) -> Result<usize> {
        let mut stream = connect(to).await?;
        exchange(self.0, &mut stream, bytes, &mut vec![0; CHUNK]).await?;
        Ok(bytes)
    }

    /// Opens `count` connections, makes one request on each, and leaves them open.
    pub(crate) async fn idle(&self, to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            let mut stream = connect(to).await?;
            exchange(self.0, &mut stream, REQUEST, &mut [0; 4096]).await?;
            streams.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(streams)
    }

    async fn spread<F>(&self, count: u32, over: u32, work: impl Fn(u32) -> F) -> Result<u32>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let share = count / over;
        let mut tasks = JoinSet::new();
        for _ in 0..over {
            tasks.spawn(work(share));
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(share * over)
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = timeout(LONG, TcpStream::connect(to))
        .await?
        .context("the proxy does not answer")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn exchange(mode: Mode, stream: &mut TcpStream, length: usize, buffer: &mut [u8]) -> Result<()> {
    match mode {
        Mode::Tcp => exchange_bytes(stream, length, buffer).await,
        Mode::Http => exchange_http(stream, length, buffer).await,
    }
}

async fn exchange_http(stream: &mut TcpStream, length: usize, buffer: &mut [u8]) -> Result<()> {
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

async fn exchange_bytes(stream: &mut TcpStream, length: usize, buffer: &mut [u8]) -> Result<()> {
    let mut request = [0; REQUEST];
    request[..8].copy_from_slice(&(length as u64).to_be_bytes());
    stream.write_all(&request).await?;
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
