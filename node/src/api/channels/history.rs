//! The history of channels: what each change did, as JSON patches.

use bson::{Document, doc};

use super::super::auth::Caller;
use super::super::context::{Api, Call};
use super::super::error::{self, Doing, Fault};
use super::super::reply::Reply;
use super::super::router::Answer;
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
