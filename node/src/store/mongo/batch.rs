//! How a batch travels.
//!
//! Changes of one document keep their order; changes of different documents travel side by side, and inserts into the
//! same collection travel together. A change that may concern any document, or one in a collection with a unique
//! index, waits for all before it, and all after it wait for that.

use std::collections::HashMap;
use std::sync::Arc;

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::error::ErrorKind;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Databases, bounded, error};
use crate::store::query::{Filter, Update, replacement};
use crate::store::{Collection, LARGEST_DOCUMENT, Result, StoreError, Write, Written, decode};

/// Commands of one batch that are under way at the same time.
const SIDE_BY_SIDE: usize = 32;
/// Bytes of documents in one insert command; the server takes 48 MB.
const LARGEST_INSERT: usize = 32 << 20;

/// Checks a batch.
pub(super) fn prepare(batch: &[Write]) -> Vec<Result<Step>> {
    batch.iter().map(step).collect()
}

/// Writes a batch. An error of the conversation is the batch's; an error of one write is its own.
pub(super) async fn write(databases: Arc<Databases>, batch: Vec<Result<Step>>) -> Result<Vec<Result<Written>>> {
    let mut outcomes: Vec<Option<Result<Written>>> = batch.iter().map(|_| None).collect();
    let mut stage = Stage::default();
    for (place, step) in batch.into_iter().enumerate() {
        match step {
            Err(refused) => outcomes[place] = Some(Err(refused)),
            Ok(step) => match step.target() {
                Some(target) => stage.add(target, place, step),
                None => {
                    stage.run(&databases, &mut outcomes).await?;
                    outcomes[place] = Some(settle(run(&databases, step).await)?);
                }
            },
        }
    }
    stage.run(&databases, &mut outcomes).await?;
    outcomes
        .into_iter()
        .map(|outcome| outcome.ok_or_else(|| StoreError::Other("a write was lost on its way".into())))
        .collect()
}

/// A write that was checked.
#[derive(Debug)]
pub(super) enum Step {
    Insert(Collection, Arc<RawDocumentBuf>),
    Other(Write),
}

/// A document: its collection and its id's bytes.
type Target = (Collection, Vec<u8>);

fn step(write: &Write) -> Result<Step> {
    match write {
        Write::Insert { into, document } => {
            if !document.contains_key("_id") {
                return Err(StoreError::BadQuery("a document needs its _id".into()));
            }
            let raw = RawDocumentBuf::try_from(document).map_err(|error| StoreError::BadQuery(error.to_string()))?;
            if raw.as_bytes().len() > LARGEST_DOCUMENT {
                return Err(StoreError::TooLarge);
            }
            return Ok(Step::Insert(*into, Arc::new(raw)));
        }
        Write::InsertRaw { into, document } => {
            if document.as_bytes().len() > LARGEST_DOCUMENT {
                return Err(StoreError::TooLarge);
            }
            return Ok(Step::Insert(*into, Arc::clone(document)));
        }
        Write::Set { .. } => {}
        Write::Update { filter, update, .. } => {
            Filter::compile(filter)?;
            Update::compile(update)?;
        }
        Write::Replace { filter, document, .. } => {
            Filter::compile(filter)?;
            replacement(document, None)?;
        }
        Write::Delete { filter, .. } => {
            Filter::compile(filter)?;
        }
    }
    Ok(Step::Other(write.clone()))
}

impl Step {
    /// The one document that the step can concern, if that is certain and no other document's change can be in its way.
    fn target(&self) -> Option<Target> {
        let (collection, id) = match self {
            Self::Insert(collection, document) => {
                let id = document.get("_id").ok().flatten()?;
                (*collection, Bson::try_from(id).ok()?)
            }
            Self::Other(Write::Update { of, filter, .. } | Write::Replace { of, filter, .. }) => {
                (*of, plain_id(filter)?)
            }
            Self::Other(Write::Delete { from, filter, .. }) => (*from, plain_id(filter)?),
            Self::Other(Write::Set { of, id, .. }) => (*of, Bson::ObjectId(*id)),
            Self::Other(Write::Insert { .. } | Write::InsertRaw { .. }) => return None,
        };
        if collection.indexes().iter().any(|index| index.unique) {
            return None;
        }
        let mut holder = Document::new();
        holder.insert("_id", id);
        Some((collection, holder.to_vec().ok()?))
    }
}

fn plain_id(filter: &Document) -> Option<Bson> {
    match filter.get("_id")? {
        Bson::Document(_) | Bson::RegularExpression(_) | Bson::Array(_) => None,
        id => Some(id.clone()),
    }
}

/// Steps that may travel side by side, but for those of one document.
#[derive(Default)]
struct Stage {
    lanes: Vec<std::collections::VecDeque<(usize, Step)>>,
    of: HashMap<Target, usize>,
}

impl Stage {
    fn add(&mut self, target: Target, place: usize, step: Step) {
        let lanes = &mut self.lanes;
        let lane = *self.of.entry(target).or_insert_with(|| {
            lanes.push(std::collections::VecDeque::new());
            lanes.len() - 1
        });
        self.lanes[lane].push_back((place, step));
    }

    /// Runs round after round: the first step of each document, then the second, and so on.
    async fn run(&mut self, databases: &Arc<Databases>, outcomes: &mut [Option<Result<Written>>]) -> Result<()> {
        self.of.clear();
        let mut lanes = std::mem::take(&mut self.lanes);
        while !lanes.is_empty() {
            let round = lanes
                .iter_mut()
                .filter_map(std::collections::VecDeque::pop_front)
                .collect();
            for (place, outcome) in run_round(databases, round).await? {
                outcomes[place] = Some(outcome);
            }
            lanes.retain(|lane| !lane.is_empty());
        }
        Ok(())
    }
}

type Outcomes = Vec<(usize, Result<Written>)>;

async fn run_round(databases: &Arc<Databases>, round: Vec<(usize, Step)>) -> Result<Outcomes> {
    let mut inserts: Vec<Inserts> = Vec::new();
    let mut tasks: JoinSet<Result<Outcomes>> = JoinSet::new();
    let permits = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    for (place, step) in round {
        match step {
            Step::Insert(collection, document) => {
                let bytes = document.as_bytes().len();
                let fits = |group: &&mut Inserts| group.into == collection && group.bytes + bytes <= LARGEST_INSERT;
                match inserts.iter_mut().find(fits) {
                    Some(group) => group.add(place, document),
                    None => inserts.push(Inserts::of(collection, place, document)),
                }
            }
            other => {
                let (databases, permits) = (Arc::clone(databases), Arc::clone(&permits));
                tasks.spawn(async move {
                    let _permit = permits.acquire().await;
                    Ok(vec![(place, settle(run(&databases, other).await)?)])
                });
            }
        }
    }
    for group in inserts {
        let databases = Arc::clone(databases);
        tasks.spawn(async move { bounded(databases.timeout, group.run(&databases)).await });
    }
    let mut outcomes = Vec::new();
    let mut failure = None;
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(Ok(done)) => outcomes.extend(done),
            Ok(Err(error)) => failure = Some(error),
            Err(error) => failure = Some(StoreError::Other(error.to_string())),
        }
    }
    failure.map_or(Ok(outcomes), Err)
}

/// Documents for one insert command.
struct Inserts {
    into: Collection,
    places: Vec<usize>,
    documents: Vec<Arc<RawDocumentBuf>>,
    bytes: usize,
}

impl Inserts {
    fn of(into: Collection, place: usize, document: Arc<RawDocumentBuf>) -> Self {
        let mut group = Self {
            into,
            places: Vec::new(),
            documents: Vec::new(),
            bytes: 0,
        };
        group.add(place, document);
        group
    }

    fn add(&mut self, place: usize, document: Arc<RawDocumentBuf>) {
        self.bytes += document.as_bytes().len();
        self.places.push(place);
        self.documents.push(document);
    }

    async fn run(self, databases: &Databases) -> Result<Outcomes> {
        let inserted = Written {
            modified: 1,
            ..Written::default()
        };
        let mut outcomes: Outcomes = self.places.iter().map(|place| (*place, Ok(inserted))).collect();
        let collection = databases.collection(self.into);
        let documents = self.documents.iter().map(AsRef::<RawDocumentBuf>::as_ref);
        let Err(failure) = collection.insert_many(documents).ordered(false).await else {
            return Ok(outcomes);
        };
        let ErrorKind::InsertMany(parts) = &*failure.kind else {
            return Err(error::of(failure));
        };
        if let Some(concern) = &parts.write_concern_error {
            return Err(StoreError::Unavailable(concern.message.clone()));
        }
        for refused in parts.write_errors.iter().flatten() {
            let outcome = settle(Err(error::of_code(refused.code, &refused.message)))?;
            if let Some(slot) = outcomes.get_mut(refused.index) {
                slot.1 = outcome;
            }
        }
        Ok(outcomes)
    }
}

/// Tells a write's own failure from one of the conversation.
fn settle(outcome: Result<Written>) -> Result<Result<Written>> {
    match outcome {
        Err(failure) if !error::is_own(&failure) => Err(failure),
        own => Ok(own),
    }
}

async fn run(databases: &Databases, step: Step) -> Result<Written> {
    bounded(databases.timeout, run_unbounded(databases, step)).await
}

async fn run_unbounded(databases: &Databases, step: Step) -> Result<Written> {
    match step {
        Step::Insert(into, document) => {
            databases
                .collection(into)
                .insert_one(&*document)
                .await
                .map_err(error::of)?;
            Ok(Written {
                modified: 1,
                ..Written::default()
            })
        }
        Step::Other(Write::Set { of, id, set, unset }) => {
            let collection = databases.collection(of);
            let outcome = collection.update_one(doc! {"_id": id}, set_fields(&set, unset)?).await;
            outcome.map(written).map_err(error::of)
        }
        Step::Other(Write::Update {
            of,
            filter,
            update,
            many,
            upsert,
        }) => {
            let collection = databases.collection(of);
            let outcome = if many {
                collection.update_many(filter, update).upsert(upsert).await
            } else {
                collection.update_one(filter, update).upsert(upsert).await
            };
            outcome.map(written).map_err(error::of)
        }
        Step::Other(Write::Replace {
            of,
            filter,
            document,
            upsert,
        }) => {
            let outcome = databases
                .documents(of)
                .replace_one(filter, document)
                .upsert(upsert)
                .await;
            outcome.map(written).map_err(error::of)
        }
        Step::Other(Write::Delete { from, filter, many }) => {
            let collection = databases.collection(from);
            let outcome = if many {
                collection.delete_many(filter).await
            } else {
                collection.delete_one(filter).await
            };
            let count = outcome.map_err(error::of)?.deleted_count;
            Ok(Written {
                matched: count,
                modified: count,
                upserted: false,
            })
        }
        Step::Other(Write::Insert { .. } | Write::InsertRaw { .. }) => {
            Err(StoreError::Other("an insert was not prepared".into()))
        }
    }
}

/// The update that puts and removes fields; the server refuses an operator without fields.
fn set_fields(set: &RawDocument, unset: &[&str]) -> Result<Document> {
    let mut update = Document::new();
    if !set.is_empty() {
        update.insert("$set", decode(set)?);
    }
    if !unset.is_empty() {
        let unset: Document = unset
            .iter()
            .map(|field| ((*field).to_owned(), Bson::from("")))
            .collect();
        update.insert("$unset", unset);
    }
    Ok(update)
}

fn written(outcome: mongodb::results::UpdateResult) -> Written {
    let upserted = outcome.upserted_id.is_some();
    Written {
        matched: outcome.matched_count,
        modified: outcome.modified_count + u64::from(upserted),
        upserted,
    }
}
