//! Starting, stopping, renewing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bson::doc;
use openhim_node::store::Collection;
use openhim_node::testing::{TestNode, backend, eventually, node, path};

/// Requests without a pause until told to stop; answers how many succeeded and how many did not.
fn load(node: &TestNode, callers: usize, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<(usize, usize)>> {
    (0..callers)
        .map(|_| {
            let (caller, stop) = (node.caller(), Arc::clone(stop));
            tokio::spawn(async move {
                let (mut good, mut bad) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    match caller.post("/x", "{}").await.status() {
                        200 => good += 1,
                        _ => bad += 1,
                    }
                }
                (good, bad)
            })
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewing_the_instances_under_load_refuses_nobody() {
    let backend = backend().start().await;
    let node = node().instances(2).channel(path("^/x").primary(&backend)).start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers = load(&node, 4, &stop);

    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.node.restart().await;
    }
    stop.store(true, Ordering::Relaxed);

    let mut sent = 0;
    for caller in callers {
        let (good, bad) = caller.await.expect("no connection was refused");
        assert_eq!(bad, 0);
        sent += good;
    }
    let recorded = node.recorded().closed(sent).await;
    assert_eq!(recorded.len(), sent);
    assert!(recorded.iter().all(|tx| tx.status() == "Successful"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_dies_is_started_again_while_the_others_serve() {
    let backend = backend().start().await;
    let node = node().instances(2).channel(path("^/x").primary(&backend)).start().await;

    node.node.crash_instance(0);

    eventually("twenty answers in a row", async || {
        for _ in 0..20 {
            let caller = node.caller();
            let asked = tokio::spawn(async move { caller.get("/x").await.status() });
            if !asked.await.is_ok_and(|status| status == 200) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_stops_finishes_what_is_under_way() {
    let backend = backend().after(Duration::from_millis(300)).start().await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;
    let caller = node.caller();
    let asked = tokio::spawn(async move { caller.get("/x").await.status() });
    eventually("the backend is asked", async || {
        (!backend.seen().is_empty()).then_some(())
    })
    .await;

    let stopped = node.stop().await;

    assert_eq!(asked.await.unwrap(), 200);
    let node = stopped.again().start().await;
    assert_eq!(node.recorded().only().await.status(), "Successful");
}

#[tokio::test]
async fn a_second_start_finds_what_the_first_one_made() {
    let node = node().api().start().await;
    let users = node.store().all(Collection::Users, Default::default()).await.unwrap();
    let roles = node.store().count(Collection::Roles, doc! {}).await.unwrap();
    let keys = node
        .store()
        .all(Collection::Keystores, Default::default())
        .await
        .unwrap();
    assert_eq!((users.len(), roles, keys.len()), (1, 3, 1));

    let node = node.stop().await.again().api().start().await;

    assert_eq!(
        node.store().all(Collection::Users, Default::default()).await.unwrap(),
        users
    );
    assert_eq!(node.store().count(Collection::Roles, doc! {}).await.unwrap(), roles);
    assert_eq!(
        node.store()
            .all(Collection::Keystores, Default::default())
            .await
            .unwrap(),
        keys
    );
    assert_eq!(node.store().count(Collection::Passports, doc! {}).await.unwrap(), 2);
}

#[tokio::test]
async fn a_start_fails_what_a_crash_left_and_nothing_that_others_have_in_their_hands() {
    let first = node().start().await;
    let store = first.store();
    let unfinished = |owner: Option<&str>| {
        let mut tx = doc! {
            "_id": bson::oid::ObjectId::new(), "status": "Processing", "channelID": bson::oid::ObjectId::new(),
            "request": {"timestamp": bson::DateTime::from_millis(1)},
        };
        if let Some(owner) = owner {
            tx.insert("openhimNode", owner);
        }
        tx
    };
    for owner in [Some("dead"), Some("far away"), None] {
        store.insert(Collection::Transactions, unfinished(owner)).await.unwrap();
    }
    let gone = doc! {"_id": "dead", "boot": boot(), "pids": pids(), "pid": i64::MAX, "since": 1_i64, "beats": 1_i64};
    let far = doc! {"_id": "far away", "boot": "another", "pids": "p", "pid": 1_i64, "since": 1_i64, "beats": 1_i64};
    for other in [gone, far] {
        store.insert(Collection::Nodes, other).await.unwrap();
    }

    let second = node().sharing(&first).start().await;

    let found = async |filter| second.store().count(Collection::Transactions, filter).await.unwrap();
    assert_eq!(found(doc! {"openhimNode": "dead"}).await, 0);
    assert_eq!(found(doc! {"openhimNode": "far away"}).await, 1);
    let unowned = doc! {"openhimNode": {"$exists": false}, "status": "Processing"};
    assert_eq!(found(unowned).await, 1, "another node lives: whose it is, is unknown");
    let failed = second
        .store()
        .one(Collection::Transactions, doc! {"status": "Failed"})
        .await
        .unwrap()
        .unwrap();
    let error = failed.get_document("error").unwrap();
    assert_eq!(
        error.get_str("message").unwrap(),
        "OpenHIM crashed while still waiting for a response"
    );
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap()
        .trim()
        .to_owned()
}

fn pids() -> String {
    std::fs::read_link("/proc/self/ns/pid")
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

#[tokio::test]
async fn a_change_by_another_program_is_in_force_within_the_refresh_time() {
    let backend = backend().start().await;
    let node = node().set(|config| config.caching.refresh_millis = 100).start().await;
    assert_eq!(node.get("/x").await.status(), 404);

    let channel = path("^/x").primary(&backend).into_document();
    node.store().insert(Collection::Channels, channel).await.unwrap();

    eventually("the channel is in force", async || {
        (node.get("/x").await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_caching_a_change_is_in_force_at_once() {
    let backend = backend().start().await;
    let node = node().set(|config| config.caching.enabled = false).start().await;
    assert_eq!(node.get("/x").await.status(), 404);

    let channel = path("^/x").primary(&backend).into_document();
    node.store().insert(Collection::Channels, channel).await.unwrap();

    assert_eq!(node.get("/x").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_request_is_recorded_once() {
    let backend = backend().start().await;
    let node = node().instances(2).channel(path("^/x").primary(&backend)).start().await;
    let sent = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (caller, sent) = (node.caller(), Arc::clone(&sent));
            tokio::spawn(async move {
                for _ in 0..25 {
                    let body = sent.fetch_add(1, Ordering::Relaxed).to_string();
                    assert_eq!(caller.post("/x", body).await.status(), 200);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }

    let recorded = node.recorded().closed(400).await;

    let mut bodies: Vec<usize> = recorded
        .iter()
        .map(|tx| tx.text("request.body").unwrap().parse().unwrap())
        .collect();
    bodies.sort_unstable();
    assert_eq!(bodies, (0..400).collect::<Vec<_>>());
    assert!(recorded.iter().all(|tx| tx.status() == "Successful"));
}
