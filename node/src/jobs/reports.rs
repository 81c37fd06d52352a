//! Daily and weekly figures by mail, to the users who asked for them.
//!
//! Each user sees the channels that they may see in the console, with the sums of the period's days. A report has an
//! identity that follows from its period and its reader, so that it is sent once whatever happens to the node.

mod text;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use chrono::{Datelike as _, Days, FixedOffset, NaiveDate, Offset as _, TimeZone};

use super::outbox::Outbox;
use super::{Job, JobError, Run};
use crate::clock::{Millis, ServerZone};
use crate::config;
use crate::metrics;
use crate::model::channel::{Channel, ChannelStatus};
use crate::model::role::{Permission, Role, Specified, allowed, specified};
use crate::model::user::User;
use crate::notify::Message;
use crate::notify::email::Mail;
use crate::store::{Collection, Find, SharedStore};

/// Which report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// The calendar day before.
    Daily,
    /// The week before, Monday to Sunday.
    Weekly,
}

/// OpenHIM's jobs `send daily channel metrics` and `send weekly channel metrics`.
#[derive(Debug)]
pub struct Reports {
    store: SharedStore,
    outbox: Arc<Outbox>,
    period: Period,
    interval: String,
    offset: FixedOffset,
    instance: String,
    console_url: String,
}

/// One channel's sums.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    channel: ObjectId,
    name: String,
    total: u64,
    /// Seconds, rounded.
    average_response: u64,
    failed: u64,
    successful: u64,
    processing: u64,
    completed: u64,
    completed_with_errors: u64,
}

/// From the first to the last moment of the period, in the zone of the reports.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    from: chrono::DateTime<FixedOffset>,
    to: chrono::DateTime<FixedOffset>,
}

impl Reports {
    /// Both jobs, if the settings want them.
    pub fn jobs(
        store: &SharedStore,
        outbox: &Arc<Outbox>,
        settings: &config::Reports,
        alerts: &config::Alerts,
    ) -> Vec<Arc<dyn Job>> {
        let job = |period, interval: &String| {
            Arc::new(Self {
                store: Arc::clone(store),
                outbox: Arc::clone(outbox),
                period,
                interval: interval.clone(),
                offset: offset(&settings.utc_offset),
                instance: alerts.him_instance.clone(),
                console_url: alerts.console_url.clone(),
            }) as Arc<dyn Job>
        };
        if !settings.enable_reports {
            return vec![];
        }
        vec![
            job(Period::Daily, &settings.daily_report_at),
            job(Period::Weekly, &settings.weekly_report_at),
        ]
    }

    fn window(&self, now: Millis) -> Option<Window> {
        let today = self.offset.timestamp_millis_opt(now).earliest()?.date_naive();
        let (first, days) = match self.period {
            Period::Daily => (today.checked_sub_days(Days::new(1))?, 1),
            Period::Weekly => {
                let since_monday = u64::from(today.weekday().num_days_from_monday());
                (today.checked_sub_days(Days::new(since_monday + 7))?, 7)
            }
        };
        let start = |day: NaiveDate| self.offset.from_local_datetime(&day.and_hms_opt(0, 0, 0)?).earliest();
        let end = start(first.checked_add_days(Days::new(days))?)?;
        Some(Window {
            from: start(first)?,
            to: end - chrono::TimeDelta::milliseconds(1),
        })
    }

    async fn report(&self, user: &User, channels: &[Channel], window: Window, now: Millis) -> Result<(), JobError> {
        let visible = self.visible(user, channels).await?;
        if visible.is_empty() {
            return Ok(());
        }
        let sums = self.sums(&visible, window).await?;
        let rows: Vec<Row> = visible
            .iter()
            .filter(|channel| channel.status == ChannelStatus::Enabled || sums.contains_key(&channel.id))
            .map(|channel| Row {
                channel: channel.id,
                name: channel.name.clone(),
                ..sums.get(&channel.id).cloned().unwrap_or_default()
            })
            .collect();
        let words = text::Words {
            period: self.period,
            instance: &self.instance,
            console_url: &self.console_url,
            window,
            generated: self.offset.timestamp_millis_opt(now).earliest().unwrap_or(window.to),
            rows: &rows,
        };
        let kind = words.kind();
        let mail = Mail {
            to: user.email.clone(),
            subject: format!("{kind} report for: {}", self.instance),
            text: words.plain(),
            html: words.html(),
        };
        let id = super::id_of(&format!(
            "{kind} report\n{}\n{}",
            window.from.timestamp_millis(),
            user.email
        ));
        self.outbox.send(id, Message::Mail(mail), now).await.map_err(Into::into)
    }

    /// The channels that this user may see, by name.
    async fn visible<'c>(&self, user: &User, channels: &'c [Channel]) -> Result<Vec<&'c Channel>, JobError> {
        let named = Find::by(doc! { "name": { "$in": &user.groups } });
        let roles: Vec<Role> = self
            .store
            .all(Collection::Roles, named)
            .await?
            .iter()
            .filter_map(Role::from_document)
            .collect();
        if allowed(&roles, Permission::ChannelViewAll, None) {
            return Ok(channels.iter().collect());
        }
        let mut listed = specified(&roles, Specified::ChannelView);
        listed.extend(specified(&roles, Specified::ChannelManage));
        Ok(channels
            .iter()
            .filter(|channel| listed.contains(&channel.id.to_hex().as_str()))
            .collect())
    }

    /// Each channel's figures. Days are counted in the server's zone; where the period's days are others, its hours are
    /// added up.
    async fn sums(&self, channels: &[&Channel], window: Window) -> Result<HashMap<ObjectId, Row>, JobError> {
        let days = self.sums_of("d", channels, window).await?;
        if window.has_the_days_of(&ServerZone) {
            return Ok(days);
        }
        let mut sums = self.sums_of("h", channels, window).await?;
        for (channel, row) in days {
            // OpenHIM before version 5 counted no hours.
            sums.entry(channel).or_insert(row);
        }
        Ok(sums)
    }

    async fn sums_of(
        &self,
        length: &str,
        channels: &[&Channel],
        window: Window,
    ) -> Result<HashMap<ObjectId, Row>, JobError> {
        let ids: Vec<ObjectId> = channels.iter().map(|channel| channel.id).collect();
        let counted = Find::by(doc! {
            "type": length,
            "startTime": {
                "$gte": DateTime::from_millis(window.from.timestamp_millis()),
                "$lte": DateTime::from_millis(window.to.timestamp_millis()),
            },
            "channelID": { "$in": ids },
        });
        let mut sums: HashMap<ObjectId, (Row, f64)> = HashMap::new();
        for one in self.store.all(Collection::Metrics, counted).await? {
            let (row, response_millis) = sums.entry(one.get_object_id("channelID")?).or_default();
            row.total += count(&one, "requests");
            row.failed += count(&one, "failed");
            row.successful += count(&one, "successful");
            row.processing += count(&one, "processing");
            row.completed += count(&one, "completed");
            row.completed_with_errors += count(&one, "completedWithErrors");
            *response_millis += count(&one, "responseTime") as f64;
        }
        let averaged = |(mut row, millis): (Row, f64)| {
            row.average_response = if row.total == 0 {
                0
            } else {
                (millis / row.total as f64 / 1000.0).round() as u64
            };
            row
        };
        Ok(sums
            .into_iter()
            .map(|(channel, sum)| (channel, averaged(sum)))
            .collect())
    }
}

impl Window {
    /// True if its days begin and end when those of `zone` do.
    fn has_the_days_of(&self, zone: &impl TimeZone) -> bool {
        let begins_a_day = |at: Millis| metrics::Period::Day.start(at, zone) == at;
        begins_a_day(self.from.timestamp_millis()) && begins_a_day(self.to.timestamp_millis() + 1)
    }
}

#[async_trait]
impl Job for Reports {
    fn name(&self) -> &str {
        match self.period {
            Period::Daily => "send daily channel metrics",
            Period::Weekly => "send weekly channel metrics",
        }
    }

    fn interval(&self) -> &str {
        &self.interval
    }

    async fn run(&self, run: Run) -> Result<Document, JobError> {
        let window = self
            .window(run.started)
            .ok_or("the report's period cannot be reckoned")?;
        let wish = match self.period {
            Period::Daily => "dailyReport",
            Period::Weekly => "weeklyReport",
        };
        let documents = self
            .store
            .all(Collection::Channels, Find::default().sorted(doc! { "name": 1 }))
            .await?;
        let channels: Vec<Channel> = documents
            .iter()
            .filter_map(|one| Channel::from_document(one).ok())
            .collect();
        for document in self.store.all(Collection::Users, Find::by(doc! { wish: true })).await? {
            let Some(user) = User::from_document(&document) else {
                continue;
            };
            if let Err(error) = self.report(&user, &channels, window, run.started).await {
                tracing::error!(user.email = %user.email, error = %error, "A report could not be sent");
            }
        }
        Ok(run.data)
    }
}

/// `reports.utcOffset`: minutes, hours (between -16 and 16, as OpenHIM's date library takes them) or text such as
/// `+0200`; anything else is UTC.
fn offset(setting: &serde_json::Value) -> FixedOffset {
    let minutes = match setting {
        serde_json::Value::Number(number) => number.as_i64().map(|n| if n.abs() < 16 { n * 60 } else { n }),
        serde_json::Value::String(text) => clock_minutes(text),
        _ => None,
    };
    let seconds = minutes
        .and_then(|minutes| i32::try_from(minutes * 60).ok())
        .unwrap_or(0);
    FixedOffset::east_opt(seconds).unwrap_or_else(|| chrono::Utc.fix())
}

/// `+02:00`, `-0330`, `+02`.
fn clock_minutes(text: &str) -> Option<i64> {
    let (sign, rest) = match text.trim().split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let digits: String = rest.chars().filter(char::is_ascii_digit).collect();
    let hours: i64 = digits.get(..2)?.parse().ok()?;
    let minutes: i64 = digits.get(2..4).map_or(Some(0), |minutes| minutes.parse().ok())?;
    Some(sign * (hours * 60 + minutes))
}

fn count(day: &Document, field: &str) -> u64 {
    match day.get(field) {
        Some(Bson::Int32(number)) => u64::try_from(*number).unwrap_or(0),
        Some(Bson::Int64(number)) => u64::try_from(*number).unwrap_or(0),
        Some(Bson::Double(number)) => *number as u64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
