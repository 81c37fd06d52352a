//! Keeps the tables as the store has them.

use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocumentBuf, doc};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{ChannelTable, ClientTable, Live, Tables};
use crate::config::Caching;
use crate::store::{Collection, Find, SharedStore, StoreError};

/// The tables could not be read.
#[derive(Debug, thiserror::Error)]
#[error("could not read the {collection}")]
pub struct RefreshError {
    collection: &'static str,
    #[source]
    source: StoreError,
}

impl RefreshError {
    fn of(collection: Collection) -> impl FnOnce(StoreError) -> Self {
        move |source| Self {
            collection: collection.name(),
            source,
        }
    }
}

/// How the tables follow the store.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `None`: every message asks the store.
    pub every: Option<Duration>,
    /// Bound of a pattern's work.
    pub pattern_steps: usize,
}

impl Settings {
    /// As the settings say.
    pub fn new(caching: &Caching, pattern_steps: usize) -> Self {
        Self {
            every: caching
                .enabled
                .then(|| Duration::from_millis(caching.refresh_millis.max(1))),
            pattern_steps,
        }
    }
}

/// Makes the snapshots that [`Live`] shows.
#[derive(Debug)]
pub struct Keeper {
    store: SharedStore,
    live: Live<Tables>,
    settings: Settings,
    changes: watch::Sender<()>,
    /// What the present snapshot was made of. Held while a new one is made.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    channels: Source,
    clients: Source,
}

/// A collection as it was read last.
#[derive(Debug, Default)]
struct Source {
    version: Option<u64>,
    /// Kept only where the store has no version.
    raw: Vec<RawDocumentBuf>,
    is_read: bool,
}

impl Keeper {
    pub const NAME: &'static str = "tables";

    /// Reads the tables for the first time.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn open(store: SharedStore, settings: Settings) -> Result<Self, RefreshError> {
        let keeper = Self {
            store,
            live: Live::new(Tables::default()),
            settings,
            changes: watch::channel(()).0,
            seen: Mutex::new(Seen::default()),
        };
        keeper.refresh().await?;
        Ok(keeper)
    }

    /// The present snapshot; not older than `caching.refreshMillis`.
    pub fn load(&self) -> Arc<Tables> {
        self.live.load()
    }

    /// The snapshot for one message: the present one, or what the store holds at this moment if caching is off.
    ///
    /// # Errors
    /// Caching is off and the store does not answer.
    pub async fn for_message(&self) -> Result<Arc<Tables>, RefreshError> {
        if self.settings.every.is_none() {
            self.refresh().await?;
        }
        Ok(self.load())
    }

    /// Tells whenever there is a new snapshot.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Follows the store now.
    ///
    /// # Errors
    /// The store does not answer; the present snapshot stays.
    pub async fn refresh(&self) -> Result<(), RefreshError> {
        let mut seen = self.seen.lock().await;
        let present = self.live.load();
        let mut next = Tables::clone(&present);
        let mut is_changed = false;
        if let Some(raw) = self.changed(Collection::Channels, &mut seen.channels).await? {
            next.channels = Arc::new(ChannelTable::build(raw, &present.channels, self.settings.pattern_steps));
            is_changed = true;
        }
        if let Some(raw) = self.changed(Collection::Clients, &mut seen.clients).await? {
            next.clients = Arc::new(ClientTable::build(raw, &present.clients));
            is_changed = true;
        }
        if is_changed {
            self.live.publish(Arc::new(next));
            self.changes.send_replace(());
        }
        Ok(())
    }

    /// The collection's documents if they are not those that were read last.
    async fn changed(
        &self,
        collection: Collection,
        source: &mut Source,
    ) -> Result<Option<Vec<RawDocumentBuf>>, RefreshError> {
        let failed = RefreshError::of(collection);
        // Asked before reading: what changes in between is read twice rather than missed.
        let version = match self.store.version(collection).await {
            Ok(version) => version,
            Err(error) => return Err(failed(error)),
        };
        if source.is_read && version.is_some() && version == source.version {
            return Ok(None);
        }
        let raw = self.read(collection).await.map_err(failed)?;
        source.version = version;
        let is_same = source.is_read && version.is_none() && source.raw == raw;
        source.is_read = true;
        if is_same {
            return Ok(None);
        }
        source.raw = if version.is_none() { raw.clone() } else { Vec::new() };
        Ok(Some(raw))
    }

    async fn read(&self, collection: Collection) -> Result<Vec<RawDocumentBuf>, StoreError> {
        let mut cursor = self.store.find(collection, Find::by(doc! {})).await?;
        let mut raw = Vec::new();
        while let Some(document) = cursor.next().await {
            raw.push(document?);
        }
        Ok(raw)
    }

    /// Follows the store until `stop`. With caching off, messages do so themselves.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(every) = self.settings.every else {
            return;
        };
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.refresh().await {
                Ok(()) => is_failing = false,
                Err(error) => {
                    if !is_failing {
                        warn!(
                            error = &error as &dyn std::error::Error,
                            "Channels and clients stay as they were"
                        );
                    }
                    is_failing = true;
                }
            }
        }
    }
}
