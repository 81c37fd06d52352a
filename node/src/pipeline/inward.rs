//! Two pipelines whose sender and channel are known beforehand: messages of TCP and TLS channels, and polls.
//!
//! Nobody is authenticated and no right is asked for, as in OpenHIM: who may reach a channel's port is the network's
//! business, and a poll is the node's own. From *open* on they go the way of every message.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use bson::oid::ObjectId;
use bytes::Bytes;
use chrono::{Local, TimeZone};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::limits::Slot;
use super::respond::Shape;
use super::stages::Received;
use super::{Admitted, AnswerBody, Entrance, Errands, Peer, Pipeline, Refused, Rejection};
use crate::clock::Millis;
use crate::route::RequestHeaders;
use crate::route::payload::Payload;
use crate::tables::ChannelEntry;

/// OpenHIM's `DUMMY-TCP-USER` and `DUMMY-POLLING-USER`: clients that are stored nowhere and have a new id in each
/// process.
static TCP_USER: LazyLock<ObjectId> = LazyLock::new(ObjectId::new);
static POLLING_USER: LazyLock<ObjectId> = LazyLock::new(ObjectId::new);

const CHANNEL_ID: HeaderName = HeaderName::from_static("channel-id");
const LAST_RUN_AT: HeaderName = HeaderName::from_static("x-openhim-lastrunat");
/// Where polls come from.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Why a poll came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PollError {
    #[error("the channel answered with status {0}")]
    Status(StatusCode),
    #[error("the node stopped before the channel had answered")]
    Stopped,
}

impl Pipeline {
    /// The TCP pipeline: what a channel's port received as one message is carried as `POST /`; the sender gets the body
    /// of the answer.
    pub async fn tcp(
        self: Arc<Self>,
        message: Bytes,
        channel: Arc<ChannelEntry>,
        sender: IpAddr,
    ) -> Response<AnswerBody> {
        let mut headers = HeaderMap::with_capacity(5);
        headers.extend(HeaderValue::from_str(&self.settings.tcp_host).map(|host| (header::HOST, host)));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        let mut headers = RequestHeaders::received(headers);
        headers.set_forwarded(&sender.to_string());
        let received = Received {
            method: Method::POST,
            target: PathAndQuery::from_static("/"),
            headers,
            body: Payload::whole(message),
            address: sender,
            certificate: None,
            at: self.clock.now(),
        };
        let admitted = self.let_in(received, channel, *TCP_USER, Entrance::Tcp).await;
        self.finish(admitted, Shape::inward()).await
    }

    /// The polling pipeline: a request at the polling port, whose `channel-id` names the channel.
    pub(super) async fn polling(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<AnswerBody> {
        let shape = Shape::of(&request);
        let received = Received::new(request, peer, &self.settings, self.clock.now());
        let admitted = match received {
            Ok(received) => self.called(received).await,
            Err(refused) => Err(refused),
        };
        self.finish(admitted, shape).await
    }

    /// The same for a run that the node starts itself.
    async fn poll(self: Arc<Self>, channel: ObjectId, started: Millis) -> Result<(), PollError> {
        let received = Received {
            method: Method::GET,
            target: PathAndQuery::from_static("/trigger"),
            headers: self.poll_headers(channel, started),
            body: Payload::whole(Bytes::new()),
            address: HERE,
            certificate: None,
            at: self.clock.now(),
        };
        let admitted = self.called(received).await;
        let answer = self.finish(admitted, Shape::inward()).await;
        let status = answer.status();
        let mut body = answer.into_body();
        // Nobody reads it; it flows to its end all the same.
        while let Some(Ok(_)) = body.frame().await {}
        match status.is_success() {
            true => Ok(()),
            false => Err(PollError::Status(status)),
        }
    }

    fn poll_headers(&self, channel: ObjectId, started: Millis) -> RequestHeaders {
        let fields = [
            (header::ACCEPT, "application/json, text/plain, */*"),
            (CHANNEL_ID, &channel.to_hex()),
            (LAST_RUN_AT, &javascript_date(started)),
            (header::USER_AGENT, "openhim-core"),
            (header::HOST, &self.settings.polling_host),
            (header::CONNECTION, "close"),
        ];
        let fields = fields.into_iter();
        RequestHeaders::received(
            fields
                .filter_map(|(name, value)| Some((name, HeaderValue::from_str(value).ok()?)))
                .collect(),
        )
    }

    async fn called(&self, received: Received) -> Result<Box<Admitted>, Box<Refused>> {
        let tables = match self.tables.for_message().await {
            Ok(tables) => tables,
            Err(error) => return Err(received.refused(Rejection::Tables(error))),
        };
        let id = received.headers.text(CHANNEL_ID).map(ObjectId::parse_str);
        match id.and_then(Result::ok).and_then(|id| tables.channels.by_id(id)) {
            Some(channel) => {
                self.let_in(received, Arc::clone(channel), *POLLING_USER, Entrance::Polling)
                    .await
            }
            None => Err(received.refused(Rejection::Internal("a poll named no channel that exists".into()))),
        }
    }

    async fn let_in(
        &self,
        received: Received,
        channel: Arc<ChannelEntry>,
        client: ObjectId,
        entrance: Entrance,
    ) -> Result<Box<Admitted>, Box<Refused>> {
        let admitted = Admitted {
            received,
            client: Some(client),
            channel,
            entrance,
            slot: Slot::default(),
        };
        self.gatekeeper.admit(admitted).await
    }
}

impl Errands {
    /// Polls a channel now. `started` is what backends are told in `X-OpenHIM-LastRunAt`: despite its name, the start of
    /// the present run.
    ///
    /// # Errors
    /// The channel did not answer with success, or the node stops.
    pub async fn poll(&self, channel: ObjectId, started: Millis) -> Result<(), PollError> {
        let outcome = self.run(move |pipeline| pipeline.poll(channel, started)).await;
        outcome.unwrap_or(Err(PollError::Stopped))
    }
}

/// A date as JavaScript's `String(date)` prints it.
fn javascript_date(at: Millis) -> String {
    let local = Local.timestamp_millis_opt(at).earliest().unwrap_or_default();
    let zone = match iana_time_zone::get_timezone().as_deref() {
        Err(_) | Ok("UTC" | "Etc/UTC" | "Etc/UCT" | "Zulu") => "Coordinated Universal Time".to_owned(),
        Ok(zone) => zone.to_owned(),
    };
    format!("{} ({zone})", local.format("%a %b %d %Y %H:%M:%S GMT%z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_javascript_writes_it() {
        let text = javascript_date(1_795_347_646_000);

        assert!(text.contains(" GMT"), "{text}");
        let (date, zone) = text.split_once(" GMT").unwrap();
        assert_eq!(date.split(' ').count(), 5, "{date}");
        assert!(zone.contains(" (") && zone.ends_with(')'), "{zone}");
    }
}
