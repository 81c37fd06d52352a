//! `GET /metrics…`: counts and response times of the channels that the caller may see, and the process's own figures
//! for Prometheus.
//!
//! The buckets (minute, hour, day) were written as transactions ended; here they are only selected and added up.

use std::collections::{BTreeMap, HashMap};

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, RawBsonRef, RawDocumentBuf, doc};
use chrono::{Datelike, Local, NaiveDate, TimeZone, Timelike};
use serde_json::{Map, Value, json};

use super::auth::Caller;
use super::context::Call;
use super::error::{Doing, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::clock::Millis;
use crate::model::{date, number};
use crate::store::{self, Collection, Find, StoreError};

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
    let buckets = buckets(call, wanted).await.internal()?;
    let rows = rows(&buckets, shape, call.api.clock.now());
    Ok(Reply::ok(&rows.internal()?))
}

async fn buckets(call: &Call, wanted: Document) -> Result<Vec<RawDocumentBuf>, StoreError> {
    let mut cursor = call.api.store().find(Collection::Metrics, Find::by(wanted)).await?;
    let mut buckets = Vec::new();
    while let Some(bucket) = cursor.next().await {
        buckets.push(bucket?);
    }
    Ok(buckets)
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

fn rows(buckets: &[RawDocumentBuf], shape: Shape, now: Millis) -> Result<Vec<Value>, StoreError> {
    let mut rows = match shape {
        Shape {
            by_channel: true,
            by_time: true,
        } => buckets
            .iter()
            .map(|bucket| store::decode(bucket))
            .collect::<Result<_, _>>()?,
        Shape { by_time: true, .. } => merged(buckets, false, true),
        Shape { by_channel: true, .. } => merged(buckets, true, false),
        _ => merged(buckets, false, false)
            .into_iter()
            .map(|mut row| {
                row.insert("channelID", Bson::Null);
                row
            })
            .collect(),
    };
    rows.sort_by_key(|row| {
        let time = row.get_datetime("startTime").ok().copied();
        (time, row.get_object_id("channelID").ok())
    });
    Ok(rows.iter().map(|row| shown(row, now)).collect())
}

/// What buckets come to together.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    /// In the order of [`SUMS`].
    sums: [f64; SUMS.len()],
    least: Option<f64>,
    most: Option<f64>,
}

impl Figures {
    fn add(&mut self, field: &str, value: f64) {
        let better = |chosen: Option<f64>, choose: fn(f64, f64) -> f64| {
            Some(chosen.map_or(value, |chosen| choose(chosen, value)))
        };
        match field {
            "minResponseTime" => self.least = better(self.least, f64::min),
            "maxResponseTime" => self.most = better(self.most, f64::max),
            _ => {
                if let Some(place) = SUMS.iter().position(|name| *name == field) {
                    self.sums[place] += value;
                }
            }
        }
    }

    fn row(&self) -> Document {
        let figure = |value: Option<f64>| value.map_or(Bson::Null, Bson::Double);
        let mut row: Document = SUMS
            .iter()
            .zip(self.sums)
            .map(|(name, sum)| ((*name).to_owned(), Bson::Double(sum)))
            .collect();
        row.insert("minResponseTime", figure(self.least));
        row.insert("maxResponseTime", figure(self.most));
        row
    }
}

/// Adds up the buckets of the same channel, of the same period, or all of them. There may be tens of thousands: they are
/// read where they lie.
fn merged(buckets: &[RawDocumentBuf], by_channel: bool, by_time: bool) -> Vec<Document> {
    let mut groups: BTreeMap<(Option<ObjectId>, Option<DateTime>), Figures> = BTreeMap::new();
    for bucket in buckets {
        let (mut channel, mut time) = (None, None);
        let mut figures = [("", 0.0); SUMS.len() + 2];
        let mut count = 0;
        for (name, value) in bucket.iter().flatten() {
            match (name.as_str(), value) {
                ("channelID", RawBsonRef::ObjectId(id)) => channel = Some(id).filter(|_| by_channel),
                ("startTime", RawBsonRef::DateTime(at)) => time = Some(at).filter(|_| by_time),
                (name, value) if is_figure(name) => {
                    if let Some(number) = figure(value)
                        && let Some(place) = figures.get_mut(count)
                    {
                        *place = (name, number);
                        count += 1;
                    }
                }
                _ => {}
            }
        }
        let group = groups.entry((channel, time)).or_default();
        for (name, value) in figures.into_iter().take(count) {
            group.add(name, value);
        }
    }
    groups
        .into_iter()
        .map(|((channel, time), figures)| {
            let mut row = figures.row();
            if let Some(channel) = channel {
                row.insert("channelID", channel);
            }
            if let Some(time) = time {
                row.insert("startTime", time);
            }
            row
        })
        .collect()
}

fn is_figure(name: &str) -> bool {
    SUMS.contains(&name) || matches!(name, "minResponseTime" | "maxResponseTime")
}

fn figure(value: RawBsonRef<'_>) -> Option<f64> {
    match value {
        RawBsonRef::Int32(number) => Some(f64::from(number)),
        RawBsonRef::Int64(number) => Some(number as f64),
        RawBsonRef::Double(number) => Some(number),
        _ => None,
    }
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

    const BOTH: Shape = Shape {
        by_channel: true,
        by_time: true,
    };

    fn bucket_of(channel: u8, at: Millis, requests: i32, time: i32) -> RawDocumentBuf {
        let bucket = doc! {
            "type": "h", "startTime": DateTime::from_millis(at), "channelID": ObjectId::from_bytes([channel; 12]),
            "requests": requests, "responseTime": time, "minResponseTime": time / requests, "maxResponseTime": time,
            "successful": requests, "__v": 7,
        };
        RawDocumentBuf::try_from(&bucket).unwrap()
    }

    fn three() -> Vec<RawDocumentBuf> {
        vec![
            bucket_of(2, 1000, 1, 10),
            bucket_of(1, 1000, 3, 90),
            bucket_of(1, 0, 1, 50),
        ]
    }

    fn figures(rows: &[Value]) -> Vec<(Value, Value, Value, Value)> {
        rows.iter()
            .map(|row| {
                (
                    row["total"].clone(),
                    row["avgResp"].clone(),
                    row["minResp"].clone(),
                    row["maxResp"].clone(),
                )
            })
            .collect()
    }

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
    fn one_row_for_everything() {
        let rows = rows(
            &three(),
            Shape {
                by_channel: false,
                by_time: false,
            },
            0,
        )
        .unwrap();
        assert_eq!(figures(&rows), [(json!(5), json!(30), json!(10), json!(90))]);
        assert_eq!(rows[0]["_id"]["channelID"], Value::Null);
        assert!(rows[0].as_object().unwrap().get("timestamp").is_none());
        assert_eq!(rows[0]["failed"], json!(0));
    }

    #[test]
    fn one_row_for_each_channel_or_each_period() {
        let by_channel = rows(
            &three(),
            Shape {
                by_channel: true,
                by_time: false,
            },
            0,
        )
        .unwrap();
        assert_eq!(
            figures(&by_channel),
            [
                (json!(4), json!(35), json!(30), json!(90)),
                (json!(1), json!(10), json!(10), json!(10))
            ]
        );
        let by_time = rows(
            &three(),
            Shape {
                by_channel: false,
                by_time: true,
            },
            0,
        )
        .unwrap();
        assert_eq!(by_time.len(), 2);
        assert_eq!(by_time[1]["timestamp"], json!("1970-01-01T00:00:01.000Z"));
        assert!(by_time[0]["_id"].as_object().unwrap().get("channelID").is_none());
    }

    #[test]
    fn single_buckets_are_shown_as_they_are_stored() {
        let rows = rows(&three(), BOTH, 0).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0]["_id"]["channelID"], json!("010101010101010101010101"));
        assert!(rows[0].as_object().unwrap().get("failed").is_none());
        assert_eq!(shown(&doc! {}, 0)["avgResp"], Value::Null);
    }
}
