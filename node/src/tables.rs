//! What the hot path reads: channels and clients, compiled, in one immutable snapshot.
//!
//! A message takes the snapshot once ([`Live::load`]) and sees channels and clients of one moment. [`Keeper`] makes the
//! snapshots: at once when the management API has changed something, and by watching the store for what others change.
//! Nothing here writes to the store.

mod channels;
mod clients;
mod keeper;
mod urls;

use std::sync::Arc;

use arc_swap::ArcSwap;

pub use self::channels::{ChannelEntry, ChannelTable, Content, RouteEntry, Target, Whitelist};
pub use self::clients::{ClientEntry, ClientTable};
pub use self::keeper::{Keeper, RefreshError, Settings};

/// A value that one task replaces and everybody reads.
#[derive(Debug)]
pub struct Live<T>(ArcSwap<T>);

impl<T> Live<T> {
    /// Shows `value` until the first [`Live::publish`].
    pub fn new(value: T) -> Self {
        Self(ArcSwap::from_pointee(value))
    }

    /// The present value.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Shows `value` to everybody who loads from now on.
    pub fn publish(&self, value: Arc<T>) {
        self.0.store(value);
    }
}

/// One moment's channels and clients.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub channels: Arc<ChannelTable>,
    pub clients: Arc<ClientTable>,
}
