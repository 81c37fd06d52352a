//! From an admitted message to its end: recorded, routed, answered, closed.
//!
//! The client's answer leaves as soon as the primary route has answered, however long the secondary routes take. Those
//! that wait for the primary start when it and all the others have ended. The final status counts every route that ran.

mod budget;
mod outlet;
mod primary;
mod rewriting;
mod secondary;
mod stored;

use std::sync::{Arc, OnceLock};

use bson::DateTime;
use bson::oid::ObjectId;
use http::{Method, StatusCode, header};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use self::budget::Ledger;
use self::primary::Yielded;
pub use self::rewriting::RuleBook;
use self::secondary::Finished;
use super::rerun::Lineage;
use super::respond::Answer;
use super::{Admitted, Entrance, Pipeline, Rejection};
use crate::clock::Millis;
use crate::events::{End, Subject};
use crate::metrics::prometheus::Labels;
use crate::model::channel::RouteKind;
use crate::model::text::Text;
use crate::model::transaction::{self, ErrorPart, Opening, Outcome, RequestPart, ResponsePart, Status};
use crate::record::{Closing, Ticket};
use crate::route::{Message, PrimaryAnswer, stored_headers};
use crate::tables::{ChannelEntry, RouteEntry};

/// Where the client's answer goes.
type Answering = oneshot::Sender<Result<Answer, Rejection>>;

/// A recorded message on its way.
#[derive(Debug)]
struct Carrier {
    pipeline: Arc<Pipeline>,
    channel: Arc<ChannelEntry>,
    entrance: Entrance,
    message: Arc<Message>,
    ticket: Ticket,
    ledger: Ledger,
    client: Option<ObjectId>,
    subject: Subject,
    status: Status,
}

/// The routes of a channel by the part they play.
#[derive(Debug, Default)]
struct Plan {
    primary: Option<Arc<RouteEntry>>,
    /// Start together with the primary.
    beside: Vec<Arc<RouteEntry>>,
    /// Start when the primary and those beside it have ended.
    after: Vec<Arc<RouteEntry>>,
}

/// Why a channel's routes cannot run as they are.
const SEVERAL_PRIMARIES: &str =
    "Cannot route transaction: Channel contains multiple primary routes and only one primary is allowed";
const NO_PRIMARY: &str = "Cannot route transaction: Channel contains no enabled primary route";

impl Plan {
    fn of(channel: &ChannelEntry) -> Result<Self, &'static str> {
        let mut plan = Self::default();
        for route in &channel.routes {
            let part = match route.route.is_primary {
                true if plan.primary.is_some() => return Err(SEVERAL_PRIMARIES),
                true => {
                    plan.primary = Some(Arc::clone(route));
                    continue;
                }
                false if route.route.waits_for_primary => &mut plan.after,
                false => &mut plan.beside,
            };
            part.push(Arc::clone(route));
        }
        Ok(plan)
    }

    fn readers(&self) -> usize {
        usize::from(self.primary.is_some()) + self.beside.len() + self.after.len()
    }
}

impl Pipeline {
    /// Records a message, routes it and closes it; the client's answer goes to `answering`. Answers with the final
    /// status; `None` if the message was not recorded.
    pub(super) async fn carry(
        self: Arc<Self>,
        admitted: Admitted,
        lineage: Option<Box<Lineage>>,
        answering: Answering,
    ) -> Option<Status> {
        let plan = Plan::of(&admitted.channel);
        let slot = admitted.slot;
        let opened = self.open(
            admitted.received,
            admitted.client,
            admitted.channel,
            admitted.entrance,
            lineage,
            plan.as_ref().map_or(0, Plan::readers),
        );
        let status = match opened.await {
            Err(rejection) => {
                // The client may be gone; it has nothing to lose.
                let _ = answering.send(Err(rejection));
                None
            }
            Ok(carrier) if !carrier.takes_method() => Some(carrier.refuse_method(answering).await),
            Ok(carrier) => Some(match plan {
                Ok(plan) => carrier.run(plan, answering).await,
                Err(reason) => carrier.give_up(reason, answering).await,
            }),
        };
        drop(slot);
        status
    }

    /// Stores the request. From here on the transaction has to be closed.
    async fn open(
        self: Arc<Self>,
        mut received: super::stages::Received,
        client: Option<ObjectId>,
        channel: Arc<ChannelEntry>,
        entrance: Entrance,
        lineage: Option<Box<Lineage>>,
        readers: usize,
    ) -> Result<Carrier, Rejection> {
        let mut ledger = Ledger::new(&self.settings);
        let keeps_body = channel.channel.stores_request_bodies();
        // A body that is not kept has only to begin before it is passed on.
        let wanted = if keeps_body { ledger.left() } else { 0 };
        received.body.fill(wanted).await.map_err(Rejection::of_body)?;
        let body = &received.body;
        let is_cut = keeps_body && body.len() > ledger.left();
        let text = match keeps_body {
            true => ledger.text(body.beginning(ledger.left()), body.len() as u64),
            false => Text::default(),
        };
        let is_lost = text.is_empty() && matches!(received.method, Method::POST | Method::PUT | Method::PATCH);
        let is_altered = text.is_altered();
        let mut request = request_part(&received, text);
        if let Some(lineage) = &lineage {
            lineage.mark(&mut request);
        }
        let id = lineage.as_ref().map_or_else(ObjectId::new, |lineage| lineage.id);
        let attempt = lineage.as_ref().and_then(|lineage| lineage.attempt);
        // Only a channel that was matched makes a transaction pending from the start.
        let status = Status::initial(channel.channel.is_asynchronous && entrance.is_public());
        let opening = Opening {
            id,
            status,
            client,
            client_ip: received.address.to_string(),
            channel: channel.channel.id,
            parent: lineage.as_ref().map(|lineage| lineage.parent),
            auto_retry_attempt: attempt,
            // What cannot be stored as it came must not be sent again.
            can_rerun: !is_cut && !is_lost && !is_altered,
            request,
        };
        let subject = Subject {
            channel: channel.channel.id,
            transaction: Some(id),
            at: received.at,
            attempt: attempt.map(i64::from),
            normalization: self.settings.normalization,
        };
        let ticket = self
            .recorder
            .open(opening, subject, &channel.channel.name)
            .await
            .map_err(Rejection::Record)?;
        let body = received
            .body
            .share(readers)
            .map_err(|error| Rejection::Internal(format!("a large body could not be kept: {error}")))?;
        let message = Message {
            transaction: id,
            method: received.method,
            target: received.target,
            headers: received.headers,
            at: received.at,
            body,
            limit: channel
                .channel
                .timeout
                .map_or(self.settings.route_timeout, std::time::Duration::from_millis),
            channel: Arc::clone(&channel),
            primary: OnceLock::new(),
        };
        Ok(Carrier {
            pipeline: self,
            channel,
            entrance,
            message: Arc::new(message),
            ticket,
            ledger,
            client,
            subject,
            status,
        })
    }
}

fn request_part(received: &super::stages::Received, body: Text) -> RequestPart {
    let host = received.headers.text(header::HOST).unwrap_or_default();
    let (host, port) = split_host(host);
    RequestPart {
        host: Some(host.to_owned()),
        port: port.map(str::to_owned),
        path: received.target.path().to_owned(),
        querystring: Some(received.target.query().unwrap_or_default().to_owned()),
        method: received.method.as_str().to_owned(),
        headers: received.headers.stored(),
        body: Some(body),
        timestamp: Some(DateTime::from_millis(received.at)),
    }
}

/// Host and port of a `Host` header.
fn split_host(text: &str) -> (&str, Option<&str>) {
    if let Some(end) = text.starts_with('[').then(|| text.find(']')).flatten() {
        return (&text[..=end], text[end + 1..].strip_prefix(':'));
    }
    match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    }
}

impl Carrier {
    async fn run(mut self, mut plan: Plan, answering: Answering) -> Status {
        let beside = std::mem::take(&mut plan.beside);
        let mut running = self.start(beside);
        let yielded = match &plan.primary {
            Some(primary) => self.primary(primary, answering).await,
            None => self.without_primary(answering),
        };
        let mut finished = Vec::new();
        let Yielded {
            status,
            mediator_status,
            mut auto_retry,
            mut answer,
            answered_at,
            mut events,
            mut held,
        } = yielded;
        if !(running.is_empty() && plan.after.is_empty()) {
            self.tell(&plan.after, answer.as_ref());
            // The client has its answer; what it was is stored while the others are still running.
            if let Some(answer) = answer.take() {
                self.ticket.answered(answer, std::mem::take(&mut events)).await;
            }
            std::mem::take(&mut held).release().await;
            self.gather(&mut running, &mut finished).await;
            let due = plan
                .after
                .into_iter()
                .filter(|route| route.runs_after(status.as_u16()))
                .collect();
            let mut waiting = self.start(due);
            self.gather(&mut waiting, &mut finished).await;
        }
        auto_retry |= finished.iter().any(|done| done.has_failed);
        let codes: Vec<_> = finished.iter().map(|done| done.status).collect();
        let entries: Vec<_> = finished.into_iter().map(|done| (done.entry, done.mediator)).collect();
        if !entries.is_empty() {
            events.extend(self.subject.routes(&entries, self.ticket.now()));
        }
        let outcome = Outcome {
            primary: status.as_u16(),
            secondaries: &codes,
            mediator: mediator_status.as_deref(),
            is_asynchronous: self.channel.channel.is_asynchronous,
            current: self.status,
        };
        let final_status = outcome.status();
        self.count(final_status, status, answered_at);
        let closing = Closing {
            answer,
            routes: Vec::new(),
            status: final_status,
            auto_retry: auto_retry.then(|| self.may_try_again()),
            answered_at,
            events,
        };
        // Nobody reads the body any more; the record of it may need the room.
        drop(self.message);
        self.ticket.close(closing).await;
        held.release().await;
        final_status
    }

    /// Counts the transaction for Prometheus.
    fn count(&self, status: Status, answered: StatusCode, at: Option<Millis>) {
        let Some(at) = at else { return };
        let labels = Labels {
            method: self.message.method.as_str().to_owned(),
            status: status.name().to_owned(),
            client: self.client,
            channel: self.channel.channel.id,
            code: Some(i32::from(answered.as_u16())),
        };
        self.pipeline.prometheus.observe(labels, (at - self.message.at).max(0));
    }

    /// True unless the transaction was tried as often as its channel wants.
    fn may_try_again(&self) -> bool {
        let most = self.channel.channel.auto_retry_max_attempts.unwrap_or(0);
        let attempt = self.subject.attempt.unwrap_or(0);
        most == 0 || attempt < i64::try_from(most).unwrap_or(i64::MAX)
    }

    /// Starts secondary routes.
    fn start(&self, routes: Vec<Arc<RouteEntry>>) -> JoinSet<secondary::Raw> {
        let mut running = JoinSet::new();
        for route in routes {
            let router = self.pipeline.router.clone();
            let limits = secondary::Limits {
                kept: match self.channel.channel.stores_response_bodies() {
                    true => self.ledger.left(),
                    false => 0,
                },
                body: self.pipeline.settings.response_body,
            };
            let clock = Arc::clone(&self.pipeline.clock);
            running.spawn(secondary::run(router, Arc::clone(&self.message), route, limits, clock));
        }
        running
    }

    /// Has routes that wait know the primary's answer, if one of them passes it on.
    fn tell(&self, waiting: &[Arc<RouteEntry>], answer: Option<&transaction::Answer>) {
        if waiting.iter().any(|route| route.route.kind == RouteKind::Kafka)
            && let Some(answer) = answer
        {
            // Empty until now: a message has one primary.
            let _ = self.message.primary.set(PrimaryAnswer::new(&answer.response));
        }
    }

    /// Records secondary routes as they end.
    async fn gather(&mut self, running: &mut JoinSet<secondary::Raw>, finished: &mut Vec<Finished>) {
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok(raw) => {
                    let done = self.finish(raw);
                    self.ticket.routed(&done.entry);
                    finished.push(done);
                }
                Err(error) => tracing::error!(%error, tx.id = %self.ticket.id(), "A secondary route's task died"),
            }
        }
    }

    /// A channel that lists methods takes no others; the router has seen to that before, the other ways have not.
    fn takes_method(&self) -> bool {
        self.channel.channel.methods.is_empty() || self.channel.takes_method(self.message.method.as_str())
    }

    /// The message's method is none of the channel's: no route runs.
    async fn refuse_method(self, answering: Answering) -> Status {
        let answer = Answer::method_not_allowed(&self.message.method, &self.channel.channel.methods);
        let (status, body, now) = (answer.0.status, answer.1, self.pipeline.clock.now());
        let stored = transaction::Answer {
            response: ResponsePart {
                status: status.as_u16(),
                headers: stored_headers(&answer.0.headers),
                body: Some(body.into()),
                timestamp: Some(DateTime::from_millis(now)),
            },
            error: None,
            orchestrations: vec![],
            properties: None,
        };
        let held = self.answer(answering, answer.0);
        self.count(Status::Completed, status, Some(now));
        let closing = Closing {
            answer: Some(stored),
            routes: Vec::new(),
            status: Status::Completed,
            auto_retry: None,
            answered_at: Some(now),
            events: vec![self.channel_end(status, now)],
        };
        self.ticket.close(closing).await;
        held.release().await;
        Status::Completed
    }

    /// A channel without a primary route: nobody can answer the client, the others run all the same.
    fn without_primary(&mut self, answering: Answering) -> Yielded {
        let error = ErrorPart {
            message: NO_PRIMARY.into(),
            stack: format!("Error: {NO_PRIMARY}"),
        };
        self.failed(error, None, answering, false)
    }

    /// The routes contradict each other: none runs.
    async fn give_up(self, reason: &'static str, answering: Answering) -> Status {
        let _ = answering.send(Err(Rejection::Internal(reason.into())));
        let now = self.pipeline.clock.now();
        let error = ErrorPart {
            message: reason.into(),
            stack: format!("Error: {reason}"),
        };
        self.count(Status::Failed, StatusCode::INTERNAL_SERVER_ERROR, Some(now));
        let closing = Closing {
            answer: Some(self.answer_of_failure(error, now)),
            routes: Vec::new(),
            status: Status::Failed,
            auto_retry: None,
            answered_at: Some(now),
            events: vec![self.channel_end(StatusCode::INTERNAL_SERVER_ERROR, now)],
        };
        self.ticket.close(closing).await;
        Status::Failed
    }

    fn channel_end(&self, status: StatusCode, at: Millis) -> bson::RawDocumentBuf {
        let end = End {
            status: i32::from(status.as_u16()),
            at,
        };
        self.subject
            .channel_end(&self.channel.channel.name, end, self.ticket.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_split_at_its_port() {
        assert_eq!(split_host("him.example:15001"), ("him.example", Some("15001")));
        assert_eq!(split_host("him"), ("him", None));
        assert_eq!(split_host("[::1]:5001"), ("[::1]", Some("5001")));
        assert_eq!(split_host(""), ("", None));
    }
}
