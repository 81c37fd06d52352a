//! `POST /channels/:channelId/trigger`: runs a polling channel now.

use bson::oid::ObjectId;
use http::StatusCode;

use super::super::auth::Caller;
use super::super::context::Call;
use super::super::error::Refusal;
use super::super::reply::Reply;
use super::super::router::Answer;
use super::known;
use crate::model::role::{Permission, Specified};

pub(in super::super) async fn trigger(call: Call, caller: Caller) -> Answer {
    let id = call.params.get("channelId");
    caller.require_for(
        "triggerChannel",
        Permission::ChannelManageAll,
        Specified::ChannelManage,
        &id,
    )?;
    let channel = known(&call.api, &id).await?;
    let id = channel.get_object_id("_id").unwrap_or(ObjectId::from_bytes([0; 12]));
    tracing::info!("Manually polling channel {id}");
    match call.api.errands.poll(id, call.api.clock.now()).await {
        Ok(()) => Ok(Reply::phrase(StatusCode::OK)),
        Err(error) => {
            tracing::error!(%error, "Channel {id} could not be polled: {error}");
            Err(Refusal::Status(StatusCode::INTERNAL_SERVER_ERROR))
        }
    }
}
