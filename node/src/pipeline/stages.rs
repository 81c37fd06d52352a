//! What a message is at each stage.

use std::net::IpAddr;
use std::sync::Arc;

use bson::oid::ObjectId;
use http::uri::PathAndQuery;
use http::{Method, Request, header};
use hyper::body::Incoming;
use ipnet::IpNet;

use super::limits::Slot;
use super::{Peer, Refused, Rejection, Settings};
use crate::clock::Millis;
use crate::keystore::ClientCertificate;
use crate::route::RequestHeaders;
use crate::route::payload::Payload;
use crate::tables::{ChannelEntry, ClientEntry};

/// A request as it came.
#[derive(Debug)]
pub struct Received {
    pub method: Method,
    /// As the client sent it, without scheme and host.
    pub target: PathAndQuery,
    pub headers: RequestHeaders,
    pub body: Payload,
    /// The client's, believed.
    pub address: IpAddr,
    pub certificate: Option<Arc<ClientCertificate>>,
    pub at: Millis,
}

/// A request whose sender is known as far as it can be.
#[derive(Debug)]
pub struct Identified {
    pub received: Received,
    /// `None`: nobody whom we know.
    pub client: Option<Arc<ClientEntry>>,
}

/// A request and the channel that takes it.
#[derive(Debug)]
pub struct Matched {
    pub identified: Identified,
    pub channel: Arc<ChannelEntry>,
}

/// The port or the errand by which a message came: what differs between the pipelines beyond their stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// The HTTP and HTTPS router.
    Public,
    /// A TCP or TLS channel's own port.
    Tcp,
    /// The polling port, or a schedule.
    Polling,
    /// A stored transaction, or the rerun port.
    Rerun,
}

impl Entrance {
    /// True if the sender negotiates the form of its answer: coding, addresses inside.
    pub(super) fn is_public(self) -> bool {
        self == Self::Public
    }
}

/// A request that may use its channel.
#[derive(Debug)]
pub struct Admitted {
    pub received: Received,
    /// `None`: nobody whom we know.
    pub client: Option<ObjectId>,
    pub channel: Arc<ChannelEntry>,
    pub entrance: Entrance,
    /// Counts it among the messages under way.
    pub slot: Slot,
}

impl Received {
    /// Takes a request apart.
    ///
    /// # Errors
    /// It is out of bounds before anything is read of it.
    pub(super) fn new(
        request: Request<Incoming>,
        peer: Arc<Peer>,
        settings: &Settings,
        at: Millis,
    ) -> Result<Self, Box<Refused>> {
        let (head, body) = request.into_parts();
        let target = head.uri.into_parts().path_and_query;
        let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let headers = RequestHeaders::received(head.headers);
        let address = address(&peer, &headers, &settings.trusted_proxies);
        let announced = headers
            .text(header::CONTENT_LENGTH)
            .and_then(|length| length.parse::<u64>().ok());
        let is_too_large = settings
            .request_body
            .bytes
            .is_some_and(|limit| announced.is_some_and(|length| length > limit));
        let received = Self {
            method: head.method,
            body: Payload::new(body, settings.request_body),
            headers,
            address,
            certificate: peer.certificate.clone(),
            at,
            target,
        };
        if settings.url_bytes > 0 && received.target.as_str().len() > settings.url_bytes {
            return Err(received.refused(Rejection::UriTooLong));
        }
        if is_too_large {
            return Err(received.refused(Rejection::TooLarge));
        }
        Ok(received)
    }

    /// Ends the way of the request.
    pub(super) fn refused(self, rejection: Rejection) -> Box<Refused> {
        // A client that asks before it sends has heard no: nothing of the body is on its way.
        let was_asked = self.headers.text(header::EXPECT).is_some() && self.body.is_empty();
        Box::new(Refused {
            rejection,
            body: (!was_asked).then_some(self.body),
        })
    }

    /// Names client and caller for the backends.
    pub(super) fn annotate(&mut self, client: Option<&ClientEntry>) {
        if let Some(client) = client {
            self.headers.set_client(&client.client.client_id);
        }
        self.headers.set_forwarded(&self.address.to_string());
    }
}

/// The caller's address: behind trusted proxies, the last one in `X-Forwarded-For` that is not such a proxy.
fn address(peer: &Peer, headers: &RequestHeaders, trusted: &[IpNet]) -> IpAddr {
    if !peer.is_trusted {
        return peer.address;
    }
    let mut caller = peer.address;
    let told = headers.text("x-forwarded-for").unwrap_or_default();
    for item in told.rsplit(',') {
        let Some(address) = forwarded(item.trim()) else { break };
        caller = address;
        if !trusted.iter().any(|network| network.contains(&address)) {
            break;
        }
    }
    caller
}

/// An address as proxies write it, perhaps with a port.
fn forwarded(item: &str) -> Option<IpAddr> {
    let address = item
        .parse::<IpAddr>()
        .or_else(|_| item.parse::<std::net::SocketAddr>().map(|socket| socket.ip()))
        .or_else(|_| item.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>());
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn caller(peer: &str, is_trusted: bool, told: &'static str) -> String {
        let mut map = HeaderMap::new();
        map.insert("x-forwarded-for", HeaderValue::from_static(told));
        let peer = Peer {
            address: peer.parse().unwrap(),
            is_trusted,
            certificate: None,
        };
        address(&peer, &RequestHeaders::received(map), &["10.0.0.0/8".parse().unwrap()]).to_string()
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_nobody_else() {
        assert_eq!(caller("10.0.0.1", true, "1.2.3.4"), "1.2.3.4");
        assert_eq!(caller("9.9.9.9", false, "1.2.3.4"), "9.9.9.9");
    }

    #[test]
    fn the_last_address_that_is_no_trusted_proxy_is_the_caller() {
        assert_eq!(caller("10.0.0.1", true, "6.6.6.6, 1.2.3.4, 10.0.0.2"), "1.2.3.4");
        assert_eq!(caller("10.0.0.1", true, "10.0.0.3, 10.0.0.2"), "10.0.0.3");
        assert_eq!(caller("10.0.0.1", true, "nonsense"), "10.0.0.1");
        assert_eq!(caller("10.0.0.1", true, "[2001:db8::1]:4711"), "2001:db8::1");
    }
}
