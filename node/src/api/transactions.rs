//! `/transactions`: what has passed through the router.
//!
//! Transactions are shown as they are stored. How much of one a caller sees depends on the roles: who may see every
//! channel chooses, others get what their channels' lists allow.

mod events;
mod read;
mod write;

pub(super) use read::{by_client, list, read};
pub(super) use write::{create, delete, update};

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use super::auth::Caller;
use super::context::Api;
use super::error::Fault;
use crate::store::{Collection, Find};

/// A channel that a caller may see, as far as transactions need it.
#[derive(Clone, Debug)]
struct VisibleChannel {
    id: ObjectId,
    /// Roles that see its transactions in full.
    full_acl: Vec<String>,
    /// Roles that see them without bodies.
    acl: Vec<String>,
}

/// The channels that the caller may see.
async fn visible_channels(api: &Api, caller: &Caller) -> Result<Vec<VisibleChannel>, Fault> {
    let mut find = Find::by(caller.visible_channels()?.unwrap_or_default());
    find.projection = doc! {"txViewFullAcl": 1, "txViewAcl": 1};
    let channels = api.store().all(Collection::Channels, find).await?;
    Ok(channels.iter().filter_map(visible_channel).collect())
}

fn visible_channel(channel: &Document) -> Option<VisibleChannel> {
    Some(VisibleChannel {
        id: channel.get_object_id("_id").ok()?,
        full_acl: texts(channel, "txViewFullAcl"),
        acl: texts(channel, "txViewAcl"),
    })
}

fn texts(document: &Document, key: &str) -> Vec<String> {
    match document.get(key) {
        Some(Bson::Array(items)) => items
            .iter()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect(),
        Some(Bson::String(one)) => vec![one.clone()],
        _ => Vec::new(),
    }
}

/// True if one of the caller's groups is on the list.
fn is_listed(caller: &Caller, acl: &[String]) -> bool {
    caller.groups().iter().any(|group| acl.iter().any(|role| role == group))
}
