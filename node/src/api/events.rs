//! `/events/:receivedTime`: what has happened since then, for those who draw it live.

use bson::{Bson, DateTime, Document, doc};

use super::auth::Caller;
use super::context::{Api, Call};
use super::error::{Doing, Fault};
use super::reply::Reply;
use super::router::Answer;
use crate::model::number;
use crate::model::role::Permission;
use crate::model::schema::tables::EVENT;
use crate::store::{Collection, Find};

/// `GET /events/:receivedTime`: milliseconds since 1970.
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not fetch the latest events via the API:";
    caller.require("getEvents", Permission::VisualizerView)?;
    let events = since(&call.api, call.params.once("receivedTime")).await.doing(DOING)?;
    Ok(Reply::document(&doc! {"events": events})?)
}

async fn since(api: &Api, time: &str) -> Result<Vec<Document>, Fault> {
    let filter = match number::from_text(time).filter(|millis| millis.abs() <= 8.64e15) {
        Some(millis) => doc! {"created": {"$gte": DateTime::from_millis(millis as i64)}},
        None => EVENT.filter(doc! {"created": {"$gte": time}})?,
    };
    let find = Find::by(filter).sorted(doc! {"normalizedTimestamp": 1});
    let stored = api.store().all(Collection::Events, find).await?;
    let now = api.clock.now();
    Ok(stored.into_iter().map(|event| shown(event, now)).collect())
}

/// Events are stored without regard to the schema: what is unset is shown as null.
fn shown(event: Document, now: i64) -> Document {
    let mut event = EVENT.show(event, &[], now);
    for field in ["mediator", "autoRetryAttempt"] {
        if !event.contains_key(field) {
            event.insert(field, Bson::Null);
        }
    }
    event
}
