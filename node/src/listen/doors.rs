//! The ports of TCP and TLS channels: which should be open is what the tables say, on every node.
//!
//! [`Doorkeeper`] compares the tables with what is open, whenever they change, and shows what is open to the instances;
//! each accepts on a socket of its own. A port that cannot be opened is said once and tried again until it can. Nothing
//! here reads a byte of a connection.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bson::oid::ObjectId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Bound;
use crate::model::channel::{Channel, ChannelKind};
use crate::tables::{ChannelTable, Keeper};

/// How often a port that could not be opened is tried again, and tables that do not tell of changes are looked at.
const AGAIN: Duration = Duration::from_secs(1);
/// Every address, as OpenHIM has it.
const ANY: &str = "0.0.0.0";

/// An open port.
#[derive(Debug)]
pub struct Door {
    pub channel: ObjectId,
    pub is_tls: bool,
    pub bound: Bound,
    /// No new connections; those that are open end with their present message.
    pub closed: CancellationToken,
    place: Place,
    number: u64,
}

impl Door {
    /// Tells doors apart, also those that one channel had one after the other.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

/// All open ports.
pub type Doors = Arc<[Arc<Door>]>;

/// What a channel's port has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    channel: ObjectId,
    host: Option<String>,
    port: Option<u16>,
    is_tls: bool,
}

impl Place {
    fn of(channel: &Channel) -> Option<Self> {
        let is_tls = match channel.kind {
            ChannelKind::Tcp => false,
            ChannelKind::Tls => true,
            ChannelKind::Http | ChannelKind::Polling => return None,
        };
        channel.is_enabled().then(|| Self {
            channel: channel.id,
            host: channel.tcp_host.clone(),
            port: channel.tcp_port.filter(|port| *port != 0),
            is_tls,
        })
    }

    fn kind(&self) -> &'static str {
        if self.is_tls { "TLS" } else { "TCP" }
    }
}

/// Opens and closes ports as channels come, change and go.
#[derive(Debug)]
pub struct Doorkeeper {
    tables: Arc<Keeper>,
    instances: usize,
    shown: watch::Sender<Doors>,
    open: Vec<Arc<Door>>,
    /// What could not be opened, and how often that was tried.
    shut: HashMap<ObjectId, (Place, u32)>,
    /// The channels that were looked at last.
    seen: Weak<ChannelTable>,
    count: u64,
}

impl Doorkeeper {
    /// Nothing is open yet; the receiver shows what is.
    pub fn new(tables: Arc<Keeper>, instances: usize) -> (Self, watch::Receiver<Doors>) {
        let (shown, doors) = watch::channel(Doors::default());
        let keeper = Self {
            tables,
            instances,
            shown,
            open: Vec::new(),
            shut: HashMap::new(),
            seen: Weak::new(),
            count: 0,
        };
        (keeper, doors)
    }

    /// Follows the tables until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.tables.changes();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = changes.changed() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
            self.reconcile().await;
        }
    }

    /// Opens and closes what has to be.
    pub async fn reconcile(&mut self) {
        let Ok(tables) = self.tables.for_message().await else {
            // Said by those who need the tables more.
            return;
        };
        let is_seen = std::ptr::eq(self.seen.as_ptr(), Arc::as_ptr(&tables.channels));
        if is_seen && self.shut.is_empty() {
            return;
        }
        self.seen = Arc::downgrade(&tables.channels);
        let wanted: Vec<_> = tables
            .channels
            .in_order()
            .iter()
            .filter_map(|entry| Some((Place::of(&entry.channel)?, entry.channel.name.clone())))
            .collect();
        let mut is_changed = self.close(|place| wanted.iter().any(|(wanted, _)| wanted == place));
        self.shut
            .retain(|_, (place, _)| wanted.iter().any(|(wanted, _)| wanted == place));
        for (place, name) in wanted {
            if self.open.iter().all(|door| door.place != place) {
                is_changed |= self.open(place, &name).await;
            }
        }
        if is_changed {
            self.shown.send_replace(self.open.as_slice().into());
        }
    }

    fn close(&mut self, is_wanted: impl Fn(&Place) -> bool) -> bool {
        let before = self.open.len();
        self.open.retain(|door| {
            let is_kept = is_wanted(&door.place);
            if !is_kept {
                door.closed.cancel();
                let id = door.channel;
                info!(channel.id = %id, "Channel {id}: Stopped {} server", door.place.kind());
            }
            is_kept
        });
        self.open.len() != before
    }

    async fn open(&mut self, place: Place, name: &str) -> bool {
        let (id, kind) = (place.channel, place.kind());
        let tried = self.shut.get(&id).map_or(0, |(_, tried)| *tried);
        let Some(port) = place.port else {
            if tried == 0 {
                error!(channel.id = %id, "Channel {name} ({id}): TCP port not defined");
            }
            self.shut.insert(id, (place, tried.saturating_add(1)));
            return false;
        };
        match bind(&place, port, self.instances).await {
            Ok(bound) => {
                info!(channel.id = %id, port, "Channel {name} ({id}): {kind} server listening on port {port}");
                self.shut.remove(&id);
                self.count += 1;
                self.open.push(Arc::new(Door {
                    channel: id,
                    is_tls: place.is_tls,
                    bound,
                    closed: CancellationToken::new(),
                    place,
                    number: self.count,
                }));
                true
            }
            Err(error) => {
                // A port that another of our own channels has just left is free a moment later.
                let is_said = if error.kind() == io::ErrorKind::AddrInUse {
                    tried == 1
                } else {
                    tried == 0
                };
                if is_said {
                    warn!(
                        channel.id = %id, port, %error,
                        "Channel {name} ({id}): {kind} server cannot listen on port {port}; it is tried again every second"
                    );
                }
                self.shut.insert(id, (place, tried.saturating_add(1)));
                false
            }
        }
    }
}

async fn bind(place: &Place, port: u16, instances: usize) -> io::Result<Bound> {
    let host = place.host.as_deref().unwrap_or(ANY);
    let address = address(host, port).await?;
    let bound = Bound::new("a channel", address, instances).map_err(|error| error.source)?;
    bound.listen().map_err(|error| error.source)?;
    Ok(bound)
}

async fn address(host: &str, port: u16) -> io::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host((host, port)).await?;
    found
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))
}
