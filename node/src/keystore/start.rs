//! The keystore of a first start, and certificates that come from files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{KeystoreError, cert_document, check_pair};
use crate::clock::Clock;
use crate::config::CertificateManagement;
use crate::crypto::certificate::{CertificateError, SelfSigned};
use crate::model::keystore::Keystore as Stored;
use crate::store::{Collection, SharedStore, StoreError, Write};

/// The id of a keystore that we make: fixed, so that of several nodes that start at once only one makes it.
const ID: [u8; 12] = *b"openhim-keys";

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// Bytes of a certificate's or key's file that are read.
const MAX_FILE: u64 = 256 * 1024;

/// Days that a certificate of a first start is valid: ten years.
const DAYS: u32 = 3652;

/// Why there is no keystore to start with.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("could not read `{path}`, which certificateManagement names: {source}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    #[error("could not make a certificate: {0}")]
    Generate(#[from] CertificateError),
    #[error("could not read or store the keystore: {0}")]
    Store(#[from] StoreError),
}

/// Makes sure that the store has a keystore, and answers with it.
///
/// Without one, a fresh self-signed certificate for `localhost` is made. With `certificateManagement.watchFSForCert`,
/// certificate and key come from the files it names, at every start.
///
/// # Errors
/// The files cannot be used, or the store fails.
pub async fn start(
    store: &SharedStore,
    settings: &CertificateManagement,
    clock: &Arc<dyn Clock>,
) -> Result<Stored, StartError> {
    let present = store.one(Collection::Keystores, doc! {}).await?;
    if settings.watch_fs_for_cert {
        let pair = FilePair::read(settings).await?;
        pair.store(store, present.as_ref()).await?;
    } else if present.is_none() {
        let pair = generate(clock.now()).await?;
        if pair.store(store, None).await? {
            info!("Made a self-signed certificate for localhost, because the keystore was empty");
        }
    }
    let stored = store.one(Collection::Keystores, doc! {}).await?;
    Ok(stored.as_ref().map(Stored::from_document).unwrap_or_default())
}

/// Copies the files that `certificateManagement` names into the keystore whenever they change, until `stop`. A pair
/// that does not fit together is reported and waited for: files are rarely replaced both at once.
pub async fn watch_files(settings: CertificateManagement, store: SharedStore, stop: CancellationToken) {
    let mut last = None;
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // A file that is just being replaced may be missing for a moment.
        let Ok(pair) = FilePair::read_unchecked(&settings).await else {
            continue;
        };
        if last.as_ref() == Some(&pair) {
            continue;
        }
        match pair.put(&store).await {
            Ok(true) => info!("The certificate files have changed and are in the keystore"),
            Ok(false) => {}
            Err(StartError::Keystore(error)) => warn!(%error, "The certificate files have changed and cannot be used"),
            Err(error) => {
                warn!(%error, "The changed certificate files could not be stored");
                continue;
            }
        }
        last = Some(pair);
    }
}

async fn generate(now: crate::clock::Millis) -> Result<FilePair, StartError> {
    let asked = SelfSigned {
        organization: "OpenHIM".into(),
        days: Some(DAYS),
        alternative_names: vec!["127.0.0.1".into(), "::1".into()],
        ..SelfSigned::default()
    };
    let made = tokio::task::spawn_blocking(move || asked.generate(now)).await;
    let made = made.unwrap_or(Err(CertificateError::Unreadable))?;
    Ok(FilePair {
        certificate: made.certificate,
        key: made.key,
    })
}

/// Certificate and key, PEM.
#[derive(PartialEq, Eq)]
struct FilePair {
    certificate: String,
    key: String,
}

impl FilePair {
    /// Reads the files and checks that they belong together.
    async fn read(settings: &CertificateManagement) -> Result<Self, StartError> {
        let pair = Self::read_unchecked(settings).await?;
        pair.check()?;
        Ok(pair)
    }

    async fn read_unchecked(settings: &CertificateManagement) -> Result<Self, StartError> {
        Ok(Self {
            certificate: read(&settings.cert_path).await?,
            key: read(&settings.key_path).await?,
        })
    }

    fn check(&self) -> Result<(), KeystoreError> {
        check_pair(&Stored::from_document(
            &doc! {"key": &self.key, "cert": {"data": &self.certificate}},
        ))
    }

    async fn put(&self, store: &SharedStore) -> Result<bool, StartError> {
        self.check()?;
        let present = store.one(Collection::Keystores, doc! {}).await?;
        self.store(store, present.as_ref()).await
    }

    /// Writes the pair into the present keystore, or makes one; false if it is there already.
    async fn store(&self, store: &SharedStore, present: Option<&Document>) -> Result<bool, StartError> {
        let cert = cert_document(&self.certificate)?;
        let Some(present) = present else {
            let document = doc! {
                "_id": ObjectId::from_bytes(ID), "key": &self.key, "cert": cert, "ca": Bson::Array(vec![]), "__v": 0,
            };
            return match store.insert(Collection::Keystores, document).await {
                Ok(()) => Ok(true),
                // Another node was first.
                Err(error) if error.is_duplicate() => Ok(false),
                Err(error) => Err(error.into()),
            };
        };
        let same = |value: Option<&Bson>, text: &str| value.and_then(Bson::as_str) == Some(text);
        let data = present.get_document("cert").ok().and_then(|cert| cert.get("data"));
        let is_stored = same(present.get("key"), &self.key) && same(data, &self.certificate);
        if !is_stored {
            let id = present.get("_id").cloned().unwrap_or(Bson::Null);
            store.apply(replace_pair(id, &self.key, cert)).await?;
        }
        Ok(!is_stored)
    }
}

fn replace_pair(id: Bson, key: &str, cert: Document) -> Write {
    Write::Update {
        of: Collection::Keystores,
        filter: doc! {"_id": id},
        update: doc! {"$set": {"key": key, "cert": cert}, "$unset": {"passphrase": ""}},
        many: false,
        upsert: false,
    }
}

async fn read(path: &Path) -> Result<String, StartError> {
    let fail = |source| StartError::File {
        path: path.to_owned(),
        source,
    };
    let length = tokio::fs::metadata(path).await.map_err(fail)?.len();
    if length > MAX_FILE {
        return Err(fail(std::io::Error::other("the file is too large")));
    }
    tokio::fs::read_to_string(path).await.map_err(fail)
}
