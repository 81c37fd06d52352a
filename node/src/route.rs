//! From a recorded message to the answers of its channel's routes.
//!
//! [`Router::send`] carries one message over one route: HTTP with the route's path, headers and credentials; Kafka; plain
//! TCP; MLLP. Connections are pooled, and each has an idle limit. Which routes run, when, and what becomes of their answers is the pipeline's business. Nothing here
//! writes to the store.

pub mod encoding;
mod error;
mod headers;
mod http;
mod kafka;
mod link;
mod mllp;
pub mod payload;
mod pool;
pub mod response;
mod router;
mod socket;
mod tcp;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderValue, Method};
use bson::RawDocumentBuf;
use bson::oid::ObjectId;

pub use self::error::RouteError;
pub use self::headers::{RequestHeaders, is_hop_by_hop, stored as stored_headers};
pub use self::http::{Reply, ReplyBody};
pub use self::kafka::PrimaryAnswer;
pub use self::router::Router;
use crate::clock::Millis;
use crate::model::transaction::{RequestPart, put_header};
use crate::tables::{ChannelEntry, RouteEntry};

/// A recorded message, as every route of its channel gets it.
#[derive(Debug)]
pub struct Message {
    pub transaction: ObjectId,
    pub method: Method,
    /// As the client sent it.
    pub target: PathAndQuery,
    /// What the client sent and what the pipeline added.
    pub headers: RequestHeaders,
    pub at: Millis,
    pub body: payload::Source,
    /// Time in which a route may be silent.
    pub limit: Duration,
    pub channel: Arc<ChannelEntry>,
    /// For routes that tell it to others; set when it is there.
    pub primary: OnceLock<PrimaryAnswer>,
}

impl Message {
    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// The query without `?`; empty if there is none.
    pub fn querystring(&self) -> &str {
        self.target.query().unwrap_or_default()
    }
}

/// A message made ready for one route.
#[derive(Debug)]
pub struct Outgoing {
    /// The route's path, without the request's query.
    pub path: String,
    /// As it goes into the request line.
    target: PathAndQuery,
    headers: HeaderMap,
}

impl Outgoing {
    /// Applies the route's path and header rules.
    ///
    /// # Errors
    /// The route's path makes no sense.
    pub fn new(message: &Message, route: &RouteEntry) -> Result<Self, RouteError> {
        let (path, target) = destination(message, route)?;
        let transaction = HeaderValue::from_str(&message.transaction.to_hex())
            .map_err(|error| RouteError::Misconfigured(error.to_string()))?;
        Ok(Self {
            path,
            target,
            headers: message.headers.for_route(route, transaction),
        })
    }

    /// Path and query as they are sent.
    pub fn target(&self) -> &str {
        self.target.as_str()
    }
}

/// The request as it is stored with a route's result; without a body.
pub fn request_part(message: &Message, route: &RouteEntry, path: String) -> RequestPart {
    RequestPart {
        host: route.route.host.clone(),
        port: route.target.as_ref().map(|target| target.port.to_string()),
        path,
        querystring: None,
        method: message.method.as_str().to_owned(),
        headers: sent_headers(message, route),
        body: None,
        timestamp: Some(bson::DateTime::from_millis(message.at)),
    }
}

fn sent_headers(message: &Message, route: &RouteEntry) -> RawDocumentBuf {
    let mut headers = message.headers.stored_for(route);
    put_header(&mut headers, "X-OpenHIM-TransactionID", message.transaction.to_hex());
    headers
}

fn destination(message: &Message, route: &RouteEntry) -> Result<(String, PathAndQuery), RouteError> {
    let changed = match (&route.route.path, &route.transform) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(Ok(transform))) => Some(transform.apply(message.path())),
        (None, Some(Err(error))) => return Err(RouteError::Misconfigured(error.clone())),
        (None, None) => None,
    };
    let Some(mut path) = changed else {
        return Ok((message.path().to_owned(), message.target.clone()));
    };
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    let target = match message.target.query() {
        None | Some("") => path.clone(),
        Some(query) if path.contains('?') => format!("{path}&{query}"),
        Some(query) => format!("{path}?{query}"),
    };
    let target = PathAndQuery::try_from(target)
        .map_err(|_| RouteError::Misconfigured(format!("`{path}` cannot be sent as a path")))?;
    Ok((path, target))
}

/// The keystore's part of a connection: how routes trust and are trusted.
pub type Keystore = Arc<crate::keystore::LiveKeystore>;
