//! One head: the first line, the header lines, and what they say about the message.

use super::{Field, Known, Length, Limits, Span};

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
    #[error("a tunnel to elsewhere is asked for")]
    Connect,
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
    #[must_use]
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

/// What the `Connection` lines of a head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// Another name, which is that of a field for the next hop alone.
    pub others: bool,
}

/// What a client's head says. Its spans are of the bytes it was read from.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: Span,
    /// As it was written.
    pub target: Span,
    /// Path and query; empty if the target is a host alone.
    pub path: Span,
    /// Host and port; empty if an HTTP/1.0 client said none.
    pub host: Span,
    pub is_1_1: bool,
    pub fields: Vec<Field>,
    pub length: Length,
    pub options: Options,
    /// It asks for another protocol that may be granted.
    pub wants_upgrade: bool,
    /// It waits for a word before it sends the body.
    pub expects_continue: bool,
}

/// What a backend's head says.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Status and reason, as they were written.
    pub status_and_reason: Span,
    pub is_1_1: bool,
    pub fields: Vec<Field>,
    pub length: Length,
    pub options: Options,
    /// It announces a body where none can be; what follows it cannot be trusted.
    pub is_doubtful: bool,
}

/// What the answer's framing depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The answer has no body whatever its head says.
    pub is_head: bool,
    /// The request asked for another protocol.
    pub wants_upgrade: bool,
}

/// The header lines that framing depends on.
#[derive(Debug, Default)]
struct Facts {
    content_length: Option<u64>,
    is_chunked: bool,
    host: Option<Span>,
    upgrade: Option<Span>,
    expects_continue: bool,
    options: Options,
}

impl Request {
    /// Reads a client's head, its last empty line included. `fields` is only there to be used again.
    ///
    /// # Errors
    /// It could be read in more than one way, or is over a limit.
    pub fn read(head: &[u8], limits: &Limits, fields: Vec<Field>) -> Result<Self, Violation> {
        let (line, rest) = first_line(head);
        let (method, target, is_1_1) = request_line(line, limits)?;
        if method.of(head) == b"CONNECT" {
            return Err(Violation::Connect);
        }
        let mut fields = fields;
        let facts = header_lines(head, rest, limits, is_1_1, &mut fields)?;
        if let Some(field) = fields.iter().find(|field| field.known == Known::Expect) {
            // One can wait for a word only where there is one.
            let is_sound = field.value.of(head).eq_ignore_ascii_case(b"100-continue");
            if !is_sound {
                return Err(Violation::BadExpectation);
            }
        }
        let path = check_host(head, target, method, facts.host, is_1_1)?;
        let length = match (facts.is_chunked, facts.content_length) {
            (true, _) => Length::Chunked,
            (false, Some(length)) => Length::Exactly(length),
            (false, None) => Length::None,
        };
        // HTTP/2 without TLS is not asked of backends; a request that would like it is one without.
        let wants_upgrade = match facts.upgrade {
            Some(upgrade) => is_1_1 && facts.options.upgrade && !lists(upgrade.of(head), "h2c"),
            None => false,
        };
        let has_body = !matches!(length, Length::None | Length::Exactly(0));
        if facts.upgrade.is_some_and(|it| !lists(it.of(head), "h2c")) && has_body {
            return Err(Violation::UpgradeWithBody);
        }
        Ok(Self {
            method,
            target,
            path,
            host: facts.host.unwrap_or_default(),
            is_1_1,
            fields,
            length,
            options: facts.options,
            wants_upgrade,
            expects_continue: is_1_1 && facts.expects_continue && has_body,
        })
    }

    /// What its answer's framing depends on.
    #[must_use]
    pub fn asked(&self, head: &[u8]) -> Asked {
        Asked {
            is_head: self.method.of(head) == b"HEAD",
            wants_upgrade: self.wants_upgrade,
        }
    }

    /// The value of the first such field.
    #[must_use]
    pub fn field(&self, known: Known) -> Option<Span> {
        self.fields.iter().find(|it| it.known == known).map(|it| it.value)
    }
}

impl Response {
    /// Reads a backend's head.
    ///
    /// # Errors
    /// It could be read in more than one way, or answers something that was not asked.
    pub fn read(head: &[u8], limits: &Limits, asked: Asked, fields: Vec<Field>) -> Result<Self, Violation> {
        let (line, rest) = first_line(head);
        let (status, status_and_reason, is_1_1) = status_line(line)?;
        let mut fields = fields;
        let facts = header_lines(head, rest, limits, is_1_1, &mut fields)?;
        let announced = facts.is_chunked || facts.content_length.is_some_and(|length| length > 0);
        let length = match status {
            101 if asked.wants_upgrade => Length::Tunnel,
            101 => return Err(Violation::UnaskedBytes),
            100..=199 | 204 | 304 => Length::None,
            _ if asked.is_head => Length::None,
            _ if facts.is_chunked => Length::Chunked,
            _ => facts.content_length.map_or(Length::UntilClose, Length::Exactly),
        };
        Ok(Self {
            status,
            status_and_reason,
            is_1_1,
            fields,
            length,
            options: facts.options,
            is_doubtful: announced && (status < 200 || status == 204),
        })
    }

    /// False for an interim answer, which another one follows.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.status >= 200 || self.status == 101
    }
}

/// Trailers may be anything but what decides about framing and routing (RFC 9110, section 6.5.1).
pub(super) fn check_trailer(section: &[u8], limits: &Limits) -> Result<(), Violation> {
    let mut rest = Lines { section, at: 0 };
    let mut count = 0;
    while let Some((start, end)) = rest.next_line() {
        if count >= limits.header_count {
            return Err(Violation::TooManyHeaders);
        }
        count += 1;
        let field = header_line(section, start, end)?;
        match field.known {
            Known::ContentLength
            | Known::TransferEncoding
            | Known::Host
            | Known::Upgrade
            | Known::Connection
            | Known::Authorization
            | Known::Forwarded
            | Known::XForwardedFor
            | Known::XForwardedHost
            | Known::XForwardedProto
            | Known::XSslClient => return Err(Violation::BadTrailer),
            _ => {}
        }
    }
    Ok(())
}

/// True if the comma-separated list holds this word, in any case.
pub(crate) fn lists(list: &[u8], word: &str) -> bool {
    list.split(|&byte| byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// The lines of a section, without their CRLF and without the empty one at the end. [`super::Scan`] has seen to it that
/// each ends in CRLF.
struct Lines<'h> {
    section: &'h [u8],
    at: usize,
}

impl Lines<'_> {
    fn next_line(&mut self) -> Option<(usize, usize)> {
        let start = self.at;
        let length = self.section[start..].iter().position(|&byte| byte == b'\n')?;
        self.at = start + length + 1;
        (length > 1).then_some((start, start + length - 1))
    }
}

fn first_line(head: &[u8]) -> (&[u8], Lines<'_>) {
    let mut lines = Lines { section: head, at: 0 };
    let (start, end) = lines.next_line().unwrap_or_default();
    (&head[start..end], lines)
}

/// Why bytes that do not begin like a head are none.
pub(super) fn first_line_fault(bytes: &[u8]) -> Violation {
    match bytes.first() {
        Some(b'\n') => Violation::BareLineFeed,
        Some(b'\r') => Violation::BareCarriageReturn,
        Some(0) => Violation::NulByte,
        _ => Violation::BadFirstLine,
    }
}

fn request_line(line: &[u8], limits: &Limits) -> Result<(Span, Span, bool), Violation> {
    let bad = |_| fault(line, Violation::BadFirstLine);
    let space = |from: usize| line[from..].iter().position(|&byte| byte == b' ').map(|at| from + at);
    let method_end = space(0).ok_or(()).map_err(bad)?;
    let target_end = space(method_end + 1).ok_or(()).map_err(bad)?;
    let (method, target) = (&line[..method_end], &line[method_end + 1..target_end]);
    if method.is_empty() || !method.iter().all(|&byte| is_token(byte)) {
        return Err(fault(line, Violation::BadFirstLine));
    }
    if target.len() > limits.target_bytes {
        return Err(Violation::TargetTooLong);
    }
    // A fragment never leaves a client; where one does, parsers differ.
    if target.is_empty() || !target.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(fault(line, Violation::BadFirstLine));
    }
    let is_1_1 = version_is_1_1(&line[target_end + 1..])?;
    Ok((Span::new(0, method_end), Span::new(method_end + 1, target_end), is_1_1))
}

fn status_line(line: &[u8]) -> Result<(u16, Span, bool), Violation> {
    let bad = Violation::BadFirstLine;
    let (version, rest) = line.split_at_checked(9).ok_or(bad)?;
    let version = version.strip_suffix(b" ").ok_or(bad)?;
    let is_1_1 = version_is_1_1(version)?;
    let (code, reason) = rest.split_at_checked(3).ok_or(bad)?;
    let is_sound = code.iter().all(u8::is_ascii_digit)
        && code[0] != b'0'
        && (reason.is_empty() || reason[0] == b' ')
        && is_field_value(reason);
    if !is_sound {
        return Err(fault(line, bad));
    }
    let status = code
        .iter()
        .fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    Ok((status, Span::new(9, line.len()), is_1_1))
}

fn version_is_1_1(version: &[u8]) -> Result<bool, Violation> {
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        [b'H', b'T', b'T', b'P', b'/', digits @ ..]
            if digits.first().is_some_and(u8::is_ascii_digit) && !digits.contains(&b' ') =>
        {
            Err(Violation::BadVersion)
        }
        _ => Err(Violation::BadFirstLine),
    }
}

fn header_lines(
    head: &[u8],
    mut lines: Lines<'_>,
    limits: &Limits,
    is_1_1: bool,
    fields: &mut Vec<Field>,
) -> Result<Facts, Violation> {
    fields.clear();
    let mut facts = Facts::default();
    while let Some((start, end)) = lines.next_line() {
        if fields.len() >= limits.header_count {
            return Err(Violation::TooManyHeaders);
        }
        let field = header_line(head, start, end)?;
        let value = field.value.of(head);
        match field.known {
            Known::ContentLength => {
                let length = content_length(value)?;
                if facts.content_length.replace(length).is_some() {
                    return Err(Violation::BadContentLength);
                }
            }
            Known::TransferEncoding => {
                let is_sound = value.eq_ignore_ascii_case(b"chunked") && is_1_1 && !facts.is_chunked;
                if !is_sound {
                    return Err(Violation::BadTransferEncoding);
                }
                facts.is_chunked = true;
            }
            Known::Host if facts.host.replace(field.value).is_some() => return Err(Violation::BadHost),
            Known::Upgrade => facts.upgrade = Some(field.value),
            Known::Expect => facts.expects_continue = true,
            Known::Connection => facts.options.add(value),
            _ => {}
        }
        fields.push(field);
    }
    if facts.is_chunked && facts.content_length.is_some() {
        return Err(Violation::TwoLengths);
    }
    Ok(facts)
}

impl Options {
    fn add(&mut self, value: &[u8]) {
        for word in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if word.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if word.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if word.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !word.is_empty() {
                self.others = true;
            }
        }
    }
}

fn header_line(head: &[u8], start: usize, end: usize) -> Result<Field, Violation> {
    let line = &head[start..end];
    let colon = line.iter().position(|&byte| !is_token(byte)).unwrap_or(line.len());
    if line.get(colon) != Some(&b':') || colon == 0 {
        return Err(match line.first() {
            Some(b' ' | b'\t') => Violation::FoldedHeader,
            _ => fault(line, Violation::BadHeaderName),
        });
    }
    let value = &line[colon + 1..];
    if !is_field_value(value) {
        return Err(fault(line, Violation::BadHeaderValue));
    }
    let leading = value.len() - value.trim_ascii_start().len();
    let value_start = start + colon + 1 + leading;
    Ok(Field {
        name: Span::new(start, start + colon),
        value: Span::new(value_start, value_start + value.trim_ascii().len()),
        known: Known::of(&line[..colon]),
    })
}

/// The more telling reason, if there is one.
fn fault(line: &[u8], otherwise: Violation) -> Violation {
    if line.contains(&0) {
        Violation::NulByte
    } else if line.contains(&b'\r') {
        Violation::BareCarriageReturn
    } else {
        otherwise
    }
}

fn content_length(value: &[u8]) -> Result<u64, Violation> {
    let is_number = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    if !is_number {
        return Err(Violation::BadContentLength);
    }
    Ok(value
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Checks target and host against each other; the target's path and query.
fn check_host(
    head: &[u8],
    target_span: Span,
    method: Span,
    host: Option<Span>,
    is_1_1: bool,
) -> Result<Span, Violation> {
    let target = target_span.of(head);
    let host = match host.map(|it| it.of(head)) {
        Some(host) if !is_authority(host) => return Err(Violation::BadHost),
        None if is_1_1 => return Err(Violation::BadHost),
        host => host.unwrap_or_default(),
    };
    if target[0] == b'/' || (target == b"*" && method.of(head) == b"OPTIONS") {
        return Ok(target_span);
    }
    let scheme_end = target
        .windows(3)
        .position(|three| three == b"://")
        .ok_or(Violation::BadFirstLine)?;
    let scheme = &target[..scheme_end];
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(Violation::BadFirstLine);
    }
    let rest = &target[scheme_end + 3..];
    let length = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
    let authority = &rest[..length];
    if !is_authority(authority) || authority.is_empty() {
        return Err(Violation::BadFirstLine);
    }
    if is_1_1 && !authority.eq_ignore_ascii_case(host) {
        return Err(Violation::HostMismatch);
    }
    let start = target_span.start as usize + scheme_end + 3 + length;
    Ok(Span::new(start, target_span.end as usize))
}

/// A host with or without a port: nothing that could be taken for a path, a user or a list.
fn is_authority(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(byte))
}

const TOKEN: u8 = 1;
const VALUE: u8 = 2;

/// Which bytes may stand in a token (RFC 9110, section 5.6.2) and which in a value (section 5.5: visible characters,
/// spaces, tabs, and bytes from 0x80).
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if byte == 9 || (byte >= 32 && byte != 127) {
            classes[byte] |= VALUE;
        }
        byte += 1;
    }
    let tokens = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut at = 0;
    while at < tokens.len() {
        classes[tokens[at] as usize] |= TOKEN;
        at += 1;
    }
    classes
};

pub(super) fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TOKEN != 0
}

pub(super) fn is_field_value(value: &[u8]) -> bool {
    value.iter().all(|&byte| CLASSES[usize::from(byte)] & VALUE != 0)
}
