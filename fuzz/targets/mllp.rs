//! A stream of MLLP, cut anywhere: the cuts never change the messages, and none exceeds its limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_node::wire::mllp::Decoder;

fn messages(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::new(64);
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.push(&piece);
        loop {
            match decoder.message() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
    }
    messages
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = messages(std::iter::once(bytes.to_vec()));
    let cut = messages(bytes.chunks(usize::from(cut) + 1).map(<[u8]>::to_vec));
    assert_eq!(whole, cut);
    assert!(whole.iter().all(|message| message.len() <= 64));
});
