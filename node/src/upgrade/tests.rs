//! The steps on a real store: what becomes of old documents, and that doing them twice or half changes nothing.

use std::sync::Arc;

use bson::oid::ObjectId;

use super::*;
use crate::clock::ManualClock;
use crate::crypto::certificate::SelfSigned;
use crate::store::sqlite::{SqliteOptions, SqliteStore};

struct Old {
    store: Arc<SqliteStore>,
    clock: ManualClock,
    _folder: tempfile::TempDir,
}

impl Old {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("old.db"), SqliteOptions::default()).unwrap();
        Self {
            store,
            clock: ManualClock::at(1_700_000_000_000),
            _folder: folder,
        }
    }

    fn store(&self) -> &dyn Store {
        &*self.store
    }

    async fn put(&self, into: Collection, mut document: Document) -> ObjectId {
        let id = ObjectId::new();
        document.insert("_id", id);
        self.store().insert(into, document).await.unwrap();
        id
    }

    async fn upgrade(&self) -> usize {
        run(self.store(), &self.clock, &|_, _| {}).await.unwrap()
    }

    async fn everything(&self) -> Vec<Vec<Document>> {
        let mut everything = Vec::new();
        for of in [
            Collection::Users,
            Collection::Passports,
            Collection::Visualizers,
            Collection::Keystores,
            Collection::Clients,
        ] {
            everything.push(self.store().all(of, Find::default()).await.unwrap());
        }
        everything
    }
}

fn certificate(name: &str) -> String {
    let pair = SelfSigned {
        common_name: Some(name.into()),
        ..SelfSigned::default()
    };
    pair.generate(0).unwrap().certificate
}

#[tokio::test]
async fn a_fresh_database_ends_at_the_newest_version_and_needs_nothing_more() {
    let old = Old::new();
    assert_eq!(old.upgrade().await, 4);
    assert_eq!(old.upgrade().await, 0);
    let versions = old.store().all(Collection::DbVersions, Find::default()).await.unwrap();
    assert_eq!(versions.len(), 1);
    assert_eq!(versions[0].get_i32("version").unwrap(), 4);
}

#[tokio::test]
async fn certificates_get_fingerprints_and_clients_are_bound_to_them() {
    let old = Old::new();
    let (lab, own) = (certificate("lab.example"), certificate("localhost"));
    old.put(
        Collection::Keystores,
        doc! {"cert": {"data": &own}, "ca": [{"data": "no certificate"}, {"data": &lab, "commonName": "lab.example"}]},
    )
    .await;
    for (id, domain) in [("lab", "lab.example"), ("other", "other.example")] {
        old.put(Collection::Clients, doc! {"clientID": id, "clientDomain": domain})
            .await;
    }

    old.upgrade().await;

    let fingerprint = Certificate::from_pem(&lab).unwrap().fingerprint;
    let everything = old.everything().await;
    let keystore = &everything[3][0];
    let trusted = keystore.get_array("ca").unwrap();
    assert_eq!(
        trusted[1].as_document().unwrap().get_str("fingerprint").ok(),
        Some(&*fingerprint)
    );
    assert!(keystore.get_document("cert").unwrap().contains_key("fingerprint"));
    assert_eq!(everything[4][0].get_str("certFingerprint").ok(), Some(&*fingerprint));
    assert!(!everything[4][1].contains_key("certFingerprint"));
}

#[tokio::test]
async fn visualizers_leave_the_profiles_each_under_a_name_of_its_own() {
    let old = Old::new();
    let visualizer = doc! {
        "endpoints": [{"event": "channel-Patients", "desc": "Patients"}],
        "components": [{"event": "route-Registry-x", "desc": "Registry"}, {"event": "plain", "desc": "Plain"}],
        "time": {"updatePeriod": 250},
    };
    for email in ["a@x.org", "b@x.org"] {
        let user = doc! {"email": email, "firstname": "A", "surname": "B", "settings": {"visualizer": visualizer.clone(), "list": 1}};
        old.put(Collection::Users, user).await;
    }
    old.put(
        Collection::Users,
        doc! {"email": "c@x.org", "settings": {"visualizer": {"components": []}}},
    )
    .await;

    old.upgrade().await;

    let everything = old.everything().await;
    let names: Vec<&str> = everything[2].iter().map(|it| it.get_str("name").unwrap()).collect();
    assert_eq!(names, ["A B's visualizer", "A B's visualizer 2"]);
    let first = &everything[2][0];
    let channel = first.get_array("channels").unwrap()[0].as_document().unwrap();
    assert_eq!(channel.get_str("eventName").ok(), Some("Patients"));
    let components = first.get_array("components").unwrap();
    assert_eq!(
        components[0].as_document().unwrap().get_str("eventType").ok(),
        Some("route")
    );
    assert_eq!(
        components[0].as_document().unwrap().get_str("eventName").ok(),
        Some("Registry")
    );
    assert_eq!(
        components[1].as_document().unwrap().get_str("eventType").ok(),
        Some("channel")
    );
    let settings = everything[0][0].get_document("settings").unwrap();
    assert_eq!(settings.get("visualizer"), Some(&Bson::Null));
    assert_eq!(settings.get_i32("list").ok(), Some(1));
}

#[tokio::test]
async fn password_hashes_move_to_passports_and_the_provider_is_named() {
    let old = Old::new();
    old.put(
        Collection::Users,
        doc! {"email": "a@x.org", "passwordHash": "h", "passwordAlgorithm": "sha512", "passwordSalt": "s"},
    )
    .await;
    old.put(Collection::Users, doc! {"email": "new@x.org", "provider": "local"})
        .await;

    old.upgrade().await;

    let everything = old.everything().await;
    assert_eq!(everything[1].len(), 1);
    let passport = &everything[1][0];
    assert_eq!(passport.get_str("protocol").ok(), Some("token"));
    assert_eq!(passport.get_str("passwordHash").ok(), Some("h"));
    assert_eq!(passport.get_str("email").ok(), Some("a@x.org"));
    let user = &everything[0][0];
    assert_eq!(user.get("passwordHash"), Some(&Bson::Null));
    assert_eq!(user.get_str("provider").ok(), Some("token"));
    assert_eq!(everything[0][1].get_str("provider").ok(), Some("local"));
}

#[tokio::test]
async fn a_step_that_was_interrupted_after_its_work_leaves_the_same_when_it_is_done_again() {
    let old = Old::new();
    let user = doc! {
        "email": "a@x.org", "firstname": "A", "surname": "B",
        "passwordHash": "h", "passwordAlgorithm": "sha512", "passwordSalt": "s",
        "settings": {"visualizer": {"channels": [{"eventType": "channel", "eventName": "x", "display": "x"}]}},
    };
    let id = old.put(Collection::Users, user.clone()).await;
    old.upgrade().await;
    let done = old.everything().await;

    // What a kill leaves that came after the successors were stored and before the user was changed.
    let mut half = user;
    half.insert("_id", id);
    old.store()
        .apply(Write::Replace {
            of: Collection::Users,
            filter: doc! {"_id": id},
            document: half,
            upsert: false,
        })
        .await
        .unwrap();
    old.store()
        .update(Collection::DbVersions, doc! {}, doc! {"$set": {"version": 0}})
        .await
        .unwrap();
    old.upgrade().await;

    let again = old.everything().await;
    assert_eq!(again[1], done[1]);
    assert_eq!(again[2], done[2]);
    assert_eq!(again[0][0].get("passwordHash"), Some(&Bson::Null));
}
