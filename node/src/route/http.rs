//! One message over one HTTP route.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Uri;
use http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio_util::sync::CancellationToken;

use super::error::RouteError;
use super::payload::OutBody;
use super::pool::{self, Lease, Pool};
use super::{Keystore, Message, Outgoing};
use crate::tables::{RouteEntry, Target};

/// Between two looks for connections that were idle for too long.
const SWEEP: Duration = Duration::from_secs(5);

/// Carries messages to backends. One for each instance.
#[derive(Clone, Debug)]
pub struct Router {
    pool: Arc<Pool>,
    keystore: Keystore,
}

impl Router {
    /// A router without connections.
    pub fn new(keystore: Keystore) -> Self {
        Self {
            pool: Arc::default(),
            keystore,
        }
    }

    /// Sends a message over a route and waits for the head of the answer.
    ///
    /// # Errors
    /// The route cannot be reached, is silent for longer than the message's limit, or breaks off.
    pub async fn send(&self, message: &Message, route: &RouteEntry, outgoing: Outgoing) -> Result<Reply, RouteError> {
        let target = route.target.as_ref().ok_or_else(|| {
            RouteError::Misconfigured(format!(
                "route `{}` has no host that HTTP could reach",
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
        let mut request = request(message, outgoing);
        loop {
            let mut lease = match self.pool.take(target, tls.as_ref()) {
                Some(lease) => lease,
                None => pool::connect(target, tls.clone(), message.limit).await?,
            };
            lease.link.touch();
            let link = Arc::clone(&lease.link);
            let outcome = tokio::select! {
                biased;
                outcome = lease.sender.try_send_request(request) => outcome,
                () = link.silence(message.limit) => return Err(RouteError::Silent(message.limit)),
            };
            match outcome {
                Ok(response) => return Ok(self.reply(response, lease, target, message.limit)),
                Err(mut failure) => match failure.take_message() {
                    // Not a byte of it had left.
                    Some(unsent) if !lease.is_fresh => request = unsent,
                    _ => return Err(RouteError::of_exchange(failure.error())),
                },
            }
        }
    }

    fn reply(&self, response: http::Response<Incoming>, lease: Lease, target: &Target, limit: Duration) -> Reply {
        let (head, body) = response.into_parts();
        let keep = keep_alive(&head.headers);
        let mut body = ReplyBody {
            body,
            lease: Some(lease),
            pool: Arc::clone(&self.pool),
            target: target.clone(),
            keep,
            limit,
        };
        if body.body.is_end_stream() {
            body.finish();
        }
        Reply {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    /// Closes connections that were idle for too long, until `stop`.
    pub async fn sweep(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.pool.sweep(),
            }
        }
    }
}

fn request(message: &Message, outgoing: Outgoing) -> Request<OutBody> {
    let body = message.body.body();
    let mut request = Request::new(body);
    *request.method_mut() = message.method.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = Uri::from(outgoing.target);
    *request.headers_mut() = outgoing.headers;
    request
}

/// How long the backend keeps an idle connection, less a second for what is on its way.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = text
        .split(',')
        .find_map(|item| item.trim().strip_prefix("timeout="))?
        .parse::<u64>()
        .ok()?;
    Some(Duration::from_secs(seconds.saturating_sub(1)))
}

/// A backend's answer of which the head has come.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: ReplyBody,
}

impl Reply {
    /// The announced length of the body.
    pub fn length(&self) -> Option<u64> {
        self.body.body.size_hint().exact()
    }
}

/// The body of an answer; its connection is used again once it was read to the end.
#[derive(Debug)]
pub struct ReplyBody {
    body: Incoming,
    lease: Option<Lease>,
    pool: Arc<Pool>,
    target: Target,
    keep: Option<Duration>,
    limit: Duration,
}

impl ReplyBody {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The backend broke off, or was silent for longer than the route's limit.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RouteError> {
        loop {
            let Some(lease) = &self.lease else { return Ok(None) };
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                () = lease.link.silence(self.limit) => {
                    self.lease = None;
                    return Err(RouteError::Silent(self.limit));
                }
            };
            match frame {
                None => {
                    self.finish();
                    return Ok(None);
                }
                Some(Ok(frame)) => {
                    // Trailers are not passed on.
                    let Ok(bytes) = frame.into_data() else { continue };
                    if self.body.is_end_stream() {
                        self.finish();
                    }
                    if !bytes.is_empty() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(_)) => {
                    self.lease = None;
                    return Err(RouteError::Aborted);
                }
            }
        }
    }

    /// True if there is nothing left to read.
    pub fn is_finished(&self) -> bool {
        self.lease.is_none()
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.pool.put(&self.target, lease, self.keep);
        }
    }
}
