//! Reads of a TCP channel: no byte is lost or doubled.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use openhim_node::wire::tcp_frame::Assembler;

fuzz_target!(|pieces: Vec<Vec<u8>>| {
    let mut assembler = Assembler::new(256);
    let mut out = Vec::new();
    for piece in &pieces {
        match assembler.read(Bytes::from(piece.clone())) {
            Ok(messages) => messages.iter().for_each(|message| out.extend_from_slice(message)),
            Err(_) => return,
        }
    }
    let all = pieces.concat();
    assert!(all.starts_with(&out));
    assert_eq!(out.len() + assembler.pending(), all.len());
});
