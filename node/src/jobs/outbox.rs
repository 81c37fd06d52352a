//! Messages that are sent once: at once if possible, later if the mail server is down, never twice.
//!
//! A message is written down before it is handed to the mail server and marked as being sent while it is. A node that
//! dies in that moment leaves a message of which nobody can say whether it went out; it is not sent again, because a
//! minister who gets a report twice trusts neither. A message that was refused is tried again for a day.

use std::sync::Arc;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};

use super::{Job, JobError, Run};
use crate::clock::Millis;
use crate::notify::email::Mail;
use crate::notify::{Message, Notify};
use crate::store::{Collection, Find, FindAndUpdate, SharedStore, StoreError, Write};

const MINUTE: Millis = 60_000;

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

/// Sends messages and keeps those that could not be sent.
#[derive(Debug)]
pub struct Outbox {
    store: SharedStore,
    notify: Arc<dyn Notify>,
}

impl Outbox {
    /// An outbox in this store that sends through `notify`.
    pub fn new(store: SharedStore, notify: Arc<dyn Notify>) -> Self {
        Self { store, notify }
    }

    /// Sends `message`, once for each `id`. When it has gone out, the alert of the same `id`, if there is one, is marked
    /// as completed.
    ///
    /// # Errors
    /// It could not be written down (then nothing was sent), or it has to wait.
    pub async fn send(&self, id: ObjectId, message: Message, now: Millis) -> Result<(), OutboxError> {
        let document = doc! {
            "_id": id,
            "state": "sending",
            "attempts": 1,
            "created": DateTime::from_millis(now),
            "triedAt": DateTime::from_millis(now),
            "nextAt": DateTime::from_millis(now + MINUTE),
            "message": to_document(&message),
        };
        match self.store.insert(Collection::Outbox, document.clone()).await {
            Ok(()) => self.hand_over(&document, message, now).await,
            Err(StoreError::Duplicate { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands a message that is marked as being sent to the server, and notes how it went.
    async fn hand_over(&self, document: &Document, message: Message, now: Millis) -> Result<(), OutboxError> {
        let id = document.get_object_id("_id").map_err(malformed)?;
        match self.notify.tell(message).await {
            Ok(()) => {
                let writes = vec![
                    // What was sent stays known for a day, so that a run which is repeated sends nothing again.
                    change(
                        Collection::Outbox,
                        id,
                        doc! { "$set": { "state": "sent" }, "$unset": { "message": "" } },
                    ),
                    change(Collection::Alerts, id, doc! { "$set": { "alertStatus": "Completed" } }),
                ];
                for outcome in self.store.write(&writes).await? {
                    outcome?;
                }
                Ok(())
            }
            Err(error) if error.is_in_doubt() => {
                tracing::error!(message.id = %id, %error, "A message may have gone out; it is not sent again");
                self.store
                    .update(Collection::Outbox, doc! { "_id": id }, in_doubt(&error.to_string()))
                    .await?;
                Err(OutboxError::InDoubt)
            }
            Err(error) => {
                let attempts = document.get_i32("attempts").unwrap_or(1);
                let pause = MINUTE << attempts.clamp(0, 6);
                let set = doc! { "$set": {
                    "state": "waiting", "nextAt": DateTime::from_millis(now + pause), "why": error.to_string(),
                } };
                self.store.update(Collection::Outbox, doc! { "_id": id }, set).await?;
                let source = std::error::Error::source(&error)
                    .map(|source| format!(": {source}"))
                    .unwrap_or_default();
                Err(OutboxError::Waits(format!("{error}{source}")))
            }
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
    async fn retry(&self, now: Millis) -> Result<(), JobError> {
        self.settle_dead(now).await?;
        let due = doc! { "state": "waiting", "nextAt": { "$lte": DateTime::from_millis(now) } };
        for document in self.store.all(Collection::Outbox, Find::by(due.clone())).await? {
            let mut filter = due.clone();
            filter.insert("_id", document.get_object_id("_id")?);
            let tried = DateTime::from_millis(now);
            let update = doc! { "$set": { "state": "sending", "triedAt": tried }, "$inc": { "attempts": 1 } };
            let claim = FindAndUpdate {
                filter,
                update,
                return_new: true,
                ..FindAndUpdate::default()
            };
            let Some(claimed) = self.store.find_and_update(Collection::Outbox, claim).await? else {
                continue;
            };
            let message = from_document(&claimed).ok_or("a waiting message is malformed")?;
            if let Err(error) = self.hand_over(&claimed, message, now).await {
                tracing::warn!(error = %error, "A message could not be sent");
            }
        }
        let old = doc! { "created": { "$lte": DateTime::from_millis(now - PATIENCE) } };
        let mut unsent = old.clone();
        unsent.insert("state", doc! { "$ne": "sent" });
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

fn change(of: Collection, id: ObjectId, update: Document) -> Write {
    Write::Update {
        of,
        filter: doc! { "_id": id },
        update,
        many: false,
        upsert: false,
    }
}

fn malformed(error: impl std::fmt::Display) -> OutboxError {
    OutboxError::Store(StoreError::Other(error.to_string()))
}
