//! `$inc` and `$mul`.

use bson::Bson;

use super::step::{self, Step};
use super::{Effect, bad};
use crate::store::Result;

type Described<'a> = &'a dyn Fn() -> String;

pub(super) fn add(current: Option<&mut Bson>, by: &Bson, path: &[Step], described: Described<'_>) -> Result<Effect> {
    let Some(current) = current else {
        return Ok(Effect::Put(by.clone()));
    };
    let sum = combine(current, by, i32::checked_add, i64::checked_add, |a, b| a + b);
    finish(sum, current, "$inc", path, described)
}

pub(super) fn multiply(
    current: Option<&mut Bson>,
    by: &Bson,
    path: &[Step],
    described: Described<'_>,
) -> Result<Effect> {
    let Some(current) = current else {
        return Ok(Effect::Put(match by {
            Bson::Int64(_) => Bson::Int64(0),
            Bson::Double(_) => Bson::Double(0.0),
            _ => Bson::Int32(0),
        }));
    };
    let product = combine(current, by, i32::checked_mul, i64::checked_mul, |a, b| a * b);
    finish(product, current, "$mul", path, described)
}

enum Outcome {
    Number(Bson),
    NotANumber,
    Overflow,
}

/// The narrowest type that holds the outcome and is not narrower than the operands.
fn combine(
    a: &Bson,
    b: &Bson,
    narrow: fn(i32, i32) -> Option<i32>,
    wide: fn(i64, i64) -> Option<i64>,
    real: fn(f64, f64) -> f64,
) -> Outcome {
    let wide = |a: i64, b: i64| wide(a, b).map_or(Outcome::Overflow, |n| Outcome::Number(Bson::Int64(n)));
    let real = |a: f64, b: f64| Outcome::Number(Bson::Double(real(a, b)));
    match (a, b) {
        (Bson::Int32(a), Bson::Int32(b)) => match narrow(*a, *b) {
            Some(n) => Outcome::Number(Bson::Int32(n)),
            None => wide(i64::from(*a), i64::from(*b)),
        },
        (Bson::Int32(a), Bson::Int64(b)) => wide(i64::from(*a), *b),
        (Bson::Int64(a), Bson::Int32(b)) => wide(*a, i64::from(*b)),
        (Bson::Int64(a), Bson::Int64(b)) => wide(*a, *b),
        (Bson::Double(a), Bson::Int32(b)) => real(*a, f64::from(*b)),
        (Bson::Int32(a), Bson::Double(b)) => real(f64::from(*a), *b),
        (Bson::Double(a), Bson::Int64(b)) => real(*a, *b as f64),
        (Bson::Int64(a), Bson::Double(b)) => real(*a as f64, *b),
        (Bson::Double(a), Bson::Double(b)) => real(*a, *b),
        _ => Outcome::NotANumber,
    }
}

fn finish(outcome: Outcome, current: &Bson, operator: &str, path: &[Step], described: Described<'_>) -> Result<Effect> {
    match outcome {
        Outcome::Number(number) if number == *current => Ok(Effect::Unchanged),
        Outcome::Number(number) => Ok(Effect::Put(number)),
        Outcome::NotANumber => Err(bad(format!(
            "Cannot apply {operator} to a value of non-numeric type. {{{}}} has the field '{}' of non-numeric type",
            described(),
            step::text(path)
        ))),
        Outcome::Overflow => Err(bad(format!(
            "Failed to apply {operator} operations to current value of {{{}}}: the result does not fit",
            described()
        ))),
    }
}
