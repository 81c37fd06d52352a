//! Time as an argument: the system's clock, and one that a test moves by hand.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{FixedOffset, Local, MappedLocalTime, NaiveDate, NaiveDateTime, TimeZone};

/// Milliseconds since 1970-01-01T00:00:00Z: the resolution of BSON dates.
pub type Millis = i64;

/// Where the node reads the wall clock.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, in milliseconds since the epoch.
    fn now(&self) -> Millis;

    /// Now, as the store writes it.
    fn date(&self) -> bson::DateTime {
        bson::DateTime::from_millis(self.now())
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Millis {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as Millis)
    }
}

/// The machine's time zone, for schedules and days. Of an hour that comes twice the first comes first, which chrono's
/// [`Local`] has the other way round: schedules would pass over one.
#[derive(Clone, Copy, Debug)]
pub struct ServerZone;

impl TimeZone for ServerZone {
    type Offset = FixedOffset;

    fn from_offset(_: &FixedOffset) -> Self {
        Self
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> MappedLocalTime<FixedOffset> {
        Local.offset_from_local_date(local)
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
        match Local.offset_from_local_datetime(local) {
            MappedLocalTime::Ambiguous(one, other) if one.local_minus_utc() < other.local_minus_utc() => {
                MappedLocalTime::Ambiguous(other, one)
            }
            found => found,
        }
    }

    fn offset_from_utc_date(&self, utc: &NaiveDate) -> FixedOffset {
        Local.offset_from_utc_date(utc)
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
        Local.offset_from_utc_datetime(utc)
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: Millis) -> Self {
        Self(AtomicI64::new(now))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Millis) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Millis {
        self.0.load(Ordering::SeqCst)
    }
}
