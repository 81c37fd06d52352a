//! What every store must do, whatever is behind it: one suite, run over each.
//!
//! Each function takes a store whose collections are empty. Names say what holds.

mod changes;

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, RawDocumentBuf, doc, rawdoc};

use super::query::Sums;
use super::{Collection, Find, FindAndUpdate, SharedStore, StoreError, Write};

/// Runs the whole suite; `fresh` gives an empty store for each part.
pub(in crate::store) async fn everything<F, R>(fresh: F)
where
    F: Fn() -> R,
    R: Future<Output = SharedStore>,
{
    what_was_inserted_is_found(&fresh().await).await;
    a_missing_document_is_no_error(&fresh().await).await;
    documents_come_in_the_order_of_insertion(&fresh().await).await;
    sorting_skipping_and_limiting_make_pages(&fresh().await).await;
    an_array_is_sorted_by_its_smallest_or_greatest_element(&fresh().await).await;
    only_the_fields_asked_for_are_handed_out(&fresh().await).await;
    a_long_result_arrives_whole(&fresh().await).await;
    filters_mean_what_they_mean_in_mongodb(&fresh().await).await;
    what_is_not_understood_is_refused(&fresh().await).await;
    counting_agrees_with_finding(&fresh().await).await;
    numbers_are_added_up_by_groups(&fresh().await).await;
    what_documents_occupy_is_added_up_by_a_field(&fresh().await).await;
    what_few_documents_have_is_found_among_all(&fresh().await).await;
    changes::updates_tell_what_they_matched_and_changed(&fresh().await).await;
    changes::fields_are_set_and_removed_in_their_places(&fresh().await).await;
    changes::large_fields_that_are_set_together_arrive(&fresh().await).await;
    changes::the_matched_element_is_updated(&fresh().await).await;
    changes::an_upsert_makes_what_the_filter_and_update_say(&fresh().await).await;
    changes::a_replacement_keeps_the_id(&fresh().await).await;
    changes::deleting_removes_one_or_all(&fresh().await).await;
    changes::a_batch_is_written_in_order(&fresh().await).await;
    changes::a_write_that_fails_alone_does_not_stop_the_rest(&fresh().await).await;
    changes::a_unique_value_is_taken_once(&fresh().await).await;
    changes::a_partial_unique_index_lets_others_pass(&fresh().await).await;
    changes::an_update_into_a_taken_value_is_refused(&fresh().await).await;
    changes::find_and_update_answers_before_or_after(&fresh().await).await;
    changes::of_many_takers_one_gets_the_lease(&fresh().await).await;
    changes::concurrent_increments_all_count(&fresh().await).await;
    a_document_of_many_megabytes_comes_back(&fresh().await).await;
    a_document_beyond_the_limit_is_refused(&fresh().await).await;
    every_type_comes_back_as_it_was(&fresh().await).await;
    collections_do_not_mix(&fresh().await).await;
    the_store_answers_and_knows_its_size(&fresh().await).await;
}

async fn insert_all(store: &SharedStore, into: Collection, documents: impl IntoIterator<Item = Document>) {
    let batch: Vec<Write> = documents
        .into_iter()
        .map(|document| Write::Insert { into, document })
        .collect();
    for outcome in store.write(&batch).await.unwrap() {
        outcome.unwrap();
    }
}

async fn ids(store: &SharedStore, from: Collection, find: Find) -> Vec<i32> {
    let documents = store.all(from, find).await.unwrap();
    documents
        .iter()
        .map(|document| document.get_i32("_id").unwrap())
        .collect()
}

fn date(millis: i64) -> Bson {
    Bson::DateTime(DateTime::from_millis(millis))
}

/// A recorded request, as the engine writes it, cut down.
fn transaction(id: i32, status: &str, path: &str, at: i64) -> Document {
    doc! {
        "_id": id, "status": status, "childIDs": [], "routes": [],
        "request": {"path": path, "method": "GET", "timestamp": date(at), "headers": {"a": "b"}},
        "response": {"status": 200 + id % 2},
    }
}

async fn what_was_inserted_is_found(store: &SharedStore) {
    let id = ObjectId::new();
    let channel = doc! {"_id": id, "name": "lab", "allow": ["a", "b"], "routes": [{"name": "r", "port": 80}]};

    store.insert(Collection::Channels, channel.clone()).await.unwrap();

    let found = store.one(Collection::Channels, doc! {"_id": id}).await.unwrap();
    assert_eq!(found, Some(channel));
}

async fn a_missing_document_is_no_error(store: &SharedStore) {
    let nobody = doc! {"email": "nobody@example.org"};
    assert_eq!(store.one(Collection::Users, nobody.clone()).await.unwrap(), None);
    assert_eq!(store.count(Collection::Users, nobody.clone()).await.unwrap(), 0);
    let written = store
        .update(Collection::Users, nobody.clone(), doc! {"$set": {"a": 1}})
        .await
        .unwrap();
    assert_eq!((written.matched, written.modified), (0, 0));
    let written = store.delete(Collection::Users, nobody).await.unwrap();
    assert_eq!((written.matched, written.modified), (0, 0));
}

async fn documents_come_in_the_order_of_insertion(store: &SharedStore) {
    insert_all(
        store,
        Collection::Tasks,
        [5, 3, 9, 1].map(|id| doc! {"_id": id, "status": "Queued"}),
    )
    .await;
    assert_eq!(ids(store, Collection::Tasks, Find::default()).await, [5, 3, 9, 1]);
}

async fn sorting_skipping_and_limiting_make_pages(store: &SharedStore) {
    let statuses = ["Successful", "Failed"];
    let transactions =
        (0..20).map(|id| transaction(id, statuses[id as usize % 2], "/p", 1000 + i64::from(id * 7 % 20)));
    insert_all(store, Collection::Transactions, transactions).await;
    let newest = |filter: Document, skip: u64, limit: u64| Find {
        skip,
        ..Find::by(filter).sorted(doc! {"request.timestamp": -1}).limited(limit)
    };

    let all = ids(store, Collection::Transactions, newest(doc! {}, 0, 0)).await;
    let mut expected: Vec<i32> = (0..20).collect();
    expected.sort_by_key(|id| -(id * 7 % 20));
    assert_eq!(all, expected);
    assert_eq!(
        ids(store, Collection::Transactions, newest(doc! {}, 5, 3)).await,
        expected[5..8]
    );
    assert_eq!(
        ids(store, Collection::Transactions, newest(doc! {}, 18, 50)).await,
        expected[18..]
    );

    let failed: Vec<i32> = expected.iter().copied().filter(|id| id % 2 == 1).collect();
    let filter = doc! {"status": "Failed"};
    assert_eq!(
        ids(store, Collection::Transactions, newest(filter, 2, 4)).await,
        failed[2..6]
    );

    // A filter that no index knows, and an order that none gives.
    let filter = doc! {"request.headers.a": "b", "response.status": 201};
    let find = Find {
        skip: 1,
        ..Find::by(filter)
            .sorted(doc! {"status": 1, "request.headers.a": 1, "_id": -1})
            .limited(3)
    };
    assert_eq!(ids(store, Collection::Transactions, find).await, [17, 15, 13]);
}

async fn an_array_is_sorted_by_its_smallest_or_greatest_element(store: &SharedStore) {
    let users = [
        doc! {"_id": 1, "email": "1", "groups": [5, 1]},
        doc! {"_id": 2, "email": "2", "groups": [3]},
        doc! {"_id": 3, "email": "3", "groups": []},
        doc! {"_id": 4, "email": "4"},
        doc! {"_id": 5, "email": "5", "groups": "x"},
    ];
    insert_all(store, Collection::Users, users).await;
    let sorted = |way: i32| Find::default().sorted(doc! {"groups": way, "_id": 1});
    assert_eq!(ids(store, Collection::Users, sorted(1)).await, [3, 4, 1, 2, 5]);
    assert_eq!(ids(store, Collection::Users, sorted(-1)).await, [5, 1, 2, 4, 3]);

    let mut children = transaction(1, "Successful", "/", 1);
    children.insert("childIDs", vec![9, 2]);
    let mut child = transaction(2, "Successful", "/", 2);
    child.insert("childIDs", vec![5]);
    insert_all(
        store,
        Collection::Transactions,
        [children, child, transaction(3, "Successful", "/", 3)],
    )
    .await;
    let sorted = |way: i32| Find::default().sorted(doc! {"childIDs": way});
    assert_eq!(ids(store, Collection::Transactions, sorted(1)).await, [3, 1, 2]);
    assert_eq!(ids(store, Collection::Transactions, sorted(-1)).await, [1, 2, 3]);
}

async fn only_the_fields_asked_for_are_handed_out(store: &SharedStore) {
    let stored = doc! {"_id": 1, "status": "Failed", "request": {"body": "secret", "path": "/x"},
    "routes": [{"name": "r", "request": {"body": "secret", "path": "/y"}}, 5]};
    store.insert(Collection::Transactions, stored).await.unwrap();
    let project = |projection: Document| Find {
        projection,
        ..Find::default()
    };
    let answer = |projection| store.all(Collection::Transactions, project(projection));

    let without = answer(doc! {"request.body": 0, "routes.request.body": 0})
        .await
        .unwrap();
    assert_eq!(
        without,
        [doc! {"_id": 1, "status": "Failed", "request": {"path": "/x"},
        "routes": [{"name": "r", "request": {"path": "/y"}}, 5]}]
    );
    let only = answer(doc! {"status": 1, "routes.name": 1, "missing": 1})
        .await
        .unwrap();
    assert_eq!(only, [doc! {"_id": 1, "status": "Failed", "routes": [{"name": "r"}]}]);
    let bare = answer(doc! {"status": 1, "_id": 0}).await.unwrap();
    assert_eq!(bare, [doc! {"status": "Failed"}]);
    let mixed = store
        .all(Collection::Transactions, project(doc! {"status": 1, "request": 0}))
        .await;
    assert!(matches!(mixed, Err(StoreError::BadQuery(_))), "{mixed:?}");
}

async fn a_long_result_arrives_whole(store: &SharedStore) {
    let body = "x".repeat(2000);
    let documents = (0..3000).map(|id| {
        let mut document = transaction(id, "Successful", "/long", i64::from(id));
        document.insert("body", body.clone());
        document
    });
    insert_all(store, Collection::Transactions, documents).await;

    let all = ids(store, Collection::Transactions, Find::default()).await;
    assert_eq!(all, (0..3000).collect::<Vec<_>>());
    let odd = Find::by(doc! {"_id": {"$mod": [2, 1]}}).sorted(doc! {"request.timestamp": -1});
    let odd = ids(store, Collection::Transactions, Find { skip: 10, ..odd }).await;
    assert_eq!(odd, (0..2980).rev().filter(|id| id % 2 == 1).collect::<Vec<_>>());

    // Documents that go away while the result is read are left out; what stays is seen once.
    let mut cursor = store.find(Collection::Transactions, Find::default()).await.unwrap();
    let first = cursor.next().await.unwrap().unwrap();
    assert_eq!(first.get_i32("_id").unwrap(), 0);
    let deleted = Write::Delete {
        from: Collection::Transactions,
        filter: doc! {"_id": {"$gte": 2900}},
        many: true,
    };
    assert_eq!(store.apply(deleted).await.unwrap().modified, 100);
    let mut rest = 0;
    while let Some(document) = cursor.next().await {
        document.unwrap();
        rest += 1;
    }
    assert!((2899..=2999).contains(&rest), "{rest}");
}

async fn filters_mean_what_they_mean_in_mongodb(store: &SharedStore) {
    let clients = [
        doc! {"_id": 1, "clientID": "one", "roles": ["a", "b"], "n": 5, "sub": [{"x": 1, "y": 1}, {"x": 2, "y": 2}]},
        doc! {"_id": 2, "clientID": "two", "roles": [], "n": 5.0, "customTokenID": null},
        doc! {"_id": 3, "clientID": "Three", "roles": "a", "n": "5", "sub": [[{"x": 1}]]},
        doc! {"_id": 4, "clientID": "four", "n": null, "sub": {"x": 1, "y": 2}, "at": date(50)},
    ];
    insert_all(store, Collection::Clients, clients).await;
    let cases: Vec<(Document, &[i32])> = vec![
        (doc! {"clientID": "two"}, &[2]),
        (doc! {"clientID": {"$in": ["one", "four", 7]}}, &[1, 4]),
        (doc! {"clientID": {"$nin": ["one", "four"]}}, &[2, 3]),
        (doc! {"clientID": {"$gt": "one"}}, &[2]),
        (doc! {"clientID": {"$gte": "one", "$lt": "p"}}, &[1]),
        (doc! {"clientID": {"$lt": 9}}, &[]),
        (doc! {"clientID": {"$regex": "^T", "$options": "i"}}, &[2, 3]),
        (doc! {"clientID": {"$not": {"$regex": "o"}}}, &[3]),
        (
            doc! {"clientID": bson::Regex { pattern: "^t".try_into().unwrap(), options: "i".try_into().unwrap() }},
            &[2, 3],
        ),
        (doc! {"roles": "a"}, &[1, 3]),
        (doc! {"roles": ["a", "b"]}, &[1]),
        (doc! {"roles": []}, &[2]),
        (doc! {"roles": {"$ne": "a"}}, &[2, 4]),
        (doc! {"roles": {"$all": ["b", "a"]}}, &[1]),
        (doc! {"roles": {"$size": 0}}, &[2]),
        (doc! {"roles.1": "b"}, &[1]),
        (doc! {"roles": {"$exists": false}}, &[4]),
        (doc! {"roles": {"$type": "array"}}, &[1, 2]),
        (doc! {"roles": {"$type": "string"}}, &[1, 3]),
        (doc! {"n": 5}, &[1, 2]),
        (doc! {"n": null}, &[4]),
        (doc! {"n": {"$gt": 4}}, &[1, 2]),
        (doc! {"n": {"$mod": [3, 2]}}, &[1, 2]),
        (doc! {"customTokenID": null}, &[1, 2, 3, 4]),
        (doc! {"customTokenID": {"$exists": true}}, &[2]),
        (doc! {"sub.x": 1}, &[1, 4]),
        (doc! {"sub.x": 1, "sub.y": 2}, &[1, 4]),
        (doc! {"sub": {"$elemMatch": {"x": 1, "y": 2}}}, &[]),
        (doc! {"sub": {"$elemMatch": {"x": 2, "y": 2}}}, &[1]),
        (doc! {"sub": {"x": 1, "y": 2}}, &[4]),
        (doc! {"sub": {"y": 2, "x": 1}}, &[]),
        (doc! {"at": {"$lte": date(50)}}, &[4]),
        (doc! {"at": {"$lt": date(50)}}, &[]),
        (doc! {"$or": [{"n": "5"}, {"clientID": "one"}]}, &[1, 3]),
        (doc! {"$nor": [{"n": "5"}, {"clientID": "one"}]}, &[2, 4]),
        (doc! {"$and": [{"n": 5}, {"roles": "a"}]}, &[1]),
        (doc! {"_id": {"$gt": 1}, "clientID": {"$ne": "four"}}, &[2, 3]),
        (doc! {"_id": {"$in": [3, 1]}}, &[1, 3]),
    ];
    for (filter, expected) in cases {
        let find = Find::by(filter.clone()).sorted(doc! {"_id": 1});
        assert_eq!(ids(store, Collection::Clients, find).await, expected, "{filter}");
        let count = store.count(Collection::Clients, filter.clone()).await.unwrap();
        assert_eq!(count, expected.len() as u64, "{filter}");
    }
}

async fn what_is_not_understood_is_refused(store: &SharedStore) {
    let filters = [
        doc! {"$where": "true"},
        doc! {"$expr": {"$eq": [1, 1]}},
        doc! {"$or": [{"$where": "true"}]},
        doc! {"a": {"$function": {}}},
        doc! {"a": {"$unknown": 1}},
        doc! {"a": {"$in": 5}},
        doc! {"a": {"$regex": "("}},
        doc! {"a": {"$elemMatch": {"$where": "true"}}},
        doc! {"$and": []},
    ];
    for filter in filters {
        let found = store.all(Collection::Clients, Find::by(filter.clone())).await;
        assert!(matches!(found, Err(StoreError::BadQuery(_))), "{filter}: {found:?}");
        let counted = store.count(Collection::Clients, filter.clone()).await;
        assert!(matches!(counted, Err(StoreError::BadQuery(_))), "{filter}: {counted:?}");
        let deleted = store.delete(Collection::Clients, filter.clone()).await;
        assert!(matches!(deleted, Err(StoreError::BadQuery(_))), "{filter}: {deleted:?}");
    }
    store
        .insert(Collection::Clients, doc! {"_id": 1, "clientID": "a", "text": "b"})
        .await
        .unwrap();
    let updates = [
        doc! {},
        doc! {"a": 1},
        doc! {"$unknown": {"a": 1}},
        doc! {"$inc": {"text": 1}},
        doc! {"$push": {"text": 1}},
        doc! {"$set": {"a": 1, "a.b": 2}},
        doc! {"$set": {"_id": 2}},
        doc! {"$set": {"text.b": 1}},
        doc! {"$inc": {"n": "x"}},
    ];
    for update in updates {
        let outcome = store.update(Collection::Clients, doc! {"_id": 1}, update.clone()).await;
        assert!(matches!(outcome, Err(StoreError::BadQuery(_))), "{update}: {outcome:?}");
    }
    let untouched = store.one(Collection::Clients, doc! {}).await.unwrap();
    assert_eq!(untouched, Some(doc! {"_id": 1, "clientID": "a", "text": "b"}));
    let nameless = store.insert(Collection::Clients, doc! {"clientID": "b"}).await;
    assert!(matches!(nameless, Err(StoreError::BadQuery(_))), "{nameless:?}");
}

async fn counting_agrees_with_finding(store: &SharedStore) {
    let transactions =
        (0..50).map(|id| transaction(id, if id % 3 == 0 { "Failed" } else { "Successful" }, "/c", id.into()));
    insert_all(store, Collection::Transactions, transactions).await;
    let count = |filter| store.count(Collection::Transactions, filter);
    assert_eq!(count(doc! {}).await.unwrap(), 50);
    assert_eq!(count(doc! {"status": "Failed"}).await.unwrap(), 17);
    assert_eq!(
        count(doc! {"status": "Failed", "request.headers.a": "b"})
            .await
            .unwrap(),
        17
    );
    assert_eq!(
        count(doc! {"request.timestamp": {"$gte": date(10), "$lt": date(20)}})
            .await
            .unwrap(),
        10
    );
    assert_eq!(count(doc! {"childIDs": {"$exists": true, "$ne": []}}).await.unwrap(), 0);
    assert_eq!(count(doc! {"childIDs": {"$eq": []}}).await.unwrap(), 50);
}

async fn numbers_are_added_up_by_groups(store: &SharedStore) {
    let bucket = |id: i32, channel: u8, at: i64, requests: Bson, least: Bson| {
        doc! {
            "_id": id, "type": "h", "channelID": ObjectId::from_bytes([channel; 12]), "startTime": date(at),
            "requests": requests, "minResponseTime": least, "maxResponseTime": id, "other": 9,
        }
    };
    let mut odd = bucket(5, 2, 9, Bson::String("many".into()), Bson::Null);
    odd.remove("maxResponseTime");
    let documents = [
        bucket(1, 2, 0, Bson::Int32(1), Bson::Int32(10)),
        bucket(2, 1, 0, Bson::Int64(3), Bson::Double(2.5)),
        bucket(3, 1, 7, Bson::Double(0.5), Bson::Int32(50)),
        bucket(4, 1, 100, Bson::Int32(1000), Bson::Int32(0)),
        odd,
    ];
    insert_all(store, Collection::Metrics, documents).await;
    let sums = |by| Sums {
        filter: doc! {"startTime": {"$lt": date(50)}, "type": "h"},
        by,
        add: &["requests", "failed"],
        least: &["minResponseTime"],
        most: &["maxResponseTime"],
    };
    let rows = async |by| {
        let mut rows = store.sums(Collection::Metrics, sums(by)).await.unwrap();
        rows.sort_by_key(|row| {
            (
                row.get_object_id("channelID").ok(),
                row.get_datetime("startTime").ok().copied(),
            )
        });
        rows
    };

    let all = doc! {"requests": 4.5, "failed": 0.0, "minResponseTime": 2.5, "maxResponseTime": 3.0};
    assert_eq!(rows(&[]).await, [all]);
    let of = |channel: u8| ObjectId::from_bytes([channel; 12]);
    assert_eq!(
        rows(&["channelID"]).await,
        [
            doc! {"channelID": of(1), "requests": 3.5, "failed": 0.0, "minResponseTime": 2.5, "maxResponseTime": 3.0},
            doc! {"channelID": of(2), "requests": 1.0, "failed": 0.0, "minResponseTime": 10.0, "maxResponseTime": 1.0},
        ]
    );
    let times = rows(&["startTime"]).await;
    assert_eq!(times.len(), 3);
    assert_eq!(
        times[2],
        doc! {"startTime": date(9), "requests": 0.0, "failed": 0.0, "minResponseTime": null, "maxResponseTime": null}
    );
    let none = Sums {
        filter: doc! {"type": "d"},
        ..sums(&[])
    };
    assert!(store.sums(Collection::Metrics, none).await.unwrap().is_empty());
}

async fn what_documents_occupy_is_added_up_by_a_field(store: &SharedStore) {
    let channel = |number: u8| ObjectId::from_bytes([number; 12]);
    let transaction = |number: u8, channel: Option<ObjectId>| {
        let body = "x".repeat(usize::from(number) * 1000);
        let mut document = doc! {"_id": ObjectId::from_bytes([number; 12]), "status": "Processing", "body": body};
        document.extend(channel.map(|id| ("channelID".to_owned(), Bson::ObjectId(id))));
        document
    };
    let documents = [
        transaction(1, Some(channel(1))),
        transaction(2, Some(channel(1))),
        transaction(3, Some(channel(2))),
        transaction(4, None),
        transaction(5, Some(channel(2))),
    ];
    insert_all(store, Collection::Transactions, documents).await;
    let of = |number: u8| doc! {"_id": ObjectId::from_bytes([number; 12])};
    let set = Write::Set {
        of: Collection::Transactions,
        id: ObjectId::from_bytes([1; 12]),
        set: Arc::new(rawdoc! {"status": "Successful", "answer": "y".repeat(5000)}),
        unset: &[],
    };
    store.apply(set).await.unwrap();
    let unset = doc! {"$unset": {"body": ""}};
    store.update(Collection::Transactions, of(3), unset).await.unwrap();
    store.delete(Collection::Transactions, of(5)).await.unwrap();

    let mut expected: Vec<(Option<ObjectId>, u64, u64)> = Vec::new();
    let mut cursor = store.find(Collection::Transactions, Find::default()).await.unwrap();
    while let Some(document) = cursor.next().await {
        let document = document.unwrap();
        let key = document.get_object_id("channelID").ok();
        let bytes = document.as_bytes().len() as u64;
        match expected.iter_mut().find(|(known, ..)| *known == key) {
            Some((_, count, sum)) => (*count, *sum) = (*count + 1, *sum + bytes),
            None => expected.push((key, 1, bytes)),
        }
    }
    expected.sort();
    let measured = store.bytes_by(Collection::Transactions, "channelID").await.unwrap();
    let mut measured: Vec<(Option<ObjectId>, u64, u64)> = measured
        .into_iter()
        .map(|one| (one.key.as_object_id(), one.count, one.bytes))
        .collect();
    measured.sort();
    assert_eq!(measured, expected);
    assert_eq!(measured.len(), 3);
}

/// What indexes of a few documents hold, and lists of values whose documents lie apart.
async fn what_few_documents_have_is_found_among_all(store: &SharedStore) {
    let transaction = |number: i32| {
        let id = |number: i32| ObjectId::from_bytes([number as u8; 12]);
        let mut document = doc! {
            "_id": number, "channelID": id(number % 4), "status": "Successful", "childIDs": [], "wasRerun": false,
            "request": {"path": format!("/p/{number}"), "querystring": "", "timestamp": date(i64::from(number / 2))},
            "routes": [], "orchestrations": [],
        };
        match number {
            10 => document.extend(doc! {"childIDs": [id(11)], "wasRerun": true}),
            11 => document.extend(doc! {"parentID": id(10), "response": {"status": 404}}),
            20 => document.extend(doc! {"routes": [{"name": "r", "response": {"status": 503}}]}),
            21 => document.extend(doc! {"orchestrations": [{"name": "o", "request": {"path": "/deep"}}]}),
            22 => document.extend(doc! {"properties": {"ward": "7"}, "response": {"status": 200}}),
            23 => document.extend(doc! {"response": {"status": 499}, "childIDs": null}),
            24 => document.extend(doc! {"response": {"status": 500.0}}),
            25 => {
                document.remove("childIDs");
            }
            _ => {}
        }
        document
    };
    insert_all(store, Collection::Transactions, (0..60).map(transaction)).await;
    let found = async |filter: Document| {
        let newest = Find::by(filter).sorted(doc! {"request.timestamp": -1}).limited(50);
        ids(store, Collection::Transactions, newest).await
    };
    let id = |number: u8| ObjectId::from_bytes([number; 12]);

    assert_eq!(found(doc! {"childIDs": {"$exists": true, "$ne": []}}).await, [23, 10]);
    assert_eq!(found(doc! {"childIDs": id(11)}).await, [10]);
    assert_eq!(found(doc! {"childIDs": null}).await.len(), 2);
    assert_eq!(found(doc! {"childIDs": {"$exists": false}}).await, [25]);
    assert_eq!(found(doc! {"wasRerun": true}).await, [10]);
    assert_eq!(found(doc! {"wasRerun": {"$ne": true}}).await.len(), 50);
    assert_eq!(found(doc! {"parentID": id(10)}).await, [11]);
    assert_eq!(found(doc! {"parentID": {"$exists": true}}).await, [11]);
    assert_eq!(
        found(doc! {"routes.response.status": {"$gte": 500, "$lt": 600}}).await,
        [20]
    );
    assert_eq!(found(doc! {"properties.ward": null, "_id": {"$lt": 3}}).await.len(), 3);
    assert_eq!(
        found(doc! {"orchestrations.request.path": {"$regex": "DEEP", "$options": "i"}}).await,
        [21]
    );
    assert_eq!(found(doc! {"properties.ward": {"$exists": true}}).await, [22]);
    assert_eq!(found(doc! {"properties.ward": "7", "status": "Successful"}).await, [22]);
    assert_eq!(
        found(doc! {"response.status": {"$gte": 400, "$lt": 500}}).await,
        [23, 11]
    );
    assert_eq!(
        found(doc! {"response.status": {"$gt": 404, "$lte": 500}}).await,
        [24, 23]
    );
    assert_eq!(
        found(doc! {"response.status": {"$gte": 300, "$lt": 400}}).await,
        [0_i32; 0]
    );
    assert_eq!(
        found(doc! {"response.status": {"$in": [200, 404, null]}, "_id": {"$lt": 12}})
            .await
            .len(),
        12
    );
    assert_eq!(
        found(doc! {"channelID": {"$in": [id(1), id(3), id(9)]}, "_id": {"$gte": 50}})
            .await
            .len(),
        5
    );
    let page = Find {
        skip: 3,
        ..Find::by(doc! {"channelID": {"$in": [id(1), id(2)]}})
            .sorted(doc! {"request.timestamp": -1})
            .limited(4)
    };
    let page = ids(store, Collection::Transactions, page).await;
    assert_eq!(page, [53, 50, 49, 46]);
    assert_eq!(
        found(doc! {"request.path": {"$regex": "^/P/5$", "$options": "i"}}).await,
        [5]
    );
    assert_eq!(found(doc! {"request.querystring": {"$regex": "x"}}).await, [0_i32; 0]);
}

async fn a_document_of_many_megabytes_comes_back(store: &SharedStore) {
    let body: String = ('a'..='z').cycle().take(12 << 20).collect();
    store
        .insert(Collection::Transactions, doc! {"_id": 1, "request": {"body": &body}})
        .await
        .unwrap();
    store
        .update(
            Collection::Transactions,
            doc! {"_id": 1},
            doc! {"$set": {"status": "Successful"}},
        )
        .await
        .unwrap();
    let found = store
        .one(Collection::Transactions, doc! {"status": "Successful"})
        .await
        .unwrap()
        .unwrap();
    assert!(found.get_document("request").unwrap().get_str("body").unwrap() == body);
}

async fn a_document_beyond_the_limit_is_refused(store: &SharedStore) {
    let body = "x".repeat(17 << 20);
    let large = Write::Insert {
        into: Collection::Transactions,
        document: doc! {"_id": 1, "body": &body},
    };
    let small = Write::Insert {
        into: Collection::Transactions,
        document: doc! {"_id": 2},
    };
    let outcomes = store.write(&[large, small]).await.unwrap();
    assert!(matches!(outcomes[0], Err(StoreError::TooLarge)), "{:?}", outcomes[0]);
    assert!(outcomes[1].is_ok(), "{:?}", outcomes[1]);
    let half = "x".repeat(9 << 20);
    store
        .update(Collection::Transactions, doc! {"_id": 2}, doc! {"$set": {"a": &half}})
        .await
        .unwrap();
    let grown = store
        .update(Collection::Transactions, doc! {"_id": 2}, doc! {"$set": {"b": &half}})
        .await;
    assert!(matches!(grown, Err(StoreError::TooLarge)), "{grown:?}");
    assert_eq!(ids(store, Collection::Transactions, Find::default()).await, [2]);
}

async fn every_type_comes_back_as_it_was(store: &SharedStore) {
    let stored = doc! {
        "_id": ObjectId::new(), "int": 1, "long": i64::MAX, "double": -0.5, "text": "é\u{1F600}\0", "bool": true, "null": null,
        "date": date(-1), "array": [1, [2, {"a": []}]], "empty": {}, "bytes": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0, 255] },
        "regex": bson::Regex { pattern: "a.b".try_into().unwrap(), options: "i".try_into().unwrap() },
        "timestamp": Bson::Timestamp(bson::Timestamp { time: 5, increment: 6 }), "min": Bson::MinKey, "max": Bson::MaxKey,
        "dotted": {"$odd": 1, "x": {"y": {"z": "deep"}}},
    };
    store.insert(Collection::AgendaJobs, stored.clone()).await.unwrap();
    let found = store.one(Collection::AgendaJobs, doc! {}).await.unwrap().unwrap();
    assert_eq!(found.to_vec().unwrap(), stored.to_vec().unwrap());
}

async fn collections_do_not_mix(store: &SharedStore) {
    for collection in Collection::ALL {
        let mut document = doc! {"_id": 1, "collection": collection.name()};
        for field in ["email", "name", "clientID", "group", "urn", "url"] {
            document.insert(field, "x");
        }
        store.insert(collection, document).await.unwrap();
    }
    for collection in Collection::ALL {
        let found = store.all(collection, Find::default()).await.unwrap();
        let names: Vec<&str> = found
            .iter()
            .map(|document| document.get_str("collection").unwrap())
            .collect();
        assert_eq!(names, [collection.name()]);
    }
}

async fn the_store_answers_and_knows_its_size(store: &SharedStore) {
    store.ping().await.unwrap();
    store
        .insert(Collection::Transactions, doc! {"_id": 1, "body": "x".repeat(100_000)})
        .await
        .unwrap();
    if let Some(bytes) = store.size().await.unwrap() {
        assert!(bytes > 0);
    }
    if let Some(before) = store.version(Collection::Channels).await.unwrap() {
        assert_eq!(store.version(Collection::Channels).await.unwrap(), Some(before));
        store
            .insert(Collection::Clients, doc! {"_id": 1, "clientID": "a"})
            .await
            .unwrap();
        assert_eq!(store.version(Collection::Channels).await.unwrap(), Some(before));
        store
            .insert(Collection::Channels, doc! {"_id": 1, "name": "a"})
            .await
            .unwrap();
        let after = store.version(Collection::Channels).await.unwrap();
        assert_ne!(after, Some(before));
        store
            .update(Collection::Channels, doc! {"_id": 1}, doc! {"$set": {"name": "b"}})
            .await
            .unwrap();
        assert_ne!(store.version(Collection::Channels).await.unwrap(), after);
    }
}
