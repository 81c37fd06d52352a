//! Connections as the HTTP side sees them: bytes in, bytes out, whatever carries them.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use crate::relay::Peer;
pub use crate::tls::{Certificate, End as BackendStream, Facts as Tls};

/// What is read at once. One such buffer serves all connections of a thread: they own memory only for what cannot go on.
const SCRATCH: usize = 64 * 1024;
/// Not where a TLS record begins in its page; see the relay's buffer.
const SHIFT: usize = 2048;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SHIFT + SCRATCH]);
}

/// Which protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1; each request says which.
    Http1,
    /// HTTP/2. Each of its streams is served as a connection with one request of HTTP/1.1.
    Http2,
}

/// What is known of a client's connection from its beginning.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The client: the peer, or whom a believed PROXY header names.
    pub client: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// What TLS says, if the balancer ended it.
    pub tls: Option<Arc<Tls>>,
}

impl ClientInfo {
    /// `https` or `http`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// The near end of an HTTP/2 stream.
impl Peer for DuplexStream {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// A connection with what was read from it, what is to be written, and how much was.
#[derive(Debug)]
pub(super) struct Wire<S> {
    pub(super) stream: S,
    /// Read and not yet used.
    pub(super) input: Input,
    /// Not yet written.
    pub(super) output: Output,
}

/// Bytes that were read.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    /// The other side has said its last.
    pub(super) ended: bool,
}

impl Input {
    pub(super) fn held(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Puts bytes behind what is held.
    fn keep(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the first `count` bytes out.
    pub(super) fn split(&mut self, count: usize, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.held()[..count]);
        self.consume(count);
    }

    /// Gives memory back that a quiet connection does not need.
    pub(super) fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
    }
}

/// Bytes on their way out.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) bytes: Vec<u8>,
    sent: usize,
    /// Written so far, in all.
    pub(super) total: u64,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives memory back that a quiet connection does not need.
    pub(super) fn rest(&mut self) {
        if self.bytes.capacity() > 4096 {
            self.bytes = Vec::new();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            input: Input::default(),
            output: Output::default(),
        }
    }

    /// Reads more, behind what is held. Ready with 0 once the other side has ended.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (stream, input) = (&mut self.stream, &mut self.input);
        read_scratch(cx, stream, |_, bytes| {
            input.ended = bytes.is_empty();
            input.keep(bytes);
            bytes.len()
        })
    }

    /// Writes what is to be written.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let output = &mut self.output;
        while output.sent < output.bytes.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &output.bytes[output.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            output.sent += written;
            output.total += written as u64;
        }
        output.bytes.clear();
        output.sent = 0;
        if output.bytes.capacity() > SCRATCH {
            output.bytes = Vec::new();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Writes at once as much of `bytes` as goes, and keeps the rest to be written. Nothing is waiting before it.
    pub(super) fn write_through(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() && self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(written)) => {
                    bytes = &bytes[written..];
                    self.output.total += written as u64;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.output.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Gives memory back that a quiet connection does not need.
    pub(super) fn rest(&mut self) {
        self.input.rest();
        self.output.rest();
    }
}

/// Takes bytes that are there: those that `input` holds, else those that can be read now. `take` says how many it used,
/// and the rest is held. Ready with false at the end.
pub(super) fn poll_take<S: AsyncRead + Unpin, E>(
    cx: &mut Context<'_>,
    stream: &mut S,
    input: &mut Input,
    take: impl FnOnce(&mut Context<'_>, &[u8]) -> Result<usize, E>,
) -> Poll<io::Result<Result<bool, E>>> {
    if !input.held().is_empty() {
        let result = take(cx, input.held());
        return Poll::Ready(Ok(result.map(|used| {
            input.consume(used);
            true
        })));
    }
    if input.ended {
        return Poll::Ready(Ok(Ok(false)));
    }
    read_scratch(cx, stream, |cx, bytes| {
        if bytes.is_empty() {
            input.ended = true;
            return Ok(false);
        }
        let used = take(cx, bytes)?;
        input.keep(&bytes[used..]);
        Ok(true)
    })
}

fn read_scratch<S: AsyncRead + Unpin, T>(
    cx: &mut Context<'_>,
    stream: &mut S,
    then: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(&mut scratch[SHIFT..]);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(then(cx, buffer.filled())))
    })
}

/// A stream of which the first bytes were read before.
#[derive(Debug)]
pub(super) struct Rewound<S> {
    first: Vec<u8>,
    at: usize,
    stream: S,
}

impl<S> Rewound<S> {
    pub(super) fn new(wire: Wire<S>) -> Self {
        Self {
            first: wire.input.held().to_vec(),
            at: 0,
            stream: wire.stream,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.at < this.first.len() {
            let count = into.remaining().min(this.first.len() - this.at);
            into.put_slice(&this.first[this.at..this.at + count]);
            this.at += count;
            if this.at == this.first.len() {
                (this.first, this.at) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, into)
    }
}

impl<S: Peer> Peer for Rewound<S> {
    fn socket(&self) -> Option<&TcpStream> {
        self.stream.socket()
    }

    /// The kernel does not know what was read before.
    fn plain(&self) -> Option<&TcpStream> {
        self.stream.plain().filter(|_| self.first.is_empty())
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
