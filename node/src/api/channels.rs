//! `/channels`: which messages go where.
//!
//! What runs because of a channel (listeners, polling) follows from the tables, which are renewed after each change;
//! nothing is started or stopped from here.

mod change;
mod history;
mod rules;
mod trigger;

use bson::{Document, doc};

pub(super) use change::{author, create, delete, insert, save, update};
pub(super) use history::read as audits;
pub(super) use trigger::trigger;

use super::auth::Caller;
use super::context::{Api, Call};
use super::error::{self, Doing, Fault, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::model::role::{Permission, Specified};
use crate::model::schema::tables::CHANNEL;
use crate::store::{Collection, Find};

/// `GET /channels`: those that the caller may see.
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not fetch all channels via the API:";
    let filter = caller.visible_channels().doing(DOING)?.unwrap_or_default();
    let stored = call.api.store().all(Collection::Channels, Find::by(filter)).await;
    let now = call.api.clock.now();
    let channels = stored.doing(DOING)?.into_iter().map(|it| CHANNEL.show(it, &[], now));
    Ok(Reply::documents(&channels.collect::<Vec<_>>())?)
}

/// `GET /channels/:channelId`
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    let id = call.params.get("channelId");
    caller.require_for("getChannel", Permission::ChannelViewAll, Specified::ChannelView, &id)?;
    let channel = known(&call.api, &id).await?;
    Ok(Reply::document(&CHANNEL.show(channel, &[], call.api.clock.now()))?)
}

/// The channel of this id.
async fn find(api: &Api, id: &str) -> Result<Option<Document>, Fault> {
    let wanted = doc! {"_id": error::id(id, "Channel")?};
    Ok(api.store().one(Collection::Channels, wanted).await?)
}

/// The channel of this id, or the refusal that readers get.
async fn known(api: &Api, id: &str) -> Result<Document, Refusal> {
    let found = find(api, id).await;
    found
        .doing(&format!("Could not fetch channel by Id '{id}' via the API:"))?
        .ok_or_else(|| Refusal::NotFound(format!("We could not find a channel with Id:'{id}'.")))
}
