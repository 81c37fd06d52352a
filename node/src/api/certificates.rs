//! `POST /certificates`: makes a self-signed certificate, for the server or for a client.

use bson::doc;
use http::StatusCode;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::Body;
use super::context::Call;
use super::error::{Doing, Fault};
use super::keystore::{change_keystore, trust};
use super::reply::Reply;
use super::router::Answer;
use crate::crypto::certificate::{Pair, SelfSigned};
use crate::keystore::cert_document;
use crate::model::role::Permission;

/// A client's key is only in the answer: the node keeps its certificate.
pub(super) async fn create(call: Call, caller: Caller) -> Answer {
    caller.require("generateCert", Permission::CertificatesManage)?;
    let pair = generate(&call).await.internal()?;
    let certificate = cert_document(&pair.certificate).internal()?;
    let is_server = call.body.text("type") == Some("server");
    if is_server {
        let change = doc! {"$set": {"cert": certificate, "key": &pair.key}};
        change_keystore(&call.api, change).await.internal()?;
    } else {
        trust(&call.api, vec![certificate]).await.internal()?;
    }
    let whose = if is_server { "server" } else { "client" };
    tracing::info!("User {} made a {whose} certificate", caller.email());
    Ok(Reply::json(
        StatusCode::CREATED,
        &json!({"certificate": pair.certificate, "key": pair.key}),
    ))
}

async fn generate(call: &Call) -> Result<Pair, Fault> {
    let wanted = wanted(&call.body)?;
    let now = call.api.clock.now();
    let made = call.api.hashing(move || wanted.generate(now)).await;
    Ok(made.ok_or_else(|| Fault::Other("the certificate could not be made".into()))??)
}

fn wanted(body: &Body) -> Result<SelfSigned, Fault> {
    let text = |name: &str| body.text(name).unwrap_or_default().to_owned();
    Ok(SelfSigned {
        common_name: body.text("commonName").map(str::to_owned),
        country: text("country"),
        state: text("state"),
        locality: text("locality"),
        organization: text("organization"),
        organization_unit: text("organizationUnit"),
        email_address: text("emailAddress"),
        days: number(body, "days")?,
        key_bits: number(body, "keyBitsize")?,
        alternative_names: Vec::new(),
    })
}

fn number(body: &Body, name: &str) -> Result<Option<u32>, Fault> {
    let number = match body.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(value) => value.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    let number = number.ok_or_else(|| Fault::Type(format!("{name} has to be a whole number")))?;
    Ok(Some(number))
}
