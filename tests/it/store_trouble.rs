//! The store goes away under load and comes back: requests wait or are refused, and nothing that was answered is lost.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::doc;
use openhim_node::testing::mongod::{Mongod, ReplicaSet};
use openhim_node::testing::{Backend, TestNode, backend, eventually, node, path};
use tokio::task::JoinHandle;

use crate::support::parts;

async fn start(server: &Mongod, backend: &Backend) -> TestNode {
    let url = server.url("trouble");
    node()
        .set(|config| config.store.url = Some(url))
        .channel(path("^/x").primary(backend))
        .start()
        .await
}

/// The ids of transactions that callers have got answers for, and other statuses than 200.
type Heard = (BTreeSet<String>, Vec<u16>);

fn load(node: &TestNode, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<Heard>> {
    (0..4)
        .map(|_| {
            let (caller, stop) = (node.caller(), Arc::clone(stop));
            tokio::spawn(async move {
                let mut heard = Heard::default();
                while !stop.load(Ordering::Relaxed) {
                    let reply = caller.post("/x", "{}").await;
                    match reply.status() {
                        200 => drop(
                            heard
                                .0
                                .insert(reply.header("x-openhim-transactionid").unwrap().to_owned()),
                        ),
                        other => heard.1.push(other),
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                heard
            })
        })
        .collect()
}

/// Lets the trouble happen under load, and sees that everything is well again afterwards.
async fn survives(node: &TestNode, trouble: impl AsyncFnOnce()) {
    let stop = Arc::new(AtomicBool::new(false));
    let callers = load(node, &stop);
    tokio::time::sleep(Duration::from_millis(300)).await;

    trouble().await;

    eventually("the node serves again", async || {
        (node.post("/x", "{}").await.status() == 200).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let (mut answered, mut refused) = Heard::default();
    for caller in callers {
        let (good, bad) = caller.await.unwrap();
        answered.extend(good);
        refused.extend(bad);
    }
    assert!(refused.iter().all(|status| *status == 503), "{refused:?}");
    assert!(!answered.is_empty());
    eventually("every answered message is recorded with its end", async || {
        let well: BTreeSet<_> = node
            .recorded()
            .all()
            .await
            .iter()
            .filter(|tx| tx.status() == "Successful")
            .filter_map(|tx| tx.at("_id").and_then(bson::Bson::as_object_id).map(|id| id.to_hex()))
            .collect();
        answered.is_subset(&well).then_some(())
    })
    .await;
    eventually("no transaction is left under way", async || {
        let all = node.recorded().all().await;
        all.iter().all(|tx| tx.status() != "Processing").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stands_still_loses_nothing() {
    let Some(server) = Mongod::start() else { return };
    let backend = backend().start().await;
    let node = start(&server, &backend).await;

    survives(&node, async || {
        server.pause();
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.resume();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_killed_and_started_again_loses_nothing() {
    let Some(mut server) = Mongod::start() else { return };
    let backend = backend().start().await;
    let node = start(&server, &backend).await;

    survives(&node, async || {
        server.kill();
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.restart();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_loses_nothing() {
    let Some(server) = Mongod::start_replica_set() else {
        return;
    };
    server.initiate().await;
    let backend = backend().start().await;
    let node = start(&server, &backend).await;

    survives(&node, async || {
        let admin = server.admin().await;
        let step_down = doc! {"replSetStepDown": 2, "secondaryCatchUpPeriodSecs": 0, "force": true};
        // Servers may close the connection of who asks for it.
        let _ = admin.run_command(step_down).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_among_three_loses_nothing() {
    let Some(mut set) = ReplicaSet::start(3).await else {
        return;
    };
    let backend = backend().start().await;
    let url = set.url("trouble");
    let node = node()
        .set(|config| config.store.url = Some(url))
        .channel(path("^/x").primary(&backend))
        .start()
        .await;

    survives(&node, async || {
        let first = set.primary().await;
        set.members[first].kill();
        let second = set.primary().await;
        assert_ne!(first, second);
        eventually("the node goes on with two of three", async || {
            (node.post("/x", "{}").await.status() == 200).then_some(())
        })
        .await;
        set.members[first].restart();
        let step_down = doc! {"replSetStepDown": 2, "secondaryCatchUpPeriodSecs": 1, "force": true};
        // Servers may close the connection of who asks for it.
        let _ = set.members[second].admin().await.run_command(step_down).await;
        set.primary().await;
    })
    .await;
}

/// A small file system of its own, gone with this value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a printed line, where nothing may be mounted.
    fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .status();
        match mounted.is_ok_and(|status| status.success()) {
            true => Some(Self(folder)),
            false => {
                parts::skip("right to mount a small file system");
                None
            }
        }
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut ballast = File::create(self.0.path().join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_needs_only_room() {
    let Some(disk) = SmallDisk::mount(32) else { return };
    let backend = backend().start().await;
    let url = format!("sqlite://{}/openhim.db", disk.0.path().display());
    let node = node()
        .set(|config| config.store.url = Some(url))
        .channel(path("^/x").primary(&backend))
        .start()
        .await;

    survives(&node, async || {
        disk.fill();
        // What is in the write-ahead log may be written over for a while; large messages find no room soon.
        let waiting = eventually("a message waits", async || {
            let caller = node.caller();
            let mut sending = tokio::spawn(async move { caller.post("/x", vec![b'x'; 256 << 10]).await.status() });
            let answered = tokio::time::timeout(Duration::from_secs(1), &mut sending).await;
            answered.is_err().then_some(sending)
        })
        .await;
        disk.make_room();
        assert_eq!(waiting.await.unwrap(), 200);
    })
    .await;
}
