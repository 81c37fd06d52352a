use std::cell::Cell;
use std::time::Instant;

use super::*;
use crate::store::{SharedStore, conformance};
use crate::testing::mongod::Mongod;

async fn connect(server: &Mongod, name: &str) -> SharedStore {
    MongoStore::connect(&server.url(name), None, MongoOptions::default())
        .await
        .unwrap()
}

async fn driver(server: &Mongod) -> mongodb::Client {
    mongodb::Client::with_uri_str(server.url("")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_what_every_store_must_do() {
    let Some(server) = Mongod::start() else {
        return;
    };
    let (server, count) = (&server, &Cell::new(0));
    conformance::everything(|| async move {
        count.set(count.get() + 1);
        connect(server, &format!("part{}", count.get())).await
    })
    .await;
}

#[tokio::test]
async fn audits_live_where_the_second_connection_string_says() {
    let Some(server) = Mongod::start() else {
        return;
    };
    let store: SharedStore =
        MongoStore::connect(&server.url("main"), Some(&server.url("atna")), MongoOptions::default())
            .await
            .unwrap();
    store.insert(Collection::Audits, doc! {"_id": 1}).await.unwrap();
    store.insert(Collection::Events, doc! {"_id": 1}).await.unwrap();

    let client = driver(&server).await;
    let count = |database: &str, collection: &str| {
        let collection = client.database(database).collection::<Document>(collection);
        async move { collection.count_documents(doc! {}).await.unwrap() }
    };
    assert_eq!((count("atna", "audits").await, count("main", "audits").await), (1, 0));
    assert_eq!((count("atna", "events").await, count("main", "events").await), (0, 1));
}

#[tokio::test]
async fn collections_and_indexes_are_there_after_connecting() {
    let Some(server) = Mongod::start() else {
        return;
    };
    let options = MongoOptions {
        log_bytes: Some(1 << 20),
        ..MongoOptions::default()
    };
    MongoStore::connect(&server.url("openhim"), None, options.clone())
        .await
        .unwrap();
    MongoStore::connect(&server.url("openhim"), None, options)
        .await
        .unwrap();

    let database = driver(&server).await.database("openhim");
    let names = database.list_collection_names().await.unwrap();
    for collection in Collection::ALL {
        assert!(
            names.iter().any(|name| name == collection.name()),
            "{}",
            collection.name()
        );
        let indexes = database
            .collection::<Document>(collection.name())
            .list_index_names()
            .await
            .unwrap();
        for index in setup::indexes(collection) {
            assert!(
                indexes.contains(&index.mongo_name()),
                "{} of {}: {indexes:?}",
                index.mongo_name(),
                collection.name()
            );
        }
    }
    let log = database.run_command(doc! {"collStats": "log"}).await.unwrap();
    assert!(log.get_bool("capped").unwrap());
}

#[tokio::test]
async fn an_index_with_other_options_does_not_stop_the_start() {
    let Some(server) = Mongod::start() else {
        return;
    };
    let events = driver(&server)
        .await
        .database("openhim")
        .collection::<Document>("events");
    let other = mongodb::options::IndexOptions::builder()
        .name("created_1".to_owned())
        .build();
    let index = mongodb::IndexModel::builder()
        .keys(doc! {"created": 1})
        .options(other)
        .build();
    events.create_index(index).await.unwrap();

    let store = connect(&server, "openhim").await;

    store.insert(Collection::Events, doc! {"_id": 1}).await.unwrap();
}

#[tokio::test]
async fn a_database_of_openhims_own_gets_what_it_lacks_while_it_is_in_use() {
    let Some(server) = Mongod::start() else {
        return;
    };
    let transactions = driver(&server)
        .await
        .database("openhim")
        .collection::<Document>("transactions");
    let old = (0..50).map(|number| doc! {"_id": number, "status": "Failed", "request": {"path": "/old"}});
    transactions.insert_many(old).await.unwrap();
    let theirs = mongodb::IndexModel::builder().keys(doc! {"status": 1, "request.timestamp": -1});
    transactions.create_index(theirs.build()).await.unwrap();

    let store = connect(&server, "openhim").await;

    store.insert(Collection::Transactions, doc! {"_id": 50}).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let names = transactions.list_index_names().await.unwrap();
        let indexes = setup::indexes(Collection::Transactions);
        if indexes.iter().all(|index| names.contains(&index.mongo_name())) {
            break;
        }
        assert!(Instant::now() < deadline, "{names:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        store
            .count(Collection::Transactions, doc! {"status": "Failed"})
            .await
            .unwrap(),
        50
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_the_password_is_not() {
    let started = Instant::now();
    let options = MongoOptions {
        selection_timeout: Duration::from_millis(300),
        ..MongoOptions::default()
    };
    let refused = MongoStore::connect("mongodb://him:s3cret@127.0.0.1:1/openhim", None, options.clone()).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let said = error.to_string();
    assert!(
        said.contains("127.0.0.1:1") && said.contains("mongo.url") && !said.contains("s3cret"),
        "{said}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));

    for nonsense in [
        "mongodb://him:s3cret@:/x",
        "mongodb://him:s3cret@h/x?tls=perhaps",
        "http://him:s3cret@h/",
        "s3cret",
    ] {
        let error = MongoStore::connect(nonsense, None, options.clone()).await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("mongo.url") && !said.contains("him:s3cret"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_a_kill_of_the_server_and_the_store_recovers_by_itself() {
    let Some(mut server) = Mongod::start() else {
        return;
    };
    let options = MongoOptions {
        selection_timeout: Duration::from_secs(1),
        ..MongoOptions::default()
    };
    let store: SharedStore = MongoStore::connect(&server.url("openhim"), None, options)
        .await
        .unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                let id = format!("{writer}-{number}");
                match store.insert(Collection::Transactions, doc! {"_id": &id}).await {
                    Ok(()) => acknowledged.push(id),
                    Err(error) => {
                        assert!(error.is_temporary(), "{error:?}");
                        break;
                    }
                }
            }
            acknowledged
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill();
    let acknowledged: Vec<String> = writers.join_all().await.concat();
    assert!(acknowledged.len() > 8);
    let started = Instant::now();
    let refused = store.count(Collection::Transactions, doc! {}).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(5));

    server.restart();
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.ping().await {
        assert!(Instant::now() < deadline, "{error}");
    }
    for id in &acknowledged {
        let found = store.one(Collection::Transactions, doc! {"_id": id}).await.unwrap();
        assert!(found.is_some(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_fails_no_write() {
    let Some(server) = Mongod::start_replica_set() else {
        return;
    };
    server.initiate().await;
    let options = MongoOptions {
        selection_timeout: Duration::from_secs(20),
        ..MongoOptions::default()
    };
    let store: SharedStore = MongoStore::connect(&server.url("openhim"), None, options)
        .await
        .unwrap();
    let work = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for id in 0..300 {
                store
                    .insert(Collection::Transactions, doc! {"_id": id, "n": 0})
                    .await
                    .unwrap();
                store
                    .update(Collection::Transactions, doc! {"_id": id}, doc! {"$inc": {"n": 1}})
                    .await
                    .unwrap();
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let admin = driver(&server).await.database("admin");
    admin
        .run_command(doc! {"replSetStepDown": 1, "force": true})
        .await
        .unwrap();

    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        store.count(Collection::Transactions, doc! {"n": 1}).await.unwrap(),
        300,
        "each was counted once"
    );
}

#[tokio::test]
async fn the_store_outlives_the_runtime_that_connected_it() {
    let Some(server) = Mongod::start() else {
        return;
    };
    let url = server.url("openhim");
    let elsewhere = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store: SharedStore = MongoStore::connect(&url, None, MongoOptions::default()).await.unwrap();
            store.insert(Collection::Tasks, doc! {"_id": 1}).await.unwrap();
            store
        })
    });
    let store = elsewhere.join().unwrap();
    store.insert(Collection::Tasks, doc! {"_id": 2}).await.unwrap();
    assert_eq!(store.count(Collection::Tasks, doc! {}).await.unwrap(), 2);
    store.close().await;
    assert!(store.ping().await.is_err());
}
