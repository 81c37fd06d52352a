//! Alerts and reports of a whole node, through a server that speaks SMTP: what people get, and how often.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use openhim_node::config::Email;
use openhim_node::store::{Collection, Find};
use openhim_node::testing::mongod::Mongod;
use openhim_node::testing::{Letter, Manner, NodeBuilder, PostOffice, TestNode, backend, eventually, node, path};

const ALERTS: &str = "generate transaction alerts";
const OUTBOX: &str = "send waiting messages";
const REPORT: &str = "send daily channel metrics";
const DAY: i64 = 86_400_000;

async fn on_both_stores(test: impl AsyncFn(NodeBuilder)) {
    test(node()).await;
    if let Some(mongod) = Mongod::start() {
        test(node().store(&mongod.url("openhim"))).await;
    }
}

fn mailing(builder: NodeBuilder, post: &PostOffice) -> NodeBuilder {
    let email = Email {
        from_address: "him@example.org".into(),
        nodemailer: post.settings(),
    };
    builder.set(|config| config.email = Some(email))
}

async fn job(node: &TestNode, name: &str) -> Option<Document> {
    node.store()
        .one(Collection::AgendaJobs, doc! {"name": name})
        .await
        .unwrap()
}

async fn finished(node: &TestNode, name: &str) -> Option<DateTime> {
    job(node, name).await?.get_datetime("lastFinishedAt").ok().copied()
}

/// Has a job run now, and waits for its end.
async fn run_now(node: &TestNode, name: &str) {
    let before = eventually("the job's first run", async || finished(node, name).await).await;
    let at_once = doc! {"$set": {"nextRunAt": DateTime::from_millis(0)}};
    node.store()
        .update(Collection::AgendaJobs, doc! {"name": name}, at_once)
        .await
        .unwrap();
    eventually(&format!("{name} has run"), async || {
        finished(node, name).await.filter(|after| *after > before)
    })
    .await;
}

async fn person(node: &TestNode, email: &str, more: Document) {
    let mut user = doc! {"_id": ObjectId::new(), "email": email, "firstname": "A", "surname": "B", "groups": ["admin"]};
    user.extend(more);
    node.store().insert(Collection::Users, user).await.unwrap();
}

/// Sends a message; its transaction's id, once its end is stored.
async fn sent(node: &TestNode, count: usize) -> String {
    let answer = node.post("/x", "hello").await;
    node.recorded().closed(count).await;
    let end = doc! {"type": "channel", "event": "end"};
    eventually("its end is an event", async || {
        let ends = node.store().count(Collection::Events, end.clone()).await.unwrap();
        (ends >= count as u64).then_some(())
    })
    .await;
    answer.header("x-openhim-transactionid").unwrap().to_owned()
}

fn alert(user: &str) -> Document {
    doc! {"user": user, "method": "email", "maxAlerts": "no max"}
}

async fn letters(post: &PostOffice, count: usize) -> Vec<Letter> {
    eventually(&format!("{count} letters"), async || {
        Some(post.letters()).filter(|letters| letters.len() >= count)
    })
    .await
}

#[tokio::test]
async fn an_alert_reaches_users_and_groups_as_text_and_html_and_each_once() {
    Box::pin(on_both_stores(async |builder| {
        let (post, failing) = (PostOffice::open(), backend().answers(503, "").start().await);
        let group = ObjectId::new();
        let wanted = doc! {
            "condition": "status", "status": "5xx", "users": [alert("amina@example.org")], "groups": [group],
        };
        let channel = path("^/x$").named("Lab & results").with("alerts", vec![wanted]);
        let node = mailing(builder, &post).channel(channel.primary(&failing)).start().await;
        person(&node, "amina@example.org", doc! {}).await;
        person(&node, "bill@example.org", doc! {}).await;
        let night = doc! {"_id": group, "group": "night shift", "users": [alert("bill@example.org")]};
        node.store().insert(Collection::ContactGroups, night).await.unwrap();
        eventually("the alerts have run first", async || finished(&node, ALERTS).await).await;

        let first = [sent(&node, 1).await, sent(&node, 2).await];
        run_now(&node, ALERTS).await;
        run_now(&node, ALERTS).await;
        let third = sent(&node, 3).await;
        run_now(&node, ALERTS).await;

        let got = letters(&post, 4).await;
        assert_eq!(got.len(), 4, "{got:?}");
        for to in ["amina@example.org", "bill@example.org"] {
            let mine: Vec<&Letter> = got.iter().filter(|letter| letter.to == to).collect();
            let [one, other] = &mine[..] else {
                panic!("{to}: {mine:?}")
            };
            assert_eq!(
                (one.from.as_str(), one.header("Subject")),
                ("him@example.org", Some("OpenHIM Alert"))
            );
            assert!(
                one.header("Message-ID").is_some() && one.header("Date").is_some(),
                "{}",
                one.whole
            );
            let (text, html) = (one.text(), one.html());
            assert!(
                text.contains("completed with status 5xx on the OpenHIM instance running on Local OpenHIM"),
                "{text}"
            );
            assert!(text.contains("Channel - Lab & results"), "{text}");
            assert!(html.contains("Channel - <b>Lab &amp; results</b>"), "{html}");
            for id in &first {
                let link = format!("http://localhost:9000/#!/transactions/{id}");
                assert!(text.contains(&format!("{link}\n")), "{link} in {text}");
                assert!(
                    html.contains(&format!("<a href=\"{link}\">{link}</a>")),
                    "{link} in {html}"
                );
            }
            assert!(!text.contains(&third) && other.text().contains(&third));
            assert!(first.iter().all(|id| !other.text().contains(id.as_str())));
        }
        let records = node.store().all(Collection::Alerts, Find::default()).await.unwrap();
        let completed = |record: &Document| record.get_str("alertStatus").is_ok_and(|it| it == "Completed");
        assert!(records.len() == 4 && records.iter().all(completed), "{records:?}");
        node.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn a_mail_outlives_a_server_that_is_away_and_is_never_sent_twice() {
    Box::pin(on_both_stores(async |builder| {
        let (post, failing) = (PostOffice::open(), backend().answers(500, "").start().await);
        let wanted = doc! {"condition": "status", "status": "500", "users": [alert("amina@example.org")]};
        let channel = path("^/x$").with("alerts", vec![wanted]).primary(&failing);
        let node = mailing(builder, &post).channel(channel).start().await;
        person(&node, "amina@example.org", doc! {}).await;
        eventually("the alerts have run first", async || finished(&node, ALERTS).await).await;
        let state = async |state: &str| {
            let waiting = doc! {"state": state};
            node.store().count(Collection::Outbox, waiting).await.unwrap()
        };
        let try_again = async || {
            let due = doc! {"$set": {"nextAt": DateTime::from_millis(0)}};
            node.store()
                .update(Collection::Outbox, doc! {"state": "waiting"}, due)
                .await
                .unwrap();
            run_now(&node, OUTBOX).await;
        };

        for (count, manner) in [(1, Manner::IsDown), (2, Manner::Refuses)] {
            post.behaves(manner);
            sent(&node, count).await;
            run_now(&node, ALERTS).await;
            try_again().await;
            assert_eq!(
                (post.letters().len(), state("waiting").await),
                (count - 1, 1),
                "{manner:?}"
            );
            post.behaves(Manner::Takes(Duration::ZERO));
            try_again().await;
            try_again().await;
            assert_eq!(
                (post.letters().len(), state("sent").await),
                (count, count as u64),
                "{manner:?}"
            );
        }
        // Nobody knows what becomes of this one, but that it was sent.
        post.behaves(Manner::DropsTheMail);
        sent(&node, 3).await;
        run_now(&node, ALERTS).await;
        post.behaves(Manner::Takes(Duration::ZERO));
        try_again().await;
        run_now(&node, ALERTS).await;
        assert_eq!((post.letters().len(), state("in doubt").await), (3, 1));
        let failed = doc! {"alertStatus": "Failed"};
        assert_eq!(node.store().count(Collection::Alerts, failed).await.unwrap(), 1);
        node.stop().await;
    }))
    .await;
}

/// The figures of the row of this channel, in the order of the columns.
fn figures(html: &str, channel: &str) -> Vec<u64> {
    let row = html.split("<tr").find(|row| row.contains(channel)).expect("a row");
    let cells = row.split("</a></td>").filter_map(|cell| cell.rsplit('>').next());
    cells.filter_map(|text| text.parse().ok()).collect()
}

#[tokio::test]
async fn a_report_has_the_figures_of_the_messages_and_comes_once_to_those_who_want_it() {
    Box::pin(on_both_stores(async |builder| {
        let post = PostOffice::open();
        let (good, bad) = (backend().start().await, backend().answers(500, "").start().await);
        let node = mailing(builder, &post)
            .channel(path("^/x$").named("Lab <1>").primary(&good))
            .channel(path("^/y$").named("Pharmacy").primary(&bad))
            .start()
            .await;
        person(
            &node,
            "amina@example.org",
            doc! {"dailyReport": true, "weeklyReport": true},
        )
        .await;
        person(&node, "bill@example.org", doc! {"dailyReport": false}).await;
        for _ in 0..3 {
            node.post("/x", "hello").await;
        }
        node.post("/y", "hello").await;
        node.recorded().closed(4).await;
        let days = eventually("the day's figures", async || {
            let days = Find::by(doc! {"type": "d"});
            let days = node.store().all(Collection::Metrics, days).await.unwrap();
            let requests = |day: &Document| {
                day.get_i64("requests")
                    .or(day.get_i32("requests").map(i64::from))
                    .unwrap_or(0)
            };
            (days.iter().map(requests).sum::<i64>() == 4).then_some(days)
        })
        .await;
        // Today becomes yesterday.
        let today = days[0].get_datetime("startTime").unwrap().timestamp_millis();
        let yesterday = doc! {"$set": {"startTime": DateTime::from_millis(today - DAY)}};
        for day in &days {
            let id = doc! {"_id": day.get("_id").cloned()};
            node.store()
                .update(Collection::Metrics, id, yesterday.clone())
                .await
                .unwrap();
        }
        let offset = (DAY - today.rem_euclid(DAY)) % DAY / 60_000;
        let offset = if offset > 14 * 60 { offset - 24 * 60 } else { offset };
        let node = node
            .stop()
            .await
            .again()
            .set(|config| {
                config.reports.daily_report_at = "* * * * * *".into();
                config.reports.utc_offset = serde_json::json!(offset);
            })
            .start()
            .await;

        let got = letters(&post, 1).await;
        let mut run = finished(&node, REPORT).await;
        for _ in 0..2 {
            run = eventually("the report's job has run again", async || {
                finished(&node, REPORT)
                    .await
                    .filter(|after| Some(*after) > run)
                    .map(Some)
            })
            .await;
        }

        assert_eq!(post.letters().len(), 1, "one for a day, however often the job runs");
        let report = &got[0];
        assert_eq!(report.to, "amina@example.org");
        assert_eq!(report.header("Subject"), Some("Daily report for: Local OpenHIM"));
        let (text, html) = (report.text(), report.html());
        // Total, average, failed, successful, processing, completed, completed with errors.
        for (channel, total, failed, successful) in [("Lab &lt;1&gt;", 3, 0, 3), ("Pharmacy", 1, 1, 0)] {
            let figures = figures(&html, channel);
            assert_eq!(figures, [total, figures[1], failed, successful, 0, 0, 0], "{html}");
            assert_eq!(figures[2..].iter().sum::<u64>(), total, "the figures add up");
        }
        for line in [
            "Channel Name: Lab <1> ",
            "Channel total: 3 transactions",
            "Successful: 3 ",
            "Failed: 1 ",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        node.stop().await;
    }))
    .await;
}
