//! Kafka routes, with a real broker.

use bson::doc;
use openhim_node::testing::{ChannelBuilder, backend, node, path};
use serde_json::Value;

use crate::support::free_port;
use crate::support::kafka::Broker;

trait KafkaRoute {
    fn kafka(self, name: &str, topic: &str, more: bson::Document) -> Self;
}

impl KafkaRoute for ChannelBuilder {
    fn kafka(self, name: &str, topic: &str, more: bson::Document) -> Self {
        let mut fields = doc! {"type": "kafka", "kafkaClientId": "him", "kafkaTopic": topic};
        fields.extend(more);
        self.route(name, 0, fields)
    }
}

#[tokio::test]
async fn a_message_becomes_a_record_that_describes_it() {
    let Some(mut broker) = Broker::start() else { return };
    let backend = backend().answers(201, "made").header("x-made", "1").start().await;
    let node = node()
        .set(|config| config.router.kafka_brokers = broker.address())
        .channel(path("^/primary").kafka("queue", "primary", doc! {"primary": true}))
        .channel(
            path("^/both")
                .primary(&backend)
                .kafka("beside", "beside", doc! {})
                .kafka("after", "after", doc! {"waitPrimaryResponse": true}),
        )
        .start()
        .await;

    // A primary: the answer says where the record is.
    let caller = node.caller().header("authorization", "Basic eDp5").header("x.dot", "1");
    let reply = caller.post("/primary/7?a=b", "{\"é\":1}").await;

    assert_eq!(reply.status(), 200, "{}", reply.text());
    let told: Value = serde_json::from_str(reply.text()).unwrap();
    assert_eq!(told[0]["topicName"], "primary");
    assert_eq!(told[0]["errorCode"], 0);
    assert_eq!(told[0]["baseOffset"], "0");
    assert!(told[0]["partition"].is_i64());
    let tx = node.recorded().only().await;
    assert_eq!(tx.status(), "Successful");
    assert_eq!(tx.text("orchestrations.0.response.body"), Some(reply.text()));
    assert_eq!(tx.at("orchestrations.0.request.port"), None);
    let record = broker.records("primary").await.remove(0);
    assert_eq!(record["method"], "POST");
    assert_eq!(record["path"], "/primary/7?a=b");
    assert_eq!(record["pattern"], "^/primary");
    assert_eq!(record["body"], "{\"é\":1}");
    assert_eq!(record["response"], serde_json::json!({}));
    assert_eq!(record["headers"]["x.dot"], "1");
    assert_eq!(
        record["headers"]["X-OpenHIM-TransactionID"],
        reply.header("x-openhim-transactionid").unwrap()
    );
    assert_eq!(record["headers"]["host"], Value::Null);
    assert_eq!(record["headers"]["authorization"], Value::Null);

    // Secondaries: the one that waits tells the primary's answer too.
    assert_eq!(node.post("/both", "hello").await.status(), 201);
    node.recorded().closed(2).await;
    let (beside, after) = (
        broker.records("beside").await.remove(0),
        broker.records("after").await.remove(0),
    );
    assert_eq!(
        (&beside["body"], &beside["response"]),
        (&"hello".into(), &serde_json::json!({}))
    );
    assert_eq!(after["body"], "hello");
    assert_eq!(after["response"]["status"], 201);
    assert_eq!(after["response"]["body"], "made");
    assert_eq!(after["response"]["headers"]["x-made"], "1");

    // A broker that was away: its clients find it again.
    broker.restart();
    let mut statuses = Vec::new();
    while statuses.last() != Some(&200) && statuses.len() < 5 {
        statuses.push(node.post("/primary", "again").await.status());
    }
    assert_eq!(statuses.last(), Some(&200), "{statuses:?}");
    assert_eq!(broker.records("primary").await.len(), 2, "{statuses:?}");
}

#[tokio::test]
async fn a_cluster_that_is_not_there_fails_the_route_in_its_time() {
    let dead = free_port();
    let node = node()
        .set(|config| config.router.kafka_brokers = format!("127.0.0.1:{dead}"))
        .channel(
            path("^/x")
                .kafka("queue", "t", doc! {"primary": true})
                .with("timeout", 300),
        )
        .start()
        .await;

    let reply = node.post("/x", "hello").await;

    assert_eq!(
        (reply.status(), reply.text()),
        (500, "An internal server error occurred")
    );
    let tx = node.recorded().only().await;
    assert_eq!((tx.status(), tx.flag("autoRetry")), ("Failed", Some(true)));
    assert_eq!(tx.text("error.message"), Some("Request took longer than 300ms"));
}
