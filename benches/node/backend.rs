//! The backend of all candidates: it answers every request with the same bytes, for ever.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::LOAD_CPU;
use crate::support::{on_this_thread, pin};

/// Starts it in a thread of its own.
pub(crate) fn start(answer: Vec<u8>) -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.set_nonblocking(true).expect("a socket option");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        pin(0, LOAD_CPU);
        on_this_thread(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            let answer: Arc<[u8]> = answer.into();
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                tokio::spawn(answer_all(socket, Arc::clone(&answer)));
            }
        });
    });
    address
}

async fn answer_all(mut socket: TcpStream, answer: Arc<[u8]>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        read_message(&mut socket, &mut buffer).await?;
        socket.write_all(&answer).await?;
    }
}

/// Reads one HTTP message with a `Content-Length` (or none: no body) and removes it from the buffer; answers with the
/// status, if it has one.
pub(crate) async fn read_message(socket: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<u16> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let (length, status) = head_facts(&buffer[..end]);
            while buffer.len() < end + 4 + length {
                more(socket, buffer).await?;
            }
            buffer.drain(..end + 4 + length);
            return Ok(status);
        }
        more(socket, buffer).await?;
    }
}

async fn more(socket: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<()> {
    match socket.read_buf(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn head_facts(head: &[u8]) -> (usize, u16) {
    let text = String::from_utf8_lossy(head);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())
            .flatten()
    });
    (length.unwrap_or(0), status)
}
