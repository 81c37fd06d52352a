//! A stored transaction, sent again.
//!
//! It becomes a message like any other, with the channel of its parent, and is recorded as a child of it. Neither the
//! channel's state nor the client's present rights are asked: who may have something sent again was asked when the
//! task was made. Nobody waits for the answer, so nothing is rewritten or compressed.
//!
//! Tasks of this node come in through [`Pipeline::rerun`], those of other programs through [`port`].
//!
//! A child's id is chosen by the caller. Two nodes that send the same transaction again under the same id send it once:
//! the store takes only one of them, and nothing is sent that is not stored.

mod port;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::raw::{CStr, cstr};
use bson::{Bson, Document};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;

use super::respond::Answer;
use super::stages::{Admitted, Entrance, Received};
use super::{Pipeline, Rejection};
use crate::model::transaction::{RequestPart, Status, unescape_header_name};
use crate::record::OpenError;
use crate::route::RequestHeaders;
use crate::route::payload::Payload;
use crate::tables::{RefreshError, Tables};

/// Fields that OpenHIM stores with a rerun's request. No backend gets them.
const MARKS: [&CStr; 3] = [cstr!("clientid"), cstr!("parentid"), cstr!("taskid")];

/// Why a transaction was not sent again.
#[derive(Debug, thiserror::Error)]
pub enum RerunError {
    /// The stored request is not the whole request.
    #[error("cannot be rerun as there isn't enough information about the request")]
    NotEnough,
    #[error("cannot be rerun as its channel could not be found")]
    NoChannel,
    /// A child of this id is there already: somebody else sends it, or has sent it.
    #[error("was sent again already")]
    Doubled,
    #[error("cannot be rerun now: channels and clients could not be read")]
    Tables(#[from] RefreshError),
    #[error("cannot be rerun now: {0}")]
    Refused(String),
}

impl RerunError {
    /// True if trying again may help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Tables(_) | Self::Refused(_))
    }
}

/// A child under way.
#[derive(Debug)]
pub(super) struct Lineage {
    pub(super) id: ObjectId,
    pub(super) parent: ObjectId,
    /// How often it was tried without being asked to.
    pub(super) attempt: Option<u32>,
    host: Option<String>,
    port: Option<String>,
    marks: Vec<(&'static CStr, String)>,
}

impl Lineage {
    /// Makes the stored request what OpenHIM makes of it: the original's host, and where it comes from.
    pub(super) fn mark(&self, request: &mut RequestPart) {
        request.host.clone_from(&self.host);
        request.port.clone_from(&self.port);
        for (name, value) in &self.marks {
            request.headers.append(name, value.as_str());
        }
    }
}

/// How a rerun ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rerun {
    /// What a client would have got.
    pub answered: u16,
    /// The child's final status.
    pub status: Status,
}

impl Pipeline {
    /// Sends a stored transaction again, as `child`, and waits until its end is stored. Dropping the future stops nothing.
    ///
    /// # Errors
    /// Nothing was sent.
    pub async fn rerun(
        self: Arc<Self>,
        parent: &Document,
        child: ObjectId,
        task: Option<ObjectId>,
    ) -> Result<Rerun, RerunError> {
        let tables = self.tables.for_message().await?;
        let (mut admitted, lineage) = self.replay(&tables, parent, child, task)?;
        let parent = lineage.parent;
        admitted.slot = self.gatekeeper.place().await;
        let (answering, answer) = oneshot::channel();
        let pipeline = Arc::clone(&self);
        let carried = self
            .tracker
            .spawn(pipeline.carry(admitted, Some(Box::new(lineage)), answering));
        let answered = match answer.await {
            Ok(Ok(answer)) => Ok(drained(answer).await),
            Ok(Err(rejection)) => Err(rejection),
            Err(_) => Err(Rejection::Internal("a message was lost on its way".into())),
        };
        let status = carried.await.ok().flatten();
        match (answered, status) {
            (answered, Some(status)) => {
                self.recorder.link(parent, child).await;
                Ok(Rerun {
                    answered: answered.unwrap_or(500),
                    status,
                })
            }
            (Err(Rejection::Record(OpenError::Store(error))), None) if error.is_duplicate() => Err(RerunError::Doubled),
            (Err(rejection), None) => Err(RerunError::Refused(rejection.to_string())),
            (Ok(_), None) => Err(RerunError::Refused("it was given up".into())),
        }
    }

    fn replay(
        &self,
        tables: &Tables,
        parent: &Document,
        child: ObjectId,
        task: Option<ObjectId>,
    ) -> Result<(Admitted, Lineage), RerunError> {
        let id = parent.get_object_id("_id").map_err(|_| RerunError::NotEnough)?;
        let channel = parent.get_object_id("channelID").ok();
        let channel = channel.and_then(|channel| tables.channels.by_id(channel));
        let channel = Arc::clone(channel.ok_or(RerunError::NoChannel)?);
        let client = parent.get_object_id("clientID").ok();
        let request = parent.get_document("request").map_err(|_| RerunError::NotEnough)?;
        let received = received(request, self.clock.now())?;
        let text = |name: &str| request.get_str(name).ok().map(str::to_owned);
        let marks = [
            client.map(|client| (MARKS[0], client.to_hex())),
            Some((MARKS[1], id.to_hex())),
            task.map(|task| (MARKS[2], task.to_hex())),
        ];
        let lineage = Lineage {
            id: child,
            parent: id,
            attempt: attempt(parent),
            host: text("host"),
            port: text("port"),
            marks: marks.into_iter().flatten().collect(),
        };
        let admitted = Admitted {
            received,
            client,
            channel,
            entrance: Entrance::Rerun,
            slot: super::limits::Slot::default(),
        };
        Ok((admitted, lineage))
    }
}

/// Reads the answer to its end, as a client would, so that all of it is recorded.
async fn drained(answer: Answer) -> u16 {
    let mut body = answer.body;
    while let Some(Ok(_)) = body.frame().await {}
    answer.status.as_u16()
}

/// The number of the attempt that sending `parent` again is; `None` if it was asked for.
fn attempt(parent: &Document) -> Option<u32> {
    let before = match parent.get("autoRetryAttempt") {
        Some(Bson::Int32(number)) => u32::try_from(*number).unwrap_or(0),
        Some(Bson::Int64(number)) => u32::try_from(*number).unwrap_or(0),
        Some(Bson::Double(number)) => *number as u32,
        _ => 0,
    };
    parent
        .get_bool("autoRetry")
        .unwrap_or(false)
        .then(|| before.saturating_add(1))
}

/// The stored request, as if it came again.
fn received(request: &Document, at: crate::clock::Millis) -> Result<Received, RerunError> {
    let text = |name: &str| request.get_str(name).ok();
    let method = text("method").unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| RerunError::NotEnough)?;
    let body = match (text("body"), &method) {
        (Some(body), _) => Bytes::copy_from_slice(body.as_bytes()),
        (None, &(Method::POST | Method::PUT | Method::PATCH)) => return Err(RerunError::NotEnough),
        (None, _) => Bytes::new(),
    };
    let path = text("path").filter(|path| !path.is_empty()).unwrap_or("/");
    let target = match text("querystring").filter(|query| !query.is_empty()) {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let target = PathAndQuery::try_from(target).map_err(|_| RerunError::NotEnough)?;
    let empty = Document::new();
    let headers = headers(request.get_document("headers").unwrap_or(&empty), body.len());
    Ok(Received {
        method,
        target,
        headers: RequestHeaders::replayed(headers),
        body: Payload::whole(body),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        certificate: None,
        at,
    })
}

/// The stored headers, with the names they came with and the framing that the body has now.
fn headers(stored: &Document, length: usize) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(stored.len());
    for (name, value) in stored {
        let name = unescape_header_name(name);
        if MARKS.iter().any(|mark| name.eq_ignore_ascii_case(mark.as_str())) {
            continue;
        }
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING {
            continue;
        }
        let values = match value {
            Bson::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values.iter().filter_map(Bson::as_str).filter_map(bytes_of) {
            map.append(name.clone(), value);
        }
    }
    if length > 0 || stored.contains_key("content-length") {
        map.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    map
}

/// Header bytes were stored as Latin-1 where they are not ASCII.
fn bytes_of(text: &str) -> Option<HeaderValue> {
    let latin: Option<Vec<u8>> = text
        .chars()
        .map(|character| u8::try_from(u32::from(character)).ok())
        .collect();
    HeaderValue::from_bytes(&latin.unwrap_or_else(|| text.as_bytes().to_vec())).ok()
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn names_come_back_as_they_were_and_framing_as_it_is() {
        let stored = doc! {
            "x\u{FF0E}dot\u{FF04}": "1", "host": "him:5001", "content-length": "9", "transfer-encoding": "chunked",
            "clientid": "a", "parentid": "b", "taskid": "c", "X-OpenHIM-ClientID": "clinic", "x-name": "café",
        };

        let map = headers(&stored, 4);

        assert_eq!(map["x.dot$"], "1");
        assert_eq!(map["content-length"], "4");
        assert_eq!(map["x-openhim-clientid"], "clinic");
        assert_eq!(map["x-name"].as_bytes(), b"caf\xe9");
        assert_eq!(map.len(), 5, "{map:?}");
    }

    #[test]
    fn a_request_without_its_body_is_not_sent() {
        let request = doc! {"method": "PATCH", "path": "/x"};
        assert!(matches!(received(&request, 0), Err(RerunError::NotEnough)));
        let request = doc! {"method": "GET", "path": "/x", "querystring": "a=b%20c"};
        let again = received(&request, 0).unwrap();
        assert_eq!(again.target.as_str(), "/x?a=b%20c");
    }

    #[test]
    fn attempts_are_counted_only_while_nobody_asks() {
        assert_eq!(attempt(&doc! {"autoRetry": true}), Some(1));
        assert_eq!(attempt(&doc! {"autoRetry": true, "autoRetryAttempt": 1}), Some(2));
        assert_eq!(attempt(&doc! {"autoRetry": false, "autoRetryAttempt": 0}), None);
    }
}
