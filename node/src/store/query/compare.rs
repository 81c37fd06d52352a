//! MongoDB's order of values: first by kind, then within a kind.

use std::cmp::Ordering;

use bson::{RawBsonRef, RawDocument};

/// Compares two values of any type, as an ascending sort does.
///
/// Numbers compare by value whatever their width; `Decimal128` is compared as a double.
pub fn compare(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Ordering {
    use RawBsonRef as V;
    match (a, b) {
        (V::String(a), V::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (V::ObjectId(a), V::ObjectId(b)) => a.bytes().cmp(&b.bytes()),
        (V::DateTime(a), V::DateTime(b)) => a.timestamp_millis().cmp(&b.timestamp_millis()),
        (V::Int32(a), V::Int32(b)) => a.cmp(&b),
        _ => bracket(a).cmp(&bracket(b)).then_with(|| within_bracket(a, b)),
    }
}

/// The kind of a value: MongoDB compares by range only inside one kind.
pub(super) fn bracket(value: RawBsonRef<'_>) -> u8 {
    use RawBsonRef as V;
    match value {
        V::MinKey => 0,
        V::Undefined => 1,
        V::Null => 5,
        V::Int32(_) | V::Int64(_) | V::Double(_) | V::Decimal128(_) => 10,
        V::String(_) | V::Symbol(_) => 15,
        V::Document(_) => 20,
        V::Array(_) => 25,
        V::Binary(_) => 30,
        V::ObjectId(_) => 35,
        V::Boolean(_) => 40,
        V::DateTime(_) => 45,
        V::Timestamp(_) => 47,
        V::RegularExpression(_) => 50,
        V::DbPointer(_) => 55,
        V::JavaScriptCode(_) => 60,
        V::JavaScriptCodeWithScope(_) => 65,
        V::MaxKey => 127,
    }
}

/// A number, at the width that keeps it exact where one of the two does.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Whole(i64),
    Real(f64),
}

impl Number {
    pub(super) fn of(value: RawBsonRef<'_>) -> Option<Self> {
        match value {
            RawBsonRef::Int32(n) => Some(Self::Whole(n.into())),
            RawBsonRef::Int64(n) => Some(Self::Whole(n)),
            RawBsonRef::Double(n) => Some(Self::Real(n)),
            RawBsonRef::Decimal128(n) => Some(Self::Real(n.to_string().parse().unwrap_or(f64::NAN))),
            _ => None,
        }
    }

    pub(super) fn is_nan(self) -> bool {
        matches!(self, Self::Real(n) if n.is_nan())
    }

    fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(&b),
            (Self::Whole(a), Self::Real(b)) => whole_to_real(a, b),
            (Self::Real(a), Self::Whole(b)) => whole_to_real(b, a).reverse(),
            (Self::Real(a), Self::Real(b)) => a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan())),
        }
    }
}

/// Exact also where a double can't hold the whole number. Not-a-number is below every number.
fn whole_to_real(whole: i64, real: f64) -> Ordering {
    const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
    if real.is_nan() || real < -TWO_TO_63 {
        Ordering::Greater
    } else if real >= TWO_TO_63 {
        Ordering::Less
    } else {
        let rest = real.fract();
        whole
            .cmp(&(real.trunc() as i64))
            .then_with(|| 0.0_f64.partial_cmp(&rest).unwrap_or(Ordering::Equal))
    }
}

fn within_bracket(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Ordering {
    use RawBsonRef as V;
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return a.compare(b);
    }
    match (a, b) {
        (V::String(a) | V::Symbol(a), V::String(b) | V::Symbol(b)) => a.as_bytes().cmp(b.as_bytes()),
        (V::Document(a), V::Document(b)) => documents(a, b),
        (V::Array(a), V::Array(b)) => arrays(a, b),
        (V::Binary(a), V::Binary(b)) => {
            (a.bytes.len(), u8::from(a.subtype), a.bytes).cmp(&(b.bytes.len(), u8::from(b.subtype), b.bytes))
        }
        (V::Boolean(a), V::Boolean(b)) => a.cmp(&b),
        (V::Timestamp(a), V::Timestamp(b)) => (a.time, a.increment).cmp(&(b.time, b.increment)),
        (V::RegularExpression(a), V::RegularExpression(b)) => {
            (a.pattern.as_str(), a.options.as_str()).cmp(&(b.pattern.as_str(), b.options.as_str()))
        }
        (V::JavaScriptCode(a), V::JavaScriptCode(b)) => a.cmp(b),
        (V::JavaScriptCodeWithScope(a), V::JavaScriptCodeWithScope(b)) => {
            a.code.cmp(b.code).then_with(|| documents(a.scope, b.scope))
        }
        (V::ObjectId(a), V::ObjectId(b)) => a.bytes().cmp(&b.bytes()),
        (V::DateTime(a), V::DateTime(b)) => a.timestamp_millis().cmp(&b.timestamp_millis()),
        _ => Ordering::Equal,
    }
}

fn documents(a: &RawDocument, b: &RawDocument) -> Ordering {
    let (mut a, mut b) = (a.iter(), b.iter());
    loop {
        match (a.next(), b.next()) {
            (Some(Ok((a_name, a))), Some(Ok((b_name, b)))) => {
                let order = bracket(a)
                    .cmp(&bracket(b))
                    .then_with(|| a_name.as_str().cmp(b_name.as_str()))
                    .then_with(|| within_bracket(a, b));
                if order.is_ne() {
                    return order;
                }
            }
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

fn arrays(a: &bson::RawArray, b: &bson::RawArray) -> Ordering {
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    loop {
        match (a.next(), b.next()) {
            (Some(Ok(a)), Some(Ok(b))) => {
                let order = compare(a, b);
                if order.is_ne() {
                    return order;
                }
            }
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}
