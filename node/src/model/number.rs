//! Numbers as JavaScript writes and reads them, because API clients compare texts.

use bson::Bson;

/// Whole numbers up to here are exact in a double.
const SAFE: f64 = 9_007_199_254_740_992.0;

/// The number as JavaScript prints it: `1`, not `1.0`; `1e+21`, `1e-7`; `NaN`, `Infinity`.
pub fn to_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if number.fract() == 0.0 && number.abs() < SAFE {
        return (number as i64).to_string();
    }
    let scientific = format!("{:e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits = mantissa.replace('.', "");
    // How many digits stand before the point.
    let point = exponent.parse::<i32>().unwrap_or(0) + 1;
    let sign = if number < 0.0 { "-" } else { "" };
    format!("{sign}{}", layout(&digits, point))
}

fn layout(digits: &str, point: i32) -> String {
    let count = digits.len() as i32;
    match point {
        1..=21 if point >= count => format!("{digits}{}", "0".repeat((point - count) as usize)),
        1..=21 => {
            let (whole, fraction) = digits.split_at(point as usize);
            format!("{whole}.{fraction}")
        }
        -5..=0 => format!("0.{}{digits}", "0".repeat(-point as usize)),
        _ => {
            let (first, rest) = digits.split_at(1);
            let fraction = if rest.is_empty() {
                String::new()
            } else {
                format!(".{rest}")
            };
            let exponent = point - 1;
            format!("{first}{fraction}e{exponent:+}")
        }
    }
}

/// Reads text the way JavaScript's `Number(text)` does: blanks around it are ignored, nothing is 0, `0x`, `0o` and `0b`
/// are understood, and the whole text has to be the number.
pub fn from_text(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{FEFF}');
    if text.is_empty() {
        return Some(0.0);
    }
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return from_digits(digits, radix);
        }
    }
    match text {
        "Infinity" | "+Infinity" => return Some(f64::INFINITY),
        "-Infinity" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    // Rust also reads `inf` and `nan`.
    if text
        .bytes()
        .any(|byte| byte.is_ascii_alphabetic() && !matches!(byte, b'e' | b'E'))
    {
        return None;
    }
    text.parse().ok()
}

fn from_digits(digits: &str, radix: u32) -> Option<f64> {
    if digits.is_empty() {
        return None;
    }
    digits.chars().try_fold(0.0, |sum, digit| {
        digit
            .to_digit(radix)
            .map(|digit| sum * f64::from(radix) + f64::from(digit))
    })
}

/// The number as OpenHIM's driver stores it: an integer if it is one of 32 bits, else a double.
pub fn to_bson(number: f64) -> Bson {
    let is_negative_zero = number == 0.0 && number.is_sign_negative();
    if number.fract() == 0.0 && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number) && !is_negative_zero {
        Bson::Int32(number as i32)
    } else {
        Bson::Double(number)
    }
}

/// The value of any of BSON's numbers; `None` for everything else.
pub fn of_bson(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(number) => Some(f64::from(*number)),
        Bson::Int64(number) => Some(*number as f64),
        Bson::Double(number) => Some(*number),
        Bson::Decimal128(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_in_javascript() {
        for (number, text) in [
            (1.0, "1"),
            (-0.0, "0"),
            (1.5, "1.5"),
            (-1234.5678, "-1234.5678"),
            (1e21, "1e+21"),
            (1.25e21, "1.25e+21"),
            (123456789012345680000.0, "123456789012345680000"),
            (1e-6, "0.000001"),
            (1.5e-7, "1.5e-7"),
            (0.1 + 0.2, "0.30000000000000004"),
            (9007199254740993.0, "9007199254740992"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(to_text(number), text);
        }
    }

    #[test]
    fn texts_are_read_as_in_javascript() {
        for (text, number) in [
            ("12", Some(12.0)),
            (" 12\n", Some(12.0)),
            ("", Some(0.0)),
            ("1e3", Some(1000.0)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            ("+5", Some(5.0)),
            ("0x1F", Some(31.0)),
            ("0b2", None),
            ("0x", None),
            ("12px", None),
            ("inf", None),
            ("NaN", None),
            ("1_000", None),
            ("Infinity", Some(f64::INFINITY)),
        ] {
            assert_eq!(from_text(text), number, "{text:?}");
        }
    }

    #[test]
    fn whole_numbers_of_32_bits_are_stored_as_integers() {
        assert_eq!(to_bson(5.0), Bson::Int32(5));
        assert_eq!(to_bson(2_147_483_648.0), Bson::Double(2_147_483_648.0));
        assert_eq!(to_bson(0.5), Bson::Double(0.5));
    }
}
