//! Any message can be looked at, and an acknowledgment of it is a message with a verdict.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_node::wire::hl7::{Header, Verdict};

fuzz_target!(|message: &[u8]| {
    let _ = Verdict::of(message);
    if let Some(header) = Header::read(message) {
        let answer = header.acknowledge(Verdict::Accept, "text", "20260101", "1");
        assert!(answer.starts_with(b"MSH"));
        assert!(Header::read(&answer).is_some());
    }
});
