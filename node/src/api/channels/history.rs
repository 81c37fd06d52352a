//! The history of channels: what each change did, as JSON patches.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use super::super::auth::Caller;
use super::super::context::{Api, Call};
use super::super::error::{self, Doing, Fault};
use super::super::reply::Reply;
use super::super::router::Answer;
use crate::model::patch;
use crate::model::role::Permission;
use crate::store::{Collection, Find};

/// `GET /channels/:channelId/audits`: newest first; clearing of old bodies is not shown.
pub(in super::super) async fn read(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not fetch all channels via the API:";
    caller.require("getChannelAudits", Permission::AuditTrailView)?;
    let records = records(&call.api, call.params.once("channelId")).await.doing(DOING)?;
    Ok(Reply::documents(&records)?)
}

async fn records(api: &Api, channel: &str) -> Result<Vec<Document>, Fault> {
    let id = error::id(channel, "Channel")?;
    if api.store().one(Collection::Channels, doc! {"_id": id}).await?.is_none() {
        return Ok(Vec::new());
    }
    let wanted = doc! {"ref": id, "ops": {"$elemMatch": {"path": {"$ne": "/lastBodyCleared"}}}};
    let find = Find::by(wanted).sorted(doc! {"_id": -1});
    Ok(api.store().all(Collection::ChannelAudits, find).await?)
}

/// Records what a change did; nothing if it did nothing. `before` is empty for a new channel.
pub(super) async fn record(api: &Api, before: &Document, after: &Document, by: &str) -> Result<(), Fault> {
    let ops = patch::operations(&patch::snapshot(before), &patch::snapshot(after))?;
    if ops.is_empty() {
        return Ok(());
    }
    let record = doc! {
        "_id": ObjectId::new(),
        "date": api.clock.date(),
        "ops": ops,
        "ref": after.get("_id").cloned().unwrap_or(Bson::Null),
        "updatedBy": {"_id": ObjectId::new(), "name": by},
        "__v": 0,
    };
    Ok(api.store().insert(Collection::ChannelAudits, record).await?)
}
