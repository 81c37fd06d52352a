//! Backups of a file that is written to, and what may be put in its place.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bson::{doc, oid::ObjectId};

use crate::store::sqlite::{CopyError, SqliteOptions, SqliteStore, backup, restore};
use crate::store::{Collection, SharedStore};

fn open(path: &Path) -> SharedStore {
    SqliteStore::open(path, SqliteOptions::default()).unwrap()
}

async fn add(store: &SharedStore, number: i32) {
    let document = doc! {"_id": ObjectId::new(), "number": number, "text": "x".repeat(2000)};
    store.insert(Collection::Transactions, document).await.unwrap();
}

async fn count(store: &SharedStore) -> u64 {
    store.count(Collection::Transactions, doc! {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_made_while_others_write_and_holds_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("a.db"), folder.path().join("backup.db"));
    let store = open(&path);
    for number in 0..500 {
        add(&store, number).await;
    }
    let is_done = Arc::new(AtomicBool::new(false));
    let (writing, done) = (Arc::clone(&store), Arc::clone(&is_done));
    let writer = tokio::spawn(async move {
        let mut number = 500;
        while !done.load(Ordering::Relaxed) {
            add(&writing, number).await;
            number += 1;
        }
        number
    });

    let (from, to) = (path.clone(), copy.clone());
    let copied = tokio::task::spawn_blocking(move || {
        let mut told = Vec::new();
        let copied = backup(&from, &to, false, &mut |done, of| told.push((done, of))).unwrap();
        assert!(told.iter().all(|(done, of)| done <= of));
        copied
    })
    .await
    .unwrap();
    is_done.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();

    assert!(
        copied.documents >= 500 && copied.documents <= written as u64,
        "{copied:?}"
    );
    let copy = open(&copy);
    assert_eq!(count(&copy).await, copied.documents);
    // No hole: what came last is there only with all before it.
    let after = copy
        .count(
            Collection::Transactions,
            doc! {"number": {"$gte": copied.documents as i64}},
        )
        .await
        .unwrap();
    assert_eq!(after, 0);
}

#[tokio::test]
async fn a_store_is_replaced_only_when_nobody_works_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("a.db"), folder.path().join("backup.db"));
    let store = open(&path);
    add(&store, 1).await;
    backup(&path, &copy, false, &mut |_, _| {}).unwrap();
    add(&store, 2).await;

    let refused = restore(&copy, &path, true, &mut |_, _| {}).unwrap_err();
    assert!(matches!(refused, CopyError::InUse(_)), "{refused}");
    assert_eq!(count(&store).await, 2);
    store.close().await;
    drop(store);
    let refused = restore(&copy, &path, false, &mut |_, _| {}).unwrap_err();
    assert!(matches!(refused, CopyError::Exists(_)), "{refused}");

    let restored = restore(&copy, &path, true, &mut |_, _| {}).unwrap();

    assert_eq!(restored.documents, 1);
    assert_eq!(count(&open(&path)).await, 1);
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".part"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

#[tokio::test]
async fn a_backup_goes_to_a_place_that_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("a.db"), folder.path().join("new/b.db"));
    let store = open(&path);
    add(&store, 1).await;
    backup(&path, &folder.path().join("backup.db"), false, &mut |_, _| {}).unwrap();
    assert_eq!(
        restore(&folder.path().join("backup.db"), &copy, false, &mut |_, _| {})
            .unwrap()
            .documents,
        1
    );
    assert_eq!(count(&open(&copy)).await, 1);
}

#[tokio::test]
async fn what_is_no_backup_or_damaged_is_refused_and_the_store_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("a.db"), folder.path().join("backup.db"));
    let store = open(&path);
    for number in 0..300 {
        add(&store, number).await;
    }
    backup(&path, &copy, false, &mut |_, _| {}).unwrap();
    store.close().await;
    drop(store);

    let stranger = folder.path().join("stranger.db");
    rusqlite::Connection::open(&stranger)
        .unwrap()
        .execute_batch("CREATE TABLE t (a)")
        .unwrap();
    let text = folder.path().join("text.db");
    std::fs::write(
        &text,
        "no database at all, only some words that are long enough to be looked at".repeat(20),
    )
    .unwrap();
    for foreign in [&stranger, &text] {
        let refused = restore(foreign, &path, true, &mut |_, _| {}).unwrap_err();
        assert!(matches!(refused, CopyError::Foreign(_)), "{refused}");
    }
    let missing = restore(&folder.path().join("none"), &path, true, &mut |_, _| {}).unwrap_err();
    assert!(matches!(missing, CopyError::Missing(_)), "{missing}");

    let mut bytes = std::fs::read(&copy).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xA5);
    std::fs::write(&copy, bytes).unwrap();
    let refused = restore(&copy, &path, true, &mut |_, _| {}).unwrap_err();
    assert!(matches!(refused, CopyError::Damaged { .. }), "{refused}");
    assert_eq!(count(&open(&path)).await, 300);
}
