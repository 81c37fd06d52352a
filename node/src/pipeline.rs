//! The way of a message, stage by stage: each stage is a function from one type to the next.
//!
//! [`Received`] → *authenticate* → [`Identified`] → *match_channel* → [`Matched`] → *authorise* → [`Admitted`] → *open* →
//! *carry* → answer. A stage that says no ends the way with a [`Rejection`]; only [`rejection`] knows statuses and words.
//! From *open* on, the message is recorded and carried to its end, whether the client still waits or not.
//!
//! Four pipelines are lists of these stages: *public* takes them all; *TCP* and *polling* ([`inward`]) know sender and
//! channel beforehand and begin with [`Admitted`].
//!
//! The pipeline reads the tables once per message and never changes them.

pub mod authenticate;
mod authorise;
mod carry;
mod errands;
mod inward;
pub mod jwt;
mod limits;
mod match_channel;
mod rejection;
pub mod rerun;
mod respond;
pub mod rewrite;
mod stages;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

pub use self::authenticate::Authenticator;
pub use self::carry::RuleBook;
pub use self::errands::{ErrandQueue, Errands};
pub use self::inward::PollError;
pub use self::limits::Gatekeeper;
pub use self::rejection::Rejection;
pub use self::respond::AnswerBody;
use self::stages::Received;
pub use self::stages::{Admitted, Entrance, Identified, Matched};
use crate::audit::{Auditor, Event};
use crate::clock::Clock;
use crate::events::Normalization;
use crate::keystore::ClientCertificate;
use crate::metrics::prometheus::Prometheus;
use crate::record::Recorder;
use crate::route::Router;
use crate::route::payload::BodyLimits;
use crate::store::SharedStore;
use crate::tables::Keeper;

/// Of a refused request's body, this much is read so that the client hears the answer.
const DISCARD: usize = 256 << 10;
/// And no longer than this.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address, as a trusted proxy tells it.
    pub address: IpAddr,
    /// `X-Forwarded-For` is believed.
    pub is_trusted: bool,
    /// What the client presented over TLS, if it was found trustworthy.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// What the stages need to know of the settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// `api.maxBodiesSizeMB`: what a transaction keeps of its bodies.
    pub stored_bodies_mb: f64,
    /// `api.truncateAppend`.
    pub marker: Arc<str>,
    /// Bounds of a request's body.
    pub request_body: BodyLimits,
    /// Bytes of an answer's body; `None` for no limit.
    pub response_body: Option<u64>,
    /// Bodies larger than this are not searched, bytes.
    pub match_body: usize,
    pub url_bytes: usize,
    /// Where a channel sets no timeout.
    pub route_timeout: Duration,
    pub normalization: Normalization,
    /// `Host` of a message from a TCP channel: the receiver that OpenHIM hands it to.
    pub tcp_host: Arc<str>,
    /// `Host` of a scheduled poll: the polling port.
    pub polling_host: Arc<str>,
}

/// The stages and what they work with. One for each instance.
#[derive(Debug)]
pub struct Pipeline {
    /// Where the rerun port looks up what it is to repeat; nothing else reads it.
    pub store: SharedStore,
    pub tables: Arc<Keeper>,
    pub authenticator: Arc<Authenticator>,
    pub gatekeeper: Arc<Gatekeeper>,
    pub recorder: Recorder,
    pub prometheus: Arc<Prometheus>,
    pub router: Router,
    pub auditor: Auditor,
    pub clock: Arc<dyn Clock>,
    pub settings: Settings,
    pub rules: Arc<RuleBook>,
    /// Messages under way: a node that stops waits for them.
    pub tracker: TaskTracker,
}

impl Pipeline {
    /// A request at one of the HTTP ports.
    pub async fn request(
        self: Arc<Self>,
        entrance: Entrance,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> Response<AnswerBody> {
        match entrance {
            Entrance::Polling => self.polling(request, peer).await,
            Entrance::Rerun => self.repeated(request, peer).await,
            Entrance::Public | Entrance::Tcp => self.public(request, peer).await,
        }
    }

    /// The public pipeline: a request over HTTP or HTTPS.
    async fn public(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<AnswerBody> {
        let shape = respond::Shape::of(&request);
        let admitted = self.admit(request, peer).await;
        self.finish(admitted, shape).await
    }

    /// Carries what was admitted, and answers.
    async fn finish(
        self: Arc<Self>,
        admitted: Result<Box<Admitted>, Box<Refused>>,
        mut shape: respond::Shape,
    ) -> Response<AnswerBody> {
        match admitted {
            Ok(admitted) => {
                let (answer, answered) = oneshot::channel();
                // On its own: a client that goes away must not leave a transaction half done.
                // Boxed, because a spawned future is moved several times, and this one is large.
                self.tracker
                    .spawn(Box::pin(Arc::clone(&self).carry(*admitted, None, answer)));
                match answered.await {
                    Ok(Ok(answer)) => answer.into_response(&shape),
                    Ok(Err(rejection)) => rejection.into_response(&shape),
                    Err(_) => Rejection::Internal("a message was lost on its way".into()).into_response(&shape),
                }
            }
            Err(refused) => self.refuse(*refused, &mut shape).await.into_response(&shape),
        }
    }

    async fn admit(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Result<Box<Admitted>, Box<Refused>> {
        let received = Received::new(request, peer, &self.settings, self.clock.now())?;
        let tables = match self.tables.for_message().await {
            Ok(tables) => tables,
            Err(error) => return Err(received.refused(Rejection::Tables(error))),
        };
        let identified = self.authenticator.authenticate(&tables, received).await;
        let matched = match_channel::match_channel(&tables.channels, identified, self.settings.match_body).await?;
        let admitted = authorise::authorise(matched, self.authenticator.offers_basic())?;
        self.gatekeeper.admit(admitted).await
    }

    /// What is owed to a request that goes no further: an audit record if its sender was turned away, and its body read
    /// so that the answer arrives.
    async fn refuse(&self, refused: Refused, shape: &mut respond::Shape) -> Rejection {
        if let Rejection::NotAllowed { address, .. } = &refused.rejection {
            let (auditor, address) = (self.auditor.clone(), address.to_string());
            self.tracker
                .spawn(async move { auditor.record(Event::NodeRejected { address }).await });
        }
        let is_drained = match refused.body {
            Some(body) => tokio::time::timeout(DISCARD_TIME, body.discard(DISCARD))
                .await
                .unwrap_or(false),
            None => false,
        };
        if !is_drained {
            shape.close();
        }
        refused.rejection
    }
}

/// A request that goes no further, with what was not read of it.
#[derive(Debug)]
pub struct Refused {
    rejection: Rejection,
    body: Option<crate::route::payload::Payload>,
}
