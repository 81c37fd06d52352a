//! A route of type `kafka`: the message, described in JSON, becomes one record of a topic.
//!
//! One producer for each client id, connected on first use, kept while it is used. A topic's partitions are taken in turn,
//! since records have no key. Topics that do not exist are made by the broker, if it makes any. A lost connection or a
//! new leader is found by the next attempt; an attempt that is repeated may write a record twice, as everywhere in Kafka
//! without transactions.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::Bson;
use rskafka::BackoffConfig;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::error::RouteError;
use super::{Message, socket};
use crate::model::json;
use crate::model::transaction::ResponsePart;
use crate::tables::RouteEntry;

/// A broker that does not answer is reported after this time, as with OpenHIM's library.
const GIVE_UP: Duration = Duration::from_secs(8);
/// A topic's partitions are asked for again after this time, so that new ones are used.
const PARTITIONS: Duration = Duration::from_secs(300);
/// A producer that nobody used for so long is closed.
const KEEP: Duration = Duration::from_secs(600);
/// Where a route names no client id.
const CLIENT_ID: &str = "openhim-core";

/// Producers of one instance.
#[derive(Debug)]
pub(super) struct Kafka {
    brokers: Vec<String>,
    producers: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    producer: Arc<Producer>,
    used: Instant,
}

/// One client id's connection to the cluster.
#[derive(Debug, Default)]
struct Producer {
    client: OnceCell<Client>,
    topics: Mutex<HashMap<String, Arc<Topic>>>,
}

#[derive(Debug)]
struct Topic {
    partitions: Vec<(i32, OnceCell<PartitionClient>)>,
    next: AtomicUsize,
    asked: Instant,
}

impl Kafka {
    /// Nothing is connected yet; `brokers` is `router.kafkaBrokers`.
    pub(super) fn new(brokers: &str) -> Self {
        let brokers = brokers.replace(['"', '\''], "");
        Self {
            brokers: brokers
                .split(',')
                .map(str::trim)
                .filter(|broker| !broker.is_empty())
                .map(str::to_owned)
                .collect(),
            producers: Mutex::default(),
        }
    }

    /// Writes a message to the route's topic; answers with what the cluster says, as OpenHIM's library tells it.
    ///
    /// # Errors
    /// The topic is not named, or the cluster did not take the record in time.
    pub(super) async fn send(&self, message: &Message, route: &RouteEntry) -> Result<String, RouteError> {
        let topic = route.route.kafka_topic.as_deref();
        let topic = topic.ok_or_else(|| RouteError::Misconfigured("the route has no kafkaTopic".into()))?;
        let value = describe(message, route).await?;
        let record = Record {
            key: None,
            value: Some(value.into_bytes()),
            headers: BTreeMap::new(),
            timestamp: chrono::DateTime::from_timestamp_millis(message.at).unwrap_or_default(),
        };
        let producer = self.producer(route.route.kafka_client_id.as_deref().unwrap_or(CLIENT_ID));
        let client_id = route.route.kafka_client_id.as_deref().unwrap_or(CLIENT_ID);
        let sending = self.produce(&producer, client_id, topic, record);
        let (partition, offset) = socket::within(message.limit, sending).await?;
        let told = json!([{
            "topicName": topic, "partition": partition, "errorCode": 0, "baseOffset": offset.to_string(),
        }]);
        Ok(told.to_string())
    }

    fn producer(&self, client_id: &str) -> Arc<Producer> {
        let mut producers = self.producers.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = producers.entry(client_id.to_owned()).or_insert_with(|| Kept {
            producer: Arc::default(),
            used: Instant::now(),
        });
        kept.used = Instant::now();
        Arc::clone(&kept.producer)
    }

    async fn produce(
        &self,
        producer: &Producer,
        client_id: &str,
        topic: &str,
        record: Record,
    ) -> Result<(i32, i64), RouteError> {
        let client = producer.client.get_or_try_init(|| self.connect(client_id)).await?;
        let found = producer.topic(client, topic).await?;
        let at = found.next.fetch_add(1, Ordering::Relaxed) % found.partitions.len();
        let (partition, writer) = &found.partitions[at];
        let writer = writer
            .get_or_try_init(|| client.partition_client(topic, *partition, UnknownTopicHandling::Retry))
            .await
            .map_err(failed)?;
        match writer.produce(vec![record], Compression::NoCompression).await {
            Ok(offsets) => Ok((*partition, offsets.first().copied().unwrap_or(-1))),
            Err(error) => {
                // Perhaps the topic is not what it was.
                producer.forget(topic);
                Err(failed(error))
            }
        }
    }

    async fn connect(&self, client_id: &str) -> Result<Client, RouteError> {
        let backoff = BackoffConfig {
            deadline: Some(GIVE_UP),
            max_backoff: Duration::from_secs(2),
            ..BackoffConfig::default()
        };
        ClientBuilder::new(self.brokers.clone())
            .client_id(client_id)
            .backoff_config(backoff)
            .build()
            .await
            .map_err(failed)
    }

    /// Closes producers that nobody uses.
    pub(super) fn sweep(&self) {
        let mut producers = self.producers.lock().unwrap_or_else(PoisonError::into_inner);
        producers.retain(|_, kept| kept.used.elapsed() < KEEP);
    }
}

impl Producer {
    async fn topic(&self, client: &Client, name: &str) -> Result<Arc<Topic>, RouteError> {
        if let Some(topic) = self.known(name) {
            return Ok(topic);
        }
        let mut partitions = partitions(client, name).await?;
        if partitions.is_empty() {
            // Asking for it by name makes the broker make it.
            client
                .partition_client(name, 0, UnknownTopicHandling::Retry)
                .await
                .map_err(failed)?;
            partitions = self::partitions(client, name).await?;
        }
        if partitions.is_empty() {
            return Err(RouteError::Kafka(format!("the topic `{name}` does not exist")));
        }
        let topic = Arc::new(Topic {
            partitions: partitions.into_iter().map(|id| (id, OnceCell::new())).collect(),
            next: AtomicUsize::new(0),
            asked: Instant::now(),
        });
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.insert(name.to_owned(), Arc::clone(&topic));
        Ok(topic)
    }

    fn known(&self, name: &str) -> Option<Arc<Topic>> {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.get(name)?;
        (topic.asked.elapsed() < PARTITIONS).then(|| Arc::clone(topic))
    }

    fn forget(&self, name: &str) {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

async fn partitions(client: &Client, name: &str) -> Result<Vec<i32>, RouteError> {
    let topics = client.list_topics().await.map_err(failed)?;
    let found = topics.into_iter().find(|topic| topic.name == name);
    Ok(found.map_or_else(Vec::new, |topic| topic.partitions.into_iter().collect()))
}

fn failed(error: rskafka::client::error::Error) -> RouteError {
    RouteError::Kafka(error.to_string())
}

/// The record's value.
async fn describe(message: &Message, route: &RouteEntry) -> Result<String, RouteError> {
    let body = socket::whole(message.body.body()).await?;
    let primary = message.primary.get();
    let value = json!({
        "method": message.method.as_str(),
        "path": message.target.as_str(),
        "pattern": message.channel.channel.url_pattern,
        "headers": headers(message, route),
        "body": String::from_utf8_lossy(&body),
        "response": primary.map_or_else(|| json!({}), |primary| json!({
            "status": primary.status, "headers": primary.headers, "body": primary.body,
        })),
    });
    Ok(value.to_string())
}

fn headers(message: &Message, route: &RouteEntry) -> Value {
    let mut fields = message.headers.named_for(route);
    fields.push(("X-OpenHIM-TransactionID".into(), message.transaction.to_hex()));
    Value::Object(fields.into_iter().map(|(name, value)| (name, value.into())).collect())
}

/// What a record says of the primary's answer.
#[derive(Debug)]
pub struct PrimaryAnswer {
    pub status: u16,
    pub headers: Value,
    pub body: String,
}

impl PrimaryAnswer {
    /// As it is stored.
    pub fn new(response: &ResponsePart) -> Self {
        let headers = bson::Document::try_from(response.headers.as_ref()).unwrap_or_default();
        Self {
            status: response.status,
            headers: json::to_value(&Bson::Document(headers)),
            body: response.body.clone().unwrap_or_default().into_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_listed_with_commas_and_perhaps_in_quotes() {
        let kafka = Kafka::new("\"a:9092, b:9093\"");

        assert_eq!(kafka.brokers, ["a:9092", "b:9093"]);
    }

    #[test]
    fn an_unused_producer_is_closed() {
        let kafka = Kafka::new("a:1");
        let first = kafka.producer("x");
        assert!(Arc::ptr_eq(&first, &kafka.producer("x")));

        kafka.producers.lock().unwrap().get_mut("x").unwrap().used -= KEEP * 2;
        kafka.sweep();

        assert!(!Arc::ptr_eq(&first, &kafka.producer("x")));
    }
}
