//! Whatever SQL is asked, the answer is the matcher's: generated documents and filters over the typed columns.

use bson::{Bson, Document, RawDocumentBuf, doc};

use super::*;
use crate::store::query::tests::generate::Chance;

/// Paths with and without a column, with and without an index that starts with it.
const PATHS: [&str; 11] = [
    "status",
    "parentID",
    "childIDs",
    "request.timestamp",
    "request.path",
    "response.status",
    "request.host",
    "other",
    "routes.a",
    "properties.b",
    "wasRerun",
];

fn id(document: &Document) -> i32 {
    document.get_i32("_id").unwrap()
}

#[tokio::test]
async fn the_planner_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut chance = Chance::over(&PATHS);
    for (round, odd_values) in [false, true].into_iter().enumerate() {
        let store: SharedStore = open(&folder.path().join(format!("{round}.db")));
        let documents: Vec<Document> = (0..300).map(|id| chance.stored(id, odd_values)).collect();
        let raws: Vec<RawDocumentBuf> = documents
            .iter()
            .map(|document| RawDocumentBuf::try_from(document).unwrap())
            .collect();
        let batch = documents.iter().map(|document| Write::Insert {
            into: Collection::Transactions,
            document: document.clone(),
        });
        store.write(&batch.collect::<Vec<_>>()).await.unwrap();
        for _ in 0..1500 {
            let filter = chance.filter(2);
            let Ok(compiled) = Filter::compile(&filter) else {
                continue;
            };
            let expected: Vec<i32> = (0..300).filter(|id| compiled.matches(&raws[*id as usize])).collect();

            let found = store
                .all(Collection::Transactions, Find::by(filter.clone()))
                .await
                .unwrap();
            assert_eq!(found.iter().map(id).collect::<Vec<_>>(), expected, "{filter:?}");
            let count = store.count(Collection::Transactions, filter.clone()).await.unwrap();
            assert_eq!(count, expected.len() as u64, "counting {filter:?}");

            let sort: Document = (0..=chance.below(2))
                .map(|_| (chance.path(), Bson::Int32(chance.direction())))
                .collect();
            let order = SortOrder::compile(&sort).unwrap();
            let (skip, limit) = (chance.below(4) as u64, chance.below(20) as u64);
            let find = Find {
                skip,
                ..Find::by(filter.clone()).sorted(sort.clone()).limited(limit)
            };
            let page = store.all(Collection::Transactions, find).await.unwrap();
            let mut keys: Vec<_> = expected.iter().map(|id| order.key(&raws[*id as usize])).collect();
            keys.sort_by(|a, b| order.compare(a, b));
            let most = if limit == 0 { usize::MAX } else { limit as usize };
            let keys: Vec<_> = keys.into_iter().skip(skip as usize).take(most).collect();
            assert_eq!(page.len(), keys.len(), "{filter:?} {sort}");
            for (document, key) in page.iter().zip(&keys) {
                assert!(expected.contains(&id(document)));
                let own = order.key(&raws[id(document) as usize]);
                assert!(
                    order.compare(&own, key).is_eq(),
                    "{filter:?} {sort}: {document:?} where {key:?} belongs"
                );
            }
        }
    }
}

#[tokio::test]
async fn changes_find_what_queries_find() {
    let folder = tempfile::tempdir().unwrap();
    let store: SharedStore = open(&folder.path().join("changes.db"));
    let mut chance = Chance::over(&PATHS);
    for round in 0..60 {
        let all = Write::Delete {
            from: Collection::Transactions,
            filter: doc! {},
            many: true,
        };
        store.apply(all).await.unwrap();
        let documents: Vec<Document> = (0..50).map(|id| chance.stored(id, round % 2 == 0)).collect();
        let batch = documents.iter().map(|document| Write::Insert {
            into: Collection::Transactions,
            document: document.clone(),
        });
        store.write(&batch.collect::<Vec<_>>()).await.unwrap();
        let (filter, path) = (chance.filter(1), chance.path());
        let Ok(compiled) = Filter::compile(&filter) else {
            continue;
        };
        let update = doc! {"$set": {path.clone(): chance.scalar()}};
        let (Ok(applied), matches) = (Update::compile(&update), |document: &Document| {
            compiled.matches(&RawDocumentBuf::try_from(document).unwrap())
        }) else {
            continue;
        };
        let moment = crate::store::query::Moment {
            now: DateTime::from_millis(0),
            inserting: false,
        };
        let expected: Result<Vec<Document>> = documents
            .iter()
            .map(|document| {
                let mut after = document.clone();
                if matches(document) {
                    applied.apply(&mut after, None, moment)?;
                }
                Ok(after)
            })
            .collect();
        let Ok(expected) = expected else {
            continue;
        };
        let change = Write::Update {
            of: Collection::Transactions,
            filter: filter.clone(),
            update: update.clone(),
            many: true,
            upsert: false,
        };
        let written = store.apply(change).await.unwrap();
        assert_eq!(
            written.matched,
            documents.iter().filter(|document| matches(document)).count() as u64
        );
        let found = store.all(Collection::Transactions, Find::default()).await.unwrap();
        assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{filter:?} {update:?}");
        // The columns followed the documents.
        for path in PATHS {
            for value in [Bson::Null, chance.scalar()] {
                let filter = doc! {path: value};
                let compiled = Filter::compile(&filter).unwrap();
                let wanted = found
                    .iter()
                    .filter(|document| compiled.matches(&RawDocumentBuf::try_from(*document).unwrap()))
                    .count();
                assert_eq!(
                    store.count(Collection::Transactions, filter.clone()).await.unwrap(),
                    wanted as u64,
                    "{filter:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_list_that_is_looked_for_in_pieces_has_everything_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store: SharedStore = open(&folder.path().join("long.db"));
    let count = 12_500;
    // Several have the same time, every thirteenth has none, and they were not written in the order of time.
    let time = |number: i32| (number % 13 != 0).then_some(i64::from(number * 7919 % count) / 3);
    let insert = |number: i32| {
        let mut document = doc! {"_id": number, "channelID": number % 2};
        if let Some(time) = time(number) {
            document.insert("request", doc! {"timestamp": date(time)});
        }
        Write::Insert {
            into: Collection::Transactions,
            document,
        }
    };
    store.write(&(0..count).map(insert).collect::<Vec<_>>()).await.unwrap();

    for (filter, sort, skip) in [
        (doc! {}, doc! {}, 0),
        (doc! {}, doc! {"request.timestamp": -1}, 0),
        (doc! {}, doc! {"request.timestamp": 1}, 7),
        (doc! {"channelID": {"$in": [0, 1]}}, doc! {"request.timestamp": -1}, 3),
        (doc! {"other": null}, doc! {"request.timestamp": -1}, 5),
    ] {
        let find = Find {
            skip,
            ..Find::by(filter.clone()).sorted(sort.clone())
        };
        let found = store.all(Collection::Transactions, find).await.unwrap();

        let times: Vec<Option<i64>> = found.iter().map(|document| time(id(document))).collect();
        let mut ids: Vec<i32> = found.iter().map(id).collect();
        assert_eq!(ids.len(), (count - skip as i32) as usize, "{filter} {sort}");
        let in_order = match sort.get_i32("request.timestamp") {
            Ok(1) => times.is_sorted(),
            Ok(_) => times.is_sorted_by(|one, other| one >= other),
            Err(_) => ids.is_sorted(),
        };
        assert!(in_order, "{filter} {sort}");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), found.len(), "{filter} {sort}");
    }
}
