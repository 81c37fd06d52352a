//! Version 1: one line of text.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tlv::Tlvs;
use super::{Claim, Header, HeaderError, Progress, one_family};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";
/// Longest line there can be, its end included.
pub const MAX_LENGTH: usize = 107;
/// Shortest line there can be: `PROXY UNKNOWN`.
const LEAST_LENGTH: usize = 15;

pub(super) fn parse(bytes: &[u8]) -> Result<Progress<'_>, HeaderError> {
    let seen = &bytes[..bytes.len().min(MAX_LENGTH)];
    let Some(end) = seen.iter().position(|&byte| byte == b'\r' || byte == b'\n') else {
        if seen.len() + 2 > MAX_LENGTH {
            return Err(HeaderError::LineLength);
        }
        return Ok(Progress::Incomplete(LEAST_LENGTH.saturating_sub(seen.len()).max(2)));
    };
    match bytes.get(end..end + 2) {
        Some(b"\r\n") if end + 2 <= MAX_LENGTH => {}
        None if bytes[end] == b'\r' && end + 2 <= MAX_LENGTH => return Ok(Progress::Incomplete(1)),
        _ => return Err(HeaderError::Line),
    }
    let claim = parse_line(&bytes[SIGNATURE.len().min(end)..end])?;
    Ok(Progress::Complete(Header {
        claim,
        length: end + 2,
        tlvs: Tlvs::default(),
    }))
}

fn parse_line(line: &[u8]) -> Result<Claim, HeaderError> {
    let line = std::str::from_utf8(line).map_err(|_| HeaderError::Line)?;
    let (protocol, rest) = line.split_once(' ').unwrap_or((line, ""));
    if protocol == "UNKNOWN" {
        return Ok(Claim::Unknown);
    }
    let mut fields = rest.split(' ');
    let mut next = || fields.next().ok_or(HeaderError::Line);
    let (source, destination, source_port, destination_port) = (next()?, next()?, next()?, next()?);
    if fields.next().is_some() {
        return Err(HeaderError::Line);
    }
    let address = match protocol {
        "TCP4" => |text: &str| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |text: &str| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return Err(HeaderError::Line),
    };
    let socket = |ip: &str, port: &str| Some(SocketAddr::new(address(ip)?, parse_port(port)?));
    let source = socket(source, source_port).ok_or(HeaderError::LineAddress)?;
    let destination = socket(destination, destination_port).ok_or(HeaderError::LineAddress)?;
    Ok(Claim::Tcp { source, destination })
}

/// Digits only: no sign, no leading zero.
fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok())?
}

/// Appends the line for a TCP client.
pub fn write(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (source, destination) = one_family(source, destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    // Writing to memory does not fail.
    let _ = write!(
        out,
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    );
}

/// Appends the line that tells nothing: for a connection of our own.
pub fn write_unknown(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PROXY UNKNOWN\r\n");
}
