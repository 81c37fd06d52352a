//! `/logs`: what the nodes have logged.

use bson::{DateTime, Document, doc};

use super::auth::Caller;
use super::context::{Api, Call, Query};
use super::error::{Doing, Fault};
use super::reply::Reply;
use super::router::Answer;
use crate::clock::Millis;
use crate::model::role::Permission;
use crate::model::{date, json, number};
use crate::store::{Collection, Find};

/// Entries that are read at most.
const MOST: u64 = 100_000;

/// How far back the list goes if the query does not say, milliseconds.
const RECENT: Millis = 5 * 60 * 1000;

/// `GET /logs`
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    caller.require("getLogs", Permission::LogsView)?;
    read(&call.api, &call.query)
        .await
        .doing("Could not get logs via the API:")
}

/// Entries are skipped before the level is looked at and counted after it, as consoles know it.
async fn read(api: &Api, query: &Query) -> Result<Reply, Fault> {
    if !api.settings.logger.log_to_db {
        return Err(Fault::Type(
            "Cannot read properties of undefined (reading 'filter'): logger.logToDB is off".into(),
        ));
    }
    let least = rank(query.get("level").as_deref().unwrap_or("info"));
    let most = query.get("limit").map_or(u64::MAX, |text| whole(&text));
    let mut cursor = api.store().find(Collection::Log, find(query, api.clock.now())?).await?;
    let mut out = vec![b'['];
    let mut shown = 0;
    while shown < most
        && let Some(entry) = cursor.next().await
    {
        let entry = entry?;
        let level = entry.get_str("level").ok().and_then(rank);
        if level.is_some() && least.is_some() && level >= least {
            if shown > 0 {
                out.push(b',');
            }
            json::write_raw(&entry, &mut out)?;
            shown += 1;
        }
    }
    out.push(b']');
    Ok(Reply::rendered(out))
}

fn find(query: &Query, now: Millis) -> Result<Find, Fault> {
    let instant = |key: &str, default: Millis| match query.filled(key) {
        None => Ok(default),
        Some(text) => date::parse(&text).ok_or_else(|| Fault::Type(format!("{key} is no date"))),
    };
    let (from, until) = (instant("from", now - RECENT)?, instant("until", now)?);
    Ok(Find {
        filter: doc! {"timestamp": {"$gte": DateTime::from_millis(from), "$lte": DateTime::from_millis(until)}},
        sort: doc! {"timestamp": 1},
        skip: query.get("start").map_or(0, |text| whole(&text)),
        limit: MOST,
        projection: hidden(),
    })
}

fn hidden() -> Document {
    doc! {"_id": 0}
}

/// A number that is whole and not negative; anything else is 0.
fn whole(text: &str) -> u64 {
    number::from_text(text).map_or(0, |n| n.max(0.0) as u64)
}

fn rank(level: &str) -> Option<u8> {
    match level {
        "debug" => Some(1),
        "info" => Some(2),
        "warn" => Some(3),
        "error" => Some(4),
        _ => None,
    }
}
