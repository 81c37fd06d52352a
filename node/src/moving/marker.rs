//! A document in the target that says what the copy is of and how far it is.
//!
//! While it says that a copy is under way, no node starts on the store. The first start on a finished copy takes it
//! away: from then on the store is its own, and a further run of the copy needs to be told to overwrite it.

use bson::{Document, doc};

use crate::clock::Clock;
use crate::store::{Collection, Store, StoreError, Write};

const ID: &str = "copy";

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Copying,
    /// Everything is there; older documents are still to be brought up to date.
    Copied,
    Done,
}

impl State {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Copying, "copying"),
        (Self::Copied, "copied"),
        (Self::Done, "done"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or("", |it| it.1)
    }
}

/// What the target knows about the copy in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    pub source: String,
    pub state: State,
}

impl Marker {
    /// The marker of a store, if it has one.
    ///
    /// # Errors
    /// The store fails.
    pub async fn read(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let stored = store.one(Collection::Moves, doc! {"_id": ID}).await?;
        Ok(stored.map(|stored| {
            let text = |field: &str| stored.get_str(field).unwrap_or_default();
            Self {
                source: text("source").to_owned(),
                state: State::ALL
                    .iter()
                    .find(|(_, name)| *name == text("state"))
                    .map_or(State::Copying, |it| it.0),
            }
        }))
    }

    pub(super) async fn store(&self, store: &dyn Store, clock: &dyn Clock) -> Result<(), StoreError> {
        let document: Document = doc! {
            "_id": ID, "source": &*self.source, "state": self.state.name(), "at": clock.date(),
        };
        let write = Write::Replace {
            of: Collection::Moves,
            filter: doc! {"_id": ID},
            document,
            upsert: true,
        };
        store.apply(write).await.map(drop)
    }
}

/// Answers with what a copy that is under way is of; a finished one is the store's own from here on.
///
/// # Errors
/// The store fails.
pub async fn settle(store: &dyn Store) -> Result<Option<String>, StoreError> {
    match Marker::read(store).await? {
        None => Ok(None),
        Some(Marker { state: State::Done, .. }) => {
            store.delete(Collection::Moves, doc! {"_id": ID}).await?;
            Ok(None)
        }
        Some(unfinished) => Ok(Some(unfinished.source)),
    }
}
