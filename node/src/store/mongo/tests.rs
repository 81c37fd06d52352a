use std::cell::Cell;

use super::*;
use crate::store::{SharedStore, conformance};
use crate::testing::mongod::Mongod;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_what_every_store_must_do() {
    let Some(server) = Mongod::start() else {
        return;
    };
    let count = Cell::new(0);
    conformance::everything(|| {
        count.set(count.get() + 1);
        let url = server.url(&format!("part{}", count.get()));
        async move { MongoStore::connect(&url, None, MongoOptions::default()).await.unwrap() as SharedStore }
    })
    .await;
}
