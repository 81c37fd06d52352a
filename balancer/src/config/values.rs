//! Texts to values. Each function says what it would have liked to read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::plan::{Backend, Endpoint, WEIGHT_MAX};

/// Longest time that may be configured; a year stands for "never" as well as anything longer.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// `2s`, `500ms`, `1m`, `1h`, `1d`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..split].trim(), text[split..].trim());
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => f64::NAN,
    };
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    number
        .parse::<f64>()
        .ok()
        .filter(|_| plain)
        .and_then(|number| Duration::try_from_secs_f64(number * seconds_per_unit).ok())
        .filter(|it| *it <= LONGEST)
        .ok_or_else(|| format!("`{text}` is not a time; write a number with ms, s, m, h or d, for example 2s"))
}

/// As [`duration`], and more than nothing.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("`{text}` is no time at all; write for example 1s")),
        it => Ok(it),
    }
}

/// A whole number in a range.
pub(super) fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    text.parse().ok().filter(|it| range.contains(it)).ok_or_else(|| {
        format!(
            "`{text}` is not a whole number from {} to {}",
            range.start(),
            range.end()
        )
    })
}

/// Yes or no.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// One of several words.
pub(super) fn word<T: Clone>(text: &str, known: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, it)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(it.clone());
    }
    let meant = super::keys::suggestion(text, known.iter().map(|(name, _)| *name));
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    Err(match meant {
        Some(meant) => format!("`{text}` is not known; did you mean `{meant}`?"),
        None => format!("`{text}` is not known; write one of {}", names.join(", ")),
    })
}

/// An address to listen on: `10.0.0.1:5000`, `[::]:5000`, `:5000` or `5000`.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    let port = text
        .strip_prefix(':')
        .or_else(|| text.strip_prefix("*:"))
        .unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    }
    text.parse()
        .map_err(|_| format!("`{text}` is not an address to listen on; write IP:PORT, for example 0.0.0.0:5000"))
}

/// A name server: `10.0.0.53`, `10.0.0.53:5353`, `[::1]:53`.
pub(super) fn name_server(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| format!("`{text}` is not the address of a name server; write IP or IP:PORT"))
}

/// A network, or one address of it.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|net| net.trunc())
        .map_err(|_| format!("`{text}` is not a network; write ADDRESS/BITS, for example 10.0.0.0/8"))
}

/// `200`, `200-399`, `200,204`.
pub(super) fn statuses(text: &str) -> Result<Vec<RangeInclusive<u16>>, String> {
    let status = |text: &str| text.trim().parse().ok().filter(|it| (100..=599).contains(it));
    text.split(',')
        .map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            match (status(from), status(to)) {
                (Some(from), Some(to)) if from <= to => Ok(from..=to),
                _ => Err(format!(
                    "`{part}` is neither a status nor a range; write for example 200-399"
                )),
            }
        })
        .collect()
}

/// `host:port[@weight]`, one of the list that the command line takes.
pub(super) fn backend(text: &str) -> Result<Backend, String> {
    let (address, weight) = match text.split_once('@') {
        Some((address, weight)) => (address, Some(number(weight, 0..=WEIGHT_MAX)?)),
        None => (text, None),
    };
    let mut backend = Backend::new(endpoint(address)?);
    backend.weight = weight.unwrap_or(backend.weight);
    Ok(backend)
}

/// `host:port`, `srv:_name`.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    text.parse().map_err(|error| format!("backend `{text}` {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_a_unit() {
        for (text, ms) in [
            ("2s", 2000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("0", 0),
            ("3", 3000),
            ("1m", 60_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "2 parsecs", "1e9s", "NaN", "inf", "99999999h", "1..2s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn statuses_are_single_or_ranges() {
        assert_eq!(statuses("200-399"), Ok(vec![200..=399]));
        assert_eq!(statuses("200, 204"), Ok(vec![200..=200, 204..=204]));
        for text in ["", "20", "399-200", "200-", "2xx"] {
            assert!(statuses(text).is_err(), "{text}");
        }
    }

    #[test]
    fn backends_may_carry_a_weight() {
        let it = backend("10.0.0.2:5000@3").expect("valid");
        assert_eq!((it.endpoint.to_string().as_str(), it.weight), ("10.0.0.2:5000", 3));
        assert!(backend("10.0.0.2:5000@-1").is_err());
        assert!(backend("10.0.0.2:5000@").is_err());
    }

    #[test]
    fn a_port_alone_listens_everywhere() {
        assert_eq!(listen(":80"), Ok("0.0.0.0:80".parse().expect("valid")));
        assert_eq!(listen("[::]:80"), Ok("[::]:80".parse().expect("valid")));
        assert!(listen("node1:80").is_err());
    }
}
