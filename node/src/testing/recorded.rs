//! What a node has recorded, waited for with a deadline.

use bson::{Bson, Document, doc};

use super::eventually;
use crate::store::{Collection, Find, SharedStore};

/// The transactions in a store.
#[derive(Clone, Debug)]
pub struct Recorded {
    store: SharedStore,
}

impl Recorded {
    pub(super) fn of(store: SharedStore) -> Self {
        Self { store }
    }

    /// Everything that is there now, oldest first.
    pub async fn all(&self) -> Vec<Transaction> {
        let found = self.store.all(Collection::Transactions, Find::by(doc! {})).await;
        found.expect("the store answers").into_iter().map(Transaction).collect()
    }

    /// Waits until this many transactions are closed.
    pub async fn closed(&self, count: usize) -> Vec<Transaction> {
        eventually(&format!("{count} closed transactions"), async || {
            let all = self.all().await;
            let closed = all.iter().filter(|tx| tx.is_closed()).count();
            (closed >= count).then_some(all)
        })
        .await
    }

    /// Waits for the only transaction and its end.
    pub async fn only(&self) -> Transaction {
        let mut all = self.closed(1).await;
        assert_eq!(all.len(), 1, "{} transactions were recorded", all.len());
        all.remove(0)
    }

    /// How many transactions there are now.
    pub async fn count(&self) -> usize {
        self.all().await.len()
    }

    /// Waits until a collection holds this many documents.
    pub async fn documents(&self, of: Collection, count: usize) -> Vec<Document> {
        eventually(&format!("{count} documents in {}", of.name()), async || {
            let found = self.store.all(of, Find::by(doc! {})).await.expect("the store answers");
            (found.len() >= count).then_some(found)
        })
        .await
    }
}

/// A recorded transaction.
#[derive(Clone, Debug)]
pub struct Transaction(pub Document);

impl Transaction {
    pub fn status(&self) -> &str {
        self.0.get_str("status").unwrap_or_default()
    }

    fn is_closed(&self) -> bool {
        !self.0.contains_key(crate::record::OWNER)
    }

    /// The value at a path such as `request.headers.host` or `orchestrations.0.name`.
    pub fn at(&self, path: &str) -> Option<&Bson> {
        let mut steps = path.split('.');
        let mut place = self.0.get(steps.next()?)?;
        for step in steps {
            place = match place {
                Bson::Document(fields) => fields.get(step)?,
                Bson::Array(items) => items.get(step.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(place)
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.at(path).and_then(Bson::as_str)
    }

    pub fn number(&self, path: &str) -> Option<i64> {
        match self.at(path)? {
            Bson::Int32(number) => Some(i64::from(*number)),
            Bson::Int64(number) => Some(*number),
            _ => None,
        }
    }

    pub fn flag(&self, path: &str) -> Option<bool> {
        self.at(path).and_then(Bson::as_bool)
    }
}
