//! The parts of a head, and the header fields that a balancer knows.

/// Where a part of a head stands in its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn new(start: usize, end: usize) -> Self {
        // A head is far smaller than 4 GiB; what is not would be cut off here and found malformed.
        let short = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: short(start),
            end: short(end),
        }
    }

    /// The part.
    #[must_use]
    pub fn of(self, head: &[u8]) -> &[u8] {
        head.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The part, if it is UTF-8; else nothing.
    #[must_use]
    pub fn text(self, head: &[u8]) -> &str {
        std::str::from_utf8(self.of(head)).unwrap_or_default()
    }
}

/// One header line.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name as it was written.
    pub name: Span,
    /// Its value without the spaces around it.
    pub value: Span,
    /// Which one it is, if a balancer has something to do with it.
    pub known: Known,
}

/// Header fields that a balancer reads, writes or drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Accept,
    Authorization,
    Connection,
    ContentLength,
    Cookie,
    Expect,
    Forwarded,
    Host,
    KeepAlive,
    ProxyConnection,
    Referer,
    Te,
    Traceparent,
    TransferEncoding,
    Upgrade,
    UserAgent,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    XRealIp,
    XRequestId,
    /// What a proxy that ended TLS says of the client's certificate.
    XSslClient,
    Other,
}

impl Known {
    pub(super) fn of(name: &[u8]) -> Self {
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        let either = |text, known| if is(text) { known } else { Self::Other };
        match (name.len(), name.first().map(u8::to_ascii_lowercase)) {
            (13.., Some(b'x')) if name[..13].eq_ignore_ascii_case(b"x-ssl-client-") => Self::XSslClient,
            (2, Some(b't')) => either("te", Self::Te),
            (4, Some(b'h')) => either("host", Self::Host),
            (6, Some(b'a')) => either("accept", Self::Accept),
            (6, Some(b'c')) => either("cookie", Self::Cookie),
            (6, Some(b'e')) => either("expect", Self::Expect),
            (7, Some(b'u')) => either("upgrade", Self::Upgrade),
            (7, Some(b'r')) => either("referer", Self::Referer),
            (9, Some(b'f')) => either("forwarded", Self::Forwarded),
            (9, Some(b'x')) => either("x-real-ip", Self::XRealIp),
            (10, Some(b'c')) => either("connection", Self::Connection),
            (10, Some(b'k')) => either("keep-alive", Self::KeepAlive),
            (10, Some(b'u')) => either("user-agent", Self::UserAgent),
            (11, Some(b't')) => either("traceparent", Self::Traceparent),
            (12, Some(b'x')) => either("x-request-id", Self::XRequestId),
            (13, Some(b'a')) => either("authorization", Self::Authorization),
            (14, Some(b'c')) => either("content-length", Self::ContentLength),
            (15, Some(b'x')) => either("x-forwarded-for", Self::XForwardedFor),
            (16, Some(b'p')) => either("proxy-connection", Self::ProxyConnection),
            (16, Some(b'x')) if is("x-forwarded-host") => Self::XForwardedHost,
            (17, Some(b't')) => either("transfer-encoding", Self::TransferEncoding),
            (17, Some(b'x')) if is("x-forwarded-proto") => Self::XForwardedProto,
            _ => Self::Other,
        }
    }
}
