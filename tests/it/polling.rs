//! Polling channels: on schedule, by hand, and through the polling port.

use std::time::Duration;

use bson::{Document, doc};
use openhim_node::store::Collection;
use openhim_node::testing::{Caller, ChannelBuilder, TestNode, backend, eventually, node, path};

fn channel(schedule: &str) -> ChannelBuilder {
    path("^/never$")
        .with("type", "polling")
        .with("pollingSchedule", schedule)
        .with("methods", Vec::<String>::new())
        .with("authType", "private")
}

async fn set(node: &TestNode, id: bson::oid::ObjectId, set: Document) {
    let filter = doc! {"_id": id};
    node.store()
        .update(Collection::Channels, filter, doc! {"$set": set})
        .await
        .unwrap();
    node.node.tables().refresh().await.unwrap();
}

#[tokio::test]
async fn a_channel_is_polled_on_its_schedule_and_its_backend_told_which_and_when() {
    let backend = backend().start().await;
    let channel = channel("1 second").primary(&backend);
    let id = channel.id();
    let node = node().channel(channel).start().await;

    let seen = eventually("three polls", async || {
        Some(backend.seen()).filter(|seen| seen.len() >= 3)
    })
    .await;

    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("GET", "/trigger"));
    assert_eq!(seen[0].header("channel-id"), Some(id.to_hex().as_str()));
    let last = seen[0].header("x-openhim-lastrunat").expect("the start of the run");
    assert!(last.contains(" GMT+") || last.contains(" GMT-"), "{last}");
    assert_eq!(seen[0].header("x-forwarded-for"), None);
    let tx = &node.recorded().closed(3).await[0];
    assert_eq!(tx.status(), "Successful");
    assert_eq!(tx.text("request.path"), Some("/trigger"));
    assert_eq!(tx.text("request.headers.channel-id"), Some(id.to_hex().as_str()));
    assert_eq!(tx.text("clientIP"), Some("127.0.0.1"));
    assert_eq!(tx.at("response.headers.vary"), None);
    let jobs = node.recorded().documents(Collection::AgendaJobs, 1).await;
    assert!(jobs.iter().any(|job| {
        job.get_str("name")
            .is_ok_and(|name| name == format!("polling-job-{id}"))
    }));
}

#[tokio::test]
async fn two_nodes_poll_a_channel_once() {
    let backend = backend().start().await;
    let one = node().channel(channel("1 hour").primary(&backend)).start().await;
    let other = node().sharing(&one).start().await;

    eventually("a poll", async || (!backend.seen().is_empty()).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;

    assert_eq!(backend.seen().len(), 1);
    drop(other);
}

#[tokio::test]
async fn a_disabled_channel_is_not_polled_and_starts_anew_when_it_comes_back() {
    let backend = backend().start().await;
    let channel = channel("1 hour").primary(&backend);
    let id = channel.id();
    let node = node().channel(channel).start().await;
    eventually("a poll", async || (backend.seen().len() == 1).then_some(())).await;

    set(&node, id, doc! {"status": "disabled"}).await;
    let name = format!("polling-job-{id}");
    eventually("the job is forgotten", async || {
        let found = node
            .store()
            .one(Collection::AgendaJobs, doc! {"name": &name})
            .await
            .unwrap();
        found.is_none().then_some(())
    })
    .await;
    set(&node, id, doc! {"status": "enabled"}).await;

    eventually("another poll", async || (backend.seen().len() == 2).then_some(())).await;
}

#[tokio::test]
async fn the_polling_port_polls_the_channel_that_is_named() {
    let backend = backend().answers(500, "broken").start().await;
    let channel = channel("0 0 1 1 *").primary(&backend);
    let id = channel.id().to_hex();
    let node = node().channel(channel).start().await;
    let port = node.node.addresses().polling.expect("the polling port is open");

    let named = Caller::new(port)
        .header("channel-id", &id)
        .header("x-extra", "1")
        .get("/trigger")
        .await;
    let unknown = Caller::new(port).get("/trigger").await;

    assert_eq!((named.status(), named.text()), (500, "broken"));
    assert_eq!((unknown.status(), unknown.text()), (500, "Internal Server Error"));
    assert_eq!(backend.only().header("x-extra"), Some("1"));
    assert_eq!(node.recorded().only().await.status(), "Failed");
}

#[tokio::test]
async fn a_channel_is_polled_by_hand_through_the_api() {
    let (good, bad) = (backend().start().await, backend().answers(500, "").start().await);
    let (works, fails) = (channel("0 0 1 1 *").primary(&good), channel("0 0 1 1 *").primary(&bad));
    let (first, second) = (works.id(), fails.id());
    let node = node().api().channel(works).channel(fails).start().await;
    let root = Caller::new(node.api_address()).basic("root@openhim.org", "openhim-password");

    let done = root.post(&format!("/channels/{first}/trigger"), "").await;
    let failed = root.post(&format!("/channels/{second}/trigger"), "").await;

    assert_eq!(
        (done.status(), failed.status()),
        (200, 500),
        "{} {}",
        done.text(),
        failed.text()
    );
    assert_eq!(good.only().header("channel-id"), Some(first.to_hex().as_str()));
    assert!(good.only().header("x-openhim-lastrunat").is_some());
    assert_eq!(node.recorded().closed(2).await.len(), 2);
}

#[tokio::test]
async fn polls_begin_only_after_the_delay_that_the_settings_ask_for() {
    let backend = backend().start().await;
    let _node = node()
        .set(|config| config.agenda.startup_delay = 3000)
        .channel(channel("1 second").primary(&backend))
        .start()
        .await;
    let begun = std::time::Instant::now();

    eventually("the first poll", async || (!backend.seen().is_empty()).then_some(())).await;

    assert!(
        begun.elapsed() > Duration::from_millis(1500),
        "after {:?}",
        begun.elapsed()
    );
}
