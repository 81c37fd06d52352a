//! Which kind of route a message goes over, and the connections of each kind.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use super::error::RouteError;
use super::http::{self as over_http, Reply};
use super::kafka::Kafka;
use super::mllp::Lines;
use super::pool::Pool;
use super::{Keystore, Message, Outgoing, socket, tcp};
use crate::model::channel::RouteKind;
use crate::tables::{RouteEntry, Target};
use crate::wire::hl7::Header;

/// Between two looks for connections that were idle for too long.
const SWEEP: Duration = Duration::from_secs(5);

/// Carries messages to backends. One for each instance.
#[derive(Clone, Debug)]
pub struct Router {
    pool: Arc<Pool>,
    lines: Arc<Lines>,
    kafka: Arc<Kafka>,
    keystore: Keystore,
}

impl Router {
    /// A router without connections; `brokers` is `router.kafkaBrokers`.
    pub fn new(keystore: Keystore, brokers: &str) -> Self {
        Self {
            pool: Arc::default(),
            lines: Arc::default(),
            kafka: Arc::new(Kafka::new(brokers)),
            keystore,
        }
    }

    /// Sends a message over a route and waits for the answer, or its head.
    ///
    /// # Errors
    /// The route cannot be reached, is silent for longer than the message's limit, or breaks off.
    pub async fn send(&self, message: &Message, route: &RouteEntry, outgoing: Outgoing) -> Result<Reply, RouteError> {
        match route.route.kind {
            RouteKind::Http => {
                let (target, tls) = self.target(route)?;
                over_http::exchange(&self.pool, target, tls, message, outgoing).await
            }
            RouteKind::Tcp => {
                let (target, tls) = self.target(route)?;
                let answer = tcp::exchange(target, tls, message.body.body(), message.limit).await?;
                Ok(Reply::whole(StatusCode::OK, None, answer))
            }
            RouteKind::Mllp => {
                let (target, tls) = self.target(route)?;
                let body = socket::whole(message.body.body()).await?;
                let told = self.lines.exchange(target, tls, &body, message.limit).await?;
                let kind = Header::read(&told.message).map(|_| "application/hl7-v2");
                Ok(Reply::whole(told.status, kind, told.message))
            }
            RouteKind::Kafka => {
                let told = self.kafka.send(message, route).await?;
                Ok(Reply::whole(StatusCode::OK, None, Bytes::from(told)))
            }
            RouteKind::Unknown => Err(RouteError::Misconfigured(format!(
                "the type of route `{}` is not known",
                route.route.name
            ))),
        }
    }

    /// Where a route leads, and how it is encrypted.
    fn target<'a>(&self, route: &'a RouteEntry) -> Result<(&'a Target, Option<Arc<ClientConfig>>), RouteError> {
        let target = route.target.as_ref().ok_or_else(|| {
            RouteError::Misconfigured(format!(
                "route `{}` has no host that could be reached",
                route.route.name
            ))
        })?;
        let tls = match target.is_secured {
            true => Some(
                self.keystore
                    .client_config(target.pinned)
                    .map_err(|error| RouteError::Tls(error.to_string()))?,
            ),
            false => None,
        };
        Ok((target, tls))
    }

    /// Closes connections that were idle for too long, until `stop`.
    pub async fn sweep(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {
                    self.pool.sweep();
                    self.lines.sweep();
                    self.kafka.sweep();
                }
            }
        }
    }
}
