//! One message over one HTTP route.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::Uri;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use rustls::ClientConfig;

use super::error::RouteError;
use super::payload::OutBody;
use super::pool::{self, Lease, Pool};
use super::{Message, Outgoing};
use crate::tables::Target;

/// Sends a message over an HTTP route and waits for the head of the answer.
///
/// # Errors
/// The route cannot be reached, is silent for longer than the message's limit, or breaks off.
pub(super) async fn exchange(
    pool: &Arc<Pool>,
    target: &Target,
    tls: Option<Arc<ClientConfig>>,
    message: &Message,
    outgoing: Outgoing,
) -> Result<Reply, RouteError> {
    let mut request = request(message, outgoing);
    loop {
        let mut lease = match pool.take(target, tls.as_ref()) {
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
            Ok(response) => return Ok(reply(pool, response, lease, target, message.limit)),
            Err(mut failure) => match failure.take_message() {
                // Not a byte of it had left.
                Some(unsent) if !lease.is_fresh => request = unsent,
                _ => return Err(RouteError::of_exchange(failure.error())),
            },
        }
    }
}

fn reply(
    pool: &Arc<Pool>,
    response: http::Response<Incoming>,
    lease: Lease,
    target: &Target,
    limit: Duration,
) -> Reply {
    let (head, body) = response.into_parts();
    let keep = keep_alive(&head.headers);
    let mut body = HttpBody {
        body,
        lease: Some(lease),
        pool: Arc::clone(pool),
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
        body: ReplyBody(Source::Http(body)),
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
    /// An answer that is there.
    pub(super) fn whole(status: StatusCode, content_type: Option<&'static str>, body: Bytes) -> Self {
        let content_type = content_type.map(|value| (CONTENT_TYPE, HeaderValue::from_static(value)));
        Self {
            status,
            headers: content_type.into_iter().collect(),
            body: ReplyBody(Source::There(Some(body).filter(|body| !body.is_empty()))),
        }
    }

    /// The announced length of the body.
    pub fn length(&self) -> Option<u64> {
        match &self.body.0 {
            Source::Http(http) => http.body.size_hint().exact(),
            Source::There(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct ReplyBody(Source);

#[derive(Debug)]
enum Source {
    Http(HttpBody),
    There(Option<Bytes>),
}

impl ReplyBody {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The backend broke off, or was silent for longer than the route's limit.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RouteError> {
        match &mut self.0 {
            Source::Http(http) => http.next().await,
            Source::There(bytes) => Ok(bytes.take()),
        }
    }

    /// True if there is nothing left to read.
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            Source::Http(http) => http.lease.is_none(),
            Source::There(bytes) => bytes.is_none(),
        }
    }
}

/// A body on its way; its connection is used again once it was read to the end.
#[derive(Debug)]
struct HttpBody {
    body: Incoming,
    lease: Option<Lease>,
    pool: Arc<Pool>,
    target: Target,
    keep: Option<Duration>,
    limit: Duration,
}

impl HttpBody {
    async fn next(&mut self) -> Result<Option<Bytes>, RouteError> {
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

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.pool.put(&self.target, lease, self.keep);
        }
    }
}
