use super::*;
use crate::store::{SharedStore, conformance};

#[tokio::test]
async fn it_does_what_every_store_must_do() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance::everything(|| {
        count.set(count.get() + 1);
        let path = folder.path().join(format!("{}.db", count.get()));
        async move { SqliteStore::open(path, SqliteOptions::default()).unwrap() as SharedStore }
    })
    .await;
}
