//! `GET /heartbeat`: how long the node is up, and when each mediator was last heard of.
//!
//! A node that is stopping answers 503 here first, so that whoever checks it sends nobody any more.

use bson::{Bson, Document, doc};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::context::Call;
use super::error::{Fault, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::clock::Millis;
use crate::store::{Collection, Find};

/// A mediator that was silent for longer counts as down, seconds.
const SILENCE: i64 = 60;

/// `GET /heartbeat`
pub(super) async fn read(call: Call) -> Answer {
    let api = &call.api;
    if !api.presence.is_wanted() {
        return Err(Refusal::Status(StatusCode::SERVICE_UNAVAILABLE));
    }
    let now = api.clock.now();
    let mut wanted = Find::by(doc! {});
    wanted.projection = doc! {"urn": 1, "_lastHeartbeat": 1, "_uptime": 1};
    let mediators = api.store().all(Collection::Mediators, wanted).await;
    let mediators = mediators.map_err(|error| Refusal::Broken(format!("Error: {}", Fault::from(error).spoken())))?;
    let uptimes: Map<String, Value> = mediators
        .iter()
        .filter_map(|mediator| Some((mediator.get_str("urn").ok()?.to_owned(), uptime(mediator, now))))
        .collect();
    let mut answer = json!({"master": api.started.elapsed().as_secs_f64()});
    if !uptimes.is_empty() {
        answer["mediators"] = uptimes.into();
    }
    answer["now"] = now.into();
    Ok(Reply::ok(&answer))
}

/// The uptime that a mediator last reported; null if it has been silent or never reported one.
fn uptime(mediator: &Document, now: Millis) -> Value {
    let Ok(last) = mediator.get_datetime("_lastHeartbeat") else {
        return Value::Null;
    };
    if (now - last.timestamp_millis()) / 1000 > SILENCE {
        return Value::Null;
    }
    match mediator.get("_uptime") {
        Some(uptime @ (Bson::Double(_) | Bson::Int32(_) | Bson::Int64(_))) => crate::model::json::to_value(uptime),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use bson::DateTime;

    use super::*;

    #[test]
    fn a_mediator_is_up_for_sixty_whole_seconds() {
        let mediator = doc! {"_lastHeartbeat": DateTime::from_millis(0), "_uptime": 12.5};
        assert_eq!(uptime(&mediator, 60_999), json!(12.5));
        assert_eq!(uptime(&mediator, 61_000), Value::Null);
        assert_eq!(
            uptime(&doc! {"_lastHeartbeat": DateTime::from_millis(0)}, 0),
            Value::Null
        );
        assert_eq!(uptime(&doc! {"_uptime": 1}, 0), Value::Null);
    }
}
