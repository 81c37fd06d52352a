//! The primary route: its answer is the client's.
//!
//! A short answer is read whole before a byte of it is passed on, so that a backend that breaks off is a failed route
//! and not half an answer. A long one flows, with bounded memory, and its beginning is kept for the record.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{DateTime, Document};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::mpsc;

use super::{Answering, Carrier};
use crate::clock::Millis;
use crate::events::End;
use crate::model::transaction::{self, ErrorPart, RequestPart, ResponsePart};
use crate::pipeline::Rejection;
use crate::pipeline::respond::{self, Answer, AnswerBody, Cut};
use crate::record::capture::Capture;
use crate::route::payload::BodyFault;
use crate::route::{Outgoing, Reply, RouteError, request_part, stored_headers};
use crate::tables::RouteEntry;

/// An answer up to this size is read whole before it is passed on.
const WHOLE: usize = 256 << 10;
/// Pieces of a flowing answer that may wait for the client.
const AHEAD: usize = 4;

/// What the primary route yielded.
#[derive(Debug)]
pub(super) struct Yielded {
    /// What the client got.
    pub(super) status: StatusCode,
    pub(super) mediator_status: Option<String>,
    pub(super) auto_retry: bool,
    /// What is stored; `None` once it was reported.
    pub(super) answer: Option<transaction::Answer>,
    pub(super) answered_at: Option<Millis>,
    pub(super) events: Vec<Document>,
    pub(super) held: Held,
}

/// What a client gets only when its answer is stored.
#[derive(Debug, Default)]
pub(super) enum Held {
    /// It has got everything.
    #[default]
    Nothing,
    Whole(Answering, Answer),
    /// The last piece of an answer that flows.
    Last(mpsc::Sender<Result<Bytes, Cut>>, Bytes),
}

impl Held {
    pub(super) async fn release(self) {
        // A client that is gone needs nothing any more.
        match self {
            Self::Nothing => {}
            Self::Whole(answering, answer) => {
                let _ = answering.send(Ok(answer));
            }
            Self::Last(pieces, last) => {
                let _ = pieces.send(Ok(last)).await;
            }
        }
    }
}

/// A body that was read as far as it is read before it is passed on.
struct Begun {
    chunks: Vec<Bytes>,
    length: usize,
    is_whole: bool,
}

impl Begun {
    fn into_bytes(self) -> Bytes {
        let mut chunks = self.chunks.into_iter();
        match (chunks.next(), chunks.len()) {
            (None, _) => Bytes::new(),
            (Some(only), 0) => only,
            (Some(first), _) => {
                let mut joined = BytesMut::with_capacity(self.length);
                joined.extend_from_slice(&first);
                chunks.for_each(|chunk| joined.extend_from_slice(&chunk));
                joined.freeze()
            }
        }
    }
}

async fn begin(reply: &mut Reply, limit: usize) -> Result<Begun, RouteError> {
    let mut begun = Begun {
        chunks: Vec::new(),
        length: 0,
        is_whole: reply.body.is_finished(),
    };
    if reply.length().is_some_and(|length| length > limit as u64) {
        return Ok(begun);
    }
    while !begun.is_whole && begun.length <= limit {
        match reply.body.next().await? {
            Some(bytes) => {
                begun.length += bytes.len();
                begun.chunks.push(bytes);
                begun.is_whole = reply.body.is_finished();
            }
            None => begun.is_whole = true,
        }
    }
    Ok(begun)
}

impl Carrier {
    /// Runs the primary route and answers the client.
    pub(super) async fn primary(&mut self, route: &Arc<RouteEntry>, answering: Answering) -> Yielded {
        let outgoing = match Outgoing::new(&self.message, route) {
            Ok(outgoing) => outgoing,
            Err(error) => return self.route_failed(route, self.message.path().to_owned(), &error, answering),
        };
        let target = outgoing.target().to_owned();
        let mut reply = match self.pipeline.router.send(&self.message, route, outgoing).await {
            Ok(reply) => reply,
            Err(error) => return self.route_failed(route, target, &error, answering),
        };
        let begun = match begin(&mut reply, WHOLE).await {
            Ok(begun) => begun,
            Err(error) => return self.route_failed(route, target, &error, answering),
        };
        let status = respond::status(reply.status, &reply.headers, self.channel.channel.is_asynchronous);
        let headers = respond::headers(&reply.headers, &self.transaction_id());
        let sent = Sent { route, target };
        match begun.is_whole {
            true => self.whole(sent, reply, begun.into_bytes(), status, headers, answering),
            false => self.flowing(sent, reply, begun, status, headers, answering).await,
        }
    }

    fn whole(
        &mut self,
        sent: Sent<'_>,
        reply: Reply,
        body: Bytes,
        status: StatusCode,
        mut headers: HeaderMap,
        answering: Answering,
    ) -> Yielded {
        let at = self.pipeline.clock.now();
        if respond::is_bodiless(&self.message.method, status) {
            headers.extend(
                reply
                    .headers
                    .get(header::CONTENT_LENGTH)
                    .map(|length| (header::CONTENT_LENGTH, length.clone())),
            );
        } else {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let mut capture = Capture::new(self.kept());
        capture.push(&body);
        let stored = stored_headers(&headers);
        let answer = Answer {
            status,
            headers: with_coding(headers, &reply.headers),
            body: AnswerBody::whole(body),
        };
        let held = self.answer(answering, answer);
        self.yielded(sent, &reply, status, stored, &capture, at, held)
    }

    /// Sends the answer, or keeps it until it is stored.
    fn answer(&self, answering: Answering, answer: Answer) -> Held {
        if self.pipeline.recorder.is_strict() {
            return Held::Whole(answering, answer);
        }
        // A client that is gone needs no answer; the transaction ends all the same.
        let _ = answering.send(Ok(answer));
        Held::Nothing
    }

    async fn flowing(
        &mut self,
        sent: Sent<'_>,
        mut reply: Reply,
        begun: Begun,
        status: StatusCode,
        mut headers: HeaderMap,
        answering: Answering,
    ) -> Yielded {
        let (pieces, receiver) = mpsc::channel(AHEAD);
        let length = reply.length().map(|left| left + begun.length as u64);
        headers.extend(length.map(|length| (header::CONTENT_LENGTH, HeaderValue::from(length))));
        let stored = stored_headers(&headers);
        let answer = Answer {
            status,
            headers: with_coding(headers, &reply.headers),
            body: AnswerBody::piped(receiver, length),
        };
        let _ = answering.send(Ok(answer));
        let mut capture = Capture::new(self.kept());
        let outcome = self.pump(&mut reply, begun.chunks, &mut capture, pieces).await;
        let at = self.pipeline.clock.now();
        match outcome {
            Ok(held) => self.yielded(sent, &reply, status, stored, &capture, at, held),
            Err(error) => {
                let mut yielded = self.yielded(sent, &reply, status, stored, &capture, at, Held::Nothing);
                self.spoil(&mut yielded, &error);
                yielded
            }
        }
    }

    /// Passes pieces on until the end; the last one is kept back if the answer has to be stored first.
    async fn pump(
        &self,
        reply: &mut Reply,
        begun: Vec<Bytes>,
        capture: &mut Capture,
        pieces: mpsc::Sender<Result<Bytes, Cut>>,
    ) -> Result<Held, RouteError> {
        let is_strict = self.pipeline.recorder.is_strict();
        let limit = self.pipeline.settings.response_body;
        let mut begun = begun.into_iter();
        let mut last = Bytes::new();
        loop {
            let next = match begun.next() {
                Some(bytes) => Ok(Some(bytes)),
                None => reply.body.next().await,
            };
            let is_too_large = limit.is_some_and(|limit| capture.seen() > limit);
            let bytes = match next {
                Ok(Some(_)) if is_too_large => Err(RouteError::TooLarge("the response body is too large")),
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) if is_strict => return Ok(Held::Last(pieces, last)),
                Ok(None) => return Ok(Held::Nothing),
                Err(error) => Err(error),
            };
            match bytes {
                Ok(bytes) => {
                    capture.push(&bytes);
                    let due = if is_strict {
                        std::mem::replace(&mut last, bytes)
                    } else {
                        bytes
                    };
                    let is_gone = !due.is_empty() && pieces.send(Ok(due)).await.is_err();
                    if is_gone && !capture.is_whole() {
                        // Nobody listens, and what may be kept is there.
                        return Ok(Held::Nothing);
                    }
                }
                Err(error) => {
                    let _ = pieces.send(Err(Cut)).await;
                    return Err(error);
                }
            }
        }
    }

    /// What is stored of an answer.
    #[expect(clippy::too_many_arguments, reason = "one call's results, named once")]
    fn yielded(
        &mut self,
        sent: Sent<'_>,
        reply: &Reply,
        status: StatusCode,
        headers: Document,
        body: &Capture,
        at: Millis,
        held: Held,
    ) -> Yielded {
        let timestamp = Some(DateTime::from_millis(at));
        let response = ResponsePart {
            status: status.as_u16(),
            headers,
            body: Some(self.text(body)),
            timestamp,
        };
        let request = self.sent_part(sent.route, sent.target);
        let mut raw = stored_headers(&reply.headers);
        raw.insert("X-OpenHIM-TransactionID", self.message.transaction.to_hex());
        let record = ResponsePart {
            status: reply.status.as_u16(),
            headers: raw,
            body: Some(self.text(body)),
            timestamp,
        };
        let name = &sent.route.route.name;
        let own = transaction::orchestration(ObjectId::new(), name, request, Some(record), None);
        Yielded {
            status,
            mediator_status: None,
            auto_retry: false,
            answer: Some(transaction::Answer {
                response,
                error: None,
                orchestrations: vec![own],
                properties: None,
            }),
            answered_at: Some(at),
            events: self.answer_events(Some(name), None, status, at),
            held,
        }
    }

    /// Bytes of the answer that may be kept.
    fn kept(&self) -> usize {
        match self.channel.channel.stores_response_bodies() {
            true => self.ledger.left(),
            false => 0,
        }
    }

    fn text(&mut self, body: &Capture) -> String {
        match self.channel.channel.stores_response_bodies() {
            true => self.ledger.text(body.bytes(), body.seen()),
            false => String::new(),
        }
    }

    /// The request as it is stored with the router's own record.
    fn sent_part(&mut self, route: &RouteEntry, target: String) -> RequestPart {
        let mut part = request_part(&self.message, route, target);
        part.body = Some(match self.channel.channel.stores_request_bodies() {
            true => {
                let (kept, length) = self.message.body.beginning(self.ledger.left());
                self.ledger.text(kept, length)
            }
            false => String::new(),
        });
        part
    }

    fn answer_events(
        &self,
        route: Option<&str>,
        mediator: Option<&str>,
        status: StatusCode,
        at: Millis,
    ) -> Vec<Document> {
        let end = End {
            status: i32::from(status.as_u16()),
            at,
        };
        let mut events = Vec::with_capacity(3);
        if let Some(route) = route {
            events.extend(self.subject.primary(route, mediator, end, self.ticket.now()));
        }
        events.push(self.channel_end(status, at));
        events
    }

    fn transaction_id(&self) -> HeaderValue {
        HeaderValue::from_str(&self.message.transaction.to_hex()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The route did not answer.
    fn route_failed(
        &mut self,
        route: &Arc<RouteEntry>,
        target: String,
        error: &RouteError,
        answering: Answering,
    ) -> Yielded {
        let name = &route.route.name;
        let id = self.message.transaction;
        tracing::warn!(tx.id = %id, route.name = %name, %error, "Route {name} failed for transaction {id}");
        let part = error.part(name);
        let request = self.sent_part(route, target);
        let own = transaction::orchestration(ObjectId::new(), name, request, None, Some(part.clone()));
        self.failed(part, Some((name, own)), answering, true)
    }

    /// There is nothing to pass on: the client is told that something went wrong here, and no more.
    pub(super) fn failed(
        &mut self,
        error: ErrorPart,
        own: Option<(&str, Document)>,
        answering: Answering,
        auto_retry: bool,
    ) -> Yielded {
        let at = self.pipeline.clock.now();
        let held = match self.message.body.fault() {
            Some(fault @ BodyFault::TooLarge) => {
                let _ = answering.send(Err(Rejection::of_body(fault)));
                Held::Nothing
            }
            _ => self.answer(answering, Answer::failure()),
        };
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let (name, orchestrations) = match own {
            Some((name, own)) => (Some(name), vec![own]),
            None => (None, vec![]),
        };
        let events = self.answer_events(name, None, status, at);
        let mut answer = self.answer_of_rejection(error, at);
        answer.orchestrations = orchestrations;
        Yielded {
            status,
            mediator_status: None,
            auto_retry,
            answer: Some(answer),
            answered_at: Some(at),
            events,
            held,
        }
    }

    /// What is stored when the client got the generic answer.
    pub(super) fn answer_of_rejection(&self, error: ErrorPart, at: Millis) -> transaction::Answer {
        let Answer {
            status, mut headers, ..
        } = Answer::failure();
        let text = "An internal server error occurred";
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        transaction::Answer {
            response: ResponsePart {
                status: status.as_u16(),
                headers: stored_headers(&headers),
                body: Some(match self.channel.channel.stores_response_bodies() {
                    true => text.to_owned(),
                    false => String::new(),
                }),
                timestamp: Some(DateTime::from_millis(at)),
            },
            error: Some(error),
            orchestrations: vec![],
            properties: None,
        }
    }

    /// The backend broke off an answer of which the client has the beginning.
    fn spoil(&self, yielded: &mut Yielded, error: &RouteError) {
        let id = self.message.transaction;
        tracing::warn!(tx.id = %id, %error, "An answer broke off for transaction {id}");
        yielded.status = StatusCode::INTERNAL_SERVER_ERROR;
        yielded.auto_retry = true;
        if let Some(answer) = &mut yielded.answer {
            answer.error = Some(error.part("primary"));
        }
    }
}

/// The request that an answer belongs to.
struct Sent<'a> {
    route: &'a Arc<RouteEntry>,
    /// Path and query as sent.
    target: String,
}

/// A body that is passed on as it came keeps its label.
fn with_coding(mut headers: HeaderMap, backend: &HeaderMap) -> HeaderMap {
    if let Some(coding) = backend.get(header::CONTENT_ENCODING) {
        headers.insert(header::CONTENT_ENCODING, coding.clone());
    }
    headers
}
