//! The first bytes of a connection: a header is never longer than what is there, and more bytes never unmake it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_node::wire::proxy::{Parsed, parse};

fuzz_target!(|bytes: &[u8]| {
    let parsed = parse(bytes);
    if let Ok(Parsed::Header { length, .. }) = parsed {
        assert!(length <= bytes.len());
        assert_eq!(parse(&[bytes, b"more"].concat()), parsed);
    }
});
