//! Copies between real stores.

use std::sync::atomic::{AtomicU64, Ordering};

use bson::oid::ObjectId;
use bson::{DateTime, doc};

use super::*;
use crate::clock::ManualClock;
use crate::store::Write;
use crate::store::sqlite::{SqliteOptions, SqliteStore};

const NOW: i64 = 1_700_000_000_000;

struct Places {
    from: SharedStore,
    to: SharedStore,
    clock: ManualClock,
    seen: Seen,
    _folder: tempfile::TempDir,
}

#[derive(Default)]
struct Seen(AtomicU64);

impl Watch for Seen {
    fn begin(&self, _: Phase, _: u64) {}
    fn collection(&self, _: &'static str) {}
    fn advance(&self, documents: u64) {
        self.0.fetch_add(documents, Ordering::Relaxed);
    }
    fn note(&self, _: &str) {}
}

impl Places {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| -> SharedStore {
            let options = SqliteOptions {
                sweep_every: std::time::Duration::ZERO,
                ..SqliteOptions::default()
            };
            SqliteStore::open(folder.path().join(name), options).unwrap()
        };
        Self {
            from: open("from.db"),
            to: open("to.db"),
            clock: ManualClock::at(NOW),
            seen: Seen::default(),
            _folder: folder,
        }
    }

    async fn copy(&self, overwrite: bool) -> Result<Report, MoveError> {
        let order = Order {
            source: "there".into(),
            overwrite,
            only_check: false,
        };
        copy(&self.from, &self.to, &self.clock, &order, &self.seen).await
    }

    async fn count(&self, of: Collection) -> u64 {
        self.to.count(of, doc! {}).await.unwrap()
    }
}

fn transactions(count: usize) -> Vec<Write> {
    (0..count)
        .map(|number| Write::Insert {
            into: Collection::Transactions,
            document: doc! {"_id": ObjectId::new(), "number": number as i32, "status": "Successful"},
        })
        .collect()
}

async fn fill(store: &SharedStore, count: usize) {
    for outcome in store.write(&transactions(count)).await.unwrap() {
        outcome.unwrap();
    }
    for email in ["a@x.org", "b@x.org"] {
        let user = doc! {"_id": ObjectId::new(), "email": email, "groups": ["admin"]};
        store.insert(Collection::Users, user).await.unwrap();
    }
}

#[tokio::test]
async fn everything_arrives_and_a_second_run_finds_nothing_to_do() {
    let places = Places::new();
    fill(&places.from, 3000).await;

    let first = places.copy(false).await.unwrap();
    assert!(first.is_complete(), "{first:?}");
    assert_eq!(first.inserted, 3002);
    let second = places.copy(false).await.unwrap();

    assert!(second.is_complete());
    assert_eq!((second.inserted, second.replaced, second.removed), (0, 0, 0));
    assert_eq!(places.count(Collection::Transactions).await, 3000);
    assert_eq!(second.checked.iter().map(|it| it.source.documents).sum::<u64>(), 3002);
}

#[tokio::test]
async fn an_interrupted_run_goes_on_and_finds_the_holes_it_left() {
    let places = Places::new();
    fill(&places.from, 5000).await;
    places.copy(false).await.unwrap();
    // What a kill may leave: the end is missing, and something in the middle too.
    for filter in [doc! {"number": {"$gte": 4000}}, doc! {"number": {"$in": [17, 2500]}}] {
        let delete = Write::Delete {
            from: Collection::Transactions,
            filter,
            many: true,
        };
        places.to.apply(delete).await.unwrap();
    }

    let report = places.copy(false).await.unwrap();

    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.inserted, 1002);
    assert_eq!(places.count(Collection::Transactions).await, 5000);
}

#[tokio::test]
async fn a_later_run_brings_what_was_changed_and_takes_what_was_deleted() {
    let places = Places::new();
    fill(&places.from, 2000).await;
    places.copy(false).await.unwrap();
    places
        .from
        .update(
            Collection::Transactions,
            doc! {"number": 3},
            doc! {"$set": {"status": "Failed"}},
        )
        .await
        .unwrap();
    places
        .from
        .delete(Collection::Transactions, doc! {"number": 4})
        .await
        .unwrap();
    // The name becomes free only when the old owner is gone.
    places
        .from
        .delete(Collection::Users, doc! {"email": "a@x.org"})
        .await
        .unwrap();
    let heir = doc! {"_id": ObjectId::new(), "email": "a@x.org"};
    places.from.insert(Collection::Users, heir).await.unwrap();

    let report = places.copy(false).await.unwrap();

    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.inserted, report.replaced, report.removed), (1, 1, 2));
}

#[tokio::test]
async fn a_target_in_use_is_left_alone_unless_it_is_to_be_overwritten() {
    let places = Places::new();
    fill(&places.from, 10).await;
    let own = doc! {"_id": ObjectId::new(), "email": "a@x.org", "firstname": "Own"};
    places.to.insert(Collection::Users, own).await.unwrap();

    let refused = places.copy(false).await.unwrap_err();
    assert!(refused.is_refusal());
    assert!(refused.to_string().contains("1 documents in users"), "{refused}");
    assert_eq!(places.count(Collection::Transactions).await, 0);

    let report = places.copy(true).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(places.count(Collection::Users).await, 2);
}

#[tokio::test]
async fn a_source_without_documents_is_refused() {
    let refused = Places::new().copy(false).await.unwrap_err();
    assert!(matches!(refused, MoveError::Empty));
}

#[tokio::test]
async fn no_node_starts_on_half_a_copy_and_a_finished_one_is_its_own() {
    let places = Places::new();
    fill(&places.from, 5).await;
    places.copy(false).await.unwrap();
    let order = Order {
        source: "there".into(),
        overwrite: false,
        only_check: false,
    };

    assert_eq!(settle(&*places.to).await.unwrap().as_deref(), Some("there"));
    release(&places.to, &places.clock, &order).await.unwrap();
    assert_eq!(settle(&*places.to).await.unwrap(), None);

    // A node has worked on it since: its documents must not be taken for leftovers.
    let refused = places.copy(false).await.unwrap_err();
    assert!(matches!(refused, MoveError::Occupied { .. }), "{refused}");
}

#[tokio::test]
async fn what_a_database_is_about_to_delete_is_no_difference() {
    let places = Places::new();
    fill(&places.from, 5).await;
    for (age, name) in [(2 * 3600, "old"), (10, "new")] {
        let created = DateTime::from_millis(NOW - age * 1000);
        places
            .from
            .insert(
                Collection::Events,
                doc! {"_id": ObjectId::new(), "created": created, "name": name},
            )
            .await
            .unwrap();
    }
    places.copy(false).await.unwrap();
    places
        .to
        .delete(Collection::Events, doc! {"name": "old"})
        .await
        .unwrap();

    let order = Order {
        source: "there".into(),
        overwrite: false,
        only_check: true,
    };
    let report = copy(&places.from, &places.to, &places.clock, &order, &places.seen)
        .await
        .unwrap();
    assert!(report.is_complete(), "{report:?}");

    places
        .to
        .delete(Collection::Events, doc! {"name": "new"})
        .await
        .unwrap();
    let report = copy(&places.from, &places.to, &places.clock, &order, &places.seen)
        .await
        .unwrap();
    assert!(!report.is_complete());
}

#[tokio::test]
async fn ids_of_any_kind_arrive() {
    let places = Places::new();
    let mut writes = transactions(1500);
    for number in 0..1500 {
        writes.push(Write::Insert {
            into: Collection::Transactions,
            document: doc! {"_id": format!("text-{number}"), "number": number},
        });
    }
    writes.push(Write::Insert {
        into: Collection::Transactions,
        document: doc! {"_id": {"a": 1, "b": [2]}},
    });
    writes.push(Write::Insert {
        into: Collection::Transactions,
        document: doc! {"_id": 7},
    });
    for outcome in places.from.write(&writes).await.unwrap() {
        outcome.unwrap();
    }
    let report = places.copy(false).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(places.count(Collection::Transactions).await, 3002);
    places
        .to
        .delete(Collection::Transactions, doc! {"_id": 7})
        .await
        .unwrap();
    let report = places.copy(false).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
}
