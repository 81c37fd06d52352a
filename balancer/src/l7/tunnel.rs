//! Two connections that speak another protocol than HTTP once a backend has granted that.
//!
//! The request's line in the log is written when the tunnel ends: with the bytes it has carried and the time it took.

use std::time::Duration;

use super::Conversation;
use super::framing::Request;
use super::record::{Asker, Record};
use super::request::end;
use super::transport::{BackendStream, Wire};
use crate::l4::describe;
use crate::l4::sessions::Open;
use crate::log::By;
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
    /// Carries its bytes to the end. What the backend has said already goes first.
    pub(super) async fn run<C: Peer>(self: Box<Self>, conversation: Conversation<C>) {
        let Conversation {
            door,
            info,
            head,
            ids,
            wire: mut client,
            ..
        } = conversation;
        let Self {
            granted,
            request,
            mut record,
        } = *self;
        let Granted {
            mut backend,
            open,
            idle,
            half_close,
            places,
        } = granted;
        let said = backend.input.held().to_vec();
        client.output.bytes.extend_from_slice(&said);
        let flushed = std::future::poll_fn(|cx| client.poll_flush(cx)).await;
        let end = match flushed {
            Err(_) => end(By::Client, "client-gone", "CD"),
            Ok(()) => {
                backend.input.consume(said.len());
                let terms = Terms {
                    idle,
                    half_close,
                    opening: Opening {
                        bytes: client.input.held().to_vec(),
                        header_len: 0,
                    },
                };
                let outcome = relay(client.stream, backend.stream, terms, open.meter(), open.ended()).await;
                record.bytes_in += outcome.to_backend;
                record.told.bytes += said.len() as u64 + outcome.to_client;
                describe(&outcome, open.session().ended())
            }
        };
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
