//! Copying all documents from one store to another: how an installation changes its database.
//!
//! Documents are copied as they are, in the order of their ids, so that what the target holds tells how far an earlier
//! run came. Then both sides are counted and digested ([`digest`]); collections that differ are gone through once more,
//! document by document. So a run may be interrupted anywhere and repeated as often as one likes: while the source
//! still changes, a later run brings what is new. The source is only read.
//!
//! [`marker`] keeps anyone from working on half a copy. This module never opens or names a database.

mod digest;
mod marker;
mod pass;

#[cfg(test)]
mod tests;

use bson::{Document, doc};

use crate::clock::Clock;
use crate::store::{Collection, Find, SharedStore, Store, StoreError};

pub use self::digest::Digest;
pub use self::marker::{Marker, State, settle};

/// Collections that tell about the nodes at work and mean nothing elsewhere.
const LEFT_BEHIND: [Collection; 3] = [Collection::Nodes, Collection::Leases, Collection::Moves];
/// Documents that are named in a list of what went wrong.
const MOST_TROUBLES: usize = 20;
/// Times that differing collections are gone through again.
const ROUNDS: usize = 3;

/// What a copy is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Bringing what the target has not.
    Copying,
    /// Comparing both sides, document by document.
    Comparing,
    /// Counting and digesting both sides.
    Checking,
}

/// Who is told how a copy goes on.
pub trait Watch: Send + Sync {
    /// A phase begins that looks at about this many documents.
    fn begin(&self, phase: Phase, documents: u64);
    /// From here on it is about this collection.
    fn collection(&self, name: &'static str);
    /// So many documents more were looked at.
    fn advance(&self, documents: u64);
    /// Something that is worth a line.
    fn note(&self, sentence: &str);
}

/// How a copy is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What the source is called; a later run knows by it that it is the same one. Never holds a password.
    pub source: String,
    /// Put the copy in the place of whatever the target holds.
    pub overwrite: bool,
    /// Write nothing: only compare.
    pub only_check: bool,
}

/// What one collection holds on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    pub collection: Collection,
    pub source: Digest,
    pub target: Digest,
}

impl Checked {
    /// True if both sides hold the same documents.
    pub fn is_same(&self) -> bool {
        self.source == self.target
    }
}

/// What came of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Documents that the target did not have.
    pub inserted: u64,
    /// Documents that were different in the target.
    pub replaced: u64,
    /// Documents that the source has not, or no longer.
    pub removed: u64,
    /// Every collection that holds anything on either side.
    pub checked: Vec<Checked>,
    /// Why single documents could not be copied, one sentence each; not more than twenty.
    pub troubles: Vec<String>,
}

impl Report {
    /// True if both sides hold the same.
    pub fn is_complete(&self) -> bool {
        self.troubles.is_empty() && self.checked.iter().all(Checked::is_same)
    }

    fn trouble(&mut self, sentence: String) {
        if self.troubles.len() < MOST_TROUBLES {
            self.troubles.push(sentence);
        }
    }
}

/// Why nothing was copied, or not everything.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("the source holds no documents of OpenHIM; is the database's name right?")]
    Empty,
    #[error(
        "the target holds {documents} documents in {collection} already, and they are no earlier part of this copy; \
         name an empty one, or replace what it holds with --force"
    )]
    Occupied { collection: &'static str, documents: u64 },
    #[error("the source cannot be read")]
    Source(#[source] StoreError),
    #[error("the target cannot be written")]
    Target(#[source] StoreError),
}

impl MoveError {
    /// True if nothing was written.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Empty | Self::Occupied { .. })
    }
}

/// Copies everything from one store to the other and checks the result.
///
/// # Errors
/// The source is empty, the target is somebody else's, or a store fails; then the same call goes on later.
pub async fn copy(
    from: &SharedStore,
    to: &SharedStore,
    clock: &dyn Clock,
    order: &Order,
    watch: &dyn Watch,
) -> Result<Report, MoveError> {
    let counts = counts(&**from).await.map_err(MoveError::Source)?;
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return Err(MoveError::Empty);
    }
    let mut report = Report::default();
    if order.only_check {
        check(from, to, clock, &mut report, &collections(), watch).await?;
        return Ok(report);
    }
    claim(to, clock, order).await?;
    watch.begin(Phase::Copying, total);
    for (collection, _) in &counts {
        watch.collection(collection.name());
        pass::append(from, to, *collection, &mut report, watch).await?;
    }
    check(from, to, clock, &mut report, &collections(), watch).await?;
    for _ in 0..ROUNDS {
        let differing: Vec<Collection> = report
            .checked
            .iter()
            .filter(|checked| !checked.is_same())
            .map(|checked| checked.collection)
            .collect();
        if differing.is_empty() {
            break;
        }
        report.troubles.clear();
        let of = |wanted: &Collection| {
            counts
                .iter()
                .find(|(known, _)| known == wanted)
                .map_or(0, |(_, count)| *count)
        };
        watch.begin(Phase::Comparing, differing.iter().map(of).sum());
        for collection in &differing {
            watch.collection(collection.name());
            pass::compare(from, to, *collection, &mut report, watch).await?;
        }
        check(from, to, clock, &mut report, &differing, watch).await?;
        if !report.troubles.is_empty() {
            break;
        }
    }
    if report.is_complete() {
        mark(to, clock, order, State::Copied).await?;
    }
    Ok(report)
}

/// Lets nodes work on the copy.
///
/// # Errors
/// The target cannot be written.
pub async fn release(to: &SharedStore, clock: &dyn Clock, order: &Order) -> Result<(), MoveError> {
    mark(to, clock, order, State::Done).await
}

async fn mark(to: &SharedStore, clock: &dyn Clock, order: &Order, state: State) -> Result<(), MoveError> {
    let marker = Marker {
        source: order.source.clone(),
        state,
    };
    marker.store(&**to, clock).await.map_err(MoveError::Target)
}

/// Makes sure that the target may be written, and that no node starts on it meanwhile.
async fn claim(to: &SharedStore, clock: &dyn Clock, order: &Order) -> Result<(), MoveError> {
    let marker = Marker::read(&**to).await.map_err(MoveError::Target)?;
    let is_ours = marker.is_some_and(|marker| marker.source == order.source);
    if !is_ours && !order.overwrite {
        for (collection, documents) in counts(&**to).await.map_err(MoveError::Target)? {
            if documents > 0 {
                return Err(MoveError::Occupied {
                    collection: collection.name(),
                    documents,
                });
            }
        }
    }
    mark(to, clock, order, State::Copying).await
}

/// What is copied, the large ones last: people can be looked at early, and what is small fails early.
fn collections() -> Vec<Collection> {
    let large = [
        Collection::Log,
        Collection::Audits,
        Collection::Metrics,
        Collection::Transactions,
    ];
    let small = Collection::ALL
        .into_iter()
        .filter(|it| !LEFT_BEHIND.contains(it) && !large.contains(it));
    small.chain(large).collect()
}

async fn counts(store: &dyn Store) -> Result<Vec<(Collection, u64)>, StoreError> {
    let mut counts = Vec::new();
    for collection in collections() {
        counts.push((collection, store.count(collection, doc! {}).await?));
    }
    Ok(counts)
}

/// Digests both sides of these collections, and puts what came of it into the report.
async fn check(
    from: &SharedStore,
    to: &SharedStore,
    clock: &dyn Clock,
    report: &mut Report,
    collections: &[Collection],
    watch: &dyn Watch,
) -> Result<(), MoveError> {
    let mut expected = 0;
    for collection in collections {
        expected += from.count(*collection, doc! {}).await.map_err(MoveError::Source)?;
        expected += to.count(*collection, doc! {}).await.map_err(MoveError::Target)?;
    }
    watch.begin(Phase::Checking, expected);
    for collection in collections {
        watch.collection(collection.name());
        // What either database deletes by itself soon is no difference.
        let deadline = clock.now() + digest::SOON;
        let (source, target) = tokio::join!(
            digest::of(&**from, *collection, deadline, watch),
            digest::of(&**to, *collection, deadline, watch)
        );
        let checked = Checked {
            collection: *collection,
            source: source.map_err(MoveError::Source)?,
            target: target.map_err(MoveError::Target)?,
        };
        report.checked.retain(|known| known.collection != *collection);
        if checked.source.documents + checked.target.documents > 0 {
            report.checked.push(checked);
        }
    }
    Ok(())
}

/// Everything of a collection in the order of the ids, beginning at one of them.
fn from_id(start: Option<bson::Bson>) -> Find {
    let filter = start.map_or_else(Document::new, |id| doc! {"_id": {"$gte": id}});
    Find::by(filter).sorted(doc! {"_id": 1})
}
