//! The rerun port of a whole node, as OpenHIM's task processor calls it.

use bson::oid::ObjectId;
use bson::{Bson, doc};

use crate::store::Collection;
use crate::testing::mongod::Mongod;
use crate::testing::{Caller, NodeBuilder, Transaction, backend, eventually, node, path};

fn id(transaction: &Transaction) -> ObjectId {
    transaction.0.get_object_id("_id").unwrap()
}

async fn repeats(builder: NodeBuilder) {
    let backend = backend().answers(201, "made").start().await;
    let node = builder
        .client("clinic", "secret", &["fhir"])
        .channel(path("^/fhir$").private(&["fhir"]).primary(&backend))
        .start()
        .await;
    node.as_client("clinic", "secret").post("/fhir?x=1", "{\"a\":1}").await;
    let parent = node.recorded().only().await;
    let client = parent.0.get_object_id("clientID").unwrap().to_hex();
    // A task that another program works on.
    let task = ObjectId::new();
    let other = doc! {"_id": ObjectId::new(), "tid": ObjectId::new().to_hex(), "tstatus": "Queued"};
    let entry = doc! {"_id": ObjectId::new(), "tid": id(&parent).to_hex(), "tstatus": "Processing"};
    let document = doc! {"_id": task, "status": "Paused", "transactions": [other, entry]};
    node.store().insert(Collection::Tasks, document).await.unwrap();

    let port = node.node.addresses().rerun.expect("the rerun port is open");
    let answer = Caller::new(port)
        .header("clientid", &client)
        .header("parentid", &id(&parent).to_hex())
        .header("taskid", &task.to_hex())
        .header("x-openhim-clientid", "clinic")
        .post("/fhir?x=1", "{\"a\":2}")
        .await;

    assert_eq!((answer.status(), answer.text()), (201, "made"));
    // Parent and task know of it when the answer is there.
    let all = node.recorded().all().await;
    let child = all.iter().find(|tx| tx.at("parentID").is_some()).expect("a child");
    let links = all.iter().find(|tx| id(tx) == id(&parent)).unwrap();
    assert_eq!(links.at("childIDs.0").and_then(Bson::as_object_id), Some(id(child)));
    assert_eq!(links.flag("wasRerun"), Some(true));
    let noted = async || {
        let task = node
            .store()
            .one(Collection::Tasks, doc! {"_id": task})
            .await
            .unwrap()
            .unwrap();
        let entries = task.get_array("transactions").unwrap().clone();
        let [other, entry] = &entries[..] else {
            panic!("two entries")
        };
        assert!(!other.as_document().unwrap().contains_key("rerunID"));
        entry.as_document().unwrap().clone()
    };
    assert_eq!(noted().await.get_str("rerunID").ok(), Some(id(child).to_hex().as_str()));
    eventually("the final status is noted", async || {
        (noted().await.get_str("rerunStatus").ok() == Some("Successful")).then_some(())
    })
    .await;
    // The message is the request's, the rest the parent's.
    let child = &node.recorded().closed(2).await[1];
    assert_eq!(child.text("request.body"), Some("{\"a\":2}"));
    assert_eq!(child.at("request.host"), parent.at("request.host"));
    assert_eq!(child.at("clientID"), parent.at("clientID"));
    assert_eq!(child.at("channelID"), parent.at("channelID"));
    assert_eq!(child.text("clientIP"), Some("127.0.0.1"));
    assert_eq!(
        child.text("request.headers.parentid"),
        Some(id(&parent).to_hex().as_str())
    );
    assert_eq!(child.text("request.headers.taskid"), Some(task.to_hex().as_str()));
    let sent = &backend.seen()[1];
    assert_eq!(sent.header("x-openhim-clientid"), Some("clinic"));
    assert_eq!(
        (sent.header("parentid"), sent.header("clientid"), sent.header("taskid")),
        (None, None, None)
    );
    node.stop().await;
}

#[tokio::test]
async fn the_port_repeats_a_transaction_as_openhims_processor_asks_for_it() {
    Box::pin(repeats(node())).await;
    if let Some(mongod) = Mongod::start() {
        Box::pin(repeats(node().store(&mongod.url("openhim")))).await;
    }
}

#[tokio::test]
async fn attempts_are_counted_as_the_parents_are() {
    let backend = backend().answers(500, "").start().await;
    let node = node().channel(path("^/x$").primary(&backend)).start().await;
    node.post("/x", "1").await;
    let parent = node.recorded().only().await;
    let marked = doc! {"$set": {"autoRetry": true, "autoRetryAttempt": 2}};
    node.store()
        .update(Collection::Transactions, doc! {"_id": id(&parent)}, marked)
        .await
        .unwrap();

    let port = node.node.addresses().rerun.unwrap();
    Caller::new(port)
        .header("parentid", &id(&parent).to_hex())
        .post("/x", "1")
        .await;

    let child = &node.recorded().closed(2).await[1];
    assert_eq!(
        (child.number("autoRetryAttempt"), child.at("clientID")),
        (Some(3), None)
    );
}

#[tokio::test]
async fn what_names_no_stored_transaction_goes_nowhere() {
    let backend = backend().start().await;
    let node = node().channel(path("^/x$").primary(&backend)).start().await;
    let port = node.node.addresses().rerun.unwrap();

    let unknown = ObjectId::new().to_hex();
    for parent in [None, Some("nonsense"), Some(unknown.as_str())] {
        let caller = Caller::new(port);
        let caller = match parent {
            Some(parent) => caller.header("parentid", parent),
            None => caller,
        };
        let answer = caller.post("/x", "hello").await;
        assert_eq!(
            (answer.status(), answer.text()),
            (500, "Internal Server Error"),
            "{parent:?}"
        );
    }

    assert_eq!((backend.seen().len(), node.recorded().count().await), (0, 0));
}
