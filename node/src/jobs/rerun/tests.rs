//! Tasks on a whole node, on either store.

use bson::{Bson, DateTime, Document};

use super::*;
use crate::model::transaction::Status;
use crate::testing::mongod::Mongod;
use crate::testing::{NodeBuilder, TestNode, Transaction, backend, eventually, node, path};

/// Runs a test on the embedded store and, where there is a server, on MongoDB.
async fn on_both_stores(test: impl AsyncFn(NodeBuilder)) {
    let quick = |builder: NodeBuilder| builder.set(|config| config.rerun.processor.poll_period_millis = 50);
    test(quick(node())).await;
    if let Some(mongod) = Mongod::start() {
        test(quick(node().store(&mongod.url("openhim")))).await;
    }
}

/// Makes a task as `POST /tasks` does.
async fn task(node: &TestNode, tids: &[String], more: Document) -> ObjectId {
    let id = ObjectId::new();
    let entries: Vec<Document> = tids
        .iter()
        .map(|tid| doc! { "_id": ObjectId::new(), "tid": tid, "tstatus": "Queued" })
        .collect();
    let mut task = doc! {
        "_id": id, "status": "Queued", "transactions": entries, "created": DateTime::from_millis(1_795_348_800_000),
        "user": "root@openhim.org", "remainingTransactions": tids.len() as i32, "totalTransactions": tids.len() as i32,
        "batchSize": 1,
    };
    task.extend(more);
    node.store().insert(Collection::Tasks, task).await.unwrap();
    id
}

async fn read(node: &TestNode, task: ObjectId) -> Document {
    let found = node.store().one(Collection::Tasks, doc! { "_id": task }).await.unwrap();
    found.expect("the task is there")
}

async fn becomes(node: &TestNode, task: ObjectId, status: &str) -> Document {
    eventually(&format!("the task becomes {status}"), async || {
        let task = read(node, task).await;
        (task.get_str("status").ok() == Some(status)).then_some(task)
    })
    .await
}

async fn set(node: &TestNode, task: ObjectId, fields: Document) {
    let outcome = node
        .store()
        .update(Collection::Tasks, doc! { "_id": task }, doc! { "$set": fields })
        .await;
    assert_eq!(outcome.unwrap().matched, 1);
}

fn entry(task: &Document, at: usize) -> &Document {
    task.get_array("transactions").unwrap()[at].as_document().unwrap()
}

fn id(transaction: &Transaction) -> String {
    transaction.0.get_object_id("_id").unwrap().to_hex()
}

fn child_of<'t>(all: &'t [Transaction], parent: &str) -> &'t Transaction {
    all.iter()
        .find(|tx| {
            tx.at("parentID")
                .and_then(Bson::as_object_id)
                .is_some_and(|id| id.to_hex() == parent)
        })
        .expect("a child")
}

#[tokio::test]
async fn a_task_sends_its_transaction_again_and_links_parent_and_child() {
    Box::pin(on_both_stores(async |builder| {
        let backend = backend().answers(201, "made").start().await;
        let node = builder
            .client("clinic", "secret", &["fhir"])
            .channel(path("^/fhir$").private(&["fhir"]).primary(&backend))
            .start()
            .await;
        node.as_client("clinic", "secret")
            .header("x.dot", "1")
            .post("/fhir?x=1", "{\"a\":1}")
            .await;
        let parent = node.recorded().only().await;
        // What the client may do now does not matter: the API asked who made the task.
        let closed = doc! { "$set": { "allow": [] } };
        node.store()
            .update(Collection::Channels, doc! {}, closed)
            .await
            .unwrap();

        let task = task(&node, &[id(&parent)], doc! {}).await;

        let done = becomes(&node, task, "Completed").await;
        let all = node.recorded().closed(2).await;
        let child = child_of(&all, &id(&parent));
        let noted = entry(&done, 0);
        assert_eq!(noted.get_str("tstatus").ok(), Some("Completed"));
        assert_eq!(noted.get_str("rerunID").ok(), Some(id(child).as_str()));
        assert_eq!(noted.get_str("rerunStatus").ok(), Some("Successful"));
        assert_eq!(done.get_i32("remainingTransactions").ok(), Some(0));
        assert!(done.get_datetime("completedDate").is_ok());
        assert!(!done.contains_key("openhimOwner"), "{done}");
        let links = eventually("the parent knows its child", async || {
            let all = node.recorded().all().await;
            let parent = all.iter().find(|tx| id(tx) == id(&parent)).cloned().unwrap();
            parent.flag("wasRerun").filter(|was| *was).map(|_| parent)
        })
        .await;
        assert_eq!(
            links
                .at("childIDs.0")
                .and_then(Bson::as_object_id)
                .map(|id| id.to_hex()),
            Some(id(child))
        );
        // The message is the same to the backend, but for the transaction's id.
        let [first, again] = &backend.seen()[..] else {
            panic!("two messages")
        };
        assert_eq!(
            (&first.method, &first.target, &first.body),
            (&again.method, &again.target, &again.body)
        );
        let without_id = |seen: &crate::testing::Seen| {
            let mut headers = seen.headers.clone();
            headers.remove("x-openhim-transactionid");
            headers
        };
        assert_eq!(without_id(first), without_id(again));
        // And the record says where it comes from.
        assert_eq!(child.text("clientIP"), Some("127.0.0.1"));
        assert_eq!(child.at("clientID"), parent.at("clientID"));
        assert_eq!(child.text("request.headers.parentid"), Some(id(&parent).as_str()));
        assert_eq!(child.text("request.headers.taskid"), Some(task.to_hex().as_str()));
        assert_eq!(child.at("request.host"), parent.at("request.host"));
        assert_eq!(child.at("autoRetryAttempt"), None);
        node.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn what_cannot_be_rerun_is_said_in_openhims_words() {
    Box::pin(on_both_stores(async |builder| {
        let backend = backend().start().await;
        let node = builder.channel(path("^/x$").primary(&backend)).start().await;
        node.post("/x", "").await;
        let empty = node.recorded().only().await;
        let unknown = ObjectId::new().to_hex();

        let task = task(&node, &[id(&empty), unknown.clone()], doc! { "batchSize": 2 }).await;

        let done = becomes(&node, task, "Completed").await;
        let words = |at| {
            let entry = entry(&done, at);
            (entry.get_str("tstatus").unwrap(), entry.get_str("error").unwrap())
        };
        let expected = format!(
            "Error: Transaction {} cannot be rerun as there isn't enough information about the request",
            id(&empty)
        );
        assert_eq!(words(0), ("Failed", expected.as_str()));
        assert_eq!(
            words(1),
            (
                "Failed",
                format!("Error: Transaction {unknown} could not be found").as_str()
            )
        );
        assert_eq!(backend.seen().len(), 1, "nothing was sent again");
        node.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn a_task_that_is_paused_goes_on_where_it_was_and_one_that_is_cancelled_does_not() {
    Box::pin(on_both_stores(async |builder| {
        let slow = backend().after(Duration::from_millis(60)).start().await;
        let node = builder.channel(path("^/x$").primary(&slow)).start().await;
        let mut tids = Vec::new();
        for n in 0..8 {
            node.post("/x", format!("message {n}")).await;
        }
        for tx in node.recorded().closed(8).await {
            tids.push(id(&tx));
        }
        let task = task(&node, &tids, doc! { "batchSize": 2 }).await;

        let begun = eventually("some are done", async || {
            let task = read(&node, task).await;
            let left = task.get_i32("remainingTransactions").unwrap();
            (left < 8).then_some(left)
        })
        .await;
        assert!(begun > 0, "progress is seen on the way");
        set(&node, task, doc! { "status": "Paused" }).await;
        eventually("its node lets go", async || {
            let task = read(&node, task).await;
            (!task.contains_key("openhimOwner")).then_some(())
        })
        .await;
        let paused = read(&node, task).await;
        assert_eq!(paused.get_str("status").ok(), Some("Paused"));
        let sent = slow.seen().len();
        let left = paused.get_i32("remainingTransactions").unwrap() as usize;
        assert_eq!(sent, 8 + 8 - left, "what is noted is what was sent");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(slow.seen().len(), sent, "it stays paused");

        set(&node, task, doc! { "status": "Queued" }).await;
        becomes(&node, task, "Completed").await;
        let mut bodies: Vec<_> = slow.seen().iter().skip(8).map(|seen| seen.body.clone()).collect();
        bodies.sort();
        assert_eq!(
            bodies,
            (0..8).map(|n| format!("message {n}")).collect::<Vec<_>>(),
            "each once"
        );

        let cancelled = super::tests::task(&node, &tids, doc! {}).await;
        eventually("some are done", async || {
            (read(&node, cancelled).await.get_i32("remainingTransactions").unwrap() < 8).then_some(())
        })
        .await;
        set(&node, cancelled, doc! { "status": "Cancelled" }).await;
        eventually("its node lets go", async || {
            let task = read(&node, cancelled).await;
            (!task.contains_key("openhimOwner")).then_some(())
        })
        .await;
        let sent = slow.seen().len();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(slow.seen().len(), sent);
        assert!(sent < 24);
        assert_eq!(read(&node, cancelled).await.get_str("status").ok(), Some("Cancelled"));
        node.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn a_batch_is_sent_at_once_and_a_failing_destination_does_not_stop_the_task() {
    Box::pin(on_both_stores(async |builder| {
        let slow = backend()
            .answers(500, "no")
            .after(Duration::from_millis(400))
            .start()
            .await;
        let node = builder.channel(path("^/x$").primary(&slow)).start().await;
        let mut posts = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let caller = node.caller();
            posts.spawn(async move { caller.post("/x", "a").await });
        }
        posts.join_all().await;
        let tids: Vec<_> = node.recorded().closed(6).await.iter().map(id).collect();

        let started = tokio::time::Instant::now();
        let task = task(&node, &tids, doc! { "batchSize": 6 }).await;
        let done = becomes(&node, task, "Completed").await;

        assert!(
            started.elapsed() < Duration::from_millis(6 * 400),
            "they were under way together"
        );
        for at in 0..6 {
            assert_eq!(entry(&done, at).get_str("tstatus").ok(), Some("Completed"));
            assert_eq!(entry(&done, at).get_str("rerunStatus").ok(), Some("Failed"));
        }
        node.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn an_asynchronous_rerun_completes_its_task_when_its_mediator_has_answered() {
    Box::pin(on_both_stores(async |builder| {
        let backend = backend().start().await;
        let channel = path("^/x$").with("isAsynchronousProcess", true).primary(&backend);
        let node = builder.channel(channel).start().await;
        assert_eq!(node.post("/x", "a").await.status(), 202);
        let parent = node.recorded().only().await;

        let task = task(&node, &[id(&parent)], doc! {}).await;

        let pending = becomes(&node, task, "Pending Async").await;
        assert_eq!(entry(&pending, 0).get_str("tstatus").ok(), Some("Processing"));
        assert_eq!(entry(&pending, 0).get_str("rerunStatus").ok(), Some("Pending Async"));
        assert_eq!(pending.get("completedDate"), Some(&Bson::Null));
        let child = ObjectId::parse_str(entry(&pending, 0).get_str("rerunID").unwrap()).unwrap();
        let answered = doc! { "$set": { "status": "Completed" } };
        node.store()
            .update(Collection::Transactions, doc! { "_id": child }, answered)
            .await
            .unwrap();
        let done = becomes(&node, task, "Completed").await;
        assert_eq!(entry(&done, 0).get_str("tstatus").ok(), Some("Completed"));
        assert_eq!(entry(&done, 0).get_str("rerunStatus").ok(), Some("Completed"));
        node.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn a_dead_nodes_task_goes_on_without_sending_anything_twice() {
    Box::pin(on_both_stores(async |builder| {
        let backend = backend().start().await;
        let node = builder.channel(path("^/x$").primary(&backend)).start().await;
        for n in 0..4 {
            node.post("/x", format!("{n}")).await;
        }
        let parents = node.recorded().closed(4).await;
        let tids: Vec<_> = parents.iter().map(id).collect();
        // As a node leaves it that died in a batch of three: one sent and recorded to its end, one sent with its end
        // unknown, one not sent at all.
        let task = ObjectId::new();
        let created = DateTime::from_millis(1_795_348_800_000);
        let tstatus = ["Processing", "Processing", "Processing", "Queued"];
        let entries: Vec<Document> = tids.iter().zip(tstatus).map(|(tid, tstatus)| doc! { "tid": tid, "tstatus": tstatus }).collect();
        let document = doc! {
            "_id": task, "status": "Processing", "transactions": entries, "created": created, "user": "root@openhim.org",
            "remainingTransactions": 4, "totalTransactions": 4, "batchSize": 3, "openhimOwner": "a dead node",
        };
        let children: Vec<ObjectId> = work::children(&document);
        let sent = doc! {
            "_id": children[0], "parentID": ObjectId::parse_str(&tids[0]).unwrap(), "status": "Successful",
            "channelID": parents[0].0.get_object_id("channelID").unwrap(), "response": { "status": 200 },
            "request": { "timestamp": created },
        };
        let unknown = doc! {
            "_id": children[1], "parentID": ObjectId::parse_str(&tids[1]).unwrap(), "status": "Failed",
            "channelID": parents[0].0.get_object_id("channelID").unwrap(), "request": { "timestamp": created },
            "error": { "message": "OpenHIM crashed while still waiting for a response" },
        };
        node.store().insert(Collection::Transactions, sent).await.unwrap();
        node.store().insert(Collection::Transactions, unknown).await.unwrap();
        node.store().insert(Collection::Tasks, document).await.unwrap();

        let done = becomes(&node, task, "Completed").await;

        let said: Vec<_> = (0..4)
            .map(|at| {
                let entry = entry(&done, at);
                (entry.get_str("tstatus").unwrap(), entry.get_str("rerunStatus").unwrap())
            })
            .collect();
        assert_eq!(
            said,
            [("Completed", "Successful"), ("Failed", "Failed"), ("Completed", "Successful"), ("Completed", "Successful")]
        );
        let doubt = entry(&done, 1).get_str("error").unwrap();
        assert!(doubt.contains("may have reached its destination"), "{doubt}");
        let mut again: Vec<_> = backend.seen().iter().skip(4).map(|seen| seen.body.clone()).collect();
        again.sort();
        assert_eq!(again, ["2", "3"], "what was sent, or may have been, is not sent again");
        node.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn two_nodes_share_the_tasks_and_no_transaction_is_sent_twice() {
    Box::pin(on_both_stores(async |builder| {
        let backend = backend().start().await;
        let one = builder.channel(path("^/x$").primary(&backend)).start().await;
        let other = node()
            .sharing(&one)
            .set(|config| config.rerun.processor.poll_period_millis = 50)
            .start()
            .await;
        for n in 0..10 {
            one.post("/x", format!("{n}")).await;
        }
        let tids: Vec<_> = one.recorded().closed(10).await.iter().map(id).collect();

        let mut tasks = Vec::new();
        for _ in 0..6 {
            tasks.push(task(&one, &tids, doc! { "batchSize": 3 }).await);
        }
        for task in tasks {
            becomes(&one, task, "Completed").await;
        }

        assert_eq!(backend.seen().len(), 10 + 6 * 10);
        other.stop().await;
        one.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn a_node_that_stops_ends_its_batch_and_leaves_the_rest_to_the_next() {
    Box::pin(on_both_stores(async |builder| {
        let slow = backend().after(Duration::from_millis(150)).start().await;
        let node = builder.channel(path("^/x$").primary(&slow)).start().await;
        for n in 0..6 {
            node.post("/x", format!("{n}")).await;
        }
        let tids: Vec<_> = node.recorded().closed(6).await.iter().map(id).collect();
        let task = task(&node, &tids, doc! {}).await;
        eventually("the first is under way", async || (slow.seen().len() > 6).then_some(())).await;

        let stopped = node.stop().await;
        let node = stopped
            .again()
            .set(|config| config.rerun.processor.poll_period_millis = 50)
            .start()
            .await;

        let done = becomes(&node, task, "Completed").await;
        for at in 0..6 {
            assert_eq!(
                entry(&done, at).get_str("rerunStatus").ok(),
                Some("Successful"),
                "{done}"
            );
        }
        let mut bodies: Vec<_> = slow.seen().iter().skip(6).map(|seen| seen.body.clone()).collect();
        bodies.sort();
        assert_eq!(bodies, ["0", "1", "2", "3", "4", "5"], "each once");
        node.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn retries_count_their_attempts_until_the_channel_has_enough() {
    Box::pin(on_both_stores(async |builder| {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let channel = path("^/x$")
            .with("autoRetryEnabled", true)
            .with("autoRetryPeriodMinutes", 1)
            .with("autoRetryMaxAttempts", 2)
            .route("primary", nobody, doc! { "primary": true });
        let node = builder.channel(channel).start().await;
        assert_eq!(node.post("/x", "a").await.status(), 500);
        let first = node.recorded().only().await;

        let again = async |parent: &Transaction| {
            let made = task(&node, &[id(parent)], doc! { "user": "internal" }).await;
            becomes(&node, made, "Completed").await;
            eventually("the attempt is closed", async || {
                let all = node.recorded().all().await;
                all.into_iter().find(|tx| {
                    tx.at("parentID")
                        .and_then(Bson::as_object_id)
                        .is_some_and(|it| it.to_hex() == id(parent))
                        && tx.status() == Status::Failed.name()
                })
            })
            .await
        };
        let second = again(&first).await;
        let third = again(&second).await;

        assert_eq!(
            (first.flag("autoRetry"), first.number("autoRetryAttempt")),
            (Some(true), None)
        );
        assert_eq!(
            (second.flag("autoRetry"), second.number("autoRetryAttempt")),
            (Some(true), Some(1))
        );
        assert_eq!(
            (third.flag("autoRetry"), third.number("autoRetryAttempt")),
            (Some(false), Some(2))
        );

        // Switched off, what was queued is let go.
        let off = doc! { "$set": { "autoRetryEnabled": false } };
        node.store().update(Collection::Channels, doc! {}, off).await.unwrap();
        let task = task(&node, &[id(&second)], doc! { "user": "internal" }).await;
        let done = becomes(&node, task, "Completed").await;
        assert_eq!(entry(&done, 0).get_str("tstatus").ok(), Some("Failed"));
        assert!(entry(&done, 0).get_str("error").unwrap().contains("is not retried"));
        node.stop().await;
    }))
    .await;
}
