//! A PROXY header of either version, as a peer of the balancer sends it: piece by piece it comes to the same, no byte
//! behind it is asked for, and what it says can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_balancer::proxy_protocol::tlv::Extensions;
use openhim_balancer::proxy_protocol::{self, MAX_LENGTH, Progress, v1, v2};

fuzz_target!(|bytes: &[u8]| {
    let whole = proxy_protocol::parse(bytes);
    let mut length = 0;
    let by_pieces = loop {
        match proxy_protocol::parse(&bytes[..length]) {
            Ok(Progress::Incomplete(more)) => {
                assert!(more > 0 && length + more <= MAX_LENGTH);
                if length + more > bytes.len() {
                    break None;
                }
                length += more;
            }
            other => break Some(other),
        }
    };
    let Ok(Progress::Complete(header)) = whole else {
        assert!(!matches!(by_pieces, Some(Ok(_))));
        return;
    };
    assert_eq!(by_pieces, Some(whole));
    assert_eq!(length, header.length);
    let _ = (header.tlvs.authority(), header.tlvs.unique_id(), header.tlvs.ssl());
    let extensions = Extensions {
        authority: header.tlvs.authority(),
        unique_id: header.tlvs.unique_id(),
        ssl: header.tlvs.ssl(),
        checksum: true,
        ..Extensions::default()
    };
    let mut out = Vec::new();
    v2::write(header.claim, &extensions, &mut out);
    let Ok(Progress::Complete(again)) = proxy_protocol::parse(&out) else {
        panic!("{out:?}");
    };
    assert_eq!(again.length, out.len());
    let ip = |pair: Option<(std::net::SocketAddr, std::net::SocketAddr)>| {
        pair.map(|(source, destination)| (source.ip().to_canonical(), destination.ip().to_canonical()))
    };
    assert_eq!(ip(again.claim.addresses()), ip(header.claim.addresses()));
    if let Some((source, destination)) = header.claim.addresses() {
        let mut line = Vec::new();
        v1::write(source, destination, &mut line);
        let Ok(Progress::Complete(again)) = proxy_protocol::parse(&line) else {
            panic!("{line:?}");
        };
        assert_eq!(ip(again.claim.addresses()), ip(header.claim.addresses()));
    }
});
