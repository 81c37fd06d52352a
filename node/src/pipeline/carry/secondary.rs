//! A secondary route: it gets the same message, and what it answers is only recorded.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, RawDocumentBuf};
use http::{HeaderMap, StatusCode};

use super::Carrier;
use super::outlet::{self, Flow, Way};
use crate::clock::{Clock, Millis};
use crate::model::transaction::{ResponsePart, RouteResult, route_entry};
use crate::record::capture::Capture;
use crate::route::response::{Envelope, is_envelope};
use crate::route::{Message, Outgoing, RouteError, Router, request_part, stored_headers};
use crate::tables::RouteEntry;

/// The largest envelope.
const ENVELOPE: usize = 256 << 20;

/// How much of an answer is kept and how much is read, bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) kept: usize,
    pub(super) body: Option<u64>,
}

/// What a route yielded, before it is charged to the transaction's budget.
#[derive(Debug)]
pub(super) struct Raw {
    route: Arc<RouteEntry>,
    path: String,
    outcome: Result<Answered, RouteError>,
}

#[derive(Debug)]
enum Answered {
    Plain {
        status: StatusCode,
        headers: HeaderMap,
        body: Capture,
        at: Millis,
    },
    Mediator(Box<Envelope>),
}

/// A route that ended, as it is stored.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) entry: RawDocumentBuf,
    /// URN of the mediator that answered.
    pub(super) mediator: Option<String>,
    pub(super) status: u16,
    pub(super) has_failed: bool,
}

/// Carries the message over the route and reads the answer to its end.
pub(super) async fn run(
    router: Router,
    message: Arc<Message>,
    route: Arc<RouteEntry>,
    limits: Limits,
    clock: Arc<dyn Clock>,
) -> Raw {
    match Outgoing::new(&message, &route) {
        Ok(outgoing) => {
            let path = outgoing.path.clone();
            let outcome = exchange(&router, &message, &route, outgoing, limits, &*clock).await;
            Raw { route, path, outcome }
        }
        Err(error) => Raw {
            route,
            path: message.path().to_owned(),
            outcome: Err(error),
        },
    }
}

async fn exchange(
    router: &Router,
    message: &Message,
    route: &Arc<RouteEntry>,
    outgoing: Outgoing,
    limits: Limits,
    clock: &dyn Clock,
) -> Result<Answered, RouteError> {
    let mut reply = router.send(message, route, outgoing).await?;
    let is_mediator = is_envelope(&reply.headers);
    // An envelope is wanted whole and in plain; anything else only to be shown.
    let (way, kept) = match is_mediator {
        true => (Way::choose(&reply.headers, &HeaderMap::new(), true), ENVELOPE),
        false => (Way::choose(&reply.headers, &any_coding(), false), limits.kept),
    };
    let mut flow = Flow::new(&way, ENVELOPE, kept)?;
    while let Some(bytes) = reply.body.next().await? {
        flow.push(bytes)?;
        if limits.body.is_some_and(|limit| flow.seen() > limit) || (is_mediator && !flow.keeps_more()) {
            return Err(RouteError::TooLarge("the response body is too large"));
        }
    }
    flow.finish()?;
    let body = flow.into_shown();
    if is_mediator {
        let envelope = Envelope::parse(&body.bytes()).map_err(|error| RouteError::Mediator(error.to_string()))?;
        return Ok(Answered::Mediator(Box::new(envelope)));
    }
    Ok(Answered::Plain {
        status: reply.status,
        headers: reply.headers,
        body,
        at: clock.now(),
    })
}

/// What is only recorded may come in any coding: it is decoded to be shown, and a damaged one is no failure.
fn any_coding() -> HeaderMap {
    let mut wishes = HeaderMap::new();
    wishes.insert(http::header::ACCEPT_ENCODING, http::HeaderValue::from_static("*"));
    wishes
}

impl Carrier {
    /// Turns what a route yielded into what is stored.
    pub(super) fn finish(&mut self, raw: Raw) -> Finished {
        let name = raw.route.route.name.clone();
        let mut request = request_part(&self.message, &raw.route, raw.path);
        request.querystring = Some(self.message.querystring().to_owned());
        let mut result = RouteResult {
            name: name.clone(),
            request,
            ..RouteResult::default()
        };
        let mut mediator = None;
        match raw.outcome {
            Ok(Answered::Plain {
                status,
                headers,
                body,
                at,
            }) => {
                let at = Some(DateTime::from_millis(at));
                result.response = self.secondary_response(status, &headers, &body, at);
            }
            Ok(Answered::Mediator(envelope)) => {
                let (urn, properties) = self.take_envelope(*envelope, &mut result);
                mediator = urn;
                result.properties = properties;
            }
            Err(error) => {
                let id = self.message.transaction;
                tracing::warn!(tx.id = %id, route.name = %name, %error, "Route {name} failed for transaction {id}");
                result.response = ResponsePart {
                    status: 500,
                    timestamp: Some(DateTime::from_millis(self.message.at)),
                    ..ResponsePart::default()
                };
                result.error = Some(error.part(&name));
            }
        }
        Finished {
            status: result.response.status,
            has_failed: result.error.is_some(),
            entry: route_entry(ObjectId::new(), &result),
            mediator,
        }
    }

    fn take_envelope(&mut self, envelope: Envelope, result: &mut RouteResult) -> (Option<String>, Option<Bson>) {
        let response = envelope.response;
        let body = outlet::shown(&Way::STRAIGHT, &response.body.unwrap_or_default(), self.kept());
        let headers = response.headers.unwrap_or_default();
        result.response = self.secondary_response(response.status, &headers, &body, response.timestamp);
        result.orchestrations = self.steps(envelope.orchestrations);
        (envelope.urn, envelope.properties)
    }

    fn secondary_response(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &Capture,
        at: Option<DateTime>,
    ) -> ResponsePart {
        let headers = stored_headers(headers);
        self.response_part(status, headers, body, at.map(DateTime::timestamp_millis))
    }
}
