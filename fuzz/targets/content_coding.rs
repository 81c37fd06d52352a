//! An encoded body, cut anywhere: what comes out never exceeds its limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_node::route::encoding::{Coding, Decoder};

const LIMIT: usize = 64 * 1024;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (coding, cut, body) = input;
    let coding = [Coding::Brotli, Coding::Gzip, Coding::Deflate, Coding::Zstd][usize::from(coding % 4)];
    let Ok(mut decoder) = Decoder::new(coding, LIMIT) else {
        return;
    };
    let mut length = 0;
    for piece in body.chunks(usize::from(cut) + 1) {
        match decoder.push(piece) {
            Ok(decoded) => length += decoded.len(),
            Err(_) => return,
        }
    }
    length += decoder.finish().map_or(0, |rest| rest.len());
    assert!(length <= LIMIT);
});
