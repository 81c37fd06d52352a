//! How a batch travels.
//!
//! Changes of one document keep their order; changes of different documents travel side by side, and inserts into the
//! same collection travel together, as do fields that are set in documents of the same collection. A change that may
//! concern any document, or one in a collection with a unique index, waits for all before it, and all after it wait for
//! that. When the conversation fails, what was under way fails with it and what follows is not tried; what was done
//! before stays told as done, so that only the rest is repeated.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, LazyLock};

use bson::oid::ObjectId;
use bson::raw::cstr;
use bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongodb::error::ErrorKind;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Databases, bounded, error};
use crate::store::query::{Filter, Update, replacement};
use crate::store::{Collection, LARGEST_DOCUMENT, Result, StoreError, Write, Written};

/// Commands of one batch that are under way at the same time.
const SIDE_BY_SIDE: usize = 32;
/// Bytes of documents in one insert; they travel beside the command, and the server takes 48 MB.
const LARGEST_INSERT: usize = 32 << 20;
/// Bytes of statements in one update, unless one alone is larger: they are inside the command, which is a document and
/// has a document's bound.
const LARGEST_UPDATE: usize = 12 << 20;

/// Collections where a change can fail because of a change of another document.
static WITH_UNIQUE_INDEX: LazyLock<HashSet<Collection>> = LazyLock::new(|| {
    let is_unique = |collection: &Collection| collection.indexes().iter().any(|index| index.unique);
    Collection::ALL.into_iter().filter(is_unique).collect()
});

/// Checks a batch.
pub(super) fn prepare(batch: &[Write]) -> Vec<Result<Step>> {
    batch.iter().map(step).collect()
}

/// Writes a batch.
pub(super) async fn write(databases: Arc<Databases>, batch: Vec<Result<Step>>) -> Vec<Result<Written>> {
    let mut outcomes: Vec<Option<Result<Written>>> = batch.iter().map(|_| None).collect();
    let mut stage = Stage::default();
    for (place, step) in batch.into_iter().enumerate() {
        match step.map(|step| (step.target(), step)) {
            Err(refused) => outcomes[place] = Some(Err(refused)),
            Ok((Some(target), step)) => {
                if !stage.takes(&target) {
                    stage.run(&databases, &mut outcomes).await;
                }
                stage.add(target, place, step);
            }
            Ok((None, step)) => {
                stage.run(&databases, &mut outcomes).await;
                stage.add_alone(place, step);
                stage.run(&databases, &mut outcomes).await;
            }
        }
    }
    stage.run(&databases, &mut outcomes).await;
    let lost = || Err(StoreError::Other("a write was lost on its way".into()));
    outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(lost))
        .collect()
}

/// A write that was checked.
#[derive(Debug)]
pub(super) enum Step {
    Insert(Collection, Arc<RawDocumentBuf>),
    /// The document and the statement that sets and removes its fields.
    Set(Collection, ObjectId, RawDocumentBuf),
    Other(Write),
}

/// A document that a step concerns: its collection, and what is known of it as a document's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Target {
    collection: Collection,
    key: Vec<u8>,
    /// The names of the fields in `key`.
    fields: Vec<String>,
}

fn step(write: &Write) -> Result<Step> {
    match write {
        Write::Insert { into, document } => {
            if !document.contains_key("_id") {
                return Err(StoreError::BadQuery("a document needs its _id".into()));
            }
            let raw = RawDocumentBuf::try_from(document).map_err(|error| StoreError::BadQuery(error.to_string()))?;
            return insert(*into, Arc::new(raw));
        }
        Write::InsertRaw { into, document } => return insert(*into, Arc::clone(document)),
        Write::Set { of, id, set, unset } => {
            let statement = statement(*id, set, unset);
            if statement.as_bytes().len() > LARGEST_DOCUMENT {
                return Err(StoreError::TooLarge);
            }
            return Ok(Step::Set(*of, *id, statement));
        }
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

fn insert(into: Collection, document: Arc<RawDocumentBuf>) -> Result<Step> {
    if document.as_bytes().len() > LARGEST_DOCUMENT {
        return Err(StoreError::TooLarge);
    }
    Ok(Step::Insert(into, document))
}

/// One member of an `update` command's `updates`. The server refuses an operator without fields, and takes an update
/// without operators for a new document: something that changes nothing stands in for that.
fn statement(id: ObjectId, set: &RawDocument, unset: &[&str]) -> RawDocumentBuf {
    let mut update = RawDocumentBuf::new();
    if !set.is_empty() {
        update.append(cstr!("$set"), set.to_owned());
    }
    if !unset.is_empty() || set.is_empty() {
        let mut names = Document::new();
        names.extend(unset.iter().map(|name| ((*name).to_owned(), Bson::from(""))));
        if names.is_empty() {
            names.insert("openhimNothing", "");
        }
        if let Ok(names) = RawDocumentBuf::try_from(&names) {
            update.append(cstr!("$unset"), names);
        }
    }
    rawdoc! { "q": { "_id": id }, "u": update }
}

impl Step {
    /// The one document that the step can concern, if that is certain and no other document's change can be in its way.
    fn target(&self) -> Option<Target> {
        let (collection, known) = match self {
            Self::Insert(collection, document) => {
                let id = document.get("_id").ok().flatten()?;
                (*collection, doc! { "_id": Bson::try_from(id).ok()? })
            }
            Self::Set(collection, id, _) => (*collection, doc! { "_id": *id }),
            Self::Other(Write::Update { of, filter, .. } | Write::Replace { of, filter, .. })
                if filter.contains_key("_id") =>
            {
                (*of, plain_id(filter)?)
            }
            Self::Other(Write::Delete { from, filter, .. }) => (*from, plain_id(filter)?),
            Self::Other(Write::Update {
                of,
                filter,
                update,
                many: false,
                upsert: true,
            }) => (*of, settled_fields(filter, update)?),
            Self::Other(_) => return None,
        };
        if WITH_UNIQUE_INDEX.contains(&collection) {
            return None;
        }
        Some(Target {
            collection,
            key: known.to_vec().ok()?,
            fields: known.keys().cloned().collect(),
        })
    }
}

fn plain_id(filter: &Document) -> Option<Document> {
    let id = filter.get("_id").filter(|id| is_plain(id))?;
    Some(doc! { "_id": id.clone() })
}

/// What the filter says of its document, if that is all that counts and the update leaves it as it is.
fn settled_fields(filter: &Document, update: &Document) -> Option<Document> {
    let touches = |path: &str| filter.contains_key(path.split('.').next().unwrap_or(path));
    let is_touched = update.values().any(|fields| match fields {
        Bson::Document(fields) => fields.keys().any(|path| touches(path)),
        _ => true,
    });
    let is_settled = |(name, value): (&String, &Bson)| !name.contains(['.', '$']) && is_plain(value);
    (!is_touched && !filter.is_empty() && filter.iter().all(is_settled)).then(|| filter.clone())
}

fn is_plain(value: &Bson) -> bool {
    !matches!(
        value,
        Bson::Document(_) | Bson::RegularExpression(_) | Bson::Array(_) | Bson::Null
    )
}

/// Steps that may travel side by side, but for those of one document.
#[derive(Default)]
struct Stage {
    lanes: Vec<VecDeque<(usize, Step)>>,
    of: HashMap<Target, usize>,
    /// By what the documents of a collection are told apart.
    fields: HashMap<Collection, Vec<String>>,
    /// Set once the conversation failed; nothing more is tried then.
    failure: Option<StoreError>,
}

impl Stage {
    /// False if the step may concern the same document as another that is told by other fields.
    fn takes(&self, target: &Target) -> bool {
        self.fields
            .get(&target.collection)
            .is_none_or(|fields| *fields == target.fields)
    }

    fn add(&mut self, target: Target, place: usize, step: Step) {
        let fields = self.fields.entry(target.collection);
        fields.or_insert_with(|| target.fields.clone());
        let lanes = &mut self.lanes;
        let lane = *self.of.entry(target).or_insert_with(|| {
            lanes.push(VecDeque::new());
            lanes.len() - 1
        });
        self.lanes[lane].push_back((place, step));
    }

    fn add_alone(&mut self, place: usize, step: Step) {
        self.lanes.push(VecDeque::from([(place, step)]));
    }

    /// Runs round after round: the first step of each document, then the second, and so on.
    async fn run(&mut self, databases: &Arc<Databases>, outcomes: &mut [Option<Result<Written>>]) {
        self.of.clear();
        self.fields.clear();
        let mut lanes = std::mem::take(&mut self.lanes);
        while !lanes.is_empty() {
            let round: Vec<_> = lanes.iter_mut().filter_map(VecDeque::pop_front).collect();
            lanes.retain(|lane| !lane.is_empty());
            if let Some(failure) = &self.failure {
                for (place, _) in round {
                    outcomes[place] = Some(Err(failure.clone()));
                }
                continue;
            }
            for (place, outcome) in run_round(databases, round).await {
                if let Err(failure) = &outcome
                    && failure.is_temporary()
                {
                    self.failure = Some(failure.clone());
                }
                outcomes[place] = Some(outcome);
            }
        }
    }
}

type Outcomes = Vec<(usize, Result<Written>)>;

async fn run_round(databases: &Arc<Databases>, round: Vec<(usize, Step)>) -> Outcomes {
    let mut together: Vec<Together> = Vec::new();
    let mut tasks: JoinSet<Outcomes> = JoinSet::new();
    let permits = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    for (place, step) in round {
        let (kind, collection, document) = match step {
            Step::Insert(into, document) => (Kind::Insert, into, document),
            Step::Set(of, _, statement) => (Kind::Set, of, Arc::new(statement)),
            Step::Other(other) => {
                let (databases, permits) = (Arc::clone(databases), Arc::clone(&permits));
                tasks.spawn(async move {
                    let _permit = permits.acquire().await;
                    vec![(place, bounded(databases.timeout, run(&databases, other)).await)]
                });
                continue;
            }
        };
        let bytes = document.as_bytes().len();
        let fits = |group: &&mut Together| {
            group.kind == kind && group.collection == collection && group.bytes + bytes <= kind.largest()
        };
        match together.iter_mut().find(fits) {
            Some(group) => group.add(place, document),
            None => together.push(Together::of(kind, collection, place, document)),
        }
    }
    for group in together {
        let databases = Arc::clone(databases);
        tasks.spawn(async move { group.run(&databases).await });
    }
    let mut outcomes = Vec::new();
    while let Some(done) = tasks.join_next().await {
        // One that panicked told nothing of its writes, and they are told as lost.
        outcomes.extend(done.unwrap_or_default());
    }
    outcomes
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Insert,
    Set,
}

impl Kind {
    const fn largest(self) -> usize {
        match self {
            Self::Insert => LARGEST_INSERT,
            Self::Set => LARGEST_UPDATE,
        }
    }
}

/// Documents or statements for one command.
struct Together {
    kind: Kind,
    collection: Collection,
    places: Vec<usize>,
    documents: Vec<Arc<RawDocumentBuf>>,
    bytes: usize,
}

impl Together {
    fn of(kind: Kind, collection: Collection, place: usize, document: Arc<RawDocumentBuf>) -> Self {
        let mut group = Self {
            kind,
            collection,
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

    async fn run(self, databases: &Databases) -> Outcomes {
        let refused = bounded(databases.timeout, async {
            match self.kind {
                Kind::Insert => self.insert(databases).await,
                Kind::Set => self.set(databases).await,
            }
        });
        let mut refused = match refused.await {
            Ok(refused) => refused,
            Err(failure) if failure.is_temporary() || self.places.len() == 1 => {
                return self.places.iter().map(|place| (*place, Err(failure.clone()))).collect();
            }
            Err(_) => return self.run_singly(databases).await,
        };
        let done = match self.kind {
            Kind::Insert => Written {
                modified: 1,
                ..Written::default()
            },
            Kind::Set => Written::default(),
        };
        let outcome = |(index, place): (usize, &usize)| (*place, refused.remove(&index).map_or(Ok(done), Err));
        self.places.iter().enumerate().map(outcome).collect()
    }

    /// What is wrong with one must not take the others with it.
    async fn run_singly(self, databases: &Databases) -> Outcomes {
        let mut outcomes = Vec::new();
        for (place, document) in self.places.into_iter().zip(self.documents) {
            let alone = Self::of(self.kind, self.collection, place, document);
            outcomes.append(&mut Box::pin(alone.run(databases)).await);
        }
        outcomes
    }

    /// Inserts; tells which were refused.
    async fn insert(&self, databases: &Databases) -> Result<Refused> {
        let collection = databases.collection(self.collection);
        let documents = self.documents.iter().map(AsRef::<RawDocumentBuf>::as_ref);
        let Err(failure) = collection.insert_many(documents).ordered(false).await else {
            return Ok(Refused::new());
        };
        let ErrorKind::InsertMany(parts) = &*failure.kind else {
            return Err(error::of(failure));
        };
        if let Some(concern) = &parts.write_concern_error {
            return Err(StoreError::Unavailable(concern.message.clone()));
        }
        let refused = parts.write_errors.iter().flatten();
        Ok(refused
            .map(|refused| (refused.index, error::of_code(refused.code, &refused.message)))
            .collect())
    }

    /// Sets fields in one command; tells which were refused. To do it twice changes nothing.
    async fn set(&self, databases: &Databases) -> Result<Refused> {
        let database = databases.of(self.collection);
        let mut statements = RawArrayBuf::new();
        for statement in &self.documents {
            statements.push(RawDocumentBuf::as_ref(statement));
        }
        let mut command = rawdoc! { "update": self.collection.name(), "updates": statements, "ordered": false };
        if let Some(concern) = database.write_concern() {
            let concern = bson::serialize_to_raw_document_buf(concern).map_err(|e| StoreError::Other(e.to_string()))?;
            command.append(cstr!("writeConcern"), concern);
        }
        let answer = database.run_raw_command(command).await.map_err(error::of)?;
        if let Ok(concern) = answer.get_document("writeConcernError") {
            let message = concern.get_str("errmsg").unwrap_or("the write concern was not met");
            return Err(StoreError::Unavailable(message.to_owned()));
        }
        let refused = answer.get_array("writeErrors").into_iter().flatten();
        Ok(refused
            .filter_map(|refused| {
                let refused = refused.as_document()?;
                let index = usize::try_from(refused.get_i32("index").ok()?).ok()?;
                let message = refused.get_str("errmsg").unwrap_or_default();
                Some((index, error::of_code(refused.get_i32("code").unwrap_or(0), message)))
            })
            .collect())
    }
}

/// Which of the documents of a command were refused, and why.
type Refused = HashMap<usize, StoreError>;

async fn run(databases: &Databases, write: Write) -> Result<Written> {
    match write {
        Write::Update {
            of,
            filter,
            update,
            many,
            upsert,
        } => {
            let collection = databases.collection(of);
            let outcome = if many {
                collection.update_many(filter, update).upsert(upsert).await
            } else {
                collection.update_one(filter, update).upsert(upsert).await
            };
            outcome.map(written).map_err(error::of)
        }
        Write::Replace {
            of,
            filter,
            document,
            upsert,
        } => {
            let outcome = databases
                .documents(of)
                .replace_one(filter, document)
                .upsert(upsert)
                .await;
            outcome.map(written).map_err(error::of)
        }
        Write::Delete { from, filter, many } => {
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
        Write::Insert { .. } | Write::InsertRaw { .. } | Write::Set { .. } => {
            Err(StoreError::Other("a write was not prepared".into()))
        }
    }
}

fn written(outcome: mongodb::results::UpdateResult) -> Written {
    let upserted = outcome.upserted_id.is_some();
    Written {
        matched: outcome.matched_count,
        modified: outcome.modified_count + u64::from(upserted),
        upserted,
    }
}
