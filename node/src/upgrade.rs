//! Bringing an older OpenHIM's documents up to date, as OpenHIM itself does at each start.
//!
//! `dbversions` counts the steps that were done. Each step looks for what it has yet to do, so one that was interrupted,
//! or that two nodes do at once, just goes on. A step never takes anything away before its successor is stored.

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use crate::clock::Clock;
use crate::crypto::certificate::Certificate;
use crate::model::keystore::Keystore;
use crate::model::schema::tables::{PASSPORT, VISUALIZER};
use crate::store::{Collection, Find, FindAndUpdate, Store, StoreError, Write};

/// The version of a database on which every step was done.
pub const NEWEST: usize = STEPS.len();

/// What the steps do, in order, in OpenHIM's words.
const STEPS: [&str; 4] = [
    "Ensure that all certs have a fingerprint property",
    "Convert clients link to certs via their domain to use the cert fingerprint instead",
    "Migrate visualizer setting from a user's profile to a shared collection",
    "Migrate password properties of token auth strategy from User collection to Passport collection",
];

/// Why an upgrade stopped; what was done until then stays.
#[derive(Debug, thiserror::Error)]
#[error("upgrade step {number} of {NEWEST} (\"{step}\") stopped")]
pub struct UpgradeError {
    number: usize,
    step: &'static str,
    #[source]
    source: StoreError,
}

/// Does the steps that are due, and answers how many those were. `watch` is told before each step which one it is.
///
/// # Errors
/// The store fails.
pub async fn run(
    store: &dyn Store,
    clock: &dyn Clock,
    watch: &(dyn Fn(usize, &'static str) + Sync),
) -> Result<usize, UpgradeError> {
    let failed = |number: usize| {
        move |source| UpgradeError {
            number,
            step: STEPS
                .get(number.saturating_sub(1))
                .copied()
                .unwrap_or("read the version"),
            source,
        }
    };
    let begun = version(store).await.map_err(failed(0))?;
    for (done, step_name) in STEPS.iter().enumerate().skip(begun) {
        let number = done + 1;
        watch(number, step_name);
        step(store, clock, done).await.map_err(failed(number))?;
        set_version(store, clock, done).await.map_err(failed(number))?;
    }
    Ok(NEWEST.saturating_sub(begun))
}

async fn step(store: &dyn Store, clock: &dyn Clock, done: usize) -> Result<(), StoreError> {
    match done {
        0 => fingerprints(store).await,
        1 => clients_by_fingerprint(store).await,
        2 => visualizers(store, clock).await,
        _ => passports(store, clock).await,
    }
}

async fn version(store: &dyn Store) -> Result<usize, StoreError> {
    let stored = store.one(Collection::DbVersions, doc! {}).await?;
    let number = stored.as_ref().and_then(|it| it.get("version"));
    let number = number.and_then(crate::model::number::of_bson).unwrap_or(0.0);
    Ok(number.max(0.0) as usize)
}

async fn set_version(store: &dyn Store, clock: &dyn Clock, done: usize) -> Result<(), StoreError> {
    let version = i32::try_from(done + 1).unwrap_or(i32::MAX);
    let ask = FindAndUpdate {
        update: doc! {
            "$max": {"version": version}, "$set": {"lastUpdated": clock.date()}, "$setOnInsert": {"__v": 0},
        },
        upsert: true,
        ..FindAndUpdate::default()
    };
    store.find_and_update(Collection::DbVersions, ask).await.map(drop)
}

/// Step 1: what a client's certificate is recognised by.
async fn fingerprints(store: &dyn Store) -> Result<(), StoreError> {
    let Some(stored) = store.one(Collection::Keystores, doc! {}).await? else {
        return Ok(());
    };
    let keystore = Keystore::from_document(&stored);
    let mut set = Document::new();
    if let Some(own) = &keystore.cert
        && own.fingerprint.is_none()
        && let Some(fingerprint) = fingerprint(&own.data)
    {
        set.insert("cert.fingerprint", fingerprint);
    }
    let trusted = stored.get_array("ca").map_or(&[][..], Vec::as_slice);
    for (place, cert) in trusted.iter().enumerate() {
        let Some(cert) = cert.as_document() else { continue };
        let holder = Keystore::from_document(&doc! {"cert": cert.clone()});
        if let Some(info) = holder.cert.filter(|info| info.fingerprint.is_none())
            && let Some(fingerprint) = fingerprint(&info.data)
        {
            set.insert(format!("ca.{place}.fingerprint"), fingerprint);
        }
    }
    if set.is_empty() {
        return Ok(());
    }
    // The list must still be the one that was read.
    let same = doc! {"_id": stored.get("_id"), "ca": stored.get("ca").cloned().unwrap_or(Bson::Null)};
    store
        .update(Collection::Keystores, same, doc! {"$set": set})
        .await
        .map(drop)
}

fn fingerprint(pem: &str) -> Option<String> {
    let read = Certificate::from_pem(pem);
    if let Err(error) = &read {
        tracing::warn!(%error, "A stored certificate cannot be read and stays without a fingerprint: {error}");
    }
    Some(read.ok()?.fingerprint)
}

/// Step 2: a client whose domain is a trusted certificate's common name is bound to that certificate.
async fn clients_by_fingerprint(store: &dyn Store) -> Result<(), StoreError> {
    let Some(stored) = store.one(Collection::Keystores, doc! {}).await? else {
        return Ok(());
    };
    let mut seen = HashSet::new();
    for cert in Keystore::from_document(&stored).ca {
        let domain = cert.info.common_name;
        let Some(fingerprint) = cert.info.fingerprint.filter(|_| !domain.is_empty()) else {
            continue;
        };
        // Of two certificates for one name, the first one counts.
        if seen.insert(domain.clone()) {
            let update = Write::Update {
                of: Collection::Clients,
                filter: doc! {"clientDomain": domain, "certFingerprint": null},
                update: doc! {"$set": {"certFingerprint": fingerprint}},
                many: true,
                upsert: false,
            };
            store.apply(update).await?;
        }
    }
    Ok(())
}

/// Step 3: visualizers leave the profiles of their users and become everybody's.
async fn visualizers(store: &dyn Store, clock: &dyn Clock) -> Result<(), StoreError> {
    let users = store
        .all(
            Collection::Users,
            Find::by(doc! {"settings.visualizer": {"$exists": true, "$ne": null}}),
        )
        .await?;
    for user in users {
        let old = user
            .get_document("settings")
            .and_then(|it| it.get_document("visualizer"));
        let Ok(old) = old.cloned() else { continue };
        if !["components", "mediators", "channels", "endpoints"]
            .iter()
            .any(|part| old.get_array(part).is_ok_and(|items| !items.is_empty()))
        {
            continue;
        }
        let Some(id) = user.get_object_id("_id").ok() else {
            continue;
        };
        publish(store, clock, &user, id, old).await?;
        store
            .update(
                Collection::Users,
                doc! {"_id": id},
                doc! {"$set": {"settings.visualizer": null}},
            )
            .await?;
    }
    Ok(())
}

/// Stores a user's visualizer under the user's own id: if that was done before, it is there.
async fn publish(
    store: &dyn Store,
    clock: &dyn Clock,
    user: &Document,
    id: ObjectId,
    old: Document,
) -> Result<(), StoreError> {
    if store.one(Collection::Visualizers, doc! {"_id": id}).await?.is_some() {
        return Ok(());
    }
    let mut visualizer = if old.contains_key("endpoints") {
        modernized(old)
    } else {
        old
    };
    let part = |field: &str| user.get_str(field).unwrap_or("undefined").to_owned();
    let wanted = format!("{} {}'s visualizer", part("firstname"), part("surname"));
    visualizer.insert("name", free_name(store, wanted).await?);
    let (mut visualizer, problems) = VISUALIZER.make(visualizer, clock.now());
    for problem in problems {
        let email = user.get_str("email").unwrap_or_default();
        tracing::warn!("The visualizer of {email} is moved as it is: {}", problem.message);
    }
    visualizer.remove("_id");
    let mut stored = doc! {"_id": id};
    stored.extend(visualizer);
    match store.insert(Collection::Visualizers, stored).await {
        Err(error) if error.is_duplicate() => Ok(()),
        other => other,
    }
}

async fn free_name(store: &dyn Store, wanted: String) -> Result<String, StoreError> {
    let mut name = wanted.clone();
    let mut number = 1;
    while store
        .one(Collection::Visualizers, doc! {"name": &*name})
        .await?
        .is_some()
    {
        number += 1;
        name = format!("{wanted} {number}");
    }
    Ok(name)
}

/// A visualizer of OpenHIM 2.0 and before: endpoints were channels, and components had an event and a description.
fn modernized(mut old: Document) -> Document {
    let text = |item: &Document, field: &str| item.get_str(field).unwrap_or_default().to_owned();
    let items = |old: &mut Document, field: &str| match old.remove(field) {
        Some(Bson::Array(items)) => items
            .into_iter()
            .filter_map(|item| match item {
                Bson::Document(item) => Some(item),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let channels: Vec<Document> = items(&mut old, "endpoints")
        .iter()
        .map(|endpoint| {
            doc! {
                "eventType": "channel", "eventName": text(endpoint, "event").replacen("channel-", "", 1),
                "display": text(endpoint, "desc"),
            }
        })
        .collect();
    let components: Vec<Document> = items(&mut old, "components")
        .into_iter()
        .map(|mut component| {
            let event = text(&component, "event");
            let display = text(&component, "desc");
            component.remove("event");
            component.remove("desc");
            let mut parts = event.split('-');
            let (kind, name) = match (parts.next(), parts.next()) {
                (Some(kind), Some(name)) => (kind, name),
                _ => ("channel", &*event),
            };
            component.insert("eventType", kind);
            component.insert("eventName", name);
            component.insert("display", display);
            component
        })
        .collect();
    old.insert("channels", channels);
    old.insert("mediators", Vec::<Document>::new());
    old.insert("components", components);
    let mut time = old.get_document("time").cloned().unwrap_or_default();
    time.insert("minDisplayPeriod", 100);
    old.insert("time", time);
    old
}

/// Step 4: what a password is checked against leaves the user's document.
async fn passports(store: &dyn Store, clock: &dyn Clock) -> Result<(), StoreError> {
    let is_there = doc! {"$exists": true, "$ne": null};
    let wanted = doc! {
        "passwordHash": is_there.clone(), "passwordAlgorithm": is_there.clone(), "passwordSalt": is_there,
    };
    for user in store.all(Collection::Users, Find::by(wanted)).await? {
        let email = user.get_str("email").unwrap_or_default();
        let passport = doc! {"protocol": "token", "email": email};
        if store.one(Collection::Passports, passport.clone()).await?.is_none() {
            let mut passport = passport;
            for field in ["passwordHash", "passwordAlgorithm", "passwordSalt"] {
                passport.insert(field, user.get(field).cloned().unwrap_or(Bson::Null));
            }
            let (mut passport, _) = PASSPORT.make(passport, clock.now());
            if let Some(id) = user.get("_id") {
                // Fixed, so that of two nodes that start at once only one makes it.
                passport.insert("_id", id.clone());
            }
            match store.insert(Collection::Passports, passport).await {
                Err(error) if error.is_duplicate() => {}
                other => other?,
            }
        }
        let moved = doc! {
            "passwordHash": null, "passwordAlgorithm": null, "passwordSalt": null, "provider": "token",
        };
        store
            .update(Collection::Users, doc! {"_id": user.get("_id")}, doc! {"$set": moved})
            .await?;
    }
    Ok(())
}
