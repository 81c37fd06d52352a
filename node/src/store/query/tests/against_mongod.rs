//! The same question to us and to a real server, with generated documents. The answers must agree; where the server
//! refuses, we must.

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use mongodb::{Client, Collection};

use super::generate::Chance;
use super::raw;
use crate::store::query::{Filter, Moment, Projection, SortOrder, Update, with_id};
use crate::testing::mongod::Mongod;

struct Peer {
    collection: Collection<Document>,
    _server: Mongod,
}

async fn peer() -> Option<Peer> {
    let server = Mongod::start()?;
    let client = Client::with_uri_str(server.url("peer")).await.unwrap();
    Some(Peer {
        collection: client.database("peer").collection("documents"),
        _server: server,
    })
}

impl Peer {
    async fn holds(&self, documents: &[Document]) {
        self.collection.delete_many(doc! {}).await.unwrap();
        self.collection.insert_many(documents).await.unwrap();
    }

    async fn find(
        &self,
        filter: Document,
        sort: Document,
        projection: Document,
    ) -> mongodb::error::Result<Vec<Document>> {
        let mut cursor = self.collection.find(filter).sort(sort).projection(projection).await?;
        let mut found = Vec::new();
        while cursor.advance().await? {
            found.push(cursor.deserialize_current()?);
        }
        Ok(found)
    }
}

fn ids(documents: &[Document]) -> Vec<i32> {
    documents
        .iter()
        .map(|document| document.get_i32("_id").unwrap())
        .collect()
}

/// The fields in the order of their names: the server takes a filter's equalities in an order of its own.
fn shown(document: &Document) -> String {
    let mut fields: Vec<String> = document
        .iter()
        .map(|(name, value)| match value {
            Bson::Document(inner) => format!("{name}: {{{}}}", shown(inner)),
            value => format!("{name}: {value:?}"),
        })
        .collect();
    fields.sort();
    fields.join(", ")
}

/// Shows bytes that differ only in order too.
fn bytes(document: &Document) -> Vec<u8> {
    raw(document).into_bytes()
}

#[tokio::test]
async fn filters_accept_what_the_server_accepts() {
    let Some(peer) = peer().await else {
        return;
    };
    let mut chance = Chance::new();
    let mut refused = 0;
    for _ in 0..4 {
        let documents: Vec<Document> = (0..300).map(|id| chance.document(id)).collect();
        let raws: Vec<RawDocumentBuf> = documents.iter().map(raw).collect();
        peer.holds(&documents).await;
        for _ in 0..1000 {
            let filter = chance.filter(2);
            let theirs = peer.find(filter.clone(), doc! {"_id": 1}, doc! {}).await;
            let ours = Filter::compile(&filter);
            match (theirs, ours) {
                (Ok(theirs), Ok(ours)) => {
                    let ours: Vec<i32> = (0..300).filter(|id| ours.matches(&raws[*id as usize])).collect();
                    let theirs = ids(&theirs);
                    let differing: Vec<&Document> = (0..300)
                        .filter(|id| ours.contains(id) != theirs.contains(id))
                        .map(|id| &documents[id as usize])
                        .collect();
                    assert!(
                        differing.is_empty(),
                        "{filter:?}\nwe accept {}: {:?}",
                        ours.contains(&differing[0].get_i32("_id").unwrap()),
                        differing[0]
                    );
                }
                (Err(_), Err(_)) => refused += 1,
                (theirs, ours) => panic!("{filter:?}\ntheirs: {:?}\nours: {:?}", theirs.map(drop), ours.map(drop)),
            }
        }
    }
    println!("{refused} of 4000 filters were refused by both");
    assert!(refused < 1000, "most filters should make sense");
}

#[tokio::test]
async fn orders_are_the_servers() {
    let Some(peer) = peer().await else {
        return;
    };
    let mut chance = Chance::new();
    let documents: Vec<Document> = (0..300).map(|id| chance.document(id)).collect();
    peer.holds(&documents).await;
    for _ in 0..100 {
        let sort = doc! {chance.path(): chance.direction()};
        let Ok(theirs) = peer.find(doc! {}, sort.clone(), doc! {}).await else {
            continue;
        };
        let order = SortOrder::compile(&sort).unwrap();
        for pair in theirs.windows(2) {
            let (a, b) = (order.key(&raw(&pair[0])), order.key(&raw(&pair[1])));
            assert!(
                order.compare(&a, &b).is_le(),
                "{sort}: {:?} before {:?}",
                pair[0],
                pair[1]
            );
        }
    }
}

#[tokio::test]
async fn projections_show_what_the_server_shows() {
    let Some(peer) = peer().await else {
        return;
    };
    let mut chance = Chance::new();
    let documents: Vec<Document> = (0..200).map(|id| chance.document(id)).collect();
    peer.holds(&documents).await;
    for _ in 0..300 {
        let projection = chance.projection();
        let theirs = peer.find(doc! {}, doc! {"_id": 1}, projection.clone()).await;
        let ours = Projection::compile(&projection);
        match (theirs, ours) {
            (Ok(theirs), Ok(ours)) => {
                for (document, theirs) in documents.iter().zip(theirs) {
                    let ours = ours.apply(&raw(document));
                    assert_eq!(
                        ours.as_bytes(),
                        bytes(&theirs),
                        "{projection} of {document:?}: {ours:?} {theirs:?}"
                    );
                }
            }
            (Err(_), Err(_)) => {}
            (theirs, ours) => panic!("{projection}\ntheirs: {:?}\nours: {ours:?}", theirs.map(drop)),
        }
    }
}

#[tokio::test]
async fn updates_do_what_the_server_does() {
    let Some(peer) = peer().await else {
        return;
    };
    let mut chance = Chance::new();
    let moment = Moment {
        now: DateTime::from_millis(0),
        inserting: false,
    };
    let (mut changed, mut refused) = (0, 0);
    for _ in 0..10 {
        let documents: Vec<Document> = (0..300).map(|id| chance.document(id)).collect();
        peer.holds(&documents).await;
        let mut expected = Vec::new();
        for document in &documents {
            let update = chance.update();
            let id = doc! {"_id": document.get_i32("_id").unwrap()};
            let theirs = peer.collection.update_one(id, update.clone()).await;
            let mut after = document.clone();
            let ours = Update::compile(&update).and_then(|update| update.apply(&mut after, None, moment));
            match (&theirs, &ours) {
                (Ok(theirs), Ok(ours)) => {
                    changed += u64::from(*ours);
                    assert_eq!(
                        theirs.modified_count,
                        u64::from(*ours),
                        "{update:?} of {document:?} gives {after:?}"
                    );
                    expected.push((update, document, after));
                }
                (Err(_), Err(_)) => {
                    refused += 1;
                    expected.push((update, document, document.clone()));
                }
                _ => panic!("{update:?} of {document:?}\ntheirs: {theirs:?}\nours: {ours:?}"),
            }
        }
        let found = peer.find(doc! {}, doc! {"_id": 1}, doc! {}).await.unwrap();
        for (theirs, (update, before, ours)) in found.iter().zip(expected) {
            assert_eq!(
                bytes(&ours),
                bytes(theirs),
                "{update:?} of {before:?}\ntheirs: {theirs:?}\nours: {ours:?}"
            );
        }
    }
    println!("{changed} documents changed, {refused} updates refused by both");
    assert!(changed > 500, "most updates should do something");
}

#[tokio::test]
async fn the_positional_operator_means_the_servers_element() {
    let Some(peer) = peer().await else {
        return;
    };
    let mut chance = Chance::new();
    let moment = Moment {
        now: DateTime::from_millis(0),
        inserting: false,
    };
    let mut found = 0;
    for id in 0..1500 {
        let document = chance.document(id);
        let Some((name, filter)) = chance.filter_on_an_array(&document) else {
            continue;
        };
        peer.collection.insert_one(&document).await.unwrap();
        let update = doc! {"$set": {format!("{name}.$"): "here"}};
        let theirs = peer.collection.update_one(filter.clone(), update.clone()).await;
        let compiled = Filter::compile(&filter).unwrap();
        let mut ours = document.clone();
        let before = raw(&document);
        if compiled.matches(&before) {
            let outcome = Update::compile(&update)
                .unwrap()
                .apply(&mut ours, Some((&compiled, &before)), moment);
            assert_eq!(
                outcome.is_ok(),
                theirs.is_ok(),
                "{filter:?} of {document:?}: {outcome:?} {theirs:?}"
            );
            if outcome.is_err() {
                ours = document.clone();
            } else {
                found += 1;
            }
        }
        let stored = peer.collection.find_one(doc! {"_id": id}).await.unwrap().unwrap();
        assert_eq!(
            bytes(&ours),
            bytes(&stored),
            "{filter:?} of {document:?}\ntheirs: {stored:?}\nours: {ours:?}"
        );
    }
    println!("{found} elements were found");
    assert!(found > 100);
}

/// The server throws away what else a filter says beside `$in: []`, and with it what an upsert would take from there.
fn is_plainly_false(filter: &Document) -> bool {
    let text = format!("{filter:?}");
    text.contains("\"$in\": Array([])") || text.contains("\"$all\": Array([])")
}

#[tokio::test]
async fn upserts_make_what_the_server_makes() {
    let Some(peer) = peer().await else {
        return;
    };
    let mut chance = Chance::new();
    let mut made = 0;
    for _ in 0..1000 {
        let (filter, update) = (chance.filter(1), chance.update());
        if is_plainly_false(&filter) {
            continue;
        }
        peer.collection.delete_many(doc! {}).await.unwrap();
        let theirs = peer
            .collection
            .update_one(filter.clone(), update.clone())
            .upsert(true)
            .await;
        let ours = Filter::compile(&filter)
            .and_then(|filter| Update::compile(&update)?.upsert(&filter, DateTime::from_millis(0)));
        match (theirs, ours) {
            (Ok(_), Ok(ours)) => {
                made += 1;
                let mut theirs = peer.collection.find_one(doc! {}).await.unwrap().unwrap();
                let mut ours = with_id(ours);
                if matches!(ours.get("_id"), Some(Bson::ObjectId(_))) {
                    ours.remove("_id");
                    theirs.remove("_id");
                }
                assert_eq!(
                    shown(&ours),
                    shown(&theirs),
                    "{filter:?} {update:?}\ntheirs: {theirs:?}\nours: {ours:?}"
                );
            }
            (Err(_), Err(_)) => {}
            (theirs, ours) => panic!("{filter:?} {update:?}\ntheirs: {theirs:?}\nours: {ours:?}"),
        }
    }
    println!("{made} documents were made");
    assert!(made > 100);
}
