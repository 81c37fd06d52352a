//! One head: the first line, the header lines, and what they say about the message's length.

use super::{Asked, Limits};

/// Why bytes were refused. The text is for the log; [`Violation::status`] is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a line ends in LF alone")]
    BareLineFeed,
    #[error("a CR stands alone")]
    BareCarriageReturn,
    #[error("a head holds a NUL byte")]
    NulByte,
    #[error("the head is larger than allowed")]
    HeadTooLarge,
    #[error("the head has more header lines than allowed")]
    TooManyHeaders,
    #[error("the request target is longer than allowed")]
    TargetTooLong,
    #[error("the first line is malformed")]
    BadFirstLine,
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    BadVersion,
    #[error("a header is continued on a second line")]
    FoldedHeader,
    #[error("a header's name is malformed or followed by a space")]
    BadHeaderName,
    #[error("a header's value holds a control character")]
    BadHeaderValue,
    #[error("Content-Length is malformed or given more than once")]
    BadContentLength,
    #[error("Transfer-Encoding is anything but `chunked`, once, in HTTP/1.1")]
    BadTransferEncoding,
    #[error("Transfer-Encoding and Content-Length stand together")]
    TwoLengths,
    #[error("Host is missing, malformed or given more than once")]
    BadHost,
    #[error("Host differs from the host in the request target")]
    HostMismatch,
    #[error("a request for another protocol has a body")]
    UpgradeWithBody,
    #[error("the expectation is not `100-continue`")]
    BadExpectation,
    #[error("a chunk's size or end is malformed")]
    BadChunk,
    #[error("a trailer holds a field that belongs into the head")]
    BadTrailer,
    #[error("bytes arrived that answer no request")]
    UnaskedBytes,
}

impl Violation {
    /// The status that says this to a client.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::TargetTooLong => 414,
            Self::BadVersion => 505,
            Self::BadExpectation => 417,
            _ => 400,
        }
    }
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    None,
    Exactly(u64),
    Chunked,
    UntilClose,
    Tunnel,
}

/// What a head says that matters for framing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) length: Length,
}

/// The header lines that framing depends on.
#[derive(Debug, Default)]
struct Facts<'h> {
    content_length: Option<u64>,
    is_chunked: bool,
    host: Option<&'h str>,
    has_upgrade: bool,
}

/// Reads a client's head.
pub(super) fn parse_request(head: &[u8], limits: &Limits) -> Result<(Head, Asked), Violation> {
    let mut lines = lines(head);
    let (method, target, is_1_1) = request_line(lines.next().unwrap_or_default(), limits)?;
    let facts = header_lines(lines, limits, is_1_1)?;
    check_host(target, method, facts.host, is_1_1)?;
    let length = match (facts.is_chunked, facts.content_length) {
        (true, _) => Length::Chunked,
        (false, Some(length)) => Length::Exactly(length),
        (false, None) => Length::None,
    };
    let has_body = !matches!(length, Length::None | Length::Exactly(0));
    if facts.has_upgrade && has_body {
        return Err(Violation::UpgradeWithBody);
    }
    Ok((
        Head { length },
        Asked {
            is_head: method == b"HEAD",
            wants_upgrade: facts.has_upgrade,
        },
    ))
}

/// Reads a backend's head; the flag is false for an interim answer (1xx).
pub(super) fn parse_response(head: &[u8], limits: &Limits, asked: Asked) -> Result<(Head, bool), Violation> {
    let mut lines = lines(head);
    let (status, is_1_1) = status_line(lines.next().unwrap_or_default())?;
    let facts = header_lines(lines, limits, is_1_1)?;
    let length = match status {
        101 if asked.wants_upgrade => Length::Tunnel,
        101 => return Err(Violation::UnaskedBytes),
        100..=199 | 204 | 304 => Length::None,
        _ if asked.is_head => Length::None,
        _ if facts.is_chunked => Length::Chunked,
        _ => facts.content_length.map_or(Length::UntilClose, Length::Exactly),
    };
    let is_final = status >= 200 || status == 101;
    Ok((Head { length }, is_final))
}

/// Trailers may be anything but what decides about framing and routing (RFC 9110, section 6.5.1).
pub(super) fn check_trailer(section: &[u8], limits: &Limits) -> Result<(), Violation> {
    for (count, line) in lines(section).enumerate() {
        if count >= limits.header_count {
            return Err(Violation::TooManyHeaders);
        }
        let (name, _) = header_line(line)?;
        let forbidden = [
            "content-length",
            "transfer-encoding",
            "host",
            "upgrade",
            "connection",
            "authorization",
        ];
        if forbidden.iter().any(|field| name.eq_ignore_ascii_case(field)) {
            return Err(Violation::BadTrailer);
        }
    }
    Ok(())
}

/// The lines of a section without their CRLF and without the empty one at the end.
fn lines(section: &[u8]) -> impl Iterator<Item = &[u8]> {
    section
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|l| !l.is_empty())
}

fn request_line<'h>(line: &'h [u8], limits: &Limits) -> Result<(&'h [u8], &'h str, bool), Violation> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Violation::BadFirstLine);
    };
    if method.is_empty() || !method.iter().all(|&byte| is_token(byte)) {
        return Err(Violation::BadFirstLine);
    }
    if target.len() > limits.target_bytes {
        return Err(Violation::TargetTooLong);
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(Violation::BadFirstLine);
    }
    let target = std::str::from_utf8(target).map_err(|_| Violation::BadFirstLine)?;
    Ok((method, target, version_is_1_1(version)?))
}

fn status_line(line: &[u8]) -> Result<(u16, bool), Violation> {
    let mut parts = line.splitn(3, |&byte| byte == b' ');
    let is_1_1 = version_is_1_1(parts.next().unwrap_or_default())?;
    let code = parts.next().unwrap_or_default();
    let reason = parts.next().unwrap_or_default();
    if code.len() != 3 || !code.iter().all(u8::is_ascii_digit) || !is_field_value(reason) {
        return Err(Violation::BadFirstLine);
    }
    let status = code
        .iter()
        .fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    if status < 100 {
        Err(Violation::BadFirstLine)
    } else {
        Ok((status, is_1_1))
    }
}

fn version_is_1_1(version: &[u8]) -> Result<bool, Violation> {
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        [b'H', b'T', b'T', b'P', b'/', digits @ ..] if digits.first().is_some_and(u8::is_ascii_digit) => {
            Err(Violation::BadVersion)
        }
        _ => Err(Violation::BadFirstLine),
    }
}

fn header_lines<'h>(
    lines: impl Iterator<Item = &'h [u8]>,
    limits: &Limits,
    is_1_1: bool,
) -> Result<Facts<'h>, Violation> {
    let mut facts = Facts::default();
    for (count, line) in lines.enumerate() {
        if count >= limits.header_count {
            return Err(Violation::TooManyHeaders);
        }
        let (name, value) = header_line(line)?;
        if name.eq_ignore_ascii_case("content-length") {
            let length = content_length(value)?;
            if facts.content_length.replace(length).is_some() {
                return Err(Violation::BadContentLength);
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            let is_sound = value.eq_ignore_ascii_case("chunked") && is_1_1 && !facts.is_chunked;
            if !is_sound {
                return Err(Violation::BadTransferEncoding);
            }
            facts.is_chunked = true;
        } else if name.eq_ignore_ascii_case("host") {
            if facts.host.replace(value).is_some() {
                return Err(Violation::BadHost);
            }
        } else if name.eq_ignore_ascii_case("upgrade") {
            facts.has_upgrade = true;
        } else if name.eq_ignore_ascii_case("expect") && !value.eq_ignore_ascii_case("100-continue") {
            return Err(Violation::BadExpectation);
        }
    }
    if facts.is_chunked && facts.content_length.is_some() {
        return Err(Violation::TwoLengths);
    }
    Ok(facts)
}

fn header_line(line: &[u8]) -> Result<(&str, &str), Violation> {
    if line.first().is_some_and(|&byte| byte == b' ' || byte == b'\t') {
        return Err(Violation::FoldedHeader);
    }
    let colon = line
        .iter()
        .position(|&byte| byte == b':')
        .ok_or(Violation::BadHeaderName)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return Err(Violation::BadHeaderName);
    }
    if !is_field_value(value) {
        return Err(Violation::BadHeaderValue);
    }
    let name = std::str::from_utf8(name).map_err(|_| Violation::BadHeaderName)?;
    // Values that framing reads are ASCII; a value that is not UTF-8 is none of those and reads as empty here.
    Ok((name, std::str::from_utf8(value).unwrap_or("")))
}

fn content_length(value: &str) -> Result<u64, Violation> {
    let is_number = !value.is_empty() && value.len() <= 18 && value.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        value.parse().map_err(|_| Violation::BadContentLength)
    } else {
        Err(Violation::BadContentLength)
    }
}

fn check_host(target: &str, method: &[u8], host: Option<&str>, is_1_1: bool) -> Result<(), Violation> {
    let host = match host {
        Some(host) if !is_authority(host) => return Err(Violation::BadHost),
        None if is_1_1 => return Err(Violation::BadHost),
        host => host.unwrap_or(""),
    };
    if target.starts_with('/') || (target == "*" && method == b"OPTIONS") {
        return Ok(());
    }
    let (scheme, rest) = target.split_once("://").ok_or(Violation::BadFirstLine)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Violation::BadFirstLine);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    match is_authority(authority) && !authority.is_empty() {
        false => Err(Violation::BadFirstLine),
        true if is_1_1 && !authority.eq_ignore_ascii_case(host) => Err(Violation::HostMismatch),
        true => Ok(()),
    }
}

/// A host with or without a port: nothing that could be taken for a path, a user or a list.
fn is_authority(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(&byte))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110, section 5.5: visible characters, spaces, tabs, and bytes from 0x80.
fn is_field_value(value: &[u8]) -> bool {
    value
        .iter()
        .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}
