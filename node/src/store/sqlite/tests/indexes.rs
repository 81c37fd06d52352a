//! Which indexes the console's questions go through, and that an older file gets them.

use bson::oid::ObjectId;

use super::*;
use crate::store::query::SortOrder;
use crate::store::sqlite::plan::Plan;

/// How SQLite would answer, in its words.
fn steps(database: &Database, filter: Document) -> Vec<String> {
    steps_in(
        database,
        Collection::Transactions,
        filter,
        doc! {"request.timestamp": -1},
    )
}

fn steps_in(database: &Database, of: Collection, filter: Document, sort: Document) -> Vec<String> {
    let table = schema::tables()
        .unwrap()
        .iter()
        .find(|table| table.collection == of)
        .unwrap();
    let (filter, sort) = (Filter::compile(&filter).unwrap(), SortOrder::compile(&sort).unwrap());
    let plan = Plan::make(&database.connection, table, &filter, &sort).unwrap();
    database.use_patterns(&plan.patterns);
    let sql = plan.select(table, plan.order.as_deref().unwrap(), "");
    let mut statement = database
        .connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    statement
        .query_map(rusqlite::params_from_iter(&plan.parameters), |row| row.get("detail"))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap()
}

fn transaction(number: i32) -> Document {
    let id = |number: i32| ObjectId::from_bytes([number as u8; 12]);
    let mut document = doc! {
        "_id": number, "channelID": id(number % 3), "clientID": id(number % 5), "status": "Successful", "childIDs": [],
        "request": {"path": format!("/p/{number}"), "timestamp": date(number.into())},
        "response": {"status": 200 + number % 7}, "routes": [], "orchestrations": [], "wasRerun": false,
    };
    if number % 10 == 0 {
        document.extend(doc! {"childIDs": [id(1)], "wasRerun": true, "routes": [{"request": {"host": "a"}}]});
    }
    document
}

async fn filled(path: &Path) {
    let store: SharedStore = open(path);
    for number in 0..100 {
        store
            .insert(Collection::Transactions, transaction(number))
            .await
            .unwrap();
    }
    store.close().await;
}

#[tokio::test]
async fn every_filter_of_the_console_goes_through_an_index_in_the_order_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openhim.db");
    filled(&path).await;
    let database = Database::open(&path, 1024).unwrap();
    let id = |number: u8| ObjectId::from_bytes([number; 12]);
    let like = |pattern: &str| doc! {"$regex": pattern, "$options": "i"};
    let cases = [
        (doc! {}, "transactions.request.timestamp_1"),
        (doc! {"status": "Failed"}, "transactions.status_1"),
        (
            doc! {"status": "Failed", "channelID": id(1), "clientID": id(2)},
            "transactions.status_1",
        ),
        (doc! {"channelID": id(1)}, "transactions.channelID_1"),
        (doc! {"channelID": {"$in": [id(1), id(2)]}}, "transactions.channelID_1"),
        (
            doc! {"channelID": id(1), "request.path": like("x")},
            "COVERING INDEX transactions.channelID_1",
        ),
        (doc! {"clientID": id(1)}, "transactions.clientID_1"),
        (
            doc! {"request.timestamp": {"$gte": date(5), "$lte": date(9)}},
            "transactions.request.timestamp_1",
        ),
        (
            doc! {"request.path": like("x")},
            "COVERING INDEX transactions.request.timestamp_1",
        ),
        (
            doc! {"request.querystring": like("x")},
            "COVERING INDEX transactions.request.timestamp_1",
        ),
        (
            doc! {"request.host": "a", "request.port": "1"},
            "COVERING INDEX transactions.request.timestamp_1",
        ),
        (
            doc! {"request.method": "GET"},
            "COVERING INDEX transactions.request.timestamp_1",
        ),
        (doc! {"response.status": 204}, "transactions.response.status_sparse"),
        (
            doc! {"response.status": {"$gte": 200, "$lt": 300}},
            "transactions.response.status_sparse",
        ),
        (
            doc! {"childIDs": {"$exists": true, "$ne": []}},
            "transactions.childIDs_sparse",
        ),
        (doc! {"childIDs": {"$eq": []}}, "transactions.request.timestamp_1"),
        (doc! {"wasRerun": true}, "transactions.wasRerun_sparse"),
        (doc! {"routes.request.host": "a"}, "transactions.routes_sparse"),
        (
            doc! {"orchestrations.response.status": {"$gte": 500, "$lt": 600}},
            "transactions.orchestrations_sparse",
        ),
        (
            doc! {"properties.ward": {"$exists": true}},
            "transactions.properties_sparse",
        ),
    ];
    for (filter, index) in cases {
        let steps = steps(&database, filter.clone());
        assert!(
            !steps.iter().any(|step| step.contains("TEMP B-TREE")),
            "{filter}: {steps:?}"
        );
        let looked: Vec<&String> = steps.iter().filter(|step| step.contains(" transactions")).collect();
        assert!(
            !looked.is_empty() && looked.iter().all(|step| step.contains(index)),
            "{filter}: {steps:?}"
        );
    }
    let children = steps(&database, doc! {"parentID": id(1)});
    assert!(
        children
            .iter()
            .any(|step| step.contains("transactions.parentID_sparse")),
        "{children:?}"
    );
}

#[tokio::test]
async fn a_file_of_an_older_version_gets_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openhim.db");
    filled(&path).await;
    let older = rusqlite::Connection::open(&path).unwrap();
    older
        .execute_batch(
            "DROP INDEX \"transactions.routes_sparse\";
             DROP INDEX \"transactions.request.timestamp_1\";
             ALTER TABLE transactions DROP COLUMN routes;
             ALTER TABLE transactions DROP COLUMN \"request.host\";
             CREATE INDEX \"transactions.parentID_1\" ON \"transactions\" (\"parentID\");
             CREATE INDEX \"transactions.request.timestamp_1\" ON \"transactions\" (\"request.timestamp\");",
        )
        .unwrap();
    drop(older);

    let store: SharedStore = open(&path);
    let routed = store
        .count(Collection::Transactions, doc! {"routes.request.host": "a"})
        .await;
    assert_eq!(routed.unwrap(), 10);
    store.close().await;
    let database = Database::open(&path, 1024).unwrap();
    let routed = steps(&database, doc! {"routes.request.host": "a"});
    assert!(
        routed.iter().any(|step| step.contains("transactions.routes_sparse")),
        "{routed:?}"
    );
    let searched = steps(&database, doc! {"request.host": "a"});
    assert!(
        searched
            .iter()
            .any(|step| step.contains("COVERING INDEX transactions.request.timestamp_1")),
        "{searched:?}"
    );
    let dropped = database.connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name = 'transactions.parentID_1'",
        [],
        |row| row.get(0),
    );
    assert_eq!(dropped, Ok(0));
}

#[tokio::test]
async fn a_bucket_of_metrics_is_found_at_once_among_those_of_all_channels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openhim.db");
    let store: SharedStore = open(&path);
    let bucket = |number: u8| doc! {"channelID": ObjectId::from_bytes([number; 12]), "type": "m", "startTime": date(0)};
    for number in 0..100_u8 {
        let mut document = doc! {"_id": i32::from(number)};
        document.extend(bucket(number));
        store.insert(Collection::Metrics, document).await.unwrap();
    }
    let database = Database::open(&path, 1024).unwrap();

    let steps = steps_in(&database, Collection::Metrics, bucket(7), doc! {});

    let wanted = "metrics.startTime_1_channelID_1_type_1 (startTime=? AND channelID=? AND type=?)";
    assert!(steps.len() == 1 && steps[0].contains(wanted), "{steps:?}");
    // Whatever odd value comes is found all the same.
    let odd = doc! {"_id": 1000, "channelID": [ObjectId::from_bytes([7; 12])], "type": "m", "startTime": date(0)};
    store.insert(Collection::Metrics, odd).await.unwrap();
    assert_eq!(store.count(Collection::Metrics, bucket(7)).await.unwrap(), 2);
}
