//! Tells people that a channel fails.
//!
//! Looks at the ends of transactions since the last run (or at the last hour's failure rate), and for each alert of each
//! enabled channel tells the users it names, as often as they want to be told. What was sent is kept for a day, with the
//! transactions it told of: a run that died is finished, and an end that was stored late is found, without telling
//! anybody twice.

mod text;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use super::outbox::{self, Outbox};
use super::{Job, JobError, Run};
use crate::clock::{Millis, ServerZone};
use crate::config;
use crate::metrics;
use crate::model::channel::{Alert, AlertCondition, Channel};
use crate::model::contact_group::{ContactGroup, ContactUser, MaxAlerts};
use crate::model::user::User;
use crate::notify::Message;
use crate::notify::email::Mail;
use crate::store::{Collection, Find, SharedStore, StoreError};

const HOUR: Millis = 3_600_000;

/// Not more links than this in one message.
const MAX_LINKS: usize = 500;

/// Not more ends of a channel's transactions than this are looked at for one alert.
const MOST_LOOKED_AT: u64 = 20_000;

/// The end of a transaction may reach the store so much later than it happened, if the store was away: runs look back so
/// far, and leave out what they have told.
const LATE: Millis = 5 * 60_000;

/// The field of the job's state that says when it ran first: what was before is nobody's news.
const BEGINNING: &str = "openhimBeginning";

/// The field of an alert's record that holds the transactions of which nobody could be told.
const UNSENT: &str = "openhimUnsent";

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

/// The time that a run looks at.
#[derive(Debug)]
struct Window {
    /// When the run before looked.
    since: Millis,
    /// What was stored late is found from here on.
    from: Millis,
    now: Millis,
    beginning: Millis,
}

impl Window {
    fn of(run: &Run) -> Self {
        let now = run.started;
        let date = |name: &str| run.data.get_datetime(name).ok().map(|date| date.timestamp_millis());
        let since = date("lastAlertDate").unwrap_or(now);
        let beginning = date(BEGINNING).unwrap_or(since).min(since);
        Self {
            since,
            from: (since - LATE).max(beginning),
            now,
            beginning,
        }
    }
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

    async fn consider(&self, subject: &Subject<'_>, window: &Window) -> Result<(), JobError> {
        let found = self.find(subject, window).await?;
        if found.is_empty() {
            return Ok(());
        }
        for user in self.people(subject.alert).await? {
            let outcome = match self.news(subject, &user, &found, window).await? {
                links if links.is_empty() => Ok(()),
                links => self.tell(subject, &user, &links, window).await,
            };
            if let Err(error) = outcome {
                tracing::error!(channel.name = %subject.channel.name, error = %error, "An alert could not be sent");
            }
        }
        Ok(())
    }

    /// The transactions that make this alert due.
    async fn find(&self, subject: &Subject<'_>, window: &Window) -> Result<Vec<ObjectId>, JobError> {
        let Some(rate) = subject.failure_rate() else {
            return self.matches(subject, window.from, window.now).await;
        };
        let hour = window.now - HOUR;
        let filter = ends(subject.channel.id, hour, window.now);
        let all = self.store.count(Collection::Events, filter.clone()).await?;
        let failed = self
            .store
            .count(Collection::Events, with(filter, subject.matching()))
            .await?;
        let is_exceeded = all > 0 && failed > 0 && failed as f64 / all as f64 * 100.0 >= rate;
        // A run that died may have told some of them: the others are told now.
        if !is_exceeded || self.was_told(subject, None, hour, window.since).await? {
            return Ok(vec![]);
        }
        self.matches(subject, hour, window.now).await
    }

    async fn matches(&self, subject: &Subject<'_>, from: Millis, until: Millis) -> Result<Vec<ObjectId>, JobError> {
        let find = Find {
            filter: with(ends(subject.channel.id, from, until), subject.matching()),
            sort: doc! { "created": 1 },
            limit: MOST_LOOKED_AT,
            projection: doc! { "transactionID": 1 },
            ..Find::default()
        };
        let mut seen = HashSet::new();
        let mut transactions = Vec::new();
        for event in self.store.all(Collection::Events, find).await? {
            match event.get_object_id("transactionID") {
                Ok(id) if seen.insert(id) => transactions.push(id),
                _ => {}
            }
        }
        Ok(transactions)
    }

    /// What this user is to be told now: nothing if they know of all that was found, or have been told often enough.
    async fn news(
        &self,
        subject: &Subject<'_>,
        user: &ContactUser,
        found: &[ObjectId],
        window: &Window,
    ) -> Result<Vec<ObjectId>, JobError> {
        let mut links = found.to_vec();
        if subject.failure_rate().is_none() {
            let known = self.known(subject, user, window).await?;
            links.retain(|id| !known.contains(id));
        }
        let period = match user.max_alerts {
            MaxAlerts::Unlimited => None,
            MaxAlerts::OnePerHour => Some(window.now - HOUR),
            _ => Some(midnight(window.now)),
        };
        if let Some(period) = period.filter(|_| !links.is_empty()) {
            if self.was_told(subject, Some(user), period, window.now).await? {
                return Ok(vec![]);
            }
            let all = self.matches(subject, period, window.now).await?;
            if !all.is_empty() {
                links = all;
            }
        }
        links.truncate(MAX_LINKS);
        Ok(links)
    }

    /// What this user was told of lately, or could not be told of.
    async fn known(
        &self,
        subject: &Subject<'_>,
        user: &ContactUser,
        window: &Window,
    ) -> Result<HashSet<ObjectId>, StoreError> {
        let since = DateTime::from_millis(window.from - LATE);
        let mut about = subject.record();
        about.extend(doc! { "user": &user.user, "method": &user.method });
        let mut sent = under(outbox::ALERT, about.clone());
        sent.insert("created", doc! { "$gte": since });
        about.extend(doc! { "timestamp": { "$gte": since }, UNSENT: { "$exists": true } });
        let mut known = HashSet::new();
        let sent = Find {
            projection: doc! { format!("{}.transactions", outbox::ALERT): 1 },
            ..Find::by(sent)
        };
        for message in self.store.all(Collection::Outbox, sent).await? {
            if let Ok(alert) = message.get_document(outbox::ALERT) {
                known.extend(ids(alert, "transactions"));
            }
        }
        for record in self.store.all(Collection::Alerts, Find::by(about)).await? {
            known.extend(ids(&record, UNSENT));
        }
        Ok(known)
    }

    /// True if this user was told this way, or anybody, since then, or will be when the mail server is back.
    async fn was_told(
        &self,
        subject: &Subject<'_>,
        user: Option<&ContactUser>,
        from: Millis,
        until: Millis,
    ) -> Result<bool, StoreError> {
        let time = doc! { "$gte": DateTime::from_millis(from), "$lte": DateTime::from_millis(until) };
        let mut told = subject.record();
        if let Some(user) = user {
            told.extend(doc! { "user": &user.user, "method": &user.method });
        }
        let mut waiting = under(outbox::ALERT, told.clone());
        waiting.insert("created", time.clone());
        told.extend(doc! { "alertStatus": "Completed", "timestamp": time });
        Ok(self.store.count(Collection::Alerts, told).await? > 0
            || self.store.count(Collection::Outbox, waiting).await? > 0)
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
        window: &Window,
    ) -> Result<(), JobError> {
        let mut record = subject.record();
        record.extend(doc! {
            "user": &contact.user, "method": &contact.method, "timestamp": DateTime::from_millis(window.now), "__v": 0,
        });
        let first = match subject.failure_rate() {
            None => transactions.first().map(|id| id.to_hex()).unwrap_or_default(),
            Some(rate) => rate.to_string(),
        };
        let identity = [
            &contact.user,
            &contact.method,
            &subject.channel.id.to_hex(),
            subject.condition,
            &subject.status,
            &window.since.to_string(),
            &first,
        ];
        let id = super::id_of(&identity.join("\n"));
        match self.message(subject, contact, transactions).await? {
            Ok(message) => {
                record.insert("transactions", transactions.to_vec());
                Ok(self.outbox.alert(id, message, record, window.now).await?)
            }
            Err(why) => {
                record.extend(doc! { "_id": id, "alertStatus": "Failed", UNSENT: transactions.to_vec() });
                match self.store.insert(Collection::Alerts, record).await {
                    Ok(()) | Err(StoreError::Duplicate { .. }) => Err(why.into()),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// The message, or why there cannot be one.
    async fn message(
        &self,
        subject: &Subject<'_>,
        contact: &ContactUser,
        transactions: &[ObjectId],
    ) -> Result<Result<Message, String>, StoreError> {
        let found = self
            .store
            .one(Collection::Users, doc! { "email": &contact.user })
            .await?;
        let Some(user) = found.and_then(|found| User::from_document(&found)) else {
            return Ok(Err(format!("Cannot send alert: Unknown user '{}'", contact.user)));
        };
        let words = text::Words {
            settings: &self.settings,
            subject,
            transactions,
        };
        Ok(match contact.method.as_str() {
            "email" => Ok(Message::Mail(Mail {
                to: user.email,
                subject: "OpenHIM Alert".into(),
                text: words.plain(),
                html: words.html(),
            })),
            "sms" => {
                let missing = || format!("Cannot send alert: MSISDN not specified for user '{}'", contact.user);
                let text = words.sms();
                user.msisdn.ok_or_else(missing).map(|to| Message::Sms { to, text })
            }
            other => Err(format!(
                "Unknown method '{other}' specified for user '{}'",
                contact.user
            )),
        })
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
        let window = Window::of(&run);
        let enabled = Find::by(doc! { "status": { "$in": ["enabled", Bson::Null] }, "alerts.0": { "$exists": true } });
        for document in self.store.all(Collection::Channels, enabled).await? {
            let channel = Channel::from_document(&document)?;
            for alert in &channel.alerts {
                let outcome = match Subject::of(&channel, alert) {
                    Ok(Some(subject)) => self.consider(&subject, &window).await,
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                };
                // One alert that cannot be handled does not keep the others from being sent.
                if let Err(error) = outcome {
                    tracing::error!(channel.name = %channel.name, error = %error, "An alert of {} failed", channel.name);
                }
            }
        }
        Ok(doc! {
            "lastAlertDate": DateTime::from_millis(window.now),
            BEGINNING: DateTime::from_millis(window.beginning),
        })
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

    /// The failure rate in percent from which on people are told, if it is that which counts.
    fn failure_rate(&self) -> Option<f64> {
        let is_status = self.alert.condition == AlertCondition::Status;
        self.alert.failure_rate.filter(|_| is_status)
    }

    /// What the records of this alert have in common.
    fn record(&self) -> Document {
        doc! { "channelID": self.channel.id.to_hex(), "condition": self.condition, "status": &self.status }
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

/// Ends of the channel's transactions in that time.
fn ends(channel: ObjectId, from: Millis, until: Millis) -> Document {
    doc! {
        "created": { "$gte": DateTime::from_millis(from), "$lte": DateTime::from_millis(until) },
        "channelID": channel,
        "type": "channel",
        "event": "end",
    }
}

fn with(mut filter: Document, more: Document) -> Document {
    filter.extend(more);
    filter
}

/// A filter for what is stored in a field of this name.
fn under(field: &str, filter: Document) -> Document {
    let filter = filter.into_iter();
    filter.map(|(name, value)| (format!("{field}.{name}"), value)).collect()
}

fn ids(document: &Document, field: &str) -> Vec<ObjectId> {
    let list = document.get_array(field).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(Bson::as_object_id).collect()
}

/// The beginning of the server's day.
fn midnight(now: Millis) -> Millis {
    metrics::Period::Day.start(now, &ServerZone)
}

#[cfg(test)]
mod tests;
