//! Time series per channel: how many messages, how long they took, how they ended.
//!
//! Three documents count a message: its minute, its hour and its day, in the machine's time zone. The transaction
//! writer asks for them ([`upserts`]) with the batch that closes the messages, so that they are counted exactly when
//! their end is stored. Nothing here reads or writes.

pub mod prometheus;

use std::collections::BTreeMap;

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use chrono::{DateTime as Moment, NaiveDateTime, NaiveTime, TimeZone, Timelike};

use crate::clock::{Millis, ServerZone};
use crate::store::{Collection, Write};

/// A message that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub channel: ObjectId,
    /// When the request came.
    pub at: Millis,
    /// From request to response, milliseconds; never negative.
    pub took: i64,
    /// How it ended.
    pub counter: Option<Counter>,
}

/// The counter that a final status adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    Processing,
    Successful,
    Completed,
    CompletedWithErrors,
    Failed,
}

impl Counter {
    const ALL: [Self; 5] = [
        Self::Failed,
        Self::Successful,
        Self::Processing,
        Self::Completed,
        Self::CompletedWithErrors,
    ];

    /// The counter of a transaction's status; a pending or unknown one only counts as a request.
    pub fn of_status(status: &str) -> Option<Self> {
        match status {
            "Processing" => Some(Self::Processing),
            "Successful" => Some(Self::Successful),
            "Completed" => Some(Self::Completed),
            "Completed with error(s)" => Some(Self::CompletedWithErrors),
            "Failed" => Some(Self::Failed),
            _ => None,
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Self::Processing => "processing",
            Self::Successful => "successful",
            Self::Completed => "completed",
            Self::CompletedWithErrors => "completedWithErrors",
            Self::Failed => "failed",
        }
    }
}

/// Length of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    Minute,
    Hour,
    Day,
}

impl Period {
    const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    const fn letter(self) -> &'static str {
        match self {
            Self::Minute => "m",
            Self::Hour => "h",
            Self::Day => "d",
        }
    }

    /// Start of the bucket that holds `at`, by the clock on the wall of `zone`.
    pub fn start<Z: TimeZone>(self, at: Millis, zone: &Z) -> Millis {
        let Some(moment) = Moment::from_timestamp_millis(at) else {
            return at;
        };
        let local = moment.with_timezone(zone);
        let wall = local.naive_local();
        let start = match self {
            // Offsets of whole minutes only exist in today's zones; truncating the instant is exact and never skips.
            Self::Minute => return at - at.rem_euclid(60_000),
            Self::Hour => {
                let into = i64::from(wall.minute()) * 60_000 + i64::from(wall.second()) * 1000 + at.rem_euclid(1000);
                return at - into;
            }
            Self::Day => NaiveDateTime::new(wall.date(), NaiveTime::MIN),
        };
        // A midnight that daylight saving skipped: the day starts at its first existing moment.
        zone.from_local_datetime(&start)
            .earliest()
            .or_else(|| {
                zone.from_local_datetime(&(start + chrono::TimeDelta::hours(1)))
                    .earliest()
            })
            .map_or(at, |start| start.timestamp_millis())
    }
}

#[derive(Debug, Default)]
struct Bucket {
    requests: i64,
    took: i64,
    min: i64,
    max: i64,
    counters: BTreeMap<Counter, i64>,
}

impl Bucket {
    fn add(&mut self, sample: &Sample) {
        self.min = if self.requests == 0 {
            sample.took
        } else {
            self.min.min(sample.took)
        };
        self.max = self.max.max(sample.took);
        self.requests += 1;
        self.took += sample.took;
        if let Some(counter) = sample.counter {
            *self.counters.entry(counter).or_default() += 1;
        }
    }

    /// Adds to the stored bucket, or makes it with every counter there.
    fn into_update(self) -> Document {
        let mut increments = doc! {"requests": self.requests, "responseTime": self.took};
        let mut zeroes = doc! {"__v": 0};
        for counter in Counter::ALL {
            match self.counters.get(&counter) {
                Some(count) => increments.insert(counter.field(), *count),
                None => zeroes.insert(counter.field(), 0),
            };
        }
        doc! {
            "$inc": increments,
            "$min": {"minResponseTime": self.min},
            "$max": {"maxResponseTime": self.max},
            "$setOnInsert": zeroes,
        }
    }
}

/// What counts these messages: one write for each bucket, whatever the number of messages.
pub fn upserts(samples: &[Sample]) -> Vec<Write> {
    upserts_in(samples, &ServerZone)
}

fn upserts_in<Z: TimeZone>(samples: &[Sample], zone: &Z) -> Vec<Write> {
    let mut buckets: BTreeMap<(Period, Millis, ObjectId), Bucket> = BTreeMap::new();
    for sample in samples {
        for period in Period::ALL {
            let key = (period, period.start(sample.at, zone), sample.channel);
            buckets.entry(key).or_default().add(sample);
        }
    }
    buckets
        .into_iter()
        .map(|((period, start, channel), bucket)| Write::Update {
            of: Collection::Metrics,
            filter: doc! {
                "type": period.letter(),
                "startTime": DateTime::from_millis(start),
                "channelID": channel,
            },
            update: bucket.into_update(),
            many: false,
            upsert: true,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use chrono::{FixedOffset, Utc};

    use super::*;

    fn sample(at: Millis, took: i64, status: &str) -> Sample {
        Sample {
            channel: ObjectId::from_bytes([1; 12]),
            at,
            took,
            counter: Counter::of_status(status),
        }
    }

    fn update(write: &Write) -> (&Document, &Document) {
        match write {
            Write::Update { filter, update, .. } => (filter, update),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_counts_in_its_minute_hour_and_day() {
        // 2014-07-15T08:10:11.123Z
        let at = 1_405_411_811_123;
        let writes = upserts_in(&[sample(at, 200, "Successful")], &Utc);

        let starts: Vec<_> = writes
            .iter()
            .map(|write| {
                let filter = update(write).0;
                (
                    filter.get_str("type").unwrap(),
                    filter.get_datetime("startTime").unwrap().timestamp_millis(),
                )
            })
            .collect();
        assert_eq!(
            starts,
            [
                ("m", 1_405_411_800_000),
                ("h", 1_405_411_200_000),
                ("d", 1_405_382_400_000)
            ]
        );
        assert_eq!(
            update(&writes[0]).1,
            &doc! {
                "$inc": {"requests": 1_i64, "responseTime": 200_i64, "successful": 1_i64},
                "$min": {"minResponseTime": 200_i64},
                "$max": {"maxResponseTime": 200_i64},
                "$setOnInsert": {"__v": 0, "failed": 0, "processing": 0, "completed": 0, "completedWithErrors": 0},
            }
        );
    }

    #[test]
    fn messages_of_one_bucket_are_one_write() {
        let writes = upserts_in(
            &[
                sample(60_000, 5, "Failed"),
                sample(61_000, 9, "Failed"),
                sample(62_000, 1, "Pending Async"),
            ],
            &Utc,
        );

        assert_eq!(writes.len(), 3);
        let minute = update(&writes[0]).1;
        assert_eq!(
            minute.get_document("$inc").unwrap(),
            &doc! {"requests": 3_i64, "responseTime": 15_i64, "failed": 2_i64}
        );
        assert_eq!(minute.get_document("$min").unwrap(), &doc! {"minResponseTime": 1_i64});
        assert_eq!(minute.get_document("$max").unwrap(), &doc! {"maxResponseTime": 9_i64});
    }

    #[test]
    fn hours_and_days_start_by_the_clock_on_the_wall() {
        let kathmandu = FixedOffset::east_opt(5 * 3600 + 45 * 60).unwrap();
        // 2024-01-01T00:30:00Z is 06:15 there.
        let at = 1_704_069_000_000;

        assert_eq!(Period::Hour.start(at, &kathmandu), at - 15 * 60_000);
        assert_eq!(Period::Day.start(at, &kathmandu), at - (6 * 60 + 15) * 60_000);
    }
}
