//! What is stored of a primary route's answer, and of its failure.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, RawDocumentBuf};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::primary::{Held, Sent, Yielded};
use super::{Answering, Carrier};
use crate::clock::Millis;
use crate::events::End;
use crate::model::text::Text;
use crate::model::transaction::{self, ErrorPart, RequestPart, ResponsePart, put_header};
use crate::pipeline::Rejection;
use crate::pipeline::respond::{Answer, FAILURE};
use crate::record::capture::Capture;
use crate::route::payload::BodyFault;
use crate::route::{Reply, RouteError, request_part, stored_headers};
use crate::tables::RouteEntry;

impl Carrier {
    /// What is stored of an answer: the client's response, then the router's own record of the exchange.
    pub(super) fn yielded(
        &mut self,
        sent: Sent<'_>,
        reply: &Reply,
        response: ResponsePart,
        record: &Capture,
        at: Millis,
        held: Held,
    ) -> Yielded {
        let status = StatusCode::from_u16(response.status).unwrap_or(reply.status);
        let events = self.primary_events(sent.route, None, status, at);
        let own = self.own_record(sent, reply, record, at);
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
            events,
            held,
        }
    }

    /// The client's response.
    pub(super) fn response_part(
        &mut self,
        status: StatusCode,
        headers: RawDocumentBuf,
        body: &Capture,
        at: Option<Millis>,
    ) -> ResponsePart {
        ResponsePart {
            status: status.as_u16(),
            headers,
            body: Some(self.text(body)),
            timestamp: at.map(DateTime::from_millis),
        }
    }

    fn own_record(&mut self, sent: Sent<'_>, reply: &Reply, body: &Capture, at: Millis) -> RawDocumentBuf {
        let request = self.sent_part(sent.route, sent.target);
        let mut headers = stored_headers(&reply.headers);
        put_header(
            &mut headers,
            "X-OpenHIM-TransactionID",
            self.message.transaction.to_hex(),
        );
        let response = self.response_part(reply.status, headers, body, Some(at));
        transaction::orchestration(ObjectId::new(), &sent.route.route.name, &request, Some(&response), None)
    }

    /// Bytes of an answer that may be kept.
    pub(super) fn kept(&self) -> usize {
        match self.channel.channel.stores_response_bodies() {
            true => self.ledger.left(),
            false => 0,
        }
    }

    fn text(&mut self, body: &Capture) -> Text {
        match self.channel.channel.stores_response_bodies() {
            true => self.ledger.text(body.beginning(self.ledger.left()), body.seen()),
            false => Text::default(),
        }
    }

    /// A mediator's steps, their bodies charged to the transaction, or left out if the channel keeps none.
    pub(super) fn steps(&mut self, mut steps: Vec<Document>) -> Vec<RawDocumentBuf> {
        let channel = &self.channel.channel;
        let keeps = [
            ("request", channel.stores_request_bodies()),
            ("response", channel.stores_response_bodies()),
        ];
        for step in &mut steps {
            for (part, is_kept) in keeps {
                let part = step.get_document_mut(part).ok();
                if let Some(Bson::String(body)) = part.and_then(|part| part.get_mut("body")) {
                    let whole = std::mem::take(body);
                    if is_kept {
                        let length = whole.len() as u64;
                        *body = self.ledger.text(vec![whole.into()], length).into_string();
                    }
                }
            }
        }
        let stored = steps.iter().map(RawDocumentBuf::try_from);
        stored
            .filter_map(|step| step.inspect_err(|error| self.unstored(error)).ok())
            .collect()
    }

    fn unstored(&self, error: &bson::error::Error) {
        tracing::warn!(tx.id = %self.message.transaction, %error, "A mediator's step cannot be stored");
    }

    /// The request as it is stored with the router's own record.
    fn sent_part(&mut self, route: &RouteEntry, target: String) -> RequestPart {
        let mut part = request_part(&self.message, route, target);
        part.body = Some(match self.channel.channel.stores_request_bodies() {
            true => {
                let (kept, length) = self.message.body.beginning(self.ledger.left());
                self.ledger.text(kept, length)
            }
            false => Text::default(),
        });
        part
    }

    /// Start and end of the primary route, and the end of the channel.
    pub(super) fn primary_events(
        &self,
        route: &RouteEntry,
        mediator: Option<&str>,
        status: StatusCode,
        at: Millis,
    ) -> Vec<RawDocumentBuf> {
        let end = End {
            status: i32::from(status.as_u16()),
            at,
        };
        let [start, ended] = self
            .subject
            .primary(Some(&route.route.name), mediator, end, self.ticket.now());
        vec![start, ended, self.channel_end(status, at)]
    }

    pub(super) fn transaction_id(&self) -> HeaderValue {
        HeaderValue::from_str(&self.message.transaction.to_hex()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The route did not answer.
    pub(super) fn route_failed(
        &mut self,
        route: &Arc<RouteEntry>,
        target: String,
        error: &RouteError,
        answering: Answering,
    ) -> Yielded {
        let part = self.failure(route, error);
        let request = self.sent_part(route, target);
        let own = transaction::orchestration(ObjectId::new(), &route.route.name, &request, None, Some(&part));
        self.failed(part, Some((route, own)), answering, true)
    }

    /// The route answered, but with an envelope that yields no answer.
    pub(super) fn envelope_failed(
        &mut self,
        sent: Sent<'_>,
        reply: &Reply,
        record: &Capture,
        error: &RouteError,
        answering: Answering,
    ) -> Yielded {
        let route = Arc::clone(sent.route);
        let part = self.failure(&route, error);
        let now = self.pipeline.clock.now();
        let own = self.own_record(sent, reply, record, now);
        self.failed(part, Some((&route, own)), answering, true)
    }

    fn failure(&self, route: &RouteEntry, error: &RouteError) -> ErrorPart {
        let (name, id) = (&route.route.name, self.message.transaction);
        tracing::warn!(tx.id = %id, route.name = %name, %error, "Route {name} failed for transaction {id}");
        error.part(name)
    }

    /// There is nothing to pass on: the client is told that something went wrong here, and no more.
    pub(super) fn failed(
        &mut self,
        error: ErrorPart,
        own: Option<(&RouteEntry, RawDocumentBuf)>,
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
        let mut answer = self.answer_of_failure(error, at);
        let events = match own {
            Some((route, own)) => {
                answer.orchestrations.push(own);
                self.primary_events(route, None, status, at)
            }
            None => vec![self.channel_end(status, at)],
        };
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
    pub(super) fn answer_of_failure(&self, error: ErrorPart, at: Millis) -> transaction::Answer {
        let Answer { status, headers, .. } = Answer::failure();
        let mut headers = self.dressed(headers, &HeaderMap::new());
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(FAILURE.len()));
        transaction::Answer {
            response: ResponsePart {
                status: status.as_u16(),
                headers: stored_headers(&headers),
                body: Some(match self.channel.channel.stores_response_bodies() {
                    true => FAILURE.into(),
                    false => Text::default(),
                }),
                timestamp: Some(DateTime::from_millis(at)),
            },
            error: Some(error),
            orchestrations: vec![],
            properties: None,
        }
    }

    /// The backend broke off an answer of which the client has the beginning.
    pub(super) fn spoil(&self, yielded: &mut Yielded, error: &RouteError) {
        let id = self.message.transaction;
        tracing::warn!(tx.id = %id, %error, "An answer broke off for transaction {id}");
        yielded.status = StatusCode::INTERNAL_SERVER_ERROR;
        yielded.auto_retry = true;
        if let Some(answer) = &mut yielded.answer {
            answer.error = Some(error.part("primary"));
        }
    }
}
