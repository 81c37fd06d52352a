use std::sync::Mutex;

use serde_json::json;
use tokio_util::task::TaskTracker;

use super::*;
use crate::notify::{Notify, NotifyError};
use crate::store::sqlite::{SqliteOptions, SqliteStore};

/// Wednesday 25 November 2026, 07:00 UTC.
const NOW: Millis = 1_795_590_000_000;
const DAY: Millis = 86_400_000;

#[derive(Debug, Default)]
struct Post(Mutex<Vec<Mail>>);

#[async_trait]
impl Notify for Post {
    async fn tell(&self, message: Message) -> Result<(), NotifyError> {
        if let Message::Mail(mail) = message {
            self.0.lock().expect("no panic inside").push(mail);
        }
        Ok(())
    }
}

struct Fixture {
    _folder: tempfile::TempDir,
    store: SharedStore,
    post: Arc<Post>,
    jobs: Vec<Arc<dyn Job>>,
}

impl Fixture {
    fn new(utc_offset: serde_json::Value) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store: SharedStore =
            SqliteStore::open(folder.path().join("t.db"), SqliteOptions::default()).expect("a store");
        let post = Arc::new(Post::default());
        let outbox = Outbox::new(Arc::clone(&store), Arc::clone(&post) as _, TaskTracker::new());
        let defaults = config::Config::defaults();
        let settings = config::Reports {
            utc_offset,
            ..defaults.reports
        };
        let jobs = Reports::jobs(&store, &outbox, &settings, &defaults.alerts);
        Self {
            _folder: folder,
            store,
            post,
            jobs,
        }
    }

    async fn insert(&self, into: Collection, document: Document) {
        self.store.insert(into, document).await.expect("inserted");
    }

    async fn user(&self, email: &str, group: &str) {
        let user = doc! {
            "_id": ObjectId::new(), "email": email, "firstname": "A", "surname": "B", "groups": [group],
            "dailyReport": true, "weeklyReport": true,
        };
        self.insert(Collection::Users, user).await;
    }

    async fn channel(&self, name: &str, status: &str) -> ObjectId {
        let id = ObjectId::new();
        self.insert(
            Collection::Channels,
            doc! { "_id": id, "name": name, "urlPattern": "x", "status": status },
        )
        .await;
        id
    }

    async fn day(&self, channel: ObjectId, start: Millis, requests: i32, failed: i32) {
        let day = doc! {
            "_id": ObjectId::new(), "type": "d", "startTime": DateTime::from_millis(start), "channelID": channel,
            "requests": requests, "responseTime": requests * 1600, "failed": failed, "successful": requests - failed,
            "processing": 0, "completed": 0, "completedWithErrors": 0,
        };
        self.insert(Collection::Metrics, day).await;
    }

    async fn send(&self, index: usize) -> Vec<Mail> {
        self.jobs[index]
            .run(Run {
                started: NOW,
                previous: None,
                data: doc! {},
            })
            .await
            .expect("a run");
        std::mem::take(&mut *self.post.0.lock().expect("no panic inside"))
    }
}

const MIDNIGHT: Millis = NOW - 7 * 3_600_000;

#[tokio::test]
async fn a_daily_report_has_yesterdays_sums_of_the_channels_its_reader_may_see() {
    let fixture = Fixture::new(json!(null));
    let (lab, clinic) = (
        fixture.channel("Lab", "enabled").await,
        fixture.channel("Clinic <1>", "enabled").await,
    );
    fixture.channel("Old", "disabled").await;
    let all = doc! { "_id": ObjectId::new(), "name": "admin", "permissions": { "channel-view-all": true } };
    let some =
        doc! { "_id": ObjectId::new(), "name": "lab", "permissions": { "channel-view-specified": [lab.to_hex()] } };
    fixture.insert(Collection::Roles, all).await;
    fixture.insert(Collection::Roles, some).await;
    for (email, group) in [
        ("all@example.org", "admin"),
        ("lab@example.org", "lab"),
        ("none@example.org", "nobody"),
    ] {
        fixture.user(email, group).await;
    }
    fixture.day(lab, MIDNIGHT - DAY, 10, 3).await;
    fixture.day(lab, MIDNIGHT, 100, 100).await;
    fixture.day(clinic, MIDNIGHT - 2 * DAY, 100, 100).await;

    let mut mails = fixture.send(0).await;

    mails.sort_by(|one, other| one.to.cmp(&other.to));
    assert_eq!(
        mails.iter().map(|mail| mail.to.as_str()).collect::<Vec<_>>(),
        ["all@example.org", "lab@example.org"]
    );
    assert_eq!(mails[0].subject, "Daily report for: Local OpenHIM");
    let html = &mails[0].html;
    assert!(html.contains("Daily Transaction  Report for Local OpenHIM"), "{html}");
    assert!(
        html.contains("from - &nbsp; Tuesday 24th November 2026 12:00:00 AM +00:00"),
        "{html}"
    );
    assert!(
        html.contains("to - &nbsp; Tuesday 24th November 2026 11:59:59 PM +00:00"),
        "{html}"
    );
    assert!(
        html.contains("color: red") && html.contains(">3</a>") && html.contains(">7</a>"),
        "{html}"
    );
    assert!(html.contains("Clinic &lt;1&gt;") && !html.contains("Old"), "{html}");
    assert!(
        html.contains(&format!(
            "txStatus=Failed&amp;txChannel={lab}&amp;startDate=2026-11-24T00:00:00.000Z"
        )),
        "{html}"
    );
    let text = &mails[1].text;
    assert!(
        text.contains("Channel Name: Lab ") && !text.contains("Clinic"),
        "{text}"
    );
    assert!(
        text.contains("Channel total: 10 transactions") && text.contains("Failed: 3 "),
        "{text}"
    );
    assert!(text.contains("Ave response time: 2 "), "1.6 s is 2 s: {text}");
}

#[tokio::test]
async fn a_weekly_report_is_the_week_before_from_monday_to_sunday() {
    let fixture = Fixture::new(json!(null));
    let lab = fixture.channel("Lab", "enabled").await;
    let role = doc! { "_id": ObjectId::new(), "name": "admin", "permissions": { "channel-manage-all": true } };
    fixture.insert(Collection::Roles, role).await;
    fixture.user("all@example.org", "admin").await;
    let last_monday = MIDNIGHT - 9 * DAY;
    fixture.day(lab, last_monday - DAY, 1000, 0).await;
    fixture.day(lab, last_monday, 1, 0).await;
    fixture.day(lab, last_monday + 6 * DAY, 2, 0).await;
    fixture.day(lab, last_monday + 7 * DAY, 1000, 0).await;

    let mails = fixture.send(1).await;

    assert_eq!(mails.len(), 1);
    assert!(
        mails[0].text.contains("Channel total: 3 transactions"),
        "{}",
        mails[0].text
    );
    assert!(mails[0].html.contains("Monday 16th November 2026") && mails[0].html.contains("Sunday 22nd November 2026"));
}

#[tokio::test]
async fn a_report_that_is_made_again_is_not_sent_again() {
    let fixture = Fixture::new(json!(null));
    fixture.channel("Lab", "enabled").await;
    let role = doc! { "_id": ObjectId::new(), "name": "admin", "permissions": { "channel-view-all": true } };
    fixture.insert(Collection::Roles, role).await;
    fixture.user("all@example.org", "admin").await;
    // As if the node had died after sending and before noting that the message is gone.
    let id = super::super::id_of(&format!("Daily report\n{}\nall@example.org", MIDNIGHT - DAY));
    fixture
        .insert(Collection::Outbox, doc! { "_id": id, "state": "sending" })
        .await;

    assert_eq!(fixture.send(0).await, []);
}

#[test]
fn the_offset_is_read_in_every_form() {
    let seconds = |setting: serde_json::Value| offset(&setting).local_minus_utc();
    assert_eq!(seconds(json!("+0200")), 7200);
    assert_eq!(seconds(json!("-03:30")), -12_600);
    assert_eq!(seconds(json!("+02")), 7200);
    assert_eq!(seconds(json!(2)), 7200);
    assert_eq!(seconds(json!(120)), 7200);
    for nothing in [json!(null), json!(""), json!("soon"), json!("+99:00")] {
        assert_eq!(seconds(nothing), 0);
    }
}
