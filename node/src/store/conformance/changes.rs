//! What every store must do with what it is told to write.

use super::*;

pub(super) async fn updates_tell_what_they_matched_and_changed(store: &SharedStore) {
    insert_all(
        store,
        Collection::Tasks,
        (0..4).map(|id| doc! {"_id": id, "status": "Queued", "n": id}),
    )
    .await;
    let many = |update| Write::Update {
        of: Collection::Tasks,
        filter: doc! {"status": "Queued"},
        update,
        many: true,
        upsert: false,
    };

    let one = store
        .update(Collection::Tasks, doc! {"status": "Queued"}, doc! {"$set": {"n": 7}})
        .await
        .unwrap();
    assert_eq!((one.matched, one.modified, one.upserted), (1, 1, false));
    let same = store.apply(many(doc! {"$set": {"n": 7}})).await.unwrap();
    assert_eq!((same.matched, same.modified), (4, 3));
    let nothing = store.apply(many(doc! {"$set": {"n": 7}})).await.unwrap();
    assert_eq!((nothing.matched, nothing.modified), (4, 0));
    let deep = doc! {"$set": {"a.b": 1}, "$push": {"list": {"$each": [3, 1], "$slice": -1}}, "$inc": {"n": 1}, "$unset": {"status": ""}};
    store.update(Collection::Tasks, doc! {"_id": 0}, deep).await.unwrap();
    let found = store.one(Collection::Tasks, doc! {"_id": 0}).await.unwrap();
    assert_eq!(found, Some(doc! {"_id": 0, "n": 8, "a": {"b": 1}, "list": [1]}));
}

pub(super) async fn fields_are_set_and_removed_in_their_places(store: &SharedStore) {
    let [id, other] = [ObjectId::new(), ObjectId::new()];
    let before = |id: ObjectId| rawdoc! {"_id": id, "status": "Processing", "owner": "n", "childIDs": [], "__v": 0};
    let into = Collection::Transactions;
    let inserts = [id, other].map(|id| Write::InsertRaw {
        into,
        document: Arc::new(before(id)),
    });
    for outcome in store.write(&inserts).await.unwrap() {
        assert_eq!(outcome.unwrap().modified, 1);
    }

    let set = |id: ObjectId, set: RawDocumentBuf, unset| Write::Set {
        of: into,
        id,
        set: Arc::new(set),
        unset,
    };
    let batch = [
        set(
            id,
            rawdoc! {"response": {"status": 200}, "status": "Successful"},
            &["owner", "absent"],
        ),
        set(other, rawdoc! {"status": "Processing"}, &[]),
        set(ObjectId::new(), rawdoc! {"status": "Failed"}, &["owner"]),
        set(other, rawdoc! {}, &["owner"]),
        set(other, rawdoc! {}, &[]),
    ];
    let outcomes = store.write(&batch).await.unwrap();

    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let found = store.all(into, Find::by(doc! {"status": "Successful"})).await.unwrap();
    assert_eq!(
        found,
        [doc! {"_id": id, "status": "Successful", "childIDs": [], "__v": 0, "response": {"status": 200}}]
    );
    let found = store.all(into, Find::by(doc! {"_id": other})).await.unwrap();
    assert_eq!(
        found,
        [doc! {"_id": other, "status": "Processing", "childIDs": [], "__v": 0}]
    );
    assert_eq!(store.count(into, doc! {}).await.unwrap(), 2);
}

pub(super) async fn large_fields_that_are_set_together_arrive(store: &SharedStore) {
    let into = Collection::Transactions;
    let ids: Vec<_> = (0..4).map(|_| ObjectId::new()).collect();
    insert_all(store, into, ids.iter().map(|id| doc! {"_id": *id})).await;
    let set = |id: &ObjectId, length: usize| Write::Set {
        of: into,
        id: *id,
        set: Arc::new(rawdoc! {"body": "x".repeat(length)}),
        unset: &[],
    };
    let batch = [
        set(&ids[0], 9 << 20),
        set(&ids[1], (16 << 20) - 2048),
        set(&ids[2], 17 << 20),
        set(&ids[3], 9 << 20),
    ];

    let outcomes = store.write(&batch).await.unwrap();

    let told: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(told, [true, true, false, true], "{outcomes:?}");
    assert!(matches!(outcomes[2], Err(StoreError::TooLarge)), "{:?}", outcomes[2]);
    let mut lengths = Vec::new();
    for id in &ids {
        let found = store.one(into, doc! {"_id": *id}).await.unwrap().unwrap();
        lengths.push(found.get_str("body").map_or(0, str::len));
    }
    assert_eq!(lengths, [9 << 20, (16 << 20) - 2048, 0, 9 << 20]);
}

pub(super) async fn the_matched_element_is_updated(store: &SharedStore) {
    let stored =
        doc! {"_id": 1, "transactions": [{"tid": "a", "tstatus": "Queued"}, {"tid": "b", "tstatus": "Queued"}]};
    store.insert(Collection::Tasks, stored).await.unwrap();
    let filter = doc! {"_id": 1, "transactions.tid": "b"};
    store
        .update(
            Collection::Tasks,
            filter,
            doc! {"$set": {"transactions.$.tstatus": "Done"}},
        )
        .await
        .unwrap();
    let found = store.one(Collection::Tasks, doc! {}).await.unwrap();
    assert_eq!(
        found,
        Some(doc! {"_id": 1, "transactions": [{"tid": "a", "tstatus": "Queued"}, {"tid": "b", "tstatus": "Done"}]})
    );
}

pub(super) async fn an_upsert_makes_what_the_filter_and_update_say(store: &SharedStore) {
    let upsert = || Write::Update {
        of: Collection::Metrics,
        filter: doc! {"type": "h", "startTime": date(0), "x.y": {"$eq": 3}, "n": {"$gt": 1}},
        update: doc! {"$inc": {"requests": 1}, "$setOnInsert": {"first": true}},
        many: false,
        upsert: true,
    };
    let made = store.apply(upsert()).await.unwrap();
    assert_eq!((made.matched, made.modified, made.upserted), (0, 1, true));
    let mut found = store.one(Collection::Metrics, doc! {}).await.unwrap().unwrap();
    assert!(found.remove("_id").is_some());
    assert_eq!(
        found,
        doc! {"type": "h", "startTime": date(0), "x": {"y": 3}, "first": true, "requests": 1}
    );

    store
        .update(Collection::Metrics, doc! {}, doc! {"$set": {"n": 2}})
        .await
        .unwrap();
    let again = store.apply(upsert()).await.unwrap();
    assert_eq!((again.matched, again.modified, again.upserted), (1, 1, false));
    let found = store.one(Collection::Metrics, doc! {}).await.unwrap().unwrap();
    assert_eq!(found.get_i32("requests").unwrap(), 2);
}

pub(super) async fn a_replacement_keeps_the_id(store: &SharedStore) {
    store
        .insert(Collection::Apps, doc! {"_id": 1, "name": "a", "url": "u"})
        .await
        .unwrap();
    let replace = |filter, document, upsert| Write::Replace {
        of: Collection::Apps,
        filter,
        document,
        upsert,
    };

    let written = store
        .apply(replace(doc! {"name": "a"}, doc! {"name": "b", "url": "v"}, false))
        .await
        .unwrap();
    assert_eq!((written.matched, written.modified), (1, 1));
    let found = store.one(Collection::Apps, doc! {}).await.unwrap();
    assert_eq!(found, Some(doc! {"_id": 1, "name": "b", "url": "v"}));

    let absent = store
        .apply(replace(doc! {"name": "z"}, doc! {"name": "z"}, false))
        .await
        .unwrap();
    assert_eq!((absent.matched, absent.modified, absent.upserted), (0, 0, false));
    let made = store
        .apply(replace(doc! {"_id": 9}, doc! {"name": "z", "url": "z"}, true))
        .await
        .unwrap();
    assert_eq!((made.matched, made.modified, made.upserted), (0, 1, true));
    let found = store.one(Collection::Apps, doc! {"name": "z"}).await.unwrap();
    assert_eq!(found, Some(doc! {"_id": 9, "name": "z", "url": "z"}));
}

pub(super) async fn deleting_removes_one_or_all(store: &SharedStore) {
    insert_all(
        store,
        Collection::Events,
        (0..5).map(|id| doc! {"_id": id, "status": id % 2}),
    )
    .await;
    assert_eq!(
        store
            .delete(Collection::Events, doc! {"status": 0})
            .await
            .unwrap()
            .modified,
        1
    );
    assert_eq!(ids(store, Collection::Events, Find::default()).await, [1, 2, 3, 4]);
    let all = Write::Delete {
        from: Collection::Events,
        filter: doc! {"status": 0},
        many: true,
    };
    assert_eq!(store.apply(all).await.unwrap().modified, 2);
    assert_eq!(ids(store, Collection::Events, Find::default()).await, [1, 3]);
}

pub(super) async fn a_batch_is_written_in_order(store: &SharedStore) {
    let insert = |id: i32| Write::Insert {
        into: Collection::Transactions,
        document: doc! {"_id": id, "log": []},
    };
    let push = |id: i32, what: &str| Write::Update {
        of: Collection::Transactions,
        filter: doc! {"_id": id},
        update: doc! {"$push": {"log": what}},
        many: false,
        upsert: false,
    };
    let event = |id: i32| Write::Insert {
        into: Collection::Events,
        document: doc! {"_id": id},
    };
    let mut batch = vec![
        insert(1),
        push(1, "a"),
        insert(2),
        event(1),
        push(2, "a"),
        push(1, "b"),
        push(2, "b"),
        event(2),
    ];
    batch.push(Write::Update {
        of: Collection::Transactions,
        filter: doc! {},
        update: doc! {"$push": {"log": "all"}},
        many: true,
        upsert: false,
    });
    batch.extend([
        push(1, "c"),
        Write::Delete {
            from: Collection::Transactions,
            filter: doc! {"_id": 2},
            many: false,
        },
        insert(2),
    ]);

    let outcomes = store.write(&batch).await.unwrap();

    let matched: Vec<u64> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().unwrap().matched)
        .collect();
    assert_eq!(matched, [0, 1, 0, 0, 1, 1, 1, 0, 2, 1, 1, 0]);
    let found = store
        .all(Collection::Transactions, Find::default().sorted(doc! {"_id": 1}))
        .await
        .unwrap();
    assert_eq!(
        found,
        [
            doc! {"_id": 1, "log": ["a", "b", "all", "c"]},
            doc! {"_id": 2, "log": []}
        ]
    );
    assert_eq!(ids(store, Collection::Events, Find::default()).await, [1, 2]);
}

pub(super) async fn a_write_that_fails_alone_does_not_stop_the_rest(store: &SharedStore) {
    let insert = |id: i32| Write::Insert {
        into: Collection::Visualizers,
        document: doc! {"_id": id, "name": id.to_string()},
    };
    let broken = Write::Update {
        of: Collection::Visualizers,
        filter: doc! {"_id": 1},
        update: doc! {"$inc": {"name": 1}},
        many: false,
        upsert: false,
    };

    let outcomes = store
        .write(&[insert(1), insert(1), broken, insert(2), insert(2), insert(3)])
        .await
        .unwrap();

    let failed: Vec<bool> = outcomes.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, true, true, false, true, false]);
    assert!(outcomes[1].as_ref().is_err_and(StoreError::is_duplicate));
    assert!(outcomes[4].as_ref().is_err_and(StoreError::is_duplicate));
    assert_eq!(ids(store, Collection::Visualizers, Find::default()).await, [1, 2, 3]);
}

pub(super) async fn a_unique_value_is_taken_once(store: &SharedStore) {
    store
        .insert(Collection::Channels, doc! {"_id": 1, "name": "lab \"A\""})
        .await
        .unwrap();
    let taken = store
        .insert(Collection::Channels, doc! {"_id": 2, "name": "lab \"A\""})
        .await
        .unwrap_err();
    let text = taken.to_string();
    assert!(text.starts_with("E11000 duplicate key error collection: "), "{text}");
    assert!(
        text.ends_with(".channels index: name_1 dup key: { name: \"lab \"A\"\" }"),
        "{text}"
    );
    let id = store
        .insert(Collection::Channels, doc! {"_id": 1, "name": "other"})
        .await
        .unwrap_err();
    assert!(
        id.to_string().ends_with(".channels index: _id_ dup key: { _id: 1 }"),
        "{id}"
    );

    // A name that is not there is a value too.
    store.insert(Collection::Channels, doc! {"_id": 3}).await.unwrap();
    let nameless = store
        .insert(Collection::Channels, doc! {"_id": 4, "name": null})
        .await
        .unwrap_err();
    assert!(nameless.to_string().ends_with("dup key: { name: null }"), "{nameless}");
}

pub(super) async fn a_partial_unique_index_lets_others_pass(store: &SharedStore) {
    let client = |id: i32, token: Bson| doc! {"_id": id, "clientID": id.to_string(), "customTokenID": token};
    let clients = [
        client(1, Bson::Null),
        client(2, Bson::Null),
        client(3, "t".into()),
        doc! {"_id": 4, "clientID": "4"},
    ];
    insert_all(store, Collection::Clients, clients).await;
    let taken = store
        .insert(Collection::Clients, client(5, "t".into()))
        .await
        .unwrap_err();
    assert!(
        taken
            .to_string()
            .ends_with(".clients index: customTokenID_1 dup key: { customTokenID: \"t\" }"),
        "{taken}"
    );
    store
        .update(
            Collection::Clients,
            doc! {"_id": 3},
            doc! {"$unset": {"customTokenID": 1}},
        )
        .await
        .unwrap();
    store.insert(Collection::Clients, client(5, "t".into())).await.unwrap();
}

pub(super) async fn an_update_into_a_taken_value_is_refused(store: &SharedStore) {
    insert_all(
        store,
        Collection::Roles,
        ["a", "b"].map(|name| doc! {"_id": name, "name": name}),
    )
    .await;
    let taken = store
        .update(Collection::Roles, doc! {"_id": "b"}, doc! {"$set": {"name": "a"}})
        .await
        .unwrap_err();
    assert!(taken.is_duplicate());
    assert!(
        taken
            .to_string()
            .ends_with(".roles index: name_1 dup key: { name: \"a\" }"),
        "{taken}"
    );
    let kept = store.one(Collection::Roles, doc! {"_id": "b"}).await.unwrap();
    assert_eq!(kept, Some(doc! {"_id": "b", "name": "b"}));
    let own = store
        .update(
            Collection::Roles,
            doc! {"_id": "b"},
            doc! {"$set": {"name": "b", "x": 1}},
        )
        .await
        .unwrap();
    assert_eq!(own.modified, 1);
}

pub(super) async fn find_and_update_answers_before_or_after(store: &SharedStore) {
    insert_all(
        store,
        Collection::Tasks,
        (1..=3).map(|id| doc! {"_id": id, "status": "Queued", "created": 10 - id}),
    )
    .await;
    let ask = |return_new| FindAndUpdate {
        filter: doc! {"status": "Queued"},
        update: doc! {"$set": {"status": "Processing"}},
        sort: doc! {"created": 1},
        upsert: false,
        return_new,
    };
    let before = store.find_and_update(Collection::Tasks, ask(false)).await.unwrap();
    assert_eq!(before, Some(doc! {"_id": 3, "status": "Queued", "created": 7}));
    let after = store.find_and_update(Collection::Tasks, ask(true)).await.unwrap();
    assert_eq!(after, Some(doc! {"_id": 2, "status": "Processing", "created": 8}));
    store.find_and_update(Collection::Tasks, ask(false)).await.unwrap();
    assert_eq!(store.find_and_update(Collection::Tasks, ask(true)).await.unwrap(), None);

    let upsert = |return_new| FindAndUpdate {
        filter: doc! {"_id": "counter"},
        update: doc! {"$inc": {"n": 1}},
        upsert: true,
        return_new,
        ..FindAndUpdate::default()
    };
    assert_eq!(
        store.find_and_update(Collection::Tasks, upsert(false)).await.unwrap(),
        None
    );
    let counted = store.find_and_update(Collection::Tasks, upsert(true)).await.unwrap();
    assert_eq!(counted, Some(doc! {"_id": "counter", "n": 2}));
}

pub(super) async fn of_many_takers_one_gets_the_lease(store: &SharedStore) {
    store
        .insert(Collection::Leases, doc! {"_id": "job", "until": date(0)})
        .await
        .unwrap();
    let mut takers = tokio::task::JoinSet::new();
    for taker in 0..20 {
        let store = Arc::clone(store);
        takers.spawn(async move {
            let ask = FindAndUpdate {
                filter: doc! {"_id": "job", "until": {"$lt": date(100)}},
                update: doc! {"$set": {"until": date(200), "owner": taker}},
                return_new: true,
                ..FindAndUpdate::default()
            };
            store.find_and_update(Collection::Leases, ask).await.unwrap().is_some()
        });
    }
    let won = takers.join_all().await;
    assert_eq!(won.into_iter().filter(|won| *won).count(), 1);

    let upserts = (0..20).map(|_| {
        let store = Arc::clone(store);
        async move {
            let ask = FindAndUpdate {
                filter: doc! {"_id": "new", "until": {"$lt": date(100)}},
                update: doc! {"$set": {"until": date(200)}},
                upsert: true,
                return_new: true,
                ..FindAndUpdate::default()
            };
            store.find_and_update(Collection::Leases, ask).await
        }
    });
    let outcomes = upserts.collect::<tokio::task::JoinSet<_>>().join_all().await;
    let won = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Some(_)))).count();
    assert_eq!(won, 1, "{outcomes:?}");
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.as_ref().map_or_else(StoreError::is_duplicate, |_| true))
    );
}

pub(super) async fn concurrent_increments_all_count(store: &SharedStore) {
    store
        .insert(Collection::Metrics, doc! {"_id": 1, "n": 0})
        .await
        .unwrap();
    let updates = (0..200).map(|_| {
        let store = Arc::clone(store);
        async move {
            store
                .update(Collection::Metrics, doc! {"_id": 1}, doc! {"$inc": {"n": 1}})
                .await
        }
    });
    for outcome in updates.collect::<tokio::task::JoinSet<_>>().join_all().await {
        assert_eq!(outcome.unwrap().modified, 1);
    }
    let found = store.one(Collection::Metrics, doc! {}).await.unwrap().unwrap();
    assert_eq!(found.get_i32("n").unwrap(), 200);
}
