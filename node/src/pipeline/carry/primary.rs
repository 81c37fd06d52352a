//! The primary route: its answer is the client's.
//!
//! A short answer is read whole before a byte of it is passed on, so that a backend that breaks off is a failed route
//! and not half an answer. A long or slow one flows, with bounded memory, and its beginning is kept for the record. A
//! mediator's envelope is always read whole: the client's answer is inside.

use std::sync::Arc;
use std::time::Duration;

use bson::{DateTime, RawDocumentBuf};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::outlet::{self, Flow, Way};
use super::{Answering, Carrier};
use crate::clock::Millis;
use crate::model::transaction;
use crate::pipeline::respond::{self, Answer, AnswerBody, Cut};
use crate::record::capture::Capture;
use crate::route::response::{Envelope, is_envelope};
use crate::route::{Outgoing, Reply, RouteError, stored_headers};
use crate::tables::RouteEntry;

/// An answer up to this size is read whole before it is passed on,
const WHOLE: usize = 256 << 10;
/// if it comes within this time.
const WHOLE_WITHIN: Duration = Duration::from_secs(1);
/// An answer in which addresses are rewritten is read whole up to this size.
const REWRITTEN: usize = 64 << 20;
/// The largest envelope.
const ENVELOPE: usize = 256 << 20;
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
    /// `None` if there is no time to count.
    pub(super) answered_at: Option<Millis>,
    pub(super) events: Vec<RawDocumentBuf>,
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

/// The exchange that an answer belongs to.
pub(super) struct Sent<'a> {
    pub(super) route: &'a Arc<RouteEntry>,
    /// Path and query as sent.
    pub(super) target: String,
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

/// Reads a body until its end, `limit` bytes or the deadline.
async fn begin(reply: &mut Reply, limit: usize, deadline: Option<Instant>) -> Result<Begun, RouteError> {
    let mut begun = Begun {
        chunks: Vec::new(),
        length: 0,
        is_whole: reply.body.is_finished(),
    };
    if reply.length().is_some_and(|length| length > limit as u64) {
        return Ok(begun);
    }
    while !begun.is_whole && begun.length <= limit {
        let next = match deadline {
            None => reply.body.next().await,
            Some(deadline) => match timeout_at(deadline, reply.body.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(begun),
            },
        };
        match next? {
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

/// An answer before it is sent and stored.
struct Composed {
    status: StatusCode,
    /// Without those of the body's coding and length.
    headers: HeaderMap,
    way: Way,
}

impl Carrier {
    /// Runs the primary route and answers the client.
    pub(super) async fn primary(&mut self, route: &Arc<RouteEntry>, answering: Answering) -> Yielded {
        let outgoing = match Outgoing::new(&self.message, route) {
            Ok(outgoing) => outgoing,
            Err(error) => return self.route_failed(route, self.message.path().to_owned(), &error, answering),
        };
        let target = outgoing.target().to_owned();
        let sent = self.pipeline.router.send(&self.message, route, outgoing).await;
        let outcome = match sent {
            Ok(reply) => {
                self.answered(
                    Sent {
                        route,
                        target: target.clone(),
                    },
                    reply,
                    answering,
                )
                .await
            }
            Err(error) => Err((error, answering)),
        };
        outcome.unwrap_or_else(|(error, answering)| self.route_failed(route, target, &error, answering))
    }

    async fn answered(
        &mut self,
        sent: Sent<'_>,
        mut reply: Reply,
        answering: Answering,
    ) -> Result<Yielded, (RouteError, Answering)> {
        let rewriter = self.rewriter();
        let (limit, deadline) = match (is_envelope(&reply.headers), &rewriter) {
            (true, _) => (ENVELOPE, None),
            (false, Some(_)) => (REWRITTEN, None),
            (false, None) => (WHOLE, Some(Instant::now() + WHOLE_WITHIN)),
        };
        let begun = match begin(&mut reply, limit, deadline).await {
            Ok(begun) => begun,
            Err(error) => return Err((error, answering)),
        };
        if is_envelope(&reply.headers) {
            if !begun.is_whole {
                return Err((RouteError::TooLarge("the mediator's answer is too large"), answering));
            }
            return Ok(self.mediated(sent, &reply, &begun.into_bytes(), answering));
        }
        let wishes = self.message.headers.map();
        let composed = Composed {
            status: respond::status(reply.status, &reply.headers, self.channel.channel.is_asynchronous),
            headers: self.dressed(respond::headers(&reply.headers, &self.transaction_id()), &reply.headers),
            way: Way::choose(&reply.headers, wishes, rewriter.is_some()),
        };
        match begun.is_whole {
            true => self.whole(sent, &reply, begun.into_bytes(), composed, answering),
            false => Ok(self.flowing(sent, reply, begun, composed, answering).await),
        }
    }

    fn whole(
        &mut self,
        sent: Sent<'_>,
        reply: &Reply,
        body: Bytes,
        composed: Composed,
        answering: Answering,
    ) -> Result<Yielded, (RouteError, Answering)> {
        let at = self.pipeline.clock.now();
        let limit = self.pipeline.settings.response_body.unwrap_or(u64::MAX) as usize;
        let plain = match composed.way.decoded(&body, limit) {
            Ok(plain) => plain,
            Err(error) => return Err((error, answering)),
        };
        let record = outlet::shown(&composed.way, &plain, self.kept());
        let rewritten = self.rewritten(&composed.way, &plain);
        let announced = reply.headers.get(header::CONTENT_LENGTH).cloned();
        let (status, held, headers) = self.give(composed, rewritten.clone().unwrap_or(plain), announced, answering);
        let response = rewritten.map(|body| outlet::shown(&Way::STRAIGHT, &body, self.kept()));
        let response = self.response_part(status, headers, response.as_ref().unwrap_or(&record), Some(at));
        Ok(self.yielded(sent, reply, response, &record, at, held))
    }

    /// Sends a whole answer, or keeps it until it is stored; answers with its status and its headers as they are stored.
    fn give(
        &self,
        composed: Composed,
        body: Bytes,
        announced: Option<HeaderValue>,
        answering: Answering,
    ) -> (StatusCode, Held, RawDocumentBuf) {
        let Composed {
            status,
            mut headers,
            mut way,
        } = composed;
        let has_body = outlet::has_body(&self.message.method, status);
        let length = match has_body {
            true => Some(HeaderValue::from(body.len())),
            false => announced,
        };
        if let Some(length) = &length {
            headers.insert(header::CONTENT_LENGTH, length.clone());
        }
        let stored = stored_headers(&headers);
        let is_acceptable = !(has_body && self.entrance.is_public())
            || way
                .compress(self.message.headers.map(), &headers, Some(body.len() as u64))
                .is_ok();
        let answer = if is_acceptable {
            let body = if has_body { way.encoded(body) } else { Bytes::new() };
            way.label(&mut headers);
            if has_body {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            }
            Answer {
                status,
                headers,
                body: AnswerBody::whole(body),
            }
        } else {
            Answer::not_acceptable(headers)
        };
        (status, self.answer(answering, answer), stored)
    }

    /// Sends the answer, or keeps it until it is stored.
    pub(super) fn answer(&self, answering: Answering, answer: Answer) -> Held {
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
        composed: Composed,
        answering: Answering,
    ) -> Yielded {
        let Composed {
            status,
            mut headers,
            mut way,
        } = composed;
        let (pieces, receiver) = mpsc::channel(AHEAD);
        let stored = stored_headers(&headers);
        // A client that takes nothing of what there is gets it as it is: it has flowed already.
        if self.entrance.is_public() {
            let _ = way.compress(self.message.headers.map(), &headers, None);
        }
        way.label(&mut headers);
        let length = reply
            .length()
            .filter(|_| way.is_straight())
            .map(|left| left + begun.length as u64);
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let answer = Answer {
            status,
            headers,
            body: AnswerBody::piped(receiver, length),
        };
        let _ = answering.send(Ok(answer));
        let (outcome, body) = match Flow::new(&way, usize::MAX, self.kept()) {
            Ok(mut flow) => {
                let outcome = self.pump(&mut reply, begun.chunks, &mut flow, pieces).await;
                (outcome, flow.into_shown())
            }
            Err(error) => (Err(error), Capture::new(0)),
        };
        let at = self.pipeline.clock.now();
        let response = self.response_part(status, stored, &body, Some(at));
        let mut yielded = self.yielded(sent, &reply, response, &body, at, Held::Nothing);
        match outcome {
            Ok(held) => yielded.held = held,
            Err(error) => self.spoil(&mut yielded, &error),
        }
        yielded
    }

    /// Passes pieces on until the end; the last one is kept back if the answer has to be stored first.
    async fn pump(
        &self,
        reply: &mut Reply,
        begun: Vec<Bytes>,
        flow: &mut Flow,
        pieces: mpsc::Sender<Result<Bytes, Cut>>,
    ) -> Result<Held, RouteError> {
        let is_strict = self.pipeline.recorder.is_strict();
        let mut begun = begun.into_iter();
        let mut last = Bytes::new();
        loop {
            let next = match begun.next() {
                Some(bytes) => Ok(Some(bytes)),
                None => reply.body.next().await,
            };
            let (bytes, is_end) = match next.and_then(|next| self.passed(next, flow)) {
                Ok(passed) => passed,
                Err(error) => {
                    let _ = pieces.send(Err(Cut)).await;
                    return Err(error);
                }
            };
            let due = match is_strict {
                true if !bytes.is_empty() => std::mem::replace(&mut last, bytes),
                true => Bytes::new(),
                false => bytes,
            };
            let is_gone = !due.is_empty() && pieces.send(Ok(due)).await.is_err();
            if is_end {
                return Ok(if is_strict {
                    Held::Last(pieces, last)
                } else {
                    Held::Nothing
                });
            }
            if is_gone && !flow.keeps_more() {
                // Nobody listens, and what may be kept is there.
                return Ok(Held::Nothing);
            }
        }
    }

    /// What goes to the client for a piece from the backend, and whether it is the last.
    fn passed(&self, piece: Option<Bytes>, flow: &mut Flow) -> Result<(Bytes, bool), RouteError> {
        let Some(piece) = piece else {
            return Ok((flow.finish()?, true));
        };
        let bytes = flow.push(piece)?;
        if self
            .pipeline
            .settings
            .response_body
            .is_some_and(|limit| flow.seen() > limit)
        {
            return Err(RouteError::TooLarge("the response body is too large"));
        }
        Ok((bytes, false))
    }

    /// A mediator answered: its envelope says what the client gets.
    fn mediated(&mut self, sent: Sent<'_>, reply: &Reply, body: &Bytes, answering: Answering) -> Yielded {
        let at = self.pipeline.clock.now();
        let plain = Way::choose(&reply.headers, &HeaderMap::new(), true).decoded(body, ENVELOPE);
        let envelope = plain
            .as_ref()
            .map_err(RouteError::to_string)
            .and_then(|plain| Envelope::parse(plain).map_err(|error| error.to_string()));
        let record = outlet::shown(&Way::STRAIGHT, plain.as_ref().unwrap_or(body), self.kept());
        let mut envelope = match envelope {
            Ok(envelope) => envelope,
            Err(error) => return self.envelope_failed(sent, reply, &record, &RouteError::Mediator(error), answering),
        };
        let told = envelope.response.timestamp;
        let composed = Composed {
            status: self.mediated_status(envelope.response.status, envelope.response.headers.as_ref()),
            headers: self.mediated_headers(envelope.response.headers.take()),
            way: Way::STRAIGHT,
        };
        let body = envelope.response.body.take().unwrap_or_default();
        let body = self.rewritten(&composed.way, &body).unwrap_or(body);
        let shown = outlet::shown(&Way::STRAIGHT, &body, self.kept());
        let (status, held, headers) = self.give(composed, body, None, answering);
        let response = self.response_part(status, headers, &shown, told.map(DateTime::timestamp_millis));
        let steps = self.steps(std::mem::take(&mut envelope.orchestrations));
        let mut events = self.primary_events(sent.route, envelope.urn.as_deref(), status, at);
        events.splice(2..2, self.subject.orchestrations(&steps, self.ticket.now()));
        let mut yielded = self.yielded(sent, reply, response, &record, at, held);
        if let Some(answer) = &mut yielded.answer {
            answer.orchestrations.splice(0..0, steps);
            answer.properties = envelope.properties;
            answer.error.clone_from(&envelope.error);
        }
        yielded.auto_retry = envelope.error.is_some();
        yielded.mediator_status = envelope.status;
        yielded.answered_at = told.map(DateTime::timestamp_millis);
        yielded.events = events;
        yielded
    }

    /// Only the router's answers vary with what their receiver takes.
    pub(super) fn dressed(&self, mut headers: HeaderMap, given: &HeaderMap) -> HeaderMap {
        if !self.entrance.is_public() && !given.contains_key(header::VARY) {
            headers.remove(header::VARY);
        }
        headers
    }

    fn mediated_status(&self, status: StatusCode, headers: Option<&HeaderMap>) -> StatusCode {
        let none = HeaderMap::new();
        respond::status(status, headers.unwrap_or(&none), self.channel.channel.is_asynchronous)
    }

    /// An envelope without headers gives the client no transaction id either.
    fn mediated_headers(&self, headers: Option<HeaderMap>) -> HeaderMap {
        match headers {
            Some(headers) => self.dressed(respond::headers(&headers, &self.transaction_id()), &headers),
            None => self.dressed(respond::plain_headers(), &HeaderMap::new()),
        }
    }
}
