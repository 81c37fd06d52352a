//! Messages that are sent once: at once if possible, later if the mail server is down, never twice.
//!
//! A message is written down before it is handed to the mail server and marked as being sent while it is. A node that
//! dies in that moment leaves a message of which nobody can say whether it went out; it is not sent again, because a
//! minister who gets a report twice trusts neither. A message that was refused is tried again for a day. A node that is
//! told to stop first ends the conversation it is in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{Job, JobError, Run};
use crate::clock::Millis;
use crate::notify::email::Mail;
use crate::notify::{Message, Notify};
use crate::store::{Collection, Find, FindAndUpdate, SharedStore, StoreError, Write, Written};

const MINUTE: Millis = 60_000;

/// How long a store that is away is waited for, and the pauses between the tries.
const AWAY: Duration = Duration::from_secs(20 * 60);
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// For how long a message is worth sending.
const PATIENCE: Millis = 24 * 60 * MINUTE;

/// No try takes longer than this: what is still being sent then was given up by its node.
const LONGEST_TRY: Millis = 30 * MINUTE;

/// Why a message is not on its way.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the message waits for another try: {0}")]
    Waits(String),
    #[error("the message may have gone out and is not sent again")]
    InDoubt,
}

/// The field of a message that holds the alert it tells of.
pub(super) const ALERT: &str = "alert";

/// Sends messages and keeps those that could not be sent.
#[derive(Debug)]
pub struct Outbox {
    store: SharedStore,
    notify: Arc<dyn Notify>,
    /// Conversations with servers: whoever stops the node waits for them.
    sending: TaskTracker,
}

impl Outbox {
    /// An outbox in this store that sends through `notify`.
    pub fn new(store: SharedStore, notify: Arc<dyn Notify>, sending: TaskTracker) -> Arc<Self> {
        Arc::new(Self { store, notify, sending })
    }

    /// Sends `message`, once for each `id`.
    ///
    /// # Errors
    /// It could not be written down (then nothing was sent), or it has to wait.
    pub async fn send(self: &Arc<Self>, id: ObjectId, message: Message, now: Millis) -> Result<(), OutboxError> {
        self.send_first(id, message, None, now).await
    }

    /// Sends an alert, once for each `id`. What it says of itself becomes OpenHIM's record of it, `Failed` until it has
    /// gone out and `Completed` from then on.
    ///
    /// # Errors
    /// As [`Outbox::send`].
    pub async fn alert(
        self: &Arc<Self>,
        id: ObjectId,
        message: Message,
        alert: Document,
        now: Millis,
    ) -> Result<(), OutboxError> {
        self.send_first(id, message, Some(alert), now).await
    }

    async fn send_first(
        self: &Arc<Self>,
        id: ObjectId,
        message: Message,
        alert: Option<Document>,
        now: Millis,
    ) -> Result<(), OutboxError> {
        let mut document = doc! {
            "_id": id,
            "state": "waiting",
            "attempts": 0,
            "created": DateTime::from_millis(now),
            "nextAt": DateTime::from_millis(now + MINUTE),
            "message": to_document(&message),
        };
        if let Some(alert) = &alert {
            document.insert(ALERT, alert.clone());
        }
        match self.store.insert(Collection::Outbox, document).await {
            Ok(()) => {}
            Err(StoreError::Duplicate { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if let Some(alert) = alert {
            self.store.apply(record_of_alert(id, alert, false)).await?;
        }
        self.deliver(doc! { "_id": id }, now).await
    }

    /// Marks a waiting message as being sent.
    async fn claim(&self, mut filter: Document, now: Millis) -> Result<Option<Document>, StoreError> {
        filter.insert("state", "waiting");
        let claim = FindAndUpdate {
            filter,
            update: doc! {
                "$set": { "state": "sending", "triedAt": DateTime::from_millis(now) }, "$inc": { "attempts": 1 },
            },
            return_new: true,
            ..FindAndUpdate::default()
        };
        self.store.find_and_update(Collection::Outbox, claim).await
    }

    /// Claims the waiting message that matches and hands it over, to the end even if whoever wants that is told to stop.
    async fn deliver(self: &Arc<Self>, filter: Document, now: Millis) -> Result<(), OutboxError> {
        let outbox = Arc::clone(self);
        let delivery = async move {
            let Some(claimed) = outbox.claim(filter, now).await? else {
                return Ok(());
            };
            let Some(message) = from_document(&claimed) else {
                tracing::error!(message.id = ?claimed.get("_id"), "A waiting message is malformed and is not sent");
                return Ok(());
            };
            outbox.hand_over(&claimed, message, now).await
        };
        match self.sending.spawn(delivery).await {
            Ok(outcome) => outcome,
            Err(_) => Err(OutboxError::InDoubt),
        }
    }

    /// Hands a message that is marked as being sent to the server, and notes how it went.
    async fn hand_over(&self, document: &Document, message: Message, now: Millis) -> Result<(), OutboxError> {
        let id = document.get_object_id("_id").map_err(malformed)?;
        match self.notify.tell(message).await {
            Ok(()) => {
                // What was sent stays known for a day, so that a run which is repeated sends nothing again.
                let sent = doc! { "$set": { "state": "sent" }, "$unset": { "message": "" } };
                let mut writes = vec![of_message(id, sent)];
                let alert = document.get_document(ALERT).ok().cloned();
                writes.extend(alert.map(|alert| record_of_alert(id, alert, true)));
                Ok(self.note(&writes).await?)
            }
            Err(error) if error.is_in_doubt() => {
                tracing::error!(message.id = %id, %error, "A message may have gone out; it is not sent again");
                self.note(&[of_message(id, in_doubt(&error.to_string()))]).await?;
                Err(OutboxError::InDoubt)
            }
            Err(error) => {
                let attempts = document.get_i32("attempts").unwrap_or(1);
                let pause = MINUTE << attempts.clamp(0, 6);
                let set = doc! { "$set": {
                    "state": "waiting", "nextAt": DateTime::from_millis(now + pause), "why": error.to_string(),
                } };
                self.note(&[of_message(id, set)]).await?;
                let source = std::error::Error::source(&error)
                    .map(|source| format!(": {source}"))
                    .unwrap_or_default();
                Err(OutboxError::Waits(format!("{error}{source}")))
            }
        }
    }

    /// Writes down how it went, however long the store is away: what is not written down is in doubt.
    async fn note(&self, writes: &[Write]) -> Result<(), StoreError> {
        let deadline = Instant::now() + AWAY;
        let mut pause = RETRY.0;
        loop {
            let outcomes = self
                .store
                .write(writes)
                .await
                .and_then(|outcomes| outcomes.into_iter().collect());
            match outcomes.map(|_: Vec<Written>| ()) {
                Err(error) if error.is_temporary() && Instant::now() < deadline => {
                    tracing::debug!(%error, "What became of a message waits for the store");
                }
                outcome => return outcome,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Gives a name to what a node that died was sending.
    async fn settle_dead(&self, now: Millis) -> Result<(), StoreError> {
        let before = DateTime::from_millis(now - LONGEST_TRY);
        let dead = Write::Update {
            of: Collection::Outbox,
            filter: doc! { "state": "sending", "triedAt": { "$lte": before } },
            update: in_doubt("the node that was sending it died"),
            many: true,
            upsert: false,
        };
        let count = self.store.apply(dead).await?.modified;
        if count > 0 {
            tracing::error!(
                messages = count,
                "{count} messages may have gone out when a node died; they are not sent again"
            );
        }
        Ok(())
    }

    /// Tries again what is due, one message after the other.
    async fn retry(self: &Arc<Self>, now: Millis) -> Result<(), JobError> {
        self.settle_dead(now).await?;
        let due = doc! { "state": "waiting", "nextAt": { "$lte": DateTime::from_millis(now) } };
        for document in self.store.all(Collection::Outbox, Find::by(due.clone())).await? {
            let mut filter = due.clone();
            filter.insert("_id", document.get_object_id("_id")?);
            if let Err(error) = self.deliver(filter, now).await {
                tracing::warn!(error = %error, "A message could not be sent");
            }
        }
        let old = doc! { "created": { "$lte": DateTime::from_millis(now - PATIENCE) } };
        let mut unsent = old.clone();
        unsent.insert("state", "waiting");
        let given_up = self.store.count(Collection::Outbox, unsent).await?;
        if given_up > 0 {
            tracing::error!(messages = given_up, "Gave up on {given_up} messages after a day");
        }
        let gone = Write::Delete {
            from: Collection::Outbox,
            filter: old,
            many: true,
        };
        self.store.apply(gone).await?;
        Ok(())
    }
}

/// The job that tries again.
#[derive(Debug)]
pub struct SendWaiting(pub Arc<Outbox>);

#[async_trait]
impl Job for SendWaiting {
    fn name(&self) -> &str {
        "send waiting messages"
    }

    fn interval(&self) -> &str {
        "1 minutes"
    }

    async fn run(&self, run: Run) -> Result<Document, JobError> {
        self.0.retry(run.started).await?;
        Ok(run.data)
    }
}

fn to_document(message: &Message) -> Document {
    match message {
        Message::Mail(Mail {
            to,
            subject,
            text,
            html,
        }) => doc! { "to": to, "subject": subject, "text": text, "html": html },
        Message::Sms { to, text } => doc! { "to": to, "text": text },
    }
}

fn from_document(document: &Document) -> Option<Message> {
    let message = document.get_document("message").ok()?;
    let field = |name: &str| message.get_str(name).ok().map(str::to_owned);
    let (to, text) = (field("to")?, field("text")?);
    Some(match field("subject").zip(field("html")) {
        Some((subject, html)) => Message::Mail(Mail {
            to,
            subject,
            text,
            html,
        }),
        None => Message::Sms { to, text },
    })
}

fn in_doubt(why: &str) -> Document {
    doc! { "$set": { "state": "in doubt", "why": why }, "$unset": { "message": "" } }
}

fn of_message(id: ObjectId, update: Document) -> Write {
    Write::Update {
        of: Collection::Outbox,
        filter: doc! { "_id": id },
        update,
        many: false,
        upsert: false,
    }
}

/// OpenHIM's record of an alert.
fn record_of_alert(id: ObjectId, mut alert: Document, has_gone_out: bool) -> Write {
    // Which transactions it is about is known here; the record has no field for it.
    alert.remove("transactions");
    let update = match has_gone_out {
        true => doc! { "$set": { "alertStatus": "Completed" }, "$setOnInsert": alert },
        false => {
            alert.insert("alertStatus", "Failed");
            doc! { "$setOnInsert": alert }
        }
    };
    Write::Update {
        of: Collection::Alerts,
        filter: doc! { "_id": id },
        update,
        many: false,
        upsert: true,
    }
}

fn malformed(error: impl std::fmt::Display) -> OutboxError {
    OutboxError::Store(StoreError::Other(error.to_string()))
}
