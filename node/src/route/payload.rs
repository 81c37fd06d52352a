//! A request's body on its way from the client to the routes.
//!
//! The beginning is in memory: as much as the transaction's record may hold. A body that ends within it is sent to every
//! route from there. A larger one flows on with bounded memory: straight to the only route, or through a file that all
//! routes read at their own pace, so that a slow one neither delays the others nor fills the memory.

mod spool;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use self::spool::{Spool, SpoolReader};
use crate::model::text::beginning;

/// What stopped a body before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Larger than `limits.requestBodyMB`.
    #[error("the request body is larger than this server takes")]
    TooLarge,
    /// The client went away or broke the framing.
    #[error("the request body ended early")]
    Broken,
    /// The client sent nothing for too long.
    #[error("the request body did not arrive in time")]
    Slow,
}

impl BodyFault {
    fn code(self) -> u8 {
        match self {
            Self::TooLarge => 1,
            Self::Broken => 2,
            Self::Slow => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::TooLarge, Self::Broken, Self::Slow]
            .into_iter()
            .find(|fault| fault.code() == code)
    }
}

/// Bounds of a body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes; `None` for no limit.
    pub bytes: Option<u64>,
    /// Time between two pieces.
    pub silence: Duration,
}

/// A body that comes from the client, counted and timed.
#[derive(Debug)]
struct Inflow {
    body: Incoming,
    limits: BodyLimits,
    taken: u64,
}

impl Inflow {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyFault> {
        loop {
            let frame = match tokio::time::timeout(self.limits.silence, self.body.frame()).await {
                Err(_) => return Err(BodyFault::Slow),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(BodyFault::Broken),
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers are not passed on.
            let Ok(bytes) = frame.into_data() else { continue };
            if bytes.is_empty() {
                continue;
            }
            self.taken += bytes.len() as u64;
            if self.limits.bytes.is_some_and(|limit| self.taken > limit) {
                return Err(BodyFault::TooLarge);
            }
            return Ok(Some(bytes));
        }
    }
}

/// A request's body, of which the beginning may have been read.
#[derive(Debug)]
pub struct Payload {
    chunks: Vec<Bytes>,
    length: usize,
    /// `None`: all of it was read.
    rest: Option<Inflow>,
}

impl Payload {
    /// A body that comes from a client.
    pub fn new(body: Incoming, limits: BodyLimits) -> Self {
        let is_empty = body.is_end_stream();
        Self {
            chunks: Vec::new(),
            length: 0,
            rest: (!is_empty).then_some(Inflow { body, limits, taken: 0 }),
        }
    }

    /// A body that is there.
    pub fn whole(bytes: Bytes) -> Self {
        Self {
            length: bytes.len(),
            chunks: if bytes.is_empty() { vec![] } else { vec![bytes] },
            rest: None,
        }
    }

    /// Reads on until the end or until `limit` bytes are there.
    ///
    /// # Errors
    /// The body is larger than allowed, or does not come.
    pub async fn fill(&mut self, limit: usize) -> Result<(), BodyFault> {
        while self.length <= limit
            && let Some(inflow) = &mut self.rest
        {
            match inflow.next().await? {
                Some(bytes) => {
                    self.length += bytes.len();
                    self.chunks.push(bytes);
                }
                None => self.rest = None,
            }
        }
        Ok(())
    }

    /// True if all of the body is there.
    pub fn is_complete(&self) -> bool {
        self.rest.is_none()
    }

    /// Bytes that are there.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True if nothing is there.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What is there, in one piece.
    pub fn contiguous(&mut self) -> Bytes {
        match self.chunks.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            several => {
                let mut joined = BytesMut::with_capacity(self.length);
                for chunk in several {
                    joined.extend_from_slice(chunk);
                }
                let joined = joined.freeze();
                self.chunks = vec![joined.clone()];
                joined
            }
        }
    }

    /// The first `limit` bytes, as they came.
    pub fn beginning(&self, limit: usize) -> Vec<Bytes> {
        beginning(&self.chunks, limit)
    }

    /// Makes the body available to `readers` routes.
    ///
    /// # Errors
    /// The file for a large body cannot be made.
    pub fn share(self, readers: usize) -> io::Result<Source> {
        let fault = Arc::new(AtomicU8::new(0));
        let kind = match self.rest {
            None => Kind::Whole(self.chunks.into()),
            Some(inflow) if readers <= 1 => Kind::Once(Mutex::new(Some(Once {
                chunks: self.chunks,
                inflow,
            }))),
            Some(inflow) => Kind::Spooled(Spool::start(self.chunks, inflow, Arc::clone(&fault))?),
        };
        Ok(Source { kind, fault })
    }

    /// Reads what is left of an unwanted body and drops it, up to `limit` bytes, so that the client hears the answer;
    /// `false` if there is more.
    pub async fn discard(self, limit: usize) -> bool {
        let Some(mut inflow) = self.rest else { return true };
        let mut left = limit;
        loop {
            match inflow.next().await {
                Ok(Some(bytes)) if bytes.len() <= left => left -= bytes.len(),
                Ok(None) => return true,
                Ok(Some(_)) | Err(_) => return false,
            }
        }
    }
}

/// Where each route gets its copy of the body.
#[derive(Debug)]
pub struct Source {
    kind: Kind,
    fault: Arc<AtomicU8>,
}

#[derive(Debug)]
enum Kind {
    Whole(Arc<[Bytes]>),
    Once(Mutex<Option<Once>>),
    Spooled(Arc<Spool>),
}

#[derive(Debug)]
struct Once {
    chunks: Vec<Bytes>,
    inflow: Inflow,
}

impl Source {
    /// A copy for one route.
    pub fn body(&self) -> OutBody {
        OutBody(match &self.kind {
            Kind::Whole(chunks) => match &**chunks {
                [] => Flow::Empty,
                [only] => Flow::Whole(Some(only.clone())),
                several => Flow::Chunks {
                    left: several.iter().map(|chunk| chunk.len() as u64).sum(),
                    chunks: Arc::clone(chunks),
                    at: 0,
                },
            },
            Kind::Once(once) => match once.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(Once { chunks, inflow }) => Flow::Inflow {
                    chunks: chunks.into_iter(),
                    next: Box::pin(pull(inflow)),
                    fault: Arc::clone(&self.fault),
                },
                // Only a second reader of a body for one reader would get here.
                None => Flow::Broken,
            },
            Kind::Spooled(spool) => Flow::Spooled(spool.reader()),
        })
    }

    /// The first `limit` bytes, as they came, and the length of the whole; of a body that flows, neither is known any more.
    pub fn beginning(&self, limit: usize) -> (Vec<Bytes>, u64) {
        let Kind::Whole(chunks) = &self.kind else {
            return (Vec::new(), u64::MAX);
        };
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        (beginning(chunks, limit), length)
    }

    /// What stopped the body, if something did.
    pub fn fault(&self) -> Option<BodyFault> {
        BodyFault::of(self.fault.load(Ordering::Relaxed))
    }
}

type Pulled = (Inflow, Result<Option<Bytes>, BodyFault>);

async fn pull(mut inflow: Inflow) -> Pulled {
    let outcome = inflow.next().await;
    (inflow, outcome)
}

/// A request's body as it is sent to one backend.
#[derive(Debug)]
pub struct OutBody(Flow);

enum Flow {
    Empty,
    Whole(Option<Bytes>),
    Chunks {
        chunks: Arc<[Bytes]>,
        at: usize,
        left: u64,
    },
    Inflow {
        chunks: std::vec::IntoIter<Bytes>,
        next: Pin<Box<dyn Future<Output = Pulled> + Send>>,
        fault: Arc<AtomicU8>,
    },
    Spooled(SpoolReader),
    Broken,
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Whole(_) => "Whole",
            Self::Chunks { .. } => "Chunks",
            Self::Inflow { .. } => "Inflow",
            Self::Spooled(_) => "Spooled",
            Self::Broken => "Broken",
        })
    }
}

impl OutBody {
    /// No body.
    pub fn empty() -> Self {
        Self(Flow::Empty)
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = match &mut self.0 {
            Flow::Empty => None,
            Flow::Whole(bytes) => bytes.take().map(Ok),
            Flow::Chunks { chunks, at, left } => chunks.get(*at).map(|chunk| {
                *at += 1;
                *left -= chunk.len() as u64;
                Ok(chunk.clone())
            }),
            Flow::Inflow { chunks, next, fault } => match chunks.next() {
                Some(chunk) => Some(Ok(chunk)),
                None => {
                    let (inflow, outcome) = std::task::ready!(next.as_mut().poll(cx));
                    match outcome {
                        Ok(Some(bytes)) => {
                            *next = Box::pin(pull(inflow));
                            Some(Ok(bytes))
                        }
                        Ok(None) => {
                            self.0 = Flow::Empty;
                            None
                        }
                        Err(reason) => {
                            fault.store(reason.code(), Ordering::Relaxed);
                            self.0 = Flow::Broken;
                            Some(Err(io::Error::other(reason)))
                        }
                    }
                }
            },
            Flow::Spooled(reader) => std::task::ready!(reader.poll_next(cx)),
            Flow::Broken => Some(Err(io::Error::other(BodyFault::Broken))),
        };
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Flow::Empty => true,
            Flow::Whole(bytes) => bytes.is_none(),
            Flow::Chunks { left, .. } => *left == 0,
            Flow::Inflow { .. } | Flow::Spooled(_) | Flow::Broken => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Flow::Empty => SizeHint::with_exact(0),
            Flow::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Flow::Chunks { left, .. } => SizeHint::with_exact(*left),
            Flow::Inflow { .. } | Flow::Spooled(_) | Flow::Broken => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(body: OutBody) -> String {
        let bytes = body.collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn every_route_gets_the_whole_body() {
        let mut payload = Payload::whole(Bytes::from_static(b"abc"));
        payload.chunks.push(Bytes::from_static(b"def"));
        payload.length = 6;
        let source = payload.share(2).unwrap();

        assert_eq!(source.body().size_hint().exact(), Some(6));
        assert_eq!(text(source.body()).await, "abcdef");
        assert_eq!(text(source.body()).await, "abcdef");
        assert_eq!(source.fault(), None);
    }

    #[test]
    fn the_beginning_is_cut_where_asked() {
        let mut payload = Payload::whole(Bytes::from_static(b"abc"));
        payload.chunks.push(Bytes::from_static(b"def"));
        payload.length = 6;

        assert_eq!(payload.beginning(4).concat(), b"abcd");
        assert_eq!(payload.beginning(100).concat(), b"abcdef");
        assert_eq!(payload.contiguous(), "abcdef");
    }

    #[tokio::test]
    async fn no_body_is_an_empty_body() {
        let source = Payload::whole(Bytes::new()).share(1).unwrap();

        assert!(source.body().is_end_stream());
    }
}
