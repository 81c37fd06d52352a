//! A mediator's answer: whatever is accepted can be sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_node::route::response::Envelope;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(envelope) = Envelope::parse(bytes) {
        assert!(envelope.response.status.as_u16() >= 100);
    }
});
