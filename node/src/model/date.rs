//! Dates as JavaScript writes and reads them.
//!
//! Clients send whatever their language prints. JavaScript reads two families: ISO 8601, and a free form of words and
//! numbers in which HTTP dates, `Date.toString()`, Python's and Java's defaults all are. A date without a zone is the
//! server's local time; [`Reading`] keeps the two apart for the one who must not guess.

mod iso;
mod words;

use chrono::{Local, NaiveDate, NaiveDateTime, TimeZone};

use crate::clock::Millis;

/// JavaScript's dates end here, in either direction.
const LIMIT: Millis = 8_640_000_000_000_000;

/// What a text says about the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// An instant.
    Instant(Millis),
    /// A date and time of day in an unnamed zone.
    Local(NaiveDateTime),
}

impl Reading {
    /// Reads a text as JavaScript's `Date.parse` does.
    pub fn of(text: &str) -> Option<Self> {
        let text = text.trim();
        iso::parse(text).or_else(|| words::parse(text))
    }

    /// The instant, if an unnamed zone means this one. A time that the zone skips is read as if it had not.
    pub fn instant(self, zone: &impl TimeZone) -> Option<Millis> {
        match self {
            Self::Instant(instant) => Some(instant),
            Self::Local(local) => zone
                .from_local_datetime(&local)
                .earliest()
                .map(|date| date.timestamp_millis())
                .or_else(|| {
                    let before = zone.offset_from_utc_datetime(&(local - chrono::Duration::days(1)));
                    Some(
                        local.and_utc().timestamp_millis()
                            - i64::from(chrono::Offset::fix(&before).local_minus_utc()) * 1000,
                    )
                }),
        }
        .filter(|instant| instant.abs() <= LIMIT)
    }
}

/// Reads a text as JavaScript's `Date.parse` does on this machine.
pub fn parse(text: &str) -> Option<Millis> {
    Reading::of(text)?.instant(&Local)
}

/// The date as JavaScript's `toISOString` prints it; `None` if JavaScript has no such date.
pub fn to_iso(instant: Millis) -> Option<String> {
    let mut text = Vec::with_capacity(27);
    write_iso(instant, &mut text).then(|| String::from_utf8(text).unwrap_or_default())
}

/// Appends what [`to_iso`] returns; false if there is nothing to append.
pub(super) fn write_iso(instant: Millis, out: &mut Vec<u8>) -> bool {
    if instant.abs() > LIMIT {
        return false;
    }
    let (days, millis) = (instant.div_euclid(86_400_000), instant.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    match year {
        0..=9999 => digits(out, year, 4),
        _ => {
            out.push(if year < 0 { b'-' } else { b'+' });
            digits(out, year.abs(), 6);
        }
    }
    for (before, value, width) in [
        (b'-', month, 2),
        (b'-', day, 2),
        (b'T', millis / 3_600_000, 2),
        (b':', millis / 60_000 % 60, 2),
        (b':', millis / 1000 % 60, 2),
        (b'.', millis % 1000, 3),
    ] {
        out.push(before);
        digits(out, value, width);
    }
    out.push(b'Z');
    true
}

fn digits(out: &mut Vec<u8>, value: i64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10_i64.pow(place) % 10) as u8);
    }
}

/// Year, month and day of a day counted from 1970-01-01, by 400-year cycles that start in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Fields of a date while it is read.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    year: i64,
    /// From 1.
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    milli: i64,
    /// Seconds east of Greenwich, if the text names a zone.
    offset: Option<i64>,
}

impl Parts {
    /// The date, if it exists; 24:00:00 is the next day's midnight. Days up to 31 run over into the next month if
    /// `lenient`.
    fn reading(self, lenient: bool) -> Option<Reading> {
        let is_midnight = self.hour == 24 && (self.minute, self.second, self.milli) == (0, 0, 0);
        let is_valid = (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && (self.hour < 24 || is_midnight)
            && self.minute < 60
            && self.second < 60;
        let first = NaiveDate::from_ymd_opt(i32::try_from(self.year).ok()?, u32::try_from(self.month).ok()?, 1)?;
        let date = first.checked_add_signed(chrono::Duration::days(self.day - 1))?;
        let runs_over = chrono::Datelike::month(&date) != chrono::Datelike::month(&first);
        if !is_valid || (runs_over && !lenient) {
            return None;
        }
        let millis = self.hour * 3_600_000 + self.minute * 60_000 + self.second * 1000 + self.milli;
        let local = date.and_hms_opt(0, 0, 0)? + chrono::Duration::milliseconds(millis);
        Some(match self.offset {
            Some(offset) => Reading::Instant(local.and_utc().timestamp_millis() - offset * 1000),
            None => Reading::Local(local),
        })
    }
}

/// Seconds east of Greenwich.
fn offset(sign: i64, hours: i64, minutes: i64) -> Option<i64> {
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests;
