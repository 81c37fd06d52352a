//! What is sent through the cluster, and whether it was recorded: through the API, as any user would ask.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::cluster::Cluster;
use super::mediator::client::{self, Target};

/// The client that sends, and its password.
pub(super) const CLIENT: (&str, &str) = ("demo-clinic", "demo");
/// SHA-512 of the password and the salt, as OpenHIM stores it.
const HASH: &str = "3d1aefa265a27b2bc141d99b10ac6477126fe559eee500cb6fb19f7265fb1266ea709d8e93ada6f6ff859325acee6b1d8af9d926094fc345cb29e66cb50a4d4d";
const SALT: &str = "salt";
const ROLE: &str = "demo";
/// Messages on their way at one time.
const AT_ONCE: usize = 8;
/// Longest that something stored may take to be seen.
const SEEN: Duration = Duration::from_secs(10);

/// Makes the client and the channel, and waits until every node knows them.
pub(super) async fn prepare(api: &Target, cluster: &Cluster, mediator: SocketAddr) -> anyhow::Result<()> {
    let client = json!({ "clientID": CLIENT.0, "name": "A clinic", "roles": [ROLE],
                         "passwordAlgorithm": "sha512", "passwordSalt": SALT, "passwordHash": HASH });
    create(api, "/clients", &client).await?;
    let channel = json!({
        "name": "Patients", "urlPattern": "^/patients.*$", "methods": ["GET", "POST"], "allow": [ROLE],
        "routes": [{ "name": "Example mediator", "host": mediator.ip().to_string(), "port": mediator.port(),
                     "primary": true }],
    });
    create(api, "/channels", &channel).await?;
    for node in cluster.node_https_urls() {
        wait_until_known(&node).await?;
    }
    Ok(())
}

async fn create(api: &Target, path: &str, document: &Value) -> anyhow::Result<()> {
    let answer = client::send(api, Method::POST, path, Some(document)).await?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(
        answer.status == StatusCode::CREATED,
        "POST {path} was answered with {}: {body}",
        answer.status
    );
    Ok(())
}

/// Asks the node itself, with a GET, until its answer is the mediator's.
async fn wait_until_known(node: &str) -> anyhow::Result<()> {
    let target = sender(node)?;
    let deadline = Instant::now() + SEEN;
    loop {
        let answer = client::send(&target, Method::GET, "/patients", None).await?;
        if answer.status == StatusCode::OK {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{node} does not know the channel: {}",
            answer.status
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// A router, and the client that sends there.
pub(super) fn sender(url: &str) -> anyhow::Result<Target> {
    Ok(Target::parse(url)
        .map_err(anyhow::Error::msg)?
        .with_basic(CLIENT.0, CLIENT.1))
}

/// Sends one message through the balancer, on a connection of its own.
///
/// # Errors
/// Any answer but the mediator's.
pub(super) async fn deliver(router: &Target, number: usize) -> anyhow::Result<()> {
    let patient = json!({ "name": "Amina", "message": number });
    let answer = client::send(
        router,
        Method::POST,
        &format!("/patients?message={number}"),
        Some(&patient),
    )
    .await?;
    ensure!(answer.status == StatusCode::CREATED, "answered with {}", answer.status);
    let returned: Value = serde_json::from_slice(&answer.body).context("the answer is not the mediator's")?;
    ensure!(returned["message"] == number, "got the answer to another message");
    Ok(())
}

/// A number of messages that were all answered.
#[derive(Debug)]
pub(super) struct Round {
    sent: usize,
    took: Duration,
}

impl Round {
    /// Sends messages 1 to `count`, a few at a time.
    pub(super) async fn send(router: &Target, count: usize) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let mut senders = JoinSet::new();
        for first in 1..=AT_ONCE {
            let router = router.clone();
            senders.spawn(async move {
                for number in (first..=count).step_by(AT_ONCE) {
                    deliver(&router, number)
                        .await
                        .with_context(|| format!("message {number} was not delivered"))?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(outcome) = senders.join_next().await {
            outcome.context("a sender ended early")??;
        }
        Ok(Self {
            sent: count,
            took: begun.elapsed(),
        })
    }

    /// Waits until each message is recorded, and checks that it is once.
    pub(super) async fn find_recorded(&self, api: &Target) -> anyhow::Result<Recorded> {
        let deadline = Instant::now() + SEEN;
        loop {
            let recorded = Recorded::read(api).await?;
            match recorded.differs_from(self.sent) {
                None => return Ok(recorded),
                Some(difference) if Instant::now() > deadline => bail!("{difference}"),
                Some(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        write!(
            out,
            "{} messages over HTTPS, each on its own connection, in {seconds:.1} s",
            self.sent
        )
    }
}

/// The statuses of the transactions of each message.
#[derive(Debug)]
pub(super) struct Recorded(BTreeMap<usize, Vec<String>>);

impl Recorded {
    async fn read(api: &Target) -> anyhow::Result<Self> {
        const LIST: &str = "/transactions?filterPage=0&filterLimit=10000&filterRepresentation=full";
        let answer = client::send(api, Method::GET, LIST, None).await?;
        ensure!(
            answer.status == StatusCode::OK,
            "GET /transactions was answered with {}",
            answer.status
        );
        let transactions: Vec<Value> = serde_json::from_slice(&answer.body).context("no list of transactions")?;
        let mut recorded: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for transaction in &transactions {
            let query = transaction["request"]["querystring"].as_str().unwrap_or_default();
            if let Some(number) = query
                .trim_start_matches('?')
                .strip_prefix("message=")
                .and_then(|it| it.parse().ok())
            {
                let status = transaction["status"].as_str().unwrap_or_default();
                recorded.entry(number).or_default().push(status.to_owned());
            }
        }
        Ok(Self(recorded))
    }

    /// What is wrong, if anything: every message has to be there once, as successful.
    fn differs_from(&self, sent: usize) -> Option<String> {
        (1..=sent).find_map(|number| match self.0.get(&number).map(Vec::as_slice) {
            Some([status]) if status == "Successful" => None,
            Some([status]) => Some(format!("message {number} is recorded as {status}")),
            Some(several) => Some(format!("message {number} is recorded {} times", several.len())),
            None => Some(format!("message {number} is not recorded")),
        })
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} transactions, one a message, all of them successful",
            self.0.len()
        )
    }
}
