//! A secondary route: it gets the same message, and what it answers is only recorded.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{DateTime, Document};
use http::{HeaderMap, StatusCode};

use super::Carrier;
use crate::clock::{Clock, Millis};
use crate::model::transaction::{ResponsePart, RouteResult, route_entry};
use crate::record::capture::Capture;
use crate::route::{Message, Outgoing, RouteError, Router, request_part, stored_headers};
use crate::tables::RouteEntry;

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
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Capture,
    at: Millis,
}

/// A route that ended, as it is stored.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) entry: Document,
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
    let mut body = Capture::new(limits.kept);
    while let Some(bytes) = reply.body.next().await? {
        body.push(&bytes);
        if limits.body.is_some_and(|limit| body.seen() > limit) {
            return Err(RouteError::TooLarge("the response body is too large"));
        }
    }
    Ok(Answered {
        status: reply.status,
        headers: reply.headers,
        body,
        at: clock.now(),
    })
}

impl Carrier {
    /// Turns what a route yielded into what is stored.
    pub(super) fn finish(&mut self, raw: Raw) -> Finished {
        let name = raw.route.route.name.clone();
        let mut request = request_part(&self.message, &raw.route, raw.path);
        request.querystring = Some(self.message.querystring().to_owned());
        let (response, error) = match raw.outcome {
            Ok(answered) => (self.response(answered), None),
            Err(error) => {
                let id = self.message.transaction;
                tracing::warn!(tx.id = %id, route.name = %name, %error, "Route {name} failed for transaction {id}");
                let response = ResponsePart {
                    status: 500,
                    timestamp: Some(DateTime::from_millis(self.message.at)),
                    ..ResponsePart::default()
                };
                (response, Some(error.part(&name)))
            }
        };
        let (status, has_failed) = (response.status, error.is_some());
        let result = RouteResult {
            name,
            request,
            response,
            orchestrations: vec![],
            properties: None,
            error,
        };
        Finished {
            entry: route_entry(ObjectId::new(), result),
            mediator: None,
            status,
            has_failed,
        }
    }

    fn response(&mut self, answered: Answered) -> ResponsePart {
        let body = match self.channel.channel.stores_response_bodies() {
            true => self.ledger.text(answered.body.bytes(), answered.body.seen()),
            false => String::new(),
        };
        ResponsePart {
            status: answered.status.as_u16(),
            headers: stored_headers(&answered.headers),
            body: Some(body),
            timestamp: Some(DateTime::from_millis(answered.at)),
        }
    }
}
