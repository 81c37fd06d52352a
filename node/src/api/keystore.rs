//! `/keystore`: the server's certificate and key, and the certificates it trusts.
//!
//! Certificate and key are uploaded one after the other, so for a while they need not fit together; what the node
//! serves with changes only once they do.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use http::StatusCode;
use serde_json::json;

use super::auth::Caller;
use super::context::{Api, Call};
use super::error::{Doing, Fault, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::crypto::certificate::{chain_from_pem, split_pem};
use crate::crypto::private_key;
use crate::keystore::cert_document;
use crate::model::id;
use crate::model::role::Permission;
use crate::model::schema::tables::KEYSTORE;
use crate::store::Collection;

/// `GET /keystore/cert`
pub(super) async fn read_certificate(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not fetch the server cert via the API:";
    caller.require("getServerCert", Permission::CertificatesView)?;
    let keystore = stored(&call.api).await.doing(DOING)?;
    let Ok(certificate) = keystore.get_document("cert") else {
        return Err(missing("watchFSForCert")).doing(DOING);
    };
    let mut shown = certificate.clone();
    shown.insert(
        "watchFSForCert",
        call.api.settings.certificate_management.watch_fs_for_cert,
    );
    Ok(Reply::document(&shown)?)
}

/// `POST /keystore/cert`
pub(super) async fn set_certificate(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not add server cert via the API:";
    if call.api.settings.certificate_management.watch_fs_for_cert {
        return Err(Refusal::Invalid(
            "Failed to upload server certificate: Uploading of certificate while watchFSForCert is true is not allowed."
                .into(),
        ));
    }
    caller.require("setServerCert", Permission::CertificatesManage)?;
    let certificate = cert_document(call.body.text("cert").unwrap_or_default()).rejected(DOING)?;
    let change = with_passphrase(&call, doc! {"cert": certificate});
    change_keystore(&call.api, change).await.doing(DOING)?;
    tracing::info!("User {} replaced the server certificate", caller.email());
    Ok(Reply::phrase(StatusCode::CREATED))
}

/// `POST /keystore/key`
pub(super) async fn set_key(call: Call, caller: Caller) -> Answer {
    caller.require("setServerKey", Permission::CertificatesManage)?;
    let key = call.body.text("key").unwrap_or_default();
    let change = with_passphrase(&call, doc! {"key": key});
    change_keystore(&call.api, change)
        .await
        .doing("Could not add server key via the API:")?;
    tracing::info!("User {} replaced the server key", caller.email());
    Ok(Reply::phrase(StatusCode::CREATED))
}

/// `POST /keystore/passphrase`
pub(super) async fn set_passphrase(call: Call, caller: Caller) -> Answer {
    caller.require("setServerPassphrase", Permission::CertificatesManage)?;
    let change = with_passphrase(&call, doc! {});
    change_keystore(&call.api, change)
        .await
        .doing("Could not set the passphrase  via the API:")?;
    Ok(Reply::phrase(StatusCode::CREATED))
}

/// `GET /keystore/ca`
pub(super) async fn list_trusted(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not fetch the ca certs trusted by this server via the API:";
    caller.require("getCACerts", Permission::CertificatesView)?;
    let keystore = stored(&call.api).await.doing(DOING)?;
    Ok(Reply::documents(&trusted(&call.api, keystore))?)
}

/// `GET /keystore/ca/:certId`: an unknown one is 204.
pub(super) async fn read_trusted(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not fetch ca cert by id via the API:";
    caller.require("getCACert", Permission::CertificatesView)?;
    let keystore = stored(&call.api).await.doing(DOING)?;
    let wanted = id::parse(call.params.once("certId")).ok();
    let found = trusted(&call.api, keystore)
        .into_iter()
        .find(|certificate| certificate.get_object_id("_id").ok() == wanted && wanted.is_some());
    match found {
        Some(certificate) => Ok(Reply::document(&certificate)?),
        None => Ok(Reply::nothing()),
    }
}

/// `DELETE /keystore/ca/:certId`
pub(super) async fn delete_trusted(call: Call, caller: Caller) -> Answer {
    caller.require("removeCACert", Permission::CertificatesManage)?;
    remove(&call.api, call.params.once("certId"))
        .await
        .doing("Could not remove ca cert by id via the API:")?;
    Ok(Reply::phrase(StatusCode::OK))
}

/// `POST /keystore/ca/cert`: one certificate or several in one text. The readable ones are kept even if others are not.
pub(super) async fn add_trusted(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not add trusted cert via the API:";
    caller.require("addTrustedCert", Permission::CertificatesManage)?;
    let Some(text) = call.body.text("cert") else {
        return Err(missing("split")).doing(DOING);
    };
    let (mut readable, mut problem) = (Vec::new(), None);
    let blocks = split_pem(text);
    for block in &blocks {
        match cert_document(block) {
            Ok(certificate) => readable.push(certificate),
            Err(error) => problem = Some(Fault::from(error).spoken()),
        }
    }
    let are_all_readable = readable.len() == blocks.len() && !blocks.is_empty();
    trust(&call.api, readable).await.doing(DOING)?;
    if !are_all_readable {
        let problem = problem.unwrap_or_else(|| "undefined".to_owned());
        return Err(Refusal::Invalid(format!(
            "Failed to add one more cert, are they valid? {problem}"
        )));
    }
    tracing::info!("User {} added trusted certificates", caller.email());
    Ok(Reply::phrase(StatusCode::CREATED))
}

/// `GET /keystore/validity`: whether the key belongs to the certificate.
pub(super) async fn validity(call: Call, caller: Caller) -> Answer {
    caller.require("verifyServerKeys", Permission::CertificatesManage)?;
    let keystore = stored(&call.api)
        .await
        .doing("Could not determine validity via the API:")?;
    let valid = is_valid(&keystore).rejected("Could not verify certificate and key, are they valid?")?;
    Ok(Reply::ok(&json!({"valid": valid})))
}

/// True if the stored key belongs to the stored certificate.
///
/// # Errors
/// One of them is missing or unreadable.
pub(super) fn is_valid(keystore: &Document) -> Result<bool, Fault> {
    let text = |document: &Document, field: &str| document.get_str(field).unwrap_or_default().to_owned();
    let key = text(keystore, "key");
    let passphrase = text(keystore, "passphrase");
    if passphrase.is_empty() && is_traditionally_encrypted(&key) {
        return Ok(false);
    }
    let certificate = keystore.get_document("cert").map_err(|_| missing("data"))?;
    let chain = chain_from_pem(&text(certificate, "data"))?;
    let key = private_key::from_pem(&key, Some(passphrase.as_str()))?;
    Ok(private_key::fits(&key, &chain[0])?)
}

fn is_traditionally_encrypted(key: &str) -> bool {
    key.lines()
        .any(|line| line.contains("Proc-Type:") && line.contains("ENCRYPTED"))
}

/// The keystore as it is stored.
pub(super) async fn stored(api: &Api) -> Result<Document, Fault> {
    let found = api.store().one(Collection::Keystores, doc! {}).await?;
    found.ok_or_else(|| missing("cert"))
}

/// Adds certificates to the trusted ones.
pub(super) async fn trust(api: &Api, certificates: Vec<Document>) -> Result<(), Fault> {
    if certificates.is_empty() {
        stored(api).await?;
        return Ok(());
    }
    let entries: Vec<Bson> = certificates
        .into_iter()
        .map(|mut certificate| {
            certificate.insert("_id", ObjectId::new());
            certificate.into()
        })
        .collect();
    change_keystore(api, doc! {"$push": {"ca": {"$each": entries}}}).await
}

/// Applies an update to the one keystore and puts it in force.
pub(super) async fn change_keystore(api: &Api, change: Document) -> Result<(), Fault> {
    let written = api.store().update(Collection::Keystores, doc! {}, change).await?;
    if written.matched == 0 {
        return Err(missing("save"));
    }
    api.changed(Collection::Keystores).await;
    Ok(())
}

async fn remove(api: &Api, certificate: &str) -> Result<(), Fault> {
    let keystore = stored(api).await?;
    let wanted = id::parse(certificate).map_err(|_| missing("remove"))?;
    let is_known = keystore.get_array("ca").is_ok_and(|entries| {
        entries
            .iter()
            .filter_map(Bson::as_document)
            .any(|entry| entry.get_object_id("_id").ok() == Some(wanted))
    });
    if !is_known {
        return Err(missing("remove"));
    }
    change_keystore(api, doc! {"$pull": {"ca": {"_id": wanted}}}).await
}

fn trusted(api: &Api, keystore: Document) -> Vec<Document> {
    let mut shown = KEYSTORE.show(keystore, &[], api.clock.now());
    match shown.remove("ca") {
        Some(Bson::Array(entries)) => entries
            .into_iter()
            .filter_map(|entry| match entry {
                Bson::Document(certificate) => Some(certificate),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The update that sets these fields and the body's passphrase, or removes it if the body has none.
fn with_passphrase(call: &Call, mut fields: Document) -> Document {
    match call.body.text("passphrase") {
        Some(passphrase) => {
            fields.insert("passphrase", passphrase);
            doc! {"$set": fields}
        }
        None if fields.is_empty() => doc! {"$unset": {"passphrase": 1}},
        None => doc! {"$set": fields, "$unset": {"passphrase": 1}},
    }
}

fn missing(property: &str) -> Fault {
    Fault::Type(format!("Cannot read properties of null (reading '{property}')"))
}
