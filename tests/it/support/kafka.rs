//! A real Kafka broker for one test, in a folder of its own on free ports.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rskafka::client::partition::UnknownTopicHandling;
use rskafka::client::{Client, ClientBuilder};
use tempfile::TempDir;

use super::{free_port, parts};

/// How long a start may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running broker; it ends with this value.
#[derive(Debug)]
pub(crate) struct Broker {
    jars: PathBuf,
    folder: TempDir,
    port: u16,
    process: Child,
}

impl Broker {
    /// Starts a cluster of one. `None`, with a printed line, if this machine has no broker.
    pub(crate) fn start() -> Option<Self> {
        let jars = parts::kafka()?;
        let folder = tempfile::tempdir().expect("a folder for the broker");
        let (port, control) = (free_port(), free_port());
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("a folder for the log");
        fs::write(
            data.join("meta.properties"),
            "version=1\ncluster.id=MkU3OEVBNTcwNTJENDM2Qk\nnode.id=1\n",
        )
        .expect("the log's identity");
        let settings = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{control}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{control}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\n\
             log.dirs={}\n\
             num.partitions=2\n\
             broker.session.timeout.ms=1500\n\
             broker.heartbeat.interval.ms=300\n",
            data.display()
        );
        fs::write(folder.path().join("server.properties"), settings).expect("the broker's settings");
        let process = spawn(&jars, &folder);
        let broker = Self {
            jars,
            folder,
            port,
            process,
        };
        broker.wait();
        Some(broker)
    }

    /// For `router.kafkaBrokers`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends the broker without a word.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again on the same data and ports.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = spawn(&self.jars, &self.folder);
        self.wait();
    }

    fn wait(&self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address()).is_err() {
            assert!(
                Instant::now() < deadline,
                "the broker does not listen within {PATIENCE:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The values of a topic's records so far.
    pub(crate) async fn records(&self, topic: &str) -> Vec<serde_json::Value> {
        let client = self.client().await;
        let topics = client.list_topics().await.expect("the broker answers");
        let mut values = Vec::new();
        for found in topics.into_iter().filter(|found| found.name == topic) {
            for partition in found.partitions {
                let reader = client
                    .partition_client(topic, partition, UnknownTopicHandling::Retry)
                    .await
                    .expect("a partition");
                let (records, _) = reader.fetch_records(0, 1..1_000_000, 100).await.expect("records");
                let read = |record: rskafka::record::RecordAndOffset| record.record.value.expect("a value");
                values.extend(
                    records
                        .into_iter()
                        .map(|record| serde_json::from_slice(&read(record)).expect("JSON")),
                );
            }
        }
        values
    }

    async fn client(&self) -> Client {
        ClientBuilder::new(vec![self.address()])
            .build()
            .await
            .expect("a client")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(jars: &std::path::Path, folder: &TempDir) -> Child {
    Command::new("java")
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jars.join("*"))
        .args(["kafka.Kafka", "server.properties"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("java starts the broker")
}
