//! Polls the channels of type `polling` on their schedules: one job for each, by OpenHIM's name for it.
//!
//! Which jobs there are follows from the tables. A poll itself is an errand for an instance; the job only says when.
//! Of runs that were missed while no node was up, one is made up for; a channel that is disabled or deleted is forgotten,
//! so that it starts anew when it comes back.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bson::Document;
use bson::oid::ObjectId;
use tracing::{error, info};

use super::schedule::Schedule;
use super::{Job, JobError, Run};
use crate::model::channel::{Channel, ChannelKind};
use crate::pipeline::Errands;
use crate::tables::Keeper;

/// What the names of these jobs begin with.
pub const PREFIX: &str = "polling-job-";

/// Makes the jobs of polling channels.
#[derive(Debug)]
pub struct Polls {
    tables: Arc<Keeper>,
    errands: Errands,
    /// Channels and schedules that were complained about.
    unusable: Mutex<HashSet<(ObjectId, Option<String>)>>,
}

impl Polls {
    /// For the channels in `tables`.
    pub fn new(tables: Arc<Keeper>, errands: Errands) -> Self {
        Self {
            tables,
            errands,
            unusable: Mutex::default(),
        }
    }

    /// The jobs that should exist at this moment.
    pub fn jobs(&self) -> Vec<Arc<dyn Job>> {
        let tables = self.tables.load();
        let channels = tables.channels.in_order().iter().map(|entry| &entry.channel);
        channels
            .filter(|channel| channel.kind == ChannelKind::Polling && channel.is_enabled())
            .filter_map(|channel| self.job(channel))
            .collect()
    }

    fn job(&self, channel: &Channel) -> Option<Arc<dyn Job>> {
        match &channel.polling_schedule {
            Some(schedule) if Schedule::parse(schedule).is_ok() => Some(Arc::new(Poll {
                channel: channel.id,
                name: format!("{PREFIX}{}", channel.id),
                schedule: schedule.clone(),
                errands: self.errands.clone(),
            })),
            schedule => {
                self.complain(channel, schedule.clone());
                None
            }
        }
    }

    fn complain(&self, channel: &Channel, schedule: Option<String>) {
        let mut unusable = self.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, name) = (channel.id, &channel.name);
        let reason = match schedule.as_deref().map(Schedule::parse) {
            Some(Err(error)) => error.to_string(),
            _ => "no polling schedule set on this channel".to_owned(),
        };
        if unusable.insert((id, schedule)) {
            error!(channel.id = %id, "Channel {name} ({id}) is not polled: {reason}");
        }
    }
}

/// The job of one channel.
#[derive(Debug)]
struct Poll {
    channel: ObjectId,
    name: String,
    schedule: String,
    errands: Errands,
}

#[async_trait]
impl Job for Poll {
    fn name(&self) -> &str {
        &self.name
    }

    fn interval(&self) -> &str {
        &self.schedule
    }

    async fn run(&self, run: Run) -> Result<Document, JobError> {
        info!(channel.id = %self.channel, "Polling channel {}", self.channel);
        self.errands.poll(self.channel, run.started).await?;
        Ok(run.data)
    }
}
