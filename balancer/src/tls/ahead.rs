//! A socket that is read in larger pieces than a TLS library asks for.
//!
//! The library reads 4 KiB at a time, which for bulk is five system calls a record. Here one call brings two records; what
//! is not asked for at once is held, and nothing more is read until it is taken. A connection at rest holds nothing.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::relay::Peer;

/// What one read can bring; one such buffer a thread.
const SCRATCH: usize = 32 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// The socket, and what was read ahead.
#[derive(Debug)]
pub struct Ahead {
    socket: TcpStream,
    held: Vec<u8>,
    taken: usize,
}

impl Ahead {
    /// Reads from this socket.
    #[must_use]
    pub fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            held: Vec::new(),
            taken: 0,
        }
    }
}

impl AsyncRead for Ahead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() {
            return SCRATCH_BUFFER.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buffer))?;
                let read = buffer.filled();
                let (now, later) = read.split_at(read.len().min(into.remaining()));
                into.put_slice(now);
                this.held.extend_from_slice(later);
                Poll::Ready(Ok(()))
            });
        }
        let rest = &this.held[this.taken..];
        let now = &rest[..rest.len().min(into.remaining())];
        into.put_slice(now);
        this.taken += now.len();
        if this.taken == this.held.len() {
            (this.held, this.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ahead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Peer for Ahead {
    fn socket(&self) -> Option<&TcpStream> {
        Some(&self.socket)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn every_byte_comes_in_order_whatever_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let connecting = TcpStream::connect(listener.local_addr().expect("bound"));
        let (sender, accepted) = tokio::join!(connecting, listener.accept());
        let (mut sender, mut ahead) = (sender.expect("connected"), Ahead::new(accepted.expect("accepted").0));
        let sent: Vec<u8> = (0..500_000_u32).map(|it| (it % 251) as u8).collect();
        let sending = async {
            sender.write_all(&sent).await.expect("sent");
            sender.shutdown().await.expect("finished");
        };
        let mut received = Vec::new();
        let receiving = async {
            for size in [1, 7, 4096, 5, 100_000, 16_384].into_iter().cycle() {
                let mut piece = vec![0; size];
                let read = ahead.read(&mut piece).await.expect("read");
                if read == 0 {
                    break;
                }
                received.extend_from_slice(&piece[..read]);
            }
        };
        tokio::join!(sending, receiving);

        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        assert!(ahead.held.capacity() == 0, "nothing is held at rest");
    }
}
