//! Audit records of the node's own doings: logins, reads of the audit trail, starts and stops.
//!
//! Each is an RFC 3881 message in a syslog envelope, and the document that parsing it would give. By
//! `auditing.auditEvents.interface` it is stored here or sent to an audit repository, always after the fact: nobody
//! waits for it, and its failure is logged and changes nothing.

pub mod deliver;
pub mod meta;
pub mod parse;
mod record;
pub mod repository;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use record::{Event, Outcome};

use crate::clock::Clock;
use crate::config::AuditEvents;
use crate::store::{Collection, SharedStore, Store, Write};
use deliver::{Delivery, Envelope};

/// Records that may wait for their delivery.
const QUEUE: usize = 8192;
/// Records written at once.
const BATCH: usize = 256;

enum Message {
    Record(Box<Envelope>),
    Flush(oneshot::Sender<()>),
}

/// Where events are reported; a clone reports to the same place.
#[derive(Clone, Debug)]
pub struct Auditor {
    queue: mpsc::Sender<Message>,
    clock: Arc<dyn Clock>,
    source: Arc<str>,
    host: Arc<str>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Record(_) => "Record",
            Self::Flush(_) => "Flush",
        })
    }
}

impl Auditor {
    /// An auditor, and the task that delivers what it is told: to be driven on some runtime until all clones are gone.
    /// Without settings every record is refused with a line in the log.
    pub fn new(
        settings: Option<AuditEvents>,
        store: SharedStore,
        clock: Arc<dyn Clock>,
        tls: deliver::TlsSource,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let source = settings
            .as_ref()
            .map_or("OpenHIM", |settings| settings.audit_source_id.as_str());
        let auditor = Self {
            queue,
            source: source.into(),
            host: gethostname::gethostname().to_string_lossy().into(),
            clock,
        };
        (auditor, deliver_all(inbox, Delivery::new(settings, store, tls)))
    }

    /// Reports an event; waits only if thousands are waiting already.
    pub async fn record(&self, event: Event) {
        let envelope = record::envelope(&event, self.clock.now(), &self.source, &self.host);
        if self.queue.send(Message::Record(Box::new(envelope))).await.is_err() {
            tracing::error!("Audit record lost: delivery has ended");
        }
    }

    /// Waits until everything reported so far is delivered.
    pub async fn flush(&self) {
        let (done, delivered) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            let _ = delivered.await;
        }
    }
}

async fn deliver_all(mut inbox: mpsc::Receiver<Message>, delivery: Delivery) {
    let mut messages = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut messages, BATCH).await > 0 {
        let mut envelopes = Vec::new();
        let mut flushed = Vec::new();
        for message in messages.drain(..) {
            match message {
                Message::Record(envelope) => envelopes.push(*envelope),
                Message::Flush(done) => flushed.push(done),
            }
        }
        if let Err(error) = delivery.deliver(envelopes).await {
            tracing::error!(%error, "Audit records could not be delivered: {error}");
        }
        for done in flushed {
            let _ = done.send(());
        }
    }
}

/// Stores records and adds what is new in them to the filter options.
///
/// # Errors
/// The store fails; the records may or may not be stored.
pub async fn keep(store: &dyn Store, records: Vec<bson::Document>) -> crate::store::Result<()> {
    let inserts: Vec<Write> = records
        .iter()
        .map(|document| Write::Insert {
            into: Collection::Audits,
            document: document.clone(),
        })
        .collect();
    for outcome in store.write(&inserts).await? {
        outcome?;
    }
    meta::learn(store, &records).await
}
