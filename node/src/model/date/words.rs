//! JavaScript's free form: words and numbers in nearly any order.
//!
//! `Sun Nov 22 2026 11:30:48 GMT+0200 (South Africa Standard Time)`, `Nov 22, 2026 11:30:48 AM`,
//! `2026-11-22 11:30:48.123456`, `11/22/2026`, `Sun, 22 Nov 2026 11:30:48 GMT`.

use super::{Parts, Reading, offset};

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];

/// Zones that have a name, with their hours east of Greenwich.
const ZONES: [(&str, i64); 11] = [
    ("z", 0),
    ("ut", 0),
    ("utc", 0),
    ("gmt", 0),
    ("est", -5),
    ("edt", -4),
    ("cst", -6),
    ("cdt", -5),
    ("mst", -7),
    ("mdt", -6),
    ("pst", -8),
];

/// The texts that clients send are far shorter.
const LONGEST: usize = 200;

pub(super) fn parse(text: &str) -> Option<Reading> {
    if text.len() > LONGEST {
        return None;
    }
    let mut reader = Reader::default();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '(' => after_parenthesis(rest),
            '0'..='9' => reader.number(rest)?,
            'a'..='z' | 'A'..='Z' => reader.word(rest)?,
            '+' | '-' if reader.has_time => reader.offset(rest)?,
            _ => &rest[first.len_utf8()..],
        };
    }
    reader.finish()
}

fn after_parenthesis(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[at + 1..];
        }
    }
    ""
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// The digits after a decimal point of seconds, as milliseconds.
pub(super) fn milliseconds(digits: &str) -> Option<i64> {
    if digits.is_empty() {
        return None;
    }
    let mut three: String = digits.chars().take(3).collect();
    while three.len() < 3 {
        three.push('0');
    }
    three.parse().ok()
}

#[derive(Debug, Default)]
struct Reader {
    /// Numbers that are part of the day, in the order of the text.
    day: Vec<i64>,
    month: Option<i64>,
    time: Parts,
    has_time: bool,
    is_afternoon: Option<bool>,
}

impl Reader {
    /// A time of day if a colon follows, else a part of the date.
    fn number<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        let (digits, rest) = split_digits(text);
        let value: i64 = digits.parse().ok()?;
        if rest.starts_with(':') && !self.has_time {
            return self.time(value, &rest[1..]);
        }
        self.day.push(value);
        (self.day.len() <= 3).then_some(())?;
        // The `T` of an almost-ISO date.
        let follows_time = rest.starts_with(['T', 't']) && rest[1..].starts_with(|c: char| c.is_ascii_digit());
        Some(if follows_time { &rest[1..] } else { rest })
    }

    fn time<'a>(&mut self, hour: i64, text: &'a str) -> Option<&'a str> {
        self.has_time = true;
        self.time.hour = hour;
        let (minute, mut rest) = split_digits(text);
        self.time.minute = minute.parse().ok()?;
        if let Some(after) = rest.strip_prefix(':') {
            let (second, after) = split_digits(after);
            self.time.second = second.parse().ok()?;
            rest = after;
            if let Some(after) = rest.strip_prefix('.') {
                let (fraction, after) = split_digits(after);
                self.time.milli = milliseconds(fraction)?;
                rest = after;
            }
        }
        Some(rest)
    }

    fn word<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        let end = text
            .bytes()
            .position(|byte| !byte.is_ascii_alphabetic())
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let word = word.to_ascii_lowercase();
        let prefix = word.get(..3).unwrap_or(&word);
        if let Some(month) = MONTHS.iter().position(|month| *month == prefix) {
            self.month = Some(month as i64 + 1);
        } else if word == "am" || word == "pm" {
            self.is_afternoon = Some(word == "pm");
        } else if let Some((_, hours)) = ZONES.iter().find(|(name, _)| *name == word) {
            self.time.offset = Some(hours * 3600);
            if rest.starts_with(['+', '-']) {
                return self.offset(rest);
            }
        } else if self.has_time || !self.day.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit()) {
            // Before the numbers a word may be anything, a weekday usually.
            return None;
        }
        Some(rest)
    }

    /// `+02`, `+0200`, `+02:00`.
    fn offset<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        let sign = if text.starts_with('-') { -1 } else { 1 };
        let (digits, rest) = split_digits(&text[1..]);
        let value: i64 = digits.parse().ok()?;
        let (hours, minutes, rest) = match rest.strip_prefix(':') {
            Some(after) => {
                let (minutes, rest) = split_digits(after);
                (value, minutes.parse().ok()?, rest)
            }
            None if digits.len() <= 2 => (value, 0, rest),
            None => (value / 100, value % 100, rest),
        };
        self.time.offset = Some(offset(sign, hours, minutes)?);
        Some(rest)
    }

    fn finish(self) -> Option<Reading> {
        let mut parts = self.time;
        if self.day.is_empty() {
            return None;
        }
        // What is missing is 1, so a year that is missing is 2001.
        let [first, second, third] = [0, 1, 2].map(|at| self.day.get(at).copied().unwrap_or(1));
        let is_day = (1..=31).contains(&first);
        (parts.year, parts.month, parts.day) = match self.month {
            Some(month) if is_day => (second, month, first),
            Some(month) => (first, month, second),
            None if is_day => (third, first, second),
            None => (first, second, third),
        };
        parts.year = full_year(parts.year);
        if let Some(is_afternoon) = self.is_afternoon {
            if parts.hour > 12 {
                return None;
            }
            parts.hour = parts.hour % 12 + if is_afternoon { 12 } else { 0 };
        }
        parts.reading(true)
    }
}

/// Two digits mean the years around 2000.
fn full_year(year: i64) -> i64 {
    match year {
        0..=49 => year + 2000,
        50..=99 => year + 1900,
        _ => year,
    }
}
