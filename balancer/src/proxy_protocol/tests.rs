use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::tlv::{Extensions, Ssl, kind};
use super::*;

/// Headers that HAProxy 2.6 sent.
mod haproxy {
    pub(super) const V1: &[u8] = b"PROXY TCP4 127.0.0.1 127.0.0.1 60794 7704\r\n";

    /// IPv4 with a checksum.
    pub(super) const V2_CHECKSUM: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\
        \x7f\x00\x00\x01\x7f\x00\x00\x01\x81\x82\x1e\x15\
        \x03\x00\x04\x3b\x3a\x78\xfc";

    /// IPv6, no extensions.
    pub(super) const V2_V6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\
        \xcb\x22\x1e\x17";

    /// A client with a certificate: checksum, host name, unique id, TLS with version, name and cipher.
    pub(super) const V2_TLS: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x8b\
        \x7f\x00\x00\x01\x7f\x00\x00\x01\x90\x3a\x1e\x16\
        \x03\x00\x04\x55\x2d\xfe\xb5\
        \x02\x00\x13openhim.example.org\
        \x05\x00\x297F000001:903A_7F000001:1E16_6B065189_0001\
        \x20\x00\x33\x07\x00\x00\x00\x00\
        \x21\x00\x07TLSv1.3\x22\x00\x08clinic-7\x23\x00\x16TLS_AES_256_GCM_SHA384";
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tcp(source: &str, destination: &str) -> Claim {
    Claim::Tcp {
        source: address(source),
        destination: address(destination),
    }
}

fn complete(bytes: &[u8]) -> Header<'_> {
    match parse(bytes) {
        Ok(Progress::Complete(header)) => header,
        other => panic!("{other:?}"),
    }
}

#[test]
fn headers_of_haproxy_are_understood() {
    let header = complete(haproxy::V1);
    assert_eq!(header.claim, tcp("127.0.0.1:60794", "127.0.0.1:7704"));
    assert_eq!(header.length, haproxy::V1.len());

    let header = complete(haproxy::V2_CHECKSUM);
    assert_eq!(header.claim, tcp("127.0.0.1:33154", "127.0.0.1:7701"));
    assert_eq!(header.tlvs.get(kind::CRC32C), Some(&b"\x3b\x3a\x78\xfc"[..]));

    assert_eq!(complete(haproxy::V2_V6).claim, tcp("[::1]:52002", "[::1]:7703"));

    let header = complete(haproxy::V2_TLS);
    assert_eq!(header.tlvs.authority(), Some("openhim.example.org"));
    assert_eq!(
        header.tlvs.unique_id(),
        Some(&b"7F000001:903A_7F000001:1E16_6B065189_0001"[..])
    );
    let ssl = header.tlvs.ssl().unwrap();
    assert_eq!(
        ssl,
        Ssl {
            certificate: true,
            verified: true,
            version: Some("TLSv1.3"),
            common_name: Some("clinic-7"),
            cipher: Some("TLS_AES_256_GCM_SHA384"),
        }
    );
}

#[test]
fn we_write_what_haproxy_writes() {
    let mut out = b"kept".to_vec();
    v1::write(address("127.0.0.1:60794"), address("127.0.0.1:7704"), &mut out);
    assert_eq!(out, [b"kept", haproxy::V1].concat());

    let mut out = Vec::new();
    let with_checksum = Extensions {
        checksum: true,
        ..Extensions::default()
    };
    v2::write(tcp("127.0.0.1:33154", "127.0.0.1:7701"), &with_checksum, &mut out);
    assert_eq!(out, haproxy::V2_CHECKSUM);

    let mut out = Vec::new();
    v2::write(tcp("[::1]:52002", "[::1]:7703"), &Extensions::default(), &mut out);
    assert_eq!(out, haproxy::V2_V6);
}

#[test]
fn addresses_of_different_families_are_written_as_ipv6() {
    let mut out = Vec::new();
    v1::write(address("192.0.2.1:1000"), address("[2001:db8::1]:2000"), &mut out);
    assert_eq!(out, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1000 2000\r\n");

    let mut out = Vec::new();
    v1::write(address("[::ffff:192.0.2.1]:1000"), address("192.0.2.2:2000"), &mut out);
    assert_eq!(out, b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n");
}

#[test]
fn a_proxy_may_speak_for_itself_or_for_nobody() {
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    assert_eq!(complete(local).claim, Claim::Local);
    // A family and addresses beside LOCAL mean nothing.
    let local_v4 = b"\r\n\r\n\0\r\nQUIT\n\x20\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c";
    assert_eq!(
        complete(local_v4),
        Header {
            claim: Claim::Local,
            length: 28,
            tlvs: Tlvs::default()
        }
    );
    let unspecified = b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x03abc";
    assert_eq!(
        complete(unspecified),
        Header {
            claim: Claim::Unknown,
            length: 19,
            tlvs: Tlvs::default()
        }
    );
    assert_eq!(complete(b"PROXY UNKNOWN\r\nGET").length, 15);
    assert_eq!(complete(b"PROXY UNKNOWN ff:: what ever 1 2\r\n").claim, Claim::Unknown);

    let mut out = Vec::new();
    v2::write(
        Claim::Local,
        &Extensions {
            checksum: true,
            ..Extensions::default()
        },
        &mut out,
    );
    assert_eq!(complete(&out).claim, Claim::Local);
    let mut out = Vec::new();
    v1::write_unknown(&mut out);
    assert_eq!(complete(&out).claim, Claim::Unknown);
}

#[test]
fn a_unix_socket_has_no_address_to_tell() {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd8".to_vec();
    header.extend([b'u'; 216]);

    assert_eq!(complete(&header).claim, Claim::Unknown);
    header.truncate(40);
    header[15] = 24;
    assert_eq!(parse(&header), Err(HeaderError::Addresses));
}

#[test]
fn a_header_in_pieces_asks_for_no_byte_behind_it() {
    for whole in [
        haproxy::V1,
        haproxy::V2_CHECKSUM,
        haproxy::V2_V6,
        haproxy::V2_TLS,
        b"PROXY UNKNOWN\r\n",
    ] {
        for length in 0..whole.len() {
            match parse(&whole[..length]) {
                Ok(Progress::Incomplete(more)) => {
                    assert!(
                        more > 0 && length + more <= whole.len(),
                        "{length} + {more} of {}",
                        whole.len()
                    );
                }
                other => panic!("{length} of {}: {other:?}", whole.len()),
            }
        }
        // The client's own bytes change nothing.
        let followed = [whole, b"\r\nGET / HTTP/1.1\r\n"].concat();
        assert_eq!(complete(&followed), complete(whole));
    }
}

#[test]
fn what_is_not_quite_a_header_is_refused() {
    let v2 = |tail: &[u8]| [&b"\r\n\r\n\0\r\nQUIT\n"[..], tail].concat();
    let v4 = |length: u8, tlvs: &[u8]| v2(&[&[0x21, 0x11, 0, length], &[9; 12][..], tlvs].concat());
    let cases: &[(&[u8], HeaderError)] = &[
        (b"GET / HTTP/1.1\r\n", HeaderError::Signature),
        (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", HeaderError::Signature),
        (b"\r\n\r\n\0\r\nQUIT\r", HeaderError::Signature),
        (b"PROXY \r\n", HeaderError::Line),
        (b"PROXY TCP4\r\n", HeaderError::Line),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", HeaderError::Line),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", HeaderError::Line),
        (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", HeaderError::Line),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", HeaderError::Line),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX", HeaderError::Line),
        (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", HeaderError::Line),
        (b"PROXY UNKNOWNX\r\n", HeaderError::Line),
        (b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", HeaderError::LineAddress),
        (b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", HeaderError::LineAddress),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", HeaderError::LineAddress),
        (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", HeaderError::LineAddress),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", HeaderError::LineAddress),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", HeaderError::LineAddress),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", HeaderError::LineAddress),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", HeaderError::LineAddress),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", HeaderError::LineAddress),
        (&[b'P'; 108], HeaderError::Signature),
        (
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat(),
            HeaderError::LineLength,
        ),
        (&v2(&[0x11]), HeaderError::Command(0x11)),
        (&v2(&[0x22, 0x11, 0, 0]), HeaderError::Command(0x22)),
        (&v2(&[0x21, 0x13, 0, 0]), HeaderError::Family(0x13)),
        (&v2(&[0x20, 0x41, 0, 0]), HeaderError::Family(0x41)),
        (&v2(&[0x21, 0x21, 0, 35]), HeaderError::Addresses),
        (&v2(&[0x21, 0x11, 0xff, 0xff]), HeaderError::TooLong(65_551)),
        (&v4(13, &[4]), HeaderError::Tlv),
        (&v4(16, &[4, 0, 2, 0]), HeaderError::Tlv),
        (&v4(17, &[3, 0, 2, 0, 0]), HeaderError::Tlv),
        (&v4(19, &[0x20, 0, 4, 1, 0, 0, 0]), HeaderError::Tlv),
        (&v4(21, &[0x20, 0, 6, 1, 0, 0, 0, 0, 9]), HeaderError::Tlv),
        (&v4(19, &[3, 0, 4, 0, 0, 0, 1]), HeaderError::Checksum),
    ];
    for (bytes, error) in cases {
        assert_eq!(parse(bytes), Err(*error), "{}", bytes.escape_ascii());
    }
}

#[test]
fn one_flipped_bit_in_a_header_with_a_checksum_is_noticed() {
    for at in 0..haproxy::V2_TLS.len() * 8 {
        let mut header = haproxy::V2_TLS.to_vec();
        header[at / 8] ^= 1 << (at % 8);

        let intact = matches!(parse(&header), Ok(Progress::Complete(header)) if header.claim.addresses().is_some());
        // Turning the checksum itself into something else leaves a header without one.
        assert!(!intact || at / 8 == 28, "bit {at}");
    }
}

#[test]
fn a_unique_id_and_extensions_stay_within_their_limits() {
    let huge = "x".repeat(MAX_LENGTH);
    let extensions = Extensions {
        unique_id: Some(&[7; 300]),
        authority: Some(&huge),
        checksum: true,
        ..Extensions::default()
    };
    let mut out = Vec::new();

    v2::write(tcp("192.0.2.1:1", "192.0.2.2:2"), &extensions, &mut out);

    let header = complete(&out);
    assert_eq!(header.tlvs.unique_id(), Some(&[7; 128][..]));
    assert_eq!(header.tlvs.authority(), None);
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

fn any_claim() -> impl Strategy<Value = Claim> {
    (any_address(), any_address(), any::<bool>()).prop_map(|(source, destination, is_tcp)| {
        let (source, destination) = one_family(source, destination);
        if is_tcp {
            Claim::Tcp { source, destination }
        } else {
            Claim::Udp { source, destination }
        }
    })
}

/// What `ppp` reads from the same bytes; `None`: it does not take them.
fn ppp_reads(bytes: &[u8]) -> Option<(usize, Option<(SocketAddr, SocketAddr)>)> {
    use ppp::HeaderResult;
    let pair = |a: IpAddr, ap, b: IpAddr, bp| Some((SocketAddr::new(a, ap), SocketAddr::new(b, bp)));
    match HeaderResult::parse(bytes) {
        HeaderResult::V1(Ok(header)) => {
            let addresses = match header.addresses {
                ppp::v1::Addresses::Tcp4(ip) => pair(
                    ip.source_address.into(),
                    ip.source_port,
                    ip.destination_address.into(),
                    ip.destination_port,
                ),
                ppp::v1::Addresses::Tcp6(ip) => pair(
                    ip.source_address.into(),
                    ip.source_port,
                    ip.destination_address.into(),
                    ip.destination_port,
                ),
                ppp::v1::Addresses::Unknown => None,
            };
            Some((header.header.len(), addresses))
        }
        HeaderResult::V2(Ok(header)) => {
            let addresses = match header.addresses {
                _ if header.command == ppp::v2::Command::Local => None,
                ppp::v2::Addresses::IPv4(ip) => pair(
                    ip.source_address.into(),
                    ip.source_port,
                    ip.destination_address.into(),
                    ip.destination_port,
                ),
                ppp::v2::Addresses::IPv6(ip) => pair(
                    ip.source_address.into(),
                    ip.source_port,
                    ip.destination_address.into(),
                    ip.destination_port,
                ),
                _ => None,
            };
            Some((header.len(), addresses))
        }
        _ => None,
    }
}

fn we_read(bytes: &[u8]) -> Option<(usize, Option<(SocketAddr, SocketAddr)>)> {
    match parse(bytes) {
        Ok(Progress::Complete(header)) => Some((header.length, header.claim.addresses())),
        _ => None,
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        claim in any_claim(),
        id in prop::option::of(prop::collection::vec(any::<u8>(), 0..128)),
        authority in prop::option::of("[a-z.]{0,40}"),
        name in prop::option::of("\\PC{0,20}"),
        checksum: bool,
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let ssl = Ssl { certificate: true, common_name: name.as_deref(), ..Ssl::default() };
        let ssl = name.is_some().then_some(ssl);
        let extensions =
            Extensions { alpn: None, authority: authority.as_deref(), unique_id: id.as_deref(), ssl, checksum };
        let mut out = Vec::new();
        v2::write(claim, &extensions, &mut out);
        let length = out.len();
        prop_assert_eq!(ppp_reads(&out), Some((length, claim.addresses())));
        out.extend(rest);

        let header = complete(&out);
        prop_assert_eq!(header.claim, claim);
        prop_assert_eq!(header.length, length);
        prop_assert_eq!(header.tlvs.unique_id(), id.as_deref());
        prop_assert_eq!(header.tlvs.authority(), authority.as_deref());
        prop_assert_eq!(header.tlvs.ssl(), ssl);
        prop_assert_eq!(header.tlvs.get(kind::CRC32C).is_some(), checksum);
    }

    #[test]
    fn a_line_that_is_written_is_read_back(source in any_address(), destination in any_address()) {
        let mut out = Vec::new();
        v1::write(source, destination, &mut out);

        prop_assert!(out.len() <= v1::MAX_LENGTH);
        let expected = Some((out.len(), Some(one_family(source, destination))));
        prop_assert_eq!(we_read(&out), expected);
        prop_assert_eq!(ppp_reads(&out), expected);
    }

    #[test]
    fn what_we_accept_another_implementation_reads_alike(
        start in prop::sample::select(vec![haproxy::V1, haproxy::V2_V6, b"PROXY UNKNOWN x\r\n"]),
        changes in prop::collection::vec((0_usize..60, any::<u8>()), 0..4),
        length in 0_usize..80,
    ) {
        let mut bytes = [start, b"GET / HTTP/1.0\r\n\r\n"].concat();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(length);
        if let Some(read) = we_read(&bytes) {
            prop_assert_eq!(Some(read), ppp_reads(&bytes), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn nothing_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), signature in 0_usize..3) {
        let start: &[u8] = [&b""[..], &v2::SIGNATURE, v1::SIGNATURE][signature];
        let bytes = [start, &bytes].concat();
        if let Ok(Progress::Complete(header)) = parse(&bytes) {
            prop_assert!(header.length <= bytes.len());
            let _ = (header.tlvs.ssl(), header.tlvs.authority());
        }
    }
}
