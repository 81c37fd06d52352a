use super::*;
use crate::store::mongo::{MongoOptions, MongoStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::testing::mongod::Mongod;

const NOW: Millis = 1_795_348_800_000;
const DAY: Millis = 86_400_000;

/// Runs a test on both stores, as far as they are there.
async fn on_both_stores(test: impl AsyncFn(SharedStore)) {
    let folder = tempfile::tempdir().unwrap();
    test(SqliteStore::open(folder.path().join("t.db"), SqliteOptions::default()).unwrap()).await;
    if let Some(mongod) = Mongod::start() {
        test(
            MongoStore::connect(&mongod.url("openhim"), None, MongoOptions::default())
                .await
                .unwrap(),
        )
        .await;
    }
}

async fn channel(store: &SharedStore, rule: Document) -> ObjectId {
    let id = ObjectId::new();
    let channel = doc! { "_id": id, "name": id.to_hex(), "urlPattern": "x", RULE: rule };
    store.insert(Collection::Channels, channel).await.unwrap();
    id
}

async fn transactions(
    store: &SharedStore,
    channel: ObjectId,
    count: usize,
    age: Millis,
    bytes: usize,
) -> Vec<ObjectId> {
    let mut ids = Vec::new();
    let mut writes = Vec::new();
    for n in 0..count {
        let id = ObjectId::new();
        ids.push(id);
        let at = DateTime::from_millis(NOW - age + n as Millis);
        writes.push(Write::Insert {
            into: Collection::Transactions,
            document: doc! {
                "_id": id, "channelID": channel, "status": "Successful",
                "request": { "timestamp": at, "body": "x".repeat(bytes) },
            },
        });
    }
    for outcome in store.write(&writes).await.unwrap() {
        outcome.unwrap();
    }
    ids
}

async fn left(store: &SharedStore, channel: ObjectId) -> u64 {
    store
        .count(Collection::Transactions, doc! { "channelID": channel })
        .await
        .unwrap()
}

async fn run(store: &SharedStore, rule: RetentionRule) -> Document {
    let job = Retention::job(Arc::clone(store), rule, Arc::default());
    let run = Run {
        started: NOW,
        previous: None,
        data: doc! {},
    };
    job.run(run).await.unwrap()
}

#[tokio::test]
async fn old_transactions_go_and_those_under_way_stay() {
    Box::pin(on_both_stores(async |store| {
        let (kept, short) = (
            channel(&store, doc! {}).await,
            channel(&store, doc! { "maxAgeDays": 1 }).await,
        );
        transactions(&store, kept, 450, 40 * DAY, 10).await;
        transactions(&store, kept, 5, 3 * DAY, 10).await;
        transactions(&store, short, 7, 3 * DAY, 10).await;
        transactions(&store, short, 2, DAY / 2, 10).await;
        let open = transactions(&store, kept, 3, 50 * DAY, 10).await;
        let set = doc! { "$set": { "status": "Processing" } };
        store
            .update(Collection::Transactions, doc! { "_id": open[0] }, set)
            .await
            .unwrap();
        let set = doc! { "$set": { "status": "Pending Async" } };
        store
            .update(Collection::Transactions, doc! { "_id": open[1] }, set)
            .await
            .unwrap();
        let set = doc! { "$set": { OWNER.as_str(): "a node" } };
        store
            .update(Collection::Transactions, doc! { "_id": open[2] }, set)
            .await
            .unwrap();

        let reported = run(
            &store,
            RetentionRule {
                max_age_days: Some(30.0),
                max_size_mb: None,
            },
        )
        .await;

        assert_eq!((left(&store, kept).await, left(&store, short).await), (5 + 3, 2));
        let figures = reported.get_array("channels").unwrap();
        let mine = figures
            .iter()
            .filter_map(Bson::as_document)
            .find(|one| one.get_object_id("channelID").ok() == Some(kept))
            .expect("the channel is reported");
        assert_eq!(mine.get_i64("transactions").unwrap(), 8);
        assert!(mine.get_i64("bytes").unwrap() > 8 * 50);
        store.close().await;
    }))
    .await;
}

#[tokio::test]
async fn a_channel_keeps_the_newest_that_fit_into_its_size() {
    Box::pin(on_both_stores(async |store| {
        let small = channel(&store, doc! { "maxSizeMB": 1 }).await;
        let free = channel(&store, doc! {}).await;
        transactions(&store, small, 60, 2 * DAY, 50_000).await;
        let newest = transactions(&store, small, 1, DAY, 50_000).await;
        transactions(&store, free, 60, 3 * DAY, 50_000).await;

        run(&store, RetentionRule::default()).await;

        let stay = left(&store, small).await;
        assert!((18..=20).contains(&stay), "{stay} of 50 KB are a MiB");
        let newest = store
            .one(Collection::Transactions, doc! { "_id": newest[0] })
            .await
            .unwrap();
        assert!(newest.is_some());
        assert_eq!(left(&store, free).await, 60);
        store.close().await;
    }))
    .await;
}

#[tokio::test]
async fn a_store_that_is_too_large_gives_room_back_to_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.db");
    let store: SharedStore = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    let one = channel(&store, doc! {}).await;
    for age in 1..=8 {
        transactions(&store, one, 100, age * DAY, 40_000).await;
    }
    // The log beside it is bounded by itself.
    let length = || std::fs::metadata(&path).unwrap().len();
    let before = length();
    assert!(before > 24 << 20, "{before}");

    run(
        &store,
        RetentionRule {
            max_age_days: None,
            max_size_mb: Some(10.0),
        },
    )
    .await;

    crate::testing::eventually("the file is shorter", async || (length() < 14 << 20).then_some(())).await;
    let oldest = Find::default().sorted(doc! { "request.timestamp": 1 }).limited(1);
    let oldest = store.all(Collection::Transactions, oldest).await.unwrap();
    let at = oldest[0]
        .get_document("request")
        .unwrap()
        .get_datetime("timestamp")
        .unwrap();
    assert!(at.timestamp_millis() > NOW - 4 * DAY, "the oldest went first");
    assert!(left(&store, one).await > 150);
    store.close().await;
}

#[tokio::test]
async fn a_size_is_kept_on_mongodb_and_no_more_deleted_than_that_takes() {
    let Some(mongod) = Mongod::start() else { return };
    let store: SharedStore = MongoStore::connect(&mongod.url("openhim"), None, MongoOptions::default())
        .await
        .unwrap();
    let one = channel(&store, doc! {}).await;
    for age in 1..=8 {
        transactions(&store, one, 100, age * DAY, 40_000).await;
    }

    let rule = RetentionRule {
        max_age_days: None,
        max_size_mb: Some(10.0),
    };
    run(&store, rule).await;

    let stay = left(&store, one).await;
    assert!((50..=262).contains(&stay), "{stay} of 40 KB are 10 MiB");
    store.close().await;
}

#[tokio::test]
async fn mongodb_gives_room_back_where_there_is_much() {
    let Some(mongod) = Mongod::start() else { return };
    let url = mongod.url("openhim");
    let store: SharedStore = MongoStore::connect(&url, None, MongoOptions::default()).await.unwrap();
    let database = mongodb::Client::with_uri_str(&url).await.unwrap().database("openhim");
    let one = channel(&store, doc! {}).await;
    // What cannot be compressed, so that the file is as long as the documents.
    for age in 1..=40 {
        let writes: Vec<Write> = (0..25)
            .map(|n| {
                let bytes = (0..10_000).flat_map(|_| rand::random::<u32>().to_le_bytes()).collect();
                let body = bson::Binary {
                    subtype: bson::spec::BinarySubtype::Generic,
                    bytes,
                };
                let at = DateTime::from_millis(NOW - age * DAY + n);
                Write::Insert {
                    into: Collection::Transactions,
                    document: doc! {
                        "_id": ObjectId::new(), "channelID": one, "status": "Successful",
                        "request": { "timestamp": at, "body": body },
                    },
                }
            })
            .collect();
        store.write(&writes).await.unwrap();
    }
    let checkpoint = async || {
        let admin = database.client().database("admin");
        admin.run_command(doc! { "fsync": 1 }).await.unwrap();
    };
    let length = async || {
        let stats = database
            .run_command(doc! { "collStats": "transactions" })
            .await
            .unwrap();
        number::of_bson(stats.get("storageSize").unwrap()).unwrap() / MIB
    };
    checkpoint().await;
    let before = length().await;
    assert!(before > 30.0, "{before}");

    let rule = RetentionRule {
        max_age_days: Some(5.0),
        max_size_mb: None,
    };
    run(&store, rule).await;
    checkpoint().await;
    store.shrink().await.unwrap();

    let after = length().await;
    assert!(after < before / 2.0, "{before} MiB became {after}");
    assert_eq!(left(&store, one).await, 5 * 25);
    store.close().await;
}
