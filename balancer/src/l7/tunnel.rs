//! Two connections that speak another protocol than HTTP once a backend has granted that.
//!
//! [`request`](super::request) hands both ends over, and [`relay`](crate::relay) moves the bytes; nothing here looks at
//! them. The request's line in the log is written when the tunnel ends: with the bytes it has carried and the time it took.

use std::time::Duration;

use super::Conversation;
use super::framing::Request;
use super::record::{Asker, Record};
use super::transport::{BackendStream, Rewound, Wire};
use crate::l4::describe;
use crate::l4::sessions::Open;
use crate::relay::{Opening, Peer, Terms, relay};
use crate::service::{ClientPlace, Place};

/// The backend's side.
pub(super) struct Granted {
    pub(super) backend: Wire<BackendStream>,
    pub(super) open: Open,
    pub(super) idle: Duration,
    pub(super) half_close: Duration,
    /// What it takes up: of its client's requests, and of those of its group.
    pub(super) places: (Option<ClientPlace>, Option<Place>),
}

/// A tunnel, and the request that opened it.
pub(super) struct Tunnel {
    pub(super) granted: Granted,
    pub(super) request: Request,
    pub(super) record: Record,
}

impl Tunnel {
    /// Carries its bytes to the end.
    pub(super) async fn run<C: Peer>(self: Box<Self>, conversation: Conversation<C>) {
        let Conversation {
            door,
            info,
            head,
            ids,
            wire: client,
            ..
        } = conversation;
        let Self {
            granted,
            request,
            mut record,
        } = *self;
        let Granted {
            backend,
            open,
            idle,
            half_close,
            places,
        } = granted;
        let terms = Terms {
            idle,
            half_close,
            opening: Opening {
                bytes: client.input.held().to_vec(),
                header_len: 0,
            },
        };
        // What the backend has said already goes first.
        let backend = Rewound::new(backend);
        let outcome = relay(client.stream, backend, terms, open.meter(), open.ended()).await;
        record.bytes_in += outcome.to_backend;
        record.told.bytes += outcome.to_client;
        let end = describe(&outcome, open.session().ended());
        drop((open, places));
        let asker = Asker {
            door: &door,
            info: &info,
            head: &head,
            made_id: &ids.text,
        };
        asker.write(&record, &request, record.begun.elapsed(), end);
    }
}
