use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::task::TaskTracker;

use super::*;
use crate::jobs::outbox::SendWaiting;
use crate::notify::email::MailError;
use crate::notify::{Notify, NotifyError};
use crate::store::sqlite::{SqliteOptions, SqliteStore};

const NOW: Millis = 1_795_348_800_000;
const MINUTE: Millis = 60_000;

/// Remembers what people were told; refuses while it is down.
#[derive(Debug, Default)]
struct Town {
    told: Mutex<Vec<Message>>,
    is_down: AtomicBool,
    /// Takes its time.
    thinks: AtomicBool,
    hears: AtomicBool,
}

#[async_trait]
impl Notify for Town {
    async fn tell(&self, message: Message) -> Result<(), NotifyError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(MailError::Unusable("down".into()).into());
        }
        self.hears.store(true, Ordering::SeqCst);
        if self.thinks.load(Ordering::SeqCst) {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
        self.told.lock().expect("no panic inside").push(message);
        Ok(())
    }
}

struct Fixture {
    _folder: tempfile::TempDir,
    store: SharedStore,
    town: Arc<Town>,
    outbox: Arc<Outbox>,
    job: Arc<dyn Job>,
    channel: ObjectId,
}

impl Fixture {
    async fn with_alerts(alerts: Vec<Document>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store: SharedStore =
            SqliteStore::open(folder.path().join("t.db"), SqliteOptions::default()).expect("a store");
        let town = Arc::new(Town::default());
        let outbox = Outbox::new(Arc::clone(&store), Arc::clone(&town) as _, TaskTracker::new());
        let settings = config::Config::defaults().alerts;
        let job = Alerts::job(Arc::clone(&store), Arc::clone(&outbox), &settings).expect("switched on");
        let channel = ObjectId::new();
        let document = doc! {
            "_id": channel, "name": "Lab <results>", "urlPattern": "x", "status": "enabled", "alerts": alerts,
            "autoRetryMaxAttempts": 3,
        };
        store.insert(Collection::Channels, document).await.expect("inserted");
        for (email, msisdn) in [("amina@example.org", Some("27001")), ("bill@example.org", None)] {
            let mut user =
                doc! { "_id": ObjectId::new(), "email": email, "firstname": "A", "surname": "B", "groups": [] };
            if let Some(msisdn) = msisdn {
                user.insert("msisdn", msisdn);
            }
            store.insert(Collection::Users, user).await.expect("inserted");
        }
        Self {
            _folder: folder,
            store,
            town,
            outbox,
            job,
            channel,
        }
    }

    async fn ended(&self, status: i32, at: Millis, attempt: Option<i32>) -> ObjectId {
        let transaction = ObjectId::new();
        let event = doc! {
            "_id": ObjectId::new(), "created": DateTime::from_millis(at), "channelID": self.channel,
            "transactionID": transaction, "type": "channel", "event": "end", "status": status, "autoRetryAttempt": attempt,
        };
        self.store.insert(Collection::Events, event).await.expect("inserted");
        transaction
    }

    async fn run(&self, since: Millis, now: Millis) {
        let data = doc! { "lastAlertDate": DateTime::from_millis(since) };
        let data = self.goes_on(data, now).await;
        assert_eq!(
            data.get_datetime("lastAlertDate").ok(),
            Some(&DateTime::from_millis(now))
        );
    }

    /// A run after the one that returned `data`.
    async fn goes_on(&self, data: Document, now: Millis) -> Document {
        let run = Run {
            started: now,
            previous: None,
            data,
        };
        self.job.run(run).await.expect("a run")
    }

    async fn tries_again(&self, now: Millis) {
        let run = Run {
            started: now,
            previous: None,
            data: doc! {},
        };
        SendWaiting(Arc::clone(&self.outbox)).run(run).await.expect("a run");
    }

    fn mails(&self) -> Vec<Mail> {
        let told = self.told().into_iter();
        told.filter_map(|message| match message {
            Message::Mail(mail) => Some(mail),
            Message::Sms { .. } => None,
        })
        .collect()
    }

    fn told(&self) -> Vec<Message> {
        self.town.told.lock().expect("no panic inside").clone()
    }

    async fn records(&self) -> Vec<(String, String)> {
        let records = self
            .store
            .all(Collection::Alerts, Find::default())
            .await
            .expect("an answer");
        let text = |record: &Document, field: &str| record.get_str(field).expect("a text").to_owned();
        records
            .iter()
            .map(|record| (text(record, "user"), text(record, "alertStatus")))
            .collect()
    }
}

fn by_mail(max: &str) -> Document {
    doc! { "user": "amina@example.org", "method": "email", "maxAlerts": max }
}

#[tokio::test]
async fn people_are_told_in_openhims_words() {
    let sms = doc! { "user": "amina@example.org", "method": "sms" };
    let alert =
        doc! { "condition": "status", "status": "5xx", "users": [by_mail("no max"), sms], "groups": [ObjectId::new()] };
    let fixture = Fixture::with_alerts(vec![alert]).await;
    fixture.ended(200, NOW, None).await;
    fixture.ended(503, NOW - 2 * MINUTE, None).await;
    let failed = fixture.ended(500, NOW, None).await;

    fixture.run(NOW - MINUTE, NOW).await;

    let told = fixture.told();
    let [Message::Mail(mail), Message::Sms { to, text }] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(
        (mail.to.as_str(), mail.subject.as_str()),
        ("amina@example.org", "OpenHIM Alert")
    );
    assert_eq!(
        mail.text,
        format!(
            "OpenHIM Transactions Alert\n\nThe following transaction(s) have completed with status 5xx on the OpenHIM \
             instance running on Local OpenHIM:\nChannel - Lab <results>\nhttp://localhost:9000/#!/transactions/{failed}\n\n"
        )
    );
    assert!(
        mail.html.contains("Channel - <b>Lab &lt;results&gt;</b>"),
        "{}",
        mail.html
    );
    assert_eq!(to, "27001");
    assert_eq!(
        text,
        "Alert - 1 transaction has completed with status 5xx on the OpenHIM running on Local OpenHIM (Lab <results>)"
    );
    assert_eq!(fixture.records().await.len(), 2);
}

#[tokio::test]
async fn who_wants_one_an_hour_gets_one_an_hour() {
    let alert = doc! { "condition": "status", "status": "404", "users": [by_mail("1 per hour")] };
    let fixture = Fixture::with_alerts(vec![alert]).await;
    for minute in 0..90 {
        let now = NOW + minute * MINUTE;
        fixture.ended(404, now, None).await;
        fixture.run(now - MINUTE, now).await;
    }
    assert_eq!(fixture.told().len(), 2);
}

#[tokio::test]
async fn a_failure_rate_is_the_last_hours_and_is_told_once_an_hour() {
    let alert = doc! { "condition": "status", "status": "5xx", "failureRate": 50, "users": [by_mail("no max")] };
    let fixture = Fixture::with_alerts(vec![alert]).await;
    for status in [200, 200, 500] {
        fixture.ended(status, NOW - 30 * MINUTE, None).await;
    }
    fixture.run(NOW - MINUTE, NOW).await;
    assert_eq!(fixture.told(), [], "a third is not half");

    fixture.ended(500, NOW, None).await;
    fixture.run(NOW, NOW + 1).await;
    fixture.run(NOW + 1, NOW + 2).await;
    assert_eq!(fixture.told().len(), 1);
}

#[tokio::test]
async fn the_last_attempt_of_a_retry_is_an_alert() {
    let alert = doc! { "condition": "auto-retry-max-attempted", "users": [by_mail("no max")] };
    let fixture = Fixture::with_alerts(vec![alert]).await;
    fixture.ended(500, NOW, Some(2)).await;
    fixture.run(NOW - 1, NOW).await;
    assert_eq!(fixture.told(), []);
    fixture.ended(500, NOW + 1, Some(3)).await;
    fixture.run(NOW, NOW + 1).await;
    let told = fixture.told();
    let [Message::Mail(mail)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert!(mail.text.contains("have been retried 3 times"), "{}", mail.text);
}

#[tokio::test]
async fn one_alert_that_cannot_be_sent_does_not_stop_the_others() {
    let broken = [
        doc! { "condition": "phase of the moon", "users": [by_mail("no max")] },
        doc! { "condition": "status", "status": "5xx", "users": [{ "user": "nobody@example.org", "method": "email" }] },
        doc! { "condition": "status", "status": "5xx", "users": [{ "user": "bill@example.org", "method": "sms" }] },
        doc! { "condition": "status", "status": "5xx", "users": [{ "user": "bill@example.org", "method": "pigeon" }] },
    ];
    let mut alerts = broken.to_vec();
    alerts.push(doc! { "condition": "status", "status": "500", "users": [by_mail("no max")] });
    let fixture = Fixture::with_alerts(alerts).await;
    fixture.ended(500, NOW, None).await;
    fixture.run(NOW - 1, NOW).await;
    assert_eq!(fixture.told().len(), 1);
    let records = fixture.records().await;
    assert_eq!(
        records.iter().filter(|(_, status)| status == "Failed").count(),
        3,
        "{records:?}"
    );
}

#[tokio::test]
async fn a_run_that_is_repeated_tells_nobody_twice() {
    let fixture = Fixture::with_alerts(vec![doc! { "status": "5xx", "users": [by_mail("no max")] }]).await;
    fixture.ended(500, NOW, None).await;
    fixture.run(NOW - 1, NOW).await;
    fixture.run(NOW - 1, NOW + 1).await;
    assert_eq!(fixture.told().len(), 1);
}

#[tokio::test]
async fn a_mail_server_that_comes_back_gets_the_mail_once() {
    let fixture = Fixture::with_alerts(vec![doc! { "status": "5xx", "users": [by_mail("no max")] }]).await;
    fixture.ended(500, NOW, None).await;
    fixture.town.is_down.store(true, Ordering::SeqCst);
    fixture.run(NOW - 1, NOW).await;
    assert_eq!(fixture.records().await, [("amina@example.org".into(), "Failed".into())]);

    fixture.town.is_down.store(false, Ordering::SeqCst);
    for minute in 1..=10 {
        fixture.tries_again(NOW + minute * MINUTE).await;
    }
    assert_eq!(fixture.told().len(), 1);
    assert_eq!(
        fixture.records().await,
        [("amina@example.org".into(), "Completed".into())]
    );
}

#[tokio::test]
async fn a_run_that_died_is_finished_and_nobody_misses_what_came_meanwhile() {
    let fixture = Fixture::with_alerts(vec![doc! { "status": "5xx", "users": [by_mail("no max")] }]).await;
    let first = fixture.ended(500, NOW, None).await.to_hex();
    fixture.run(NOW - 1, NOW).await;
    // It had told one of two, and was not noted as done.
    let both = doc! { "user": "bill@example.org", "method": "email" };
    let update = doc! { "$push": { "alerts.0.users": both } };
    fixture
        .store
        .update(Collection::Channels, doc! {}, update)
        .await
        .expect("changed");
    let second = fixture.ended(500, NOW + 1, None).await.to_hex();

    fixture.run(NOW - 1, NOW + MINUTE).await;
    fixture.run(NOW + MINUTE, NOW + 2 * MINUTE).await;

    let told: Vec<_> = fixture
        .mails()
        .iter()
        .map(|mail| (mail.to.clone(), mail.text.contains(&first), mail.text.contains(&second)))
        .collect();
    let (amina, bill) = ("amina@example.org".to_owned(), "bill@example.org".to_owned());
    assert_eq!(
        told,
        [(amina.clone(), true, false), (amina, false, true), (bill, true, true)]
    );
}

#[tokio::test]
async fn an_end_that_was_stored_late_is_told_once() {
    let fixture = Fixture::with_alerts(vec![doc! { "status": "5xx", "users": [by_mail("no max")] }]).await;
    let before = fixture.ended(500, NOW - 1, None).await.to_hex();
    let mut data = fixture.goes_on(doc! {}, NOW).await;
    data = fixture.goes_on(data, NOW + MINUTE).await;
    assert_eq!(fixture.told(), [], "what was before the first run is nobody's news");

    // The store was away when it ended.
    let late = fixture.ended(500, NOW + 1, None).await.to_hex();
    for minute in 2..6 {
        data = fixture.goes_on(data, NOW + minute * MINUTE).await;
    }

    let mails = fixture.mails();
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert!(mails[0].text.contains(&late) && !mails[0].text.contains(&before));
}

#[tokio::test]
async fn who_wants_one_an_hour_gets_one_when_the_server_is_back() {
    let fixture = Fixture::with_alerts(vec![doc! { "status": "5xx", "users": [by_mail("1 per hour")] }]).await;
    fixture.town.is_down.store(true, Ordering::SeqCst);
    let mut data = fixture.goes_on(doc! {}, NOW).await;
    for minute in 1..20 {
        fixture.ended(500, NOW + minute * MINUTE, None).await;
        data = fixture.goes_on(data, NOW + minute * MINUTE).await;
    }
    fixture.town.is_down.store(false, Ordering::SeqCst);
    for minute in 20..40 {
        fixture.tries_again(NOW + minute * MINUTE).await;
    }
    assert_eq!(fixture.told().len(), 1);
}

#[tokio::test]
async fn who_cannot_be_told_is_recorded_once() {
    let nobody = doc! { "user": "nobody@example.org", "method": "email" };
    let fixture = Fixture::with_alerts(vec![doc! { "status": "5xx", "users": [nobody] }]).await;
    let mut data = fixture.goes_on(doc! {}, NOW).await;
    fixture.ended(500, NOW + 1, None).await;
    for minute in 1..4 {
        data = fixture.goes_on(data, NOW + minute * MINUTE).await;
    }
    assert_eq!(
        fixture.records().await,
        [("nobody@example.org".into(), "Failed".into())]
    );
}

#[tokio::test]
async fn a_message_is_spoken_to_its_end_when_its_job_is_stopped() {
    let fixture = Fixture::with_alerts(vec![doc! { "status": "5xx", "users": [by_mail("no max")] }]).await;
    fixture.ended(500, NOW, None).await;
    fixture.town.thinks.store(true, Ordering::SeqCst);

    // The job is dropped while the server takes its time.
    tokio::select! {
        _ = fixture.run(NOW - 1, NOW) => panic!("the server took its time"),
        () = crate::testing::eventually("the server hears", async || {
            fixture.town.hears.load(Ordering::SeqCst).then_some(())
        }) => {}
    }

    crate::testing::eventually("the mail is sent, and known to be", async || {
        (fixture.records().await == [("amina@example.org".into(), "Completed".into())]).then_some(())
    })
    .await;
    assert_eq!(fixture.told().len(), 1);
}
