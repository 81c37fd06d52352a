//! What a collection holds, in one number that both sides can be compared by.
//!
//! The sum of the documents' hashes does not depend on the order in which a database gives them out.

use bson::{DateTime, RawBsonRef, RawDocument};
use sha2::{Digest as _, Sha256};

use super::Watch;
use crate::clock::Millis;
use crate::store::{Collection, Find, Result, Store};

/// What would be deleted by itself within this time is not counted.
pub(super) const SOON: Millis = 10 * 60 * 1000;
/// Documents between two reports of progress.
const STRIDE: u64 = 256;

/// Number and sum of the documents of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    pub documents: u64,
    /// The sum, modulo 2¹²⁸, of the first halves of the documents' SHA-256.
    pub sum: u128,
}

impl Digest {
    fn add(&mut self, document: &RawDocument) {
        let hash = Sha256::digest(document.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        self.documents += 1;
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(half));
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.sum)
    }
}

/// Digests a collection, but for what is past its time at `deadline`.
pub(super) async fn of(
    store: &dyn Store,
    collection: Collection,
    deadline: Millis,
    watch: &dyn Watch,
) -> Result<Digest> {
    let mut cursor = store.find(collection, Find::default()).await?;
    let mut digest = Digest::default();
    let mut seen = 0;
    while let Some(document) = cursor.next().await {
        let document = document?;
        if !is_past(collection, &document, deadline) {
            digest.add(&document);
        }
        seen += 1;
        if seen % STRIDE == 0 {
            watch.advance(STRIDE);
        }
    }
    watch.advance(seen % STRIDE);
    Ok(digest)
}

/// True if an index of the collection has the document deleted by `deadline`.
pub(super) fn is_past(collection: Collection, document: &RawDocument, deadline: Millis) -> bool {
    collection.indexes().iter().any(|index| {
        let Some((path, seconds)) = index.keys.keys().next().zip(index.expire_after_seconds) else {
            return false;
        };
        let is_meant = index.partial.as_ref().is_none_or(|partial| {
            partial.iter().all(|(field, value)| {
                let stored = document.get(field).ok().flatten();
                stored.and_then(RawBsonRef::as_str) == value.as_str()
            })
        });
        let latest = DateTime::from_millis(deadline - i64::try_from(seconds).unwrap_or(i64::MAX) * 1000);
        is_meant && matches!(document.get(path), Ok(Some(RawBsonRef::DateTime(at))) if at < latest)
    })
}
