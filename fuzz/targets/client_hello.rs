//! The first bytes of a TLS client: no bytes do harm, and more of them never take a verdict back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_balancer::tls::hello::{Hello, look};

fuzz_target!(|bytes: &[u8]| {
    let whole = look(bytes);
    let half = look(&bytes[..bytes.len() / 2]);
    if half != Hello::Incomplete {
        assert_eq!(half, whole);
    }
    if whole != Hello::Incomplete {
        assert_eq!(look(&[bytes, b"more"].concat()), whole);
    }
});
