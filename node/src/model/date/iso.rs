//! ISO 8601, as far as JavaScript's standard describes it.

use super::{Parts, Reading, offset};

/// Reads `YYYY[-MM[-DD]][THH:mm[:ss[.sss]]][Z|±HH:mm]`; a year may have a sign and six digits. Without a time of day
/// the zone is UTC, with one it is local.
pub(super) fn parse(text: &str) -> Option<Reading> {
    let mut rest = Rest(text);
    let mut parts = Parts {
        month: 1,
        day: 1,
        ..Parts::default()
    };
    parts.year = match rest.sign() {
        Some(sign) => {
            let year = rest.digits(6)?;
            if sign < 0 && year == 0 {
                return None;
            }
            sign * year
        }
        None => rest.digits(4)?,
    };
    if rest.eat(b'-') {
        parts.month = rest.digits(2)?;
        if rest.eat(b'-') {
            parts.day = rest.digits(2)?;
        }
    }
    if rest.eat(b'T') || rest.eat(b't') {
        time(&mut rest, &mut parts)?;
    } else {
        parts.offset = Some(0);
    }
    if !rest.0.is_empty() {
        return None;
    }
    parts.reading(true)
}

fn time(rest: &mut Rest<'_>, parts: &mut Parts) -> Option<()> {
    parts.hour = rest.digits(2)?;
    rest.eat(b':').then_some(())?;
    parts.minute = rest.digits(2)?;
    if rest.eat(b':') {
        parts.second = rest.digits(2)?;
        if rest.eat(b'.') {
            parts.milli = rest.fraction()?;
        }
    }
    if rest.eat(b'Z') || rest.eat(b'z') {
        parts.offset = Some(0);
    } else if let Some(sign) = rest.sign() {
        let hours = rest.digits(2)?;
        rest.eat(b':').then_some(())?;
        let minutes = rest.digits(2)?;
        parts.offset = Some(offset(sign, hours, minutes)?);
    }
    Some(())
}

/// What is left to read.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        let eaten = self.0.as_bytes().first() == Some(&byte);
        if eaten {
            self.0 = &self.0[1..];
        }
        eaten
    }

    fn sign(&mut self) -> Option<i64> {
        if self.eat(b'+') {
            Some(1)
        } else {
            self.eat(b'-').then_some(-1)
        }
    }

    /// Exactly so many digits.
    fn digits(&mut self, count: usize) -> Option<i64> {
        let digits = self.0.get(..count)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        self.0 = &self.0[count..];
        digits.parse().ok()
    }

    /// Any number of digits after the point, as milliseconds.
    fn fraction(&mut self) -> Option<i64> {
        let end = self
            .0
            .bytes()
            .position(|byte| !byte.is_ascii_digit())
            .unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        super::words::milliseconds(digits)
    }
}
