//! The receiving side of the PROXY protocol, versions 1 and 2: who the client behind a proxy is.
//!
//! [`parse`] looks at the first bytes of a connection from a peer that is trusted to send the header. It reads strictly:
//! a header that is not exactly as specified ends the connection, because what follows would be read in its place.
//! Specification: `haproxy.org/download/2.9/doc/proxy-protocol.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, line end included.
const MAX_V1: usize = 107;

/// Longest body of a header of version 2: addresses and extensions.
const MAX_V2_BODY: usize = 4096;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a header of version 2 before its addresses.
const V2_HEAD: usize = 16;

/// The extension that holds a CRC-32C of the whole header.
const CRC32C: u8 = 0x03;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// They may become a header.
    Incomplete,
    /// They are no header.
    Absent,
    Header {
        /// The client; `None` if the proxy speaks for itself or does not know.
        source: Option<SocketAddr>,
        /// Bytes of the header.
        length: usize,
    },
}

/// Why a header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("PROXY header is too long")]
    TooLong,
    #[error("PROXY header of version 1 is malformed")]
    Line,
    #[error("PROXY header has an unknown version or command")]
    Version,
    #[error("PROXY header has an unknown address family")]
    Family,
    #[error("PROXY header has an incomplete address or extension")]
    Body,
    #[error("PROXY header has a wrong checksum")]
    Checksum,
}

/// Looks for a header at the start of `bytes`.
///
/// # Errors
/// The bytes begin like a header and are none.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    if begins_with(bytes, V1) {
        parse_v1(bytes)
    } else if begins_with(bytes, V2) {
        parse_v2(bytes)
    } else {
        Ok(Parsed::Absent)
    }
}

/// True if `bytes` and `start` agree as far as both go.
fn begins_with(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let window = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() {
            0..MAX_V1 => Ok(Parsed::Incomplete),
            _ => Err(ProxyError::TooLong),
        };
    };
    let line = window.get(V1.len()..end).ok_or(ProxyError::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Line)?;
    Ok(Parsed::Header {
        source: v1_source(line).ok_or(ProxyError::Line)?,
        length: end + 2,
    })
}

/// What a line of version 1 says after its signature; `None` if it is malformed.
fn v1_source(line: &str) -> Option<Option<SocketAddr>> {
    let (family, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut fields = rest.split(' ');
    let mut field = || fields.next().unwrap_or_default();
    let (source, destination) = match family {
        "UNKNOWN" => return Some(None),
        "TCP4" => (ipv4(field())?, ipv4(field())?),
        "TCP6" => (ipv6(field())?, ipv6(field())?),
        _ => return None,
    };
    let (source_port, destination_port) = (port(field())?, port(field())?);
    let (source, _) = (
        SocketAddr::new(source, source_port),
        SocketAddr::new(destination, destination_port),
    );
    fields.next().is_none().then_some(Some(source))
}

fn ipv4(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

fn ipv6(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let Some(head) = bytes.get(..V2_HEAD) else {
        return Ok(Parsed::Incomplete);
    };
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > MAX_V2_BODY {
        return Err(ProxyError::TooLong);
    }
    let is_local = match head[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Version),
    };
    let Some(header) = bytes.get(..V2_HEAD + length) else {
        return Ok(Parsed::Incomplete);
    };
    let source = if is_local { None } else { v2_source(header)? };
    Ok(Parsed::Header {
        source,
        length: header.len(),
    })
}

fn v2_source(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let body = &header[V2_HEAD..];
    let (source, used) = match header[13] {
        0x00 => (None, 0),
        0x11 => {
            let &[a, b, c, d, _, _, _, _, high, low, _, _] = body.first_chunk().ok_or(ProxyError::Body)?;
            let port = u16::from_be_bytes([high, low]);
            (Some(SocketAddr::from(([a, b, c, d], port))), 12)
        }
        0x21 => {
            let address: &[u8; 36] = body.first_chunk().ok_or(ProxyError::Body)?;
            let source: &[u8; 16] = address.first_chunk().ok_or(ProxyError::Body)?;
            let port = u16::from_be_bytes([address[32], address[33]]);
            (Some(SocketAddr::from((*source, port))), 36)
        }
        0x31 => (None, 216),
        _ => return Err(ProxyError::Family),
    };
    check_extensions(header, V2_HEAD + used)?;
    Ok(source)
}

/// Walks over the extensions, which begin at `at`, and checks the checksum if there is one.
fn check_extensions(header: &[u8], mut at: usize) -> Result<(), ProxyError> {
    while at != header.len() {
        let Some(&[kind, high, low]) = header.get(at..).and_then(<[u8]>::first_chunk) else {
            return Err(ProxyError::Body);
        };
        let start = at + 3;
        at = start + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(start..at).ok_or(ProxyError::Body)?;
        if kind == CRC32C {
            let expected = value.try_into().map(u32::from_be_bytes).map_err(|_| ProxyError::Body)?;
            let mut blank = header.to_vec();
            blank[start..at].fill(0);
            if crc32c::crc32c(&blank) != expected {
                return Err(ProxyError::Checksum);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = V2.to_vec();
        header.extend([command, family]);
        header.extend((body.len() as u16).to_be_bytes());
        header.extend(body);
        header
    }

    fn source_of(bytes: &[u8]) -> Option<SocketAddr> {
        match parse(bytes) {
            Ok(Parsed::Header { source, length }) => {
                assert!(length <= bytes.len());
                source
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_of_version_1_names_the_client() {
        assert_eq!(
            parse(b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\nGET / HTTP/1.1\r\n"),
            Ok(Parsed::Header {
                source: Some("192.0.2.7:56324".parse().unwrap()),
                length: 41
            })
        );
        assert_eq!(
            source_of(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
            Some("[2001:db8::1]:1".parse().unwrap())
        );
        assert_eq!(source_of(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(source_of(b"PROXY UNKNOWN ffff::1 whatever\r\n"), None);
    }

    #[test]
    fn a_line_that_is_not_exactly_so_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443 \r\n",
            "PROXY TCP4  192.0.2.7 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.07 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 056324 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 443\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY tcp4 192.0.2.7 10.0.0.1 1 2\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(ProxyError::Line), "{line:?}");
        }
    }

    #[test]
    fn a_line_ends_within_107_bytes() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16)).into_bytes();

        assert_eq!(source_of(&line(107)), None);
        assert_eq!(parse(&line(108)), Err(ProxyError::TooLong));
        assert_eq!(parse(&line(108)[..106]), Ok(Parsed::Incomplete));
    }

    #[test]
    fn a_header_of_version_2_names_the_client() {
        let four = v2(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0x1F, 0x90, 0, 80]);
        let mut address = [0; 36];
        address[15] = 1;
        address[33] = 9;

        assert_eq!(source_of(&four), Some("192.0.2.7:8080".parse().unwrap()));
        assert_eq!(source_of(&v2(0x21, 0x21, &address)), Some("[::1]:9".parse().unwrap()));
        assert_eq!(source_of(&v2(0x21, 0x00, &[])), None);
        assert_eq!(source_of(&v2(0x21, 0x31, &[0; 216])), None);
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_names_nobody() {
        assert_eq!(source_of(&v2(0x20, 0x00, &[])), None);
        assert_eq!(source_of(&v2(0x20, 0x11, &[1; 40])), None);
    }

    #[test]
    fn a_header_of_version_2_that_makes_no_sense_is_refused() {
        let address = [1; 12];
        for (header, error) in [
            (v2(0x11, 0x11, &address), ProxyError::Version),
            (v2(0x22, 0x11, &address), ProxyError::Version),
            (v2(0x21, 0x12, &address), ProxyError::Family),
            (v2(0x21, 0x41, &address), ProxyError::Family),
            (v2(0x21, 0x11, &address[..11]), ProxyError::Body),
            (v2(0x21, 0x21, &[0; 35]), ProxyError::Body),
            (v2(0x21, 0x11, &[&address[..], &[4, 0]].concat()), ProxyError::Body),
            (
                v2(0x21, 0x11, &[&address[..], &[4, 0, 2, 1]].concat()),
                ProxyError::Body,
            ),
            (
                v2(0x21, 0x11, &[&address[..], &[3, 0, 3, 1, 1, 1]].concat()),
                ProxyError::Body,
            ),
            (v2(0x21, 0x11, &[0; 4097]), ProxyError::TooLong),
        ] {
            assert_eq!(parse(&header), Err(error), "{header:?}");
        }
    }

    #[test]
    fn a_checksum_is_checked() {
        let extensions = [&[1u8; 12][..], &[4, 0, 1, 0], &[3, 0, 4, 0, 0, 0, 0]].concat();
        let mut header = v2(0x21, 0x11, &extensions);
        let sum = crc32c::crc32c(&header).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum);

        assert_eq!(source_of(&header), Some("1.1.1.1:257".parse().unwrap()));
        header[at] ^= 1;
        assert_eq!(parse(&header), Err(ProxyError::Checksum));
    }

    #[test]
    fn other_protocols_have_no_header() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"POST",
            b"PROPFIND",
            b"\x16\x03\x01",
            b"\r\n\r\nGET",
            b"PROXYX",
        ] {
            assert_eq!(parse(bytes), Ok(Parsed::Absent), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_header_cut_anywhere_is_incomplete(port: u16, extra in prop::collection::vec(any::<u8>(), 0..9)) {
            let body = [&[9u8; 8][..], &port.to_be_bytes(), &[0, 80, 0xEE, 0, extra.len() as u8], &extra].concat();
            let headers = [
                v2(0x21, 0x11, &body),
                format!("PROXY TCP4 9.9.9.9 9.9.9.9 {port} 80\r\n").into_bytes(),
            ];
            for header in headers {
                for cut in 0..header.len() {
                    prop_assert_eq!(parse(&header[..cut]), Ok(Parsed::Incomplete));
                }
                let expected = Parsed::Header { source: Some(SocketAddr::from(([9, 9, 9, 9], port))), length: header.len() };
                prop_assert_eq!(parse(&[&header[..], b"rest"].concat()), Ok(expected));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), version: bool) {
            let start = if version { V1 } else { V2 };
            bytes.splice(..0, start.iter().copied());
            if let Ok(Parsed::Header { length, .. }) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
