//! Tells people that a channel fails.
//!
//! Looks at the ends of transactions since the last run (or at the last hour's failure rate), and for each alert of each
//! enabled channel tells the users it names, as often as they want to be told. What was sent is kept for a day. Each
//! message has an identity that follows from the run, so a run that died is finished without telling anybody twice.

mod text;

use std::sync::Arc;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use chrono::{Local, TimeZone as _};

use super::outbox::Outbox;
use super::{Job, JobError, Run};
use crate::clock::Millis;
use crate::config;
use crate::model::channel::{Alert, AlertCondition, Channel};
use crate::model::contact_group::{ContactGroup, ContactUser, MaxAlerts};
use crate::model::user::User;
use crate::notify::Message;
use crate::notify::email::Mail;
use crate::store::{Collection, Find, SharedStore, StoreError};

const HOUR: Millis = 3_600_000;

/// Not more links than this in one message.
const MAX_LINKS: u64 = 500;

/// OpenHIM's job `generate transaction alerts`.
#[derive(Debug)]
pub struct Alerts {
    store: SharedStore,
    outbox: Arc<Outbox>,
    settings: config::Alerts,
    interval: String,
}

/// What a channel's alert is about, and how records name it.
struct Subject<'a> {
    channel: &'a Channel,
    alert: &'a Alert,
    condition: &'static str,
    status: String,
}

impl Alerts {
    /// The job, if the settings want it.
    pub fn job(store: SharedStore, outbox: Arc<Outbox>, settings: &config::Alerts) -> Option<Arc<dyn Job>> {
        let interval = format!("{} minutes", settings.poll_period_minutes);
        let job = || {
            Arc::new(Self {
                store,
                outbox,
                settings: settings.clone(),
                interval,
            }) as Arc<dyn Job>
        };
        settings.enable_alerts.then(job)
    }

    async fn consider(&self, subject: &Subject<'_>, since: Millis, now: Millis) -> Result<(), JobError> {
        let found = self.find(subject, since, now).await?;
        if found.is_empty() {
            return Ok(());
        }
        for user in self.people(subject.alert).await? {
            let links = match user.max_alerts {
                MaxAlerts::Unlimited => found.clone(),
                limited => {
                    let period = match limited {
                        MaxAlerts::OnePerHour => now - HOUR,
                        _ => midnight(now),
                    };
                    if self.was_told(subject, Some(&user.user), period).await? {
                        continue;
                    }
                    self.matches(subject, period).await?
                }
            };
            if let Err(error) = self.tell(subject, &user, &links, since, now).await {
                tracing::error!(channel.name = %subject.channel.name, error = %error, "An alert could not be sent");
            }
        }
        Ok(())
    }

    /// The transactions that make this alert due.
    async fn find(&self, subject: &Subject<'_>, since: Millis, now: Millis) -> Result<Vec<ObjectId>, JobError> {
        let Some(rate) = subject
            .alert
            .failure_rate
            .filter(|_| subject.alert.condition == AlertCondition::Status)
        else {
            return self.matches(subject, since).await;
        };
        let filter = ends(subject.channel.id, now - HOUR);
        let all = self.store.count(Collection::Events, filter.clone()).await?;
        let failed = self
            .store
            .count(Collection::Events, with(filter, subject.matching()))
            .await?;
        let is_exceeded = all > 0 && failed > 0 && failed as f64 / all as f64 * 100.0 >= rate;
        if !is_exceeded || self.was_told(subject, None, now - HOUR).await? {
            return Ok(vec![]);
        }
        self.matches(subject, now - HOUR).await
    }

    async fn matches(&self, subject: &Subject<'_>, since: Millis) -> Result<Vec<ObjectId>, JobError> {
        let filter = with(ends(subject.channel.id, since), subject.matching());
        let find = Find::by(filter).sorted(doc! { "created": 1 }).limited(MAX_LINKS);
        let mut transactions = Vec::new();
        for event in self.store.all(Collection::Events, find).await? {
            match event.get_object_id("transactionID") {
                Ok(id) if !transactions.contains(&id) => transactions.push(id),
                _ => {}
            }
        }
        Ok(transactions)
    }

    async fn was_told(&self, subject: &Subject<'_>, user: Option<&str>, since: Millis) -> Result<bool, StoreError> {
        let mut filter = doc! {
            "channelID": subject.channel.id.to_hex(),
            "condition": subject.condition,
            "status": &subject.status,
            "alertStatus": "Completed",
            "timestamp": { "$gte": DateTime::from_millis(since) },
        };
        if let Some(user) = user {
            filter.insert("user", user);
        }
        Ok(self.store.count(Collection::Alerts, filter).await? > 0)
    }

    /// The members of the alert's groups, then its own users. A group that is gone is passed over.
    async fn people(&self, alert: &Alert) -> Result<Vec<ContactUser>, StoreError> {
        let mut people = Vec::new();
        for group in &alert.groups {
            let found = self.store.one(Collection::ContactGroups, doc! { "_id": group }).await?;
            people.extend(
                found
                    .as_ref()
                    .and_then(ContactGroup::from_document)
                    .into_iter()
                    .flat_map(|group| group.users),
            );
        }
        people.extend(alert.users.iter().cloned());
        Ok(people)
    }

    async fn tell(
        &self,
        subject: &Subject<'_>,
        contact: &ContactUser,
        transactions: &[ObjectId],
        since: Millis,
        now: Millis,
    ) -> Result<(), JobError> {
        let channel = subject.channel.id.to_hex();
        let identity = [
            &contact.user,
            &contact.method,
            &channel,
            subject.condition,
            &subject.status,
            &since.to_string(),
        ];
        let id = super::id_of(&identity.join("\n"));
        let record = doc! {
            "_id": id,
            "user": &contact.user,
            "method": &contact.method,
            "timestamp": DateTime::from_millis(now),
            "channelID": channel,
            "condition": subject.condition,
            "status": &subject.status,
            "alertStatus": "Failed",
            "__v": 0,
        };
        match self.store.insert(Collection::Alerts, record).await {
            Ok(()) => {}
            // A run before this one had come so far and died.
            Err(StoreError::Duplicate { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let message = self.message(subject, contact, transactions).await?;
        self.outbox.send(id, message, now).await.map_err(Into::into)
    }

    async fn message(
        &self,
        subject: &Subject<'_>,
        contact: &ContactUser,
        transactions: &[ObjectId],
    ) -> Result<Message, JobError> {
        let found = self
            .store
            .one(Collection::Users, doc! { "email": &contact.user })
            .await?;
        let unknown = || format!("Cannot send alert: Unknown user '{}'", contact.user);
        let user = found
            .and_then(|found| User::from_document(&found))
            .ok_or_else(unknown)?;
        let words = text::Words {
            settings: &self.settings,
            subject,
            transactions,
        };
        match contact.method.as_str() {
            "email" => Ok(Message::Mail(Mail {
                to: user.email,
                subject: "OpenHIM Alert".into(),
                text: words.plain(),
                html: words.html(),
            })),
            "sms" => {
                let missing = || format!("Cannot send alert: MSISDN not specified for user '{}'", contact.user);
                Ok(Message::Sms {
                    to: user.msisdn.ok_or_else(missing)?,
                    text: words.sms(),
                })
            }
            other => Err(format!("Unknown method '{other}' specified for user '{}'", contact.user).into()),
        }
    }
}

#[async_trait]
impl Job for Alerts {
    fn name(&self) -> &str {
        "generate transaction alerts"
    }

    fn interval(&self) -> &str {
        &self.interval
    }

    async fn run(&self, run: Run) -> Result<Document, JobError> {
        let now = run.started;
        let since = run
            .data
            .get_datetime("lastAlertDate")
            .map_or(now, |date| date.timestamp_millis());
        let enabled = Find::by(doc! { "status": { "$in": ["enabled", Bson::Null] }, "alerts.0": { "$exists": true } });
        for document in self.store.all(Collection::Channels, enabled).await? {
            let channel = Channel::from_document(&document)?;
            for alert in &channel.alerts {
                let outcome = match Subject::of(&channel, alert) {
                    Ok(Some(subject)) => self.consider(&subject, since, now).await,
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                };
                // One alert that cannot be handled does not keep the others from being sent.
                if let Err(error) = outcome {
                    tracing::error!(channel.name = %channel.name, error = %error, "An alert of {} failed", channel.name);
                }
            }
        }
        Ok(doc! { "lastAlertDate": DateTime::from_millis(now) })
    }
}

impl<'a> Subject<'a> {
    /// `None` for an alert that can never be due.
    fn of(channel: &'a Channel, alert: &'a Alert) -> Result<Option<Self>, JobError> {
        let (condition, status) = match &alert.condition {
            AlertCondition::Status => ("status", alert.status.clone()),
            AlertCondition::AutoRetryMaxAttempted => (
                "auto-retry-max-attempted",
                channel
                    .auto_retry_max_attempts
                    .filter(|max| *max > 0)
                    .map(|_| "500".into()),
            ),
            AlertCondition::Unknown(other) => return Err(format!("Unsupported condition '{other}'").into()),
        };
        Ok(status.map(|status| Self {
            channel,
            alert,
            condition,
            status,
        }))
    }

    /// The part of the filter that says which ends of transactions count.
    fn matching(&self) -> Document {
        if self.alert.condition == AlertCondition::AutoRetryMaxAttempted {
            let max = self
                .channel
                .auto_retry_max_attempts
                .and_then(|max| i64::try_from(max).ok())
                .unwrap_or(0);
            return doc! { "status": 500, "autoRetryAttempt": max };
        }
        let class = self.status.get(..1).and_then(|digit| digit.parse::<i32>().ok());
        match (class, self.status.parse::<i32>()) {
            (_, Ok(code)) => doc! { "status": code },
            (Some(class), Err(_)) if self.status[1..].eq_ignore_ascii_case("xx") => {
                doc! { "status": { "$gte": class * 100, "$lt": (class + 1) * 100 } }
            }
            _ => doc! { "status": { "$in": [] } },
        }
    }
}

/// Ends of the channel's transactions since then.
fn ends(channel: ObjectId, since: Millis) -> Document {
    doc! {
        "created": { "$gte": DateTime::from_millis(since) },
        "channelID": channel,
        "type": "channel",
        "event": "end",
    }
}

fn with(mut filter: Document, more: Document) -> Document {
    filter.extend(more);
    filter
}

/// The beginning of the server's day.
fn midnight(now: Millis) -> Millis {
    let today = Local.timestamp_millis_opt(now).earliest().map(|now| now.date_naive());
    let start = today
        .and_then(|day| day.and_hms_opt(0, 0, 0))
        .and_then(|start| Local.from_local_datetime(&start).earliest());
    start.map_or(now - 24 * HOUR, |start| start.timestamp_millis())
}

#[cfg(test)]
mod tests;
