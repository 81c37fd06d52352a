//! When a job is due: an interval in words, as OpenHIM's scheduler reads it, or a cron expression.
//!
//! Pure: the present time is an argument. Cron runs in the server's time zone; what daylight saving skips runs at the
//! first moment after the gap, and what it repeats runs once.

use std::time::Duration;

use chrono::{DateTime, TimeZone};
use croner::Cron;
use croner::parser::{CronParser, Seconds};

use crate::clock::{Millis, ServerZone};

/// Why a schedule cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an interval such as `10 minutes` nor a cron expression such as `*/5 * * * *`")]
pub struct BadSchedule(String);

/// When to run.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// At once, and then again this long after each run's due time.
    Every(Duration),
    /// At the times that match, in the server's time zone.
    Cron(Box<Cron>),
}

impl Schedule {
    /// Reads five or six cron fields, or words such as `10 minutes`, `one hour and 30 seconds`.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self, BadSchedule> {
        let cron = CronParser::builder()
            .seconds(Seconds::Optional)
            .build()
            .parse(text.trim());
        match cron {
            Ok(cron) => Ok(Self::Cron(Box::new(cron))),
            Err(_) => interval(text)
                .map(Self::Every)
                .ok_or_else(|| BadSchedule(text.to_owned())),
        }
    }

    /// The first due time of a job that has never run.
    pub fn first(&self, now: Millis) -> Millis {
        match self {
            Self::Every(_) => now,
            Self::Cron(_) => self.next(now, now),
        }
    }

    /// The due time after the one that was `due`, seen from `now`. Runs that were missed meanwhile are not made up for:
    /// one run stands for all of them. A clock that was set back does not put the next run out of reach.
    pub fn next(&self, due: Millis, now: Millis) -> Millis {
        match self {
            Self::Every(interval) => {
                let step = Millis::try_from(interval.as_millis()).unwrap_or(Millis::MAX).max(1);
                let candidate = due.saturating_add(step);
                if candidate > now && candidate <= now.saturating_add(step) {
                    candidate
                } else {
                    now.saturating_add(step)
                }
            }
            Self::Cron(cron) => next_match(cron, now, &ServerZone),
        }
    }

    /// How long it is from one due time to the next.
    pub fn step(&self, now: Millis) -> Duration {
        match self {
            Self::Every(interval) => *interval,
            Self::Cron(_) => {
                let next = self.next(now, now);
                let step = self.next(next, next) - next;
                Duration::from_millis(u64::try_from(step).unwrap_or(0))
            }
        }
    }

    /// True if `due` is among the next two due times: one that is further away belongs to a clock that was ahead.
    pub fn reaches(&self, due: Millis, now: Millis) -> bool {
        let next = self.next(now, now);
        due <= self.next(next, next)
    }
}

/// Reads `2 days and one hour`. Months count as 30 days and years as 365, as OpenHIM's scheduler has it.
fn interval(text: &str) -> Option<Duration> {
    let text = text.to_lowercase().replace(',', " ");
    let mut words = text.split_whitespace().filter(|word| *word != "and");
    let mut total = 0.0;
    while let Some(word) = words.next() {
        let (count, unit) = match number(word) {
            Some(count) => (count, words.next()?),
            None => split_number(word)?,
        };
        total += count * unit_seconds(unit)?;
    }
    (0.001..1e10).contains(&total).then(|| Duration::from_secs_f64(total))
}

fn number(word: &str) -> Option<f64> {
    const WORDS: [&str; 13] = [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    ];
    let by_name = || WORDS.iter().position(|name| *name == word).map(|index| index as f64);
    let by_phrase = || match word {
        "a" | "an" => Some(1.0),
        "half" => Some(0.5),
        "fifteen" => Some(15.0),
        "twenty" => Some(20.0),
        "thirty" => Some(30.0),
        _ => None,
    };
    word.parse::<f64>()
        .ok()
        .filter(|number| number.is_finite() && *number >= 0.0)
        .or_else(by_name)
        .or_else(by_phrase)
}

/// `10s`, `5min`.
fn split_number(word: &str) -> Option<(f64, &str)> {
    let end = word.find(|character: char| !character.is_ascii_digit() && character != '.')?;
    Some((number(&word[..end])?, &word[end..]))
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit.strip_suffix('s').unwrap_or(unit) {
        "" | "second" | "sec" => 1.0,
        "minute" | "min" | "m" => 60.0,
        "hour" | "h" => 3600.0,
        "day" | "d" => 86_400.0,
        "week" | "w" => 604_800.0,
        "month" => 30.0 * 86_400.0,
        "year" => 365.0 * 86_400.0,
        _ => return None,
    })
}

/// The first match after `now`, by the clock on the wall of `zone`.
fn next_match<Z: TimeZone>(cron: &Cron, now: Millis, zone: &Z) -> Millis {
    let match_from = |at: Millis, is_inclusive| {
        let at: DateTime<Z> = zone.timestamp_millis_opt(at).earliest()?;
        cron.find_next_occurrence(&at, is_inclusive).ok()
    };
    let next = match_from(now, false)
        // In an hour that comes twice the crate may find the present moment again.
        .filter(|next| next.timestamp_millis() > now)
        .or_else(|| match_from(now + 1000, true).filter(|next| next.timestamp_millis() > now));
    // A pattern that never matches again (30 February) is looked at once a day.
    next.map_or(now.saturating_add(86_400_000), |time| time.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_zone;

    const MINUTE: Millis = 60_000;
    const HOUR: Millis = 60 * MINUTE;
    /// Central Europe, written so that no machine needs a list of zones: an hour is skipped on 29 March 2026 at 02:00,
    /// and one comes twice on 25 October at 03:00.
    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
    /// 2026-03-29T01:00:00Z and 2026-10-25T01:00:00Z.
    const SKIPPED: Millis = 1_774_746_000_000;
    const DOUBLED: Millis = 1_792_890_000_000;

    /// The due times from two days before to two days after.
    fn around(cron: &str, change: Millis) -> Vec<Millis> {
        let schedule = Schedule::parse(cron).expect("sound");
        let mut due = vec![schedule.first(change - 48 * HOUR)];
        while let Some(last) = due.last().copied().filter(|last| *last < change + 48 * HOUR) {
            due.push(schedule.next(last, last));
        }
        due.pop();
        due
    }

    fn steps(due: &[Millis]) -> Vec<Millis> {
        due.windows(2).map(|pair| (pair[1] - pair[0]) / MINUTE).collect()
    }

    #[test]
    fn daylight_saving_neither_doubles_nor_skips_a_day() {
        in_zone(
            BERLIN,
            "jobs::schedule::tests::daylight_saving_neither_doubles_nor_skips_a_day",
            || {
                let day = 24 * 60;
                // Half past two does not exist on that day: three o'clock has to do.
                assert_eq!(steps(&around("30 2 * * *", SKIPPED)), [day, day - 30, day - 30, day]);
                // And on this one it comes twice.
                assert_eq!(steps(&around("30 2 * * *", DOUBLED)), [day, day + 60]);
                // Reports keep to the clock on the wall.
                assert_eq!(steps(&around("0 7 * * *", SKIPPED)), [day, day - 60, day]);
                assert_eq!(steps(&around("0 7 * * *", DOUBLED)), [day, day + 60, day]);
                assert_eq!(steps(&around("0 0 * * *", SKIPPED)), [day, day - 60, day]);
            },
        );
    }

    #[test]
    fn what_runs_all_day_goes_on_through_daylight_saving() {
        in_zone(
            BERLIN,
            "jobs::schedule::tests::what_runs_all_day_goes_on_through_daylight_saving",
            || {
                for change in [SKIPPED, DOUBLED] {
                    assert!(
                        steps(&around("*/15 * * * *", change)).iter().all(|step| *step == 15),
                        "{change}"
                    );
                    assert!(
                        steps(&around("0 * * * *", change)).iter().all(|step| *step == 60),
                        "{change}"
                    );
                    assert!(
                        steps(&around("30 * * * *", change)).iter().all(|step| *step == 60),
                        "{change}"
                    );
                }
            },
        );
    }

    #[test]
    fn a_due_time_of_a_clock_that_was_ahead_is_out_of_reach() {
        let words = Schedule::parse("1 hour").expect("sound");
        assert!(words.reaches(2 * HOUR, 0));
        assert!(!words.reaches(2 * HOUR + 1, 0));
        let cron = Schedule::parse("0 * * * *").expect("sound");
        assert_eq!(cron.step(5 * MINUTE), Duration::from_secs(3600));
        // Put back by less than an hour, the same hour does not come again.
        assert!(cron.reaches(2 * HOUR, 30 * MINUTE));
        assert!(!cron.reaches(3 * HOUR, 30 * MINUTE));
    }

    fn seconds(text: &str) -> f64 {
        match Schedule::parse(text) {
            Ok(Schedule::Every(interval)) => interval.as_secs_f64(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn intervals_are_read_in_words() {
        let cases = [
            ("10 minutes", 600.0),
            ("3 seconds", 3.0),
            ("1 hour", 3600.0),
            ("2 days", 172_800.0),
            ("one minute", 60.0),
            ("a week", 604_800.0),
            ("1.5 hours", 5400.0),
            ("1 hour and 30 minutes", 5400.0),
            ("2 days, 1 hour and one second", 176_401.0),
            ("10s", 10.0),
            ("30 sec", 30.0),
        ];
        for (text, expected) in cases {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "soon",
            "10",
            "10 parsecs",
            "minutes",
            "-1 minutes",
            "0 minutes",
            "61 * * * *",
            "* * *",
            "1e300 years",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_interval_keeps_its_rhythm_and_makes_up_for_nothing() {
        let schedule = Schedule::parse("1 minute").expect("sound");
        assert_eq!(schedule.first(1000), 1000);
        assert_eq!(
            schedule.next(1000, 1300),
            1000 + MINUTE,
            "a late start does not shift the rhythm"
        );
        assert_eq!(
            schedule.next(1000, 1000 + 10 * MINUTE),
            1000 + 11 * MINUTE,
            "ten missed runs are one"
        );
        assert_eq!(
            schedule.next(100 * MINUTE, MINUTE),
            2 * MINUTE,
            "a clock that was set back"
        );
    }

    #[test]
    fn cron_waits_for_the_next_match() {
        let schedule = Schedule::parse("*/5 * * * *").expect("sound");
        let now = 1_795_348_799_000;
        let next = schedule.first(now);
        assert!(next > now && next <= now + 5 * MINUTE);
        assert_eq!(next % (5 * MINUTE), 0);
        assert_eq!(
            schedule.next(next, next),
            next + 5 * MINUTE,
            "a run at its due time is not due again"
        );
    }

    #[test]
    fn a_pattern_that_never_matches_does_not_spin() {
        let schedule = Schedule::parse("0 0 30 2 *").expect("sound");
        assert!(schedule.first(0) >= 86_400_000);
    }
}
