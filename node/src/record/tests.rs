use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::clock::SystemClock;
use crate::config::Events;
use crate::events::Normalization;
use crate::model::transaction::{RequestPart, ResponsePart};
use crate::store::{Cursor, Find, FindAndUpdate, Occupied, Result as StoreResult, Store, Written};

/// A store that keeps nothing but what it was asked to write, batch by batch.
#[derive(Debug, Default)]
struct Book {
    batches: Mutex<Vec<Vec<Write>>>,
    /// What becomes of writes in batches to come; all is well with those that are not named.
    mishaps: Mutex<Vec<Mishap>>,
}

type Mishap = fn(&Write) -> StoreResult<Written>;

impl Book {
    /// A word for each write of each batch, in order; counts are left out.
    fn batches(&self) -> Vec<Vec<&'static str>> {
        let batches = self.batches.lock().unwrap();
        batches
            .iter()
            .map(|batch| batch.iter().filter_map(word).collect())
            .collect()
    }

    fn writes(&self) -> Vec<Write> {
        self.batches.lock().unwrap().concat()
    }
}

fn word(write: &Write) -> Option<&'static str> {
    match write {
        Write::InsertRaw {
            into: Collection::Transactions,
            ..
        } => Some("open"),
        Write::InsertRaw { .. } => Some("event"),
        Write::Set { .. } => Some("set"),
        Write::Update {
            of: Collection::Transactions,
            ..
        } => Some("route"),
        _ => None,
    }
}

fn unasked<T>() -> StoreResult<T> {
    Err(StoreError::Other("the recorder only writes".into()))
}

#[async_trait]
impl Store for Book {
    async fn find(&self, _: Collection, _: Find) -> StoreResult<Cursor> {
        unasked()
    }

    async fn count(&self, _: Collection, _: Document) -> StoreResult<u64> {
        unasked()
    }

    async fn write(&self, batch: &[Write]) -> StoreResult<Vec<StoreResult<Written>>> {
        self.batches.lock().unwrap().push(batch.to_vec());
        let mishap = self.mishaps.lock().unwrap().pop();
        let outcome = |write| mishap.map_or(Ok(Written::default()), |mishap| mishap(write));
        Ok(batch.iter().map(outcome).collect())
    }

    async fn find_and_update(&self, _: Collection, _: FindAndUpdate) -> StoreResult<Option<Document>> {
        unasked()
    }

    async fn version(&self, _: Collection) -> StoreResult<Option<u64>> {
        unasked()
    }

    async fn bytes_by(&self, _: Collection, _: &str) -> StoreResult<Vec<Occupied>> {
        unasked()
    }

    async fn ping(&self) -> StoreResult<()> {
        Ok(())
    }

    async fn size(&self) -> StoreResult<Option<u64>> {
        Ok(None)
    }

    async fn close(&self) {}
}

fn recorder(durability: Durability) -> (Arc<Book>, Recorder, Writer) {
    let book = Arc::new(Book::default());
    let store: SharedStore = Arc::clone(&book) as SharedStore;
    let (recorder, writer) = Recorder::new(store, Arc::new(SystemClock), durability, 0, "this run".into());
    (book, recorder, writer)
}

async fn opened(recorder: &Recorder) -> Ticket {
    let [id, channel] = [ObjectId::new(), ObjectId::from_bytes([7; 12])];
    let opening = Opening {
        id,
        status: Status::Processing,
        client: None,
        client_ip: "127.0.0.1".into(),
        channel,
        parent: None,
        auto_retry_attempt: None,
        can_rerun: true,
        request: RequestPart::default(),
    };
    let subject = Subject {
        channel,
        transaction: Some(id),
        at: 1000,
        attempt: None,
        normalization: Normalization::of(&Events {
            enable_ts_normalization: false,
        }),
    };
    recorder.open(opening, subject, "channel").await.unwrap()
}

fn ended() -> Closing {
    Closing {
        answer: Some(Answer {
            response: ResponsePart {
                status: 200,
                ..ResponsePart::default()
            },
            ..Answer::default()
        }),
        routes: vec![],
        status: Status::Successful,
        auto_retry: None,
        answered_at: Some(1001),
        events: vec![],
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_begins_does_not_wait_for_the_ends_of_others_which_share_a_commit() {
    let (book, recorder, writer) = recorder(Durability::Standard);
    let writing = tokio::spawn(writer.run());
    let [one, two] = [opened(&recorder).await, opened(&recorder).await];
    one.close(ended()).await;
    two.close(ended()).await;
    let three = opened(&recorder).await;

    assert_eq!(book.batches(), [["open"], ["open"], ["open"]]);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(book.batches()[3..], [["event", "event", "set", "set", "event"]]);

    three.close(ended()).await;
    drop(recorder);
    writing.await.unwrap();
    assert_eq!(book.batches()[4..], [["set"]]);
}

#[tokio::test(start_paused = true)]
async fn a_strict_end_is_stored_with_all_that_was_reported_before_it() {
    let (book, recorder, writer) = recorder(Durability::Strict);
    tokio::spawn(writer.run());
    let ticket = opened(&recorder).await;
    let begun = tokio::time::Instant::now();

    ticket.routed(&rawdoc! {"_id": ObjectId::new(), "name": "second"});
    ticket.close(ended()).await;

    assert_eq!(book.batches(), [vec!["open"], vec!["event", "route", "set"]]);
    assert!(begun.elapsed().is_zero(), "nobody lingers who is waited for");
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_reports_travels_by_its_courier_and_so_do_the_outcomes() {
    let (book, recorder, writer) = recorder(Durability::Strict);
    tokio::spawn(writer.run());
    let (home, courier) = recorder.at_home();
    let carrying = tokio::spawn(courier.run());

    let (one, two) = tokio::join!(opened(&home), opened(&home));
    assert_eq!(book.batches(), [["open", "open"]]);
    tokio::join!(one.close(ended()), two.close(ended()));

    assert_eq!(book.batches()[1..], [["event", "event", "set", "set"]]);
    drop(home);
    carrying.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_dies_leaves_no_report_behind() {
    let (book, recorder, writer) = recorder(Durability::Standard);
    let writing = tokio::spawn(writer.run());
    let (home, courier) = recorder.at_home();
    let carrying = tokio::spawn(courier.run());
    let [before, after] = [opened(&home).await, opened(&home).await];

    // Not yet carried when the courier is gone.
    before.close(ended()).await;
    carrying.abort();
    assert!(carrying.await.unwrap_err().is_cancelled());
    // Made when there is no courier any more, by a message that is dropped with its instance.
    let dropped = after.id();
    drop(after);

    drop((home, recorder));
    writing.await.unwrap();
    let sets: Vec<_> = book
        .writes()
        .into_iter()
        .filter(|write| word(write) == Some("set"))
        .collect();
    let [Write::Set { set: first, unset, .. }, Write::Set { id, set: second, .. }] = &sets[..] else {
        panic!("{sets:?}");
    };
    assert_eq!(first.get_str("status").unwrap(), "Successful");
    assert_eq!(*unset, ["openhimNode"]);
    assert_eq!((*id, second.get_str("status").unwrap()), (dropped, "Failed"));
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_counted_until_it_is_stored() {
    let (_, recorder, writer) = recorder(Durability::Standard);
    tokio::spawn(writer.run());

    opened(&recorder).await.close(ended()).await;

    assert!(recorder.waiting_bytes() > 0);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(recorder.waiting_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_not_written_again_when_the_rest_of_its_batch_failed() {
    let (book, recorder, writer) = recorder(Durability::Strict);
    tokio::spawn(writer.run());
    let ticket = opened(&recorder).await;
    book.mishaps.lock().unwrap().push(|write| match write {
        Write::Set { .. } => Err(StoreError::Unavailable("an election".into())),
        _ => Ok(Written::default()),
    });

    ticket.close(ended()).await;

    let later = &book.batches.lock().unwrap()[2..];
    assert_eq!(later.len(), 1, "{later:?}");
    assert!(matches!(later[0][..], [Write::Set { .. }]), "{later:?}");
}
