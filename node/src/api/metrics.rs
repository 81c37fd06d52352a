//! `GET /metrics…`: counts and response times of the channels that the caller may see, and the process's own figures
//! for Prometheus.
//!
//! The buckets (minute, hour, day) were written as transactions ended; here they are only selected and added up.

use std::collections::HashMap;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use chrono::{Datelike, Local, NaiveDate, TimeZone, Timelike};
use serde_json::{Map, Value, json};

use super::auth::Caller;
use super::context::Call;
use super::error::{Doing, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::clock::Millis;
use crate::model::{date, number};
use crate::store::query::Sums;
use crate::store::{Collection, Find, StoreError};

/// The sums of a bucket, by their names in the store.
const SUMS: [&str; 7] = [
    "requests",
    "responseTime",
    "successful",
    "failed",
    "processing",
    "completed",
    "completedWithErrors",
];

/// How buckets are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// One row for each channel.
    by_channel: bool,
    /// One row for each period.
    by_time: bool,
}

/// `GET /metrics`
pub(super) async fn total(call: Call, caller: Caller) -> Answer {
    let shape = Shape {
        by_channel: false,
        by_time: false,
    };
    answer(&call, &caller, shape, None).await
}

/// `GET /metrics/channels`
pub(super) async fn by_channel(call: Call, caller: Caller) -> Answer {
    let shape = Shape {
        by_channel: true,
        by_time: false,
    };
    answer(&call, &caller, shape, None).await
}

/// `GET /metrics/channels/:channelID`
pub(super) async fn of_channel(call: Call, caller: Caller) -> Answer {
    let shape = Shape {
        by_channel: true,
        by_time: false,
    };
    answer(&call, &caller, shape, Some(call.params.once("channelID"))).await
}

/// `GET /metrics/timeseries/:timeSeries`
pub(super) async fn series(call: Call, caller: Caller) -> Answer {
    let shape = Shape {
        by_channel: false,
        by_time: true,
    };
    answer(&call, &caller, shape, None).await
}

/// `GET /metrics/timeseries/:timeSeries/channels`
pub(super) async fn series_by_channel(call: Call, caller: Caller) -> Answer {
    let shape = Shape {
        by_channel: true,
        by_time: true,
    };
    answer(&call, &caller, shape, None).await
}

/// `GET /metrics/timeseries/:timeSeries/channels/:channelID`
pub(super) async fn series_of_channel(call: Call, caller: Caller) -> Answer {
    let shape = Shape {
        by_channel: true,
        by_time: true,
    };
    answer(&call, &caller, shape, Some(call.params.once("channelID"))).await
}

/// True if Prometheus asks: by the header it sends, and by the path exactly as OpenHIM compares it.
pub(super) fn is_prometheus(call: &Call) -> bool {
    let accepts = call.header("accept").unwrap_or_default();
    call.method == http::Method::GET && call.path == "/metrics" && accepts.contains("application/openmetrics-text")
}

/// `GET /metrics/prometheus`, and `GET /metrics` for Prometheus.
pub(super) async fn prometheus(call: Call) -> Answer {
    let clients = names(&call, Collection::Clients).await.internal()?;
    let channels = names(&call, Collection::Channels).await.internal()?;
    let text = call
        .api
        .prometheus
        .render(|id| clients.get(&id).cloned(), |id| channels.get(&id).cloned());
    Ok(Reply::ok_text(text))
}

async fn names(call: &Call, of: Collection) -> Result<HashMap<ObjectId, String>, StoreError> {
    let wanted = Find {
        projection: doc! {"name": 1},
        ..Find::default()
    };
    let documents = call.api.store().all(of, wanted).await?;
    let named = documents.iter().filter_map(|document| {
        let name = document.get_str("name").ok()?;
        Some((document.get_object_id("_id").ok()?, name.to_owned()))
    });
    Ok(named.collect())
}

async fn answer(call: &Call, caller: &Caller, shape: Shape, channel: Option<&str>) -> Answer {
    let channels = channels(call, caller, channel).await?;
    let (Some(start), Some(end)) = (call.query.filled("startDate"), call.query.filled("endDate")) else {
        return Err(Refusal::Invalid("Both start and end date are required".into()));
    };
    let instant = |text: &str| DateTime::from_millis(date::parse(text).unwrap_or(0));
    let wanted = doc! {
        "startTime": {"$gte": instant(&start), "$lte": instant(&end)},
        "channelID": {"$in": channels},
        "type": bucket(call.params.once("timeSeries")),
    };
    let rows = rows(call, wanted, shape).await.internal()?;
    Ok(Reply::ok(&sorted(rows, call.api.clock.now())))
}

async fn rows(call: &Call, wanted: Document, shape: Shape) -> Result<Vec<Document>, StoreError> {
    let store = call.api.store();
    let by: &[&str] = match shape {
        Shape {
            by_channel: true,
            by_time: true,
        } => return store.all(Collection::Metrics, Find::by(wanted)).await,
        Shape { by_time: true, .. } => &["startTime"],
        Shape { by_channel: true, .. } => &["channelID"],
        _ => &[],
    };
    let sums = Sums {
        filter: wanted,
        by,
        add: &SUMS,
        least: &["minResponseTime"],
        most: &["maxResponseTime"],
    };
    let mut rows = store.sums(Collection::Metrics, sums).await?;
    if by.is_empty() {
        for row in &mut rows {
            row.insert("channelID", Bson::Null);
        }
    }
    Ok(rows)
}

/// The channels whose buckets count. One that the caller may not see is answered 401, as consoles know it.
async fn channels(call: &Call, caller: &Caller, only: Option<&str>) -> Result<Vec<ObjectId>, Refusal> {
    let mut wanted = Find::by(caller.visible_channels()?.unwrap_or_default());
    wanted.projection = doc! {"_id": 1};
    let visible = call.api.store().all(Collection::Channels, wanted).await.internal()?;
    let mut ids: Vec<ObjectId> = visible
        .iter()
        .filter_map(|channel| channel.get_object_id("_id").ok())
        .collect();
    if let Some(only) = only {
        ids.retain(|id| id.to_hex() == only);
        if ids.is_empty() {
            return Err(Refusal::Unauthenticated);
        }
    }
    Ok(ids)
}

fn bucket(series: &str) -> &'static str {
    match series {
        "minute" => "m",
        "day" | "week" | "month" | "year" => "d",
        _ => "h",
    }
}

fn sorted(mut rows: Vec<Document>, now: Millis) -> Vec<Value> {
    rows.sort_by_key(|row| {
        let time = row.get_datetime("startTime").ok().copied();
        (time, row.get_object_id("channelID").ok())
    });
    rows.iter().map(|row| shown(row, now)).collect()
}

fn shown(row: &Document, now: Millis) -> Value {
    let figure = |field: &str| row.get(field).and_then(number::of_bson);
    let mut shown = Map::new();
    let mut show = |name: &str, field: &str| {
        if let Some(value) = row.get(field) {
            shown.insert(name.into(), crate::model::json::to_value(value));
        }
    };
    show("total", "requests");
    show("minResp", "minResponseTime");
    show("maxResp", "maxResponseTime");
    show("failed", "failed");
    show("successful", "successful");
    show("processing", "processing");
    show("completed", "completed");
    show("completedWErrors", "completedWithErrors");
    show("timestamp", "startTime");
    let average = match (figure("responseTime"), figure("requests")) {
        (_, Some(0.0)) => json!(0),
        (Some(time), Some(requests)) => crate::model::json::to_value(&Bson::Double(time / requests)),
        _ => Value::Null,
    };
    shown.insert("avgResp".into(), average);
    let at = row.get_datetime("startTime").map_or(now, |at| at.timestamp_millis());
    let mut id = calendar(at);
    if let Some(channel) = row.get("channelID") {
        id.insert("channelID".into(), crate::model::json::to_value(channel));
    }
    shown.insert("_id".into(), id.into());
    shown.into()
}

/// The fields of a local calendar that consoles show: the weekday counts from Sunday, the month from 0.
fn calendar(at: Millis) -> Map<String, Value> {
    let local = Local.timestamp_millis_opt(at).earliest().unwrap_or_default();
    let mut fields = Map::new();
    let mut set = |name: &str, value: i64| fields.insert(name.into(), value.into());
    set("minute", local.minute().into());
    set("hour", local.hour().into());
    set("day", local.weekday().num_days_from_sunday().into());
    set("week", week(local.date_naive()));
    set("month", local.month0().into());
    set("year", local.year().into());
    fields
}

/// The week of the year as it is counted in the US: it begins on Sunday, and the first one contains January 1.
fn week(date: NaiveDate) -> i64 {
    let next_new_year = NaiveDate::from_ymd_opt(date.year() + 1, 1, 1).unwrap_or(date);
    let new_year = NaiveDate::from_ymd_opt(date.year(), 1, 1).unwrap_or(date);
    let sunday = |day: NaiveDate| i64::from(day.num_days_from_ce()) - i64::from(day.weekday().num_days_from_sunday());
    if sunday(date) == sunday(next_new_year) {
        return 1;
    }
    (sunday(date) - sunday(new_year)) / 7 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weeks_are_counted_as_in_the_us() {
        let day = |y, m, d| week(NaiveDate::from_ymd_opt(y, m, d).unwrap());
        assert_eq!(day(2014, 7, 15), 29);
        assert_eq!(day(2014, 1, 1), 1);
        assert_eq!(day(2014, 12, 27), 52);
        assert_eq!(day(2014, 12, 28), 1);
        assert_eq!(day(2011, 12, 31), 53);
        assert_eq!(day(2012, 12, 30), 1);
    }

    #[test]
    fn rows_come_in_the_order_of_time_and_show_what_they_have() {
        let bucket = |channel: u8, at: Millis, requests: i32, time: i32| {
            doc! {
                "startTime": DateTime::from_millis(at), "channelID": ObjectId::from_bytes([channel; 12]),
                "requests": requests, "responseTime": time, "successful": requests, "__v": 7,
            }
        };
        let rows = sorted(
            vec![bucket(2, 1000, 1, 10), bucket(1, 1000, 3, 90), bucket(1, 0, 1, 50)],
            0,
        );
        let averages: Vec<&Value> = rows.iter().map(|row| &row["avgResp"]).collect();
        assert_eq!(averages, [&json!(50), &json!(30), &json!(10)]);
        assert_eq!(rows[1]["timestamp"], json!("1970-01-01T00:00:01.000Z"));
        assert_eq!(rows[0]["_id"]["channelID"], json!("010101010101010101010101"));
        assert!(rows[0].as_object().unwrap().get("failed").is_none());
        assert_eq!(shown(&doc! {}, 0)["avgResp"], Value::Null);
        assert_eq!(shown(&doc! {"requests": 0, "responseTime": 0}, 0)["avgResp"], json!(0));
    }
}
