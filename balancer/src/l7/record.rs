//! What is known of a request when it is over: counted, and written as one line of the log.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::exchange::Told;
use super::framing::{Known, Request};
use super::headers::request_id;
use super::transport::{ClientInfo, Protocol};
use super::{Conversation, Door, Lane};
use crate::log::{End, RequestLine};

/// Ids for requests that bring none: nobody else's, and one after the other on a connection.
#[derive(Debug, Default)]
pub(super) struct Ids {
    series: u64,
    count: u64,
    /// The last one.
    pub(super) text: String,
}

impl Ids {
    /// Makes the next one.
    pub(super) fn advance(&mut self) -> &str {
        if self.series == 0 {
            (self.series, self.count) = (rand::random(), rand::random());
        }
        self.count = self.count.wrapping_add(1);
        self.text.clear();
        // Writing into a String cannot fail.
        let _ = write!(self.text, "{:016x}{:016x}", self.series, self.count);
        &self.text
    }
}

/// What is found out on the way, for the log.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) begun: Instant,
    pub(super) client: SocketAddr,
    pub(super) lane: Arc<Lane>,
    pub(super) backend: Option<SocketAddr>,
    pub(super) queue: Duration,
    pub(super) connect: Duration,
    pub(super) retries: u32,
    pub(super) told: Told,
    pub(super) bytes_in: u64,
}

impl Record {
    /// Of a request that begins.
    pub(super) fn new(begun: Instant, client: SocketAddr, lane: &Arc<Lane>) -> Self {
        Self {
            begun,
            client,
            lane: Arc::clone(lane),
            backend: None,
            queue: Duration::ZERO,
            connect: Duration::ZERO,
            retries: 0,
            told: Told::default(),
            bytes_in: 0,
        }
    }
}

/// Whose request it is that is told of.
pub(super) struct Asker<'a> {
    pub(super) door: &'a Door,
    pub(super) info: &'a ClientInfo,
    pub(super) head: &'a [u8],
    /// The id it got if it brought none.
    pub(super) made_id: &'a str,
}

impl<C> Conversation<C> {
    /// Counts a request, and writes its line. The head stands in the conversation.
    pub(super) fn log(&self, record: &Record, request: &Request, end: End) {
        let took = record.begun.elapsed();
        self.count(record, took, end);
        let asker = Asker {
            door: &self.door,
            info: &self.info,
            head: &self.head,
            made_id: &self.ids.text,
        };
        asker.write(record, request, took, end);
    }

    /// Counts a request that took so long until it was answered.
    pub(super) fn count(&self, record: &Record, took: Duration, end: End) {
        let service = &self.door.own.service;
        let group = &record.lane.service;
        service.counters.requests.add(record.told.status, took);
        if !Arc::ptr_eq(service, group) {
            group.counters.requests.add(record.told.status, took);
        }
        if end.word == "client-gone" {
            service.counters.requests.client_gone.add(1);
        }
    }
}

impl Asker<'_> {
    /// Writes the line of a request that took so long until all of its answer was sent.
    pub(super) fn write(&self, record: &Record, request: &Request, took: Duration, end: End) {
        let Some(journal) = &self.door.journal else { return };
        let head = self.head;
        let text = |known: Known| request.field(known).map(|it| it.text(head)).unwrap_or_default();
        let path = request.path.text(head);
        journal.write_request(&RequestLine {
            service: &self.door.own.service.name,
            group: &record.lane.service.name,
            client: record.client,
            method: request.method.text(head),
            host: request.host.text(head),
            path: path.split('?').next().unwrap_or_default(),
            protocol: match (self.info.protocol, request.is_1_1) {
                (Protocol::Http2, _) => "HTTP/2",
                (Protocol::Http1, true) => "HTTP/1.1",
                (Protocol::Http1, false) => "HTTP/1.0",
            },
            tls: self.info.tls.as_ref().map(|tls| tls.version).unwrap_or_default(),
            status: record.told.status,
            backend: record.backend,
            queue: record.queue,
            connect: record.connect,
            answer: record.told.at.map(|at| at - record.begun),
            total: took,
            bytes_in: record.bytes_in,
            bytes_out: record.told.bytes,
            retries: record.retries,
            request_id: request_id(request, head).unwrap_or(self.made_id),
            trace_id: trace_id(text(Known::Traceparent)),
            user_agent: text(Known::UserAgent),
            referer: text(Known::Referer),
            end,
        });
    }
}

/// The trace's id in a `traceparent` (W3C Trace Context, level 1), if that is one.
fn trace_id(parent: &str) -> &str {
    let id = parent.split('-').nth(1).unwrap_or_default();
    let is_sound = id.len() == 32 && id.bytes().all(|it| it.is_ascii_hexdigit());
    if is_sound { id } else { "" }
}
