//! MLLP, the frame around HL7 version 2 messages: `0x0B`, the message, `0x1C 0x0D`.
//!
//! Bytes go in as they arrive, messages come out whole. What stands between two frames is no message; line ends are
//! passed over, anything else is an error, because the two sides then disagree about where messages begin.

use bytes::{Buf, Bytes, BytesMut};

/// The byte before a message.
pub const START: u8 = 0x0B;

/// The two bytes after a message.
pub const END: [u8; 2] = [0x1C, 0x0D];

/// Why no more messages can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MllpError {
    #[error("byte {0:#04x} stands where an MLLP message should begin")]
    Stray(u8),
    #[error("MLLP message is longer than {0} bytes")]
    TooLong(usize),
}

/// Reads messages out of a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    /// Bytes of the buffer that hold no end of a message.
    searched: usize,
    limit: usize,
}

impl Decoder {
    /// A decoder for messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            limit,
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, without its frame; `None` until more bytes arrive.
    ///
    /// # Errors
    /// The stream is not MLLP, or a message is too long; nothing more can be read then.
    pub fn message(&mut self) -> Result<Option<Bytes>, MllpError> {
        let blanks = self
            .buffer
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        self.buffer.advance(blanks);
        match self.buffer.first() {
            None => return Ok(None),
            Some(&START) => {}
            Some(&other) => return Err(MllpError::Stray(other)),
        }
        let from = self.searched.max(1);
        let Some(end) = find_end(&self.buffer[from..]).map(|end| from + end) else {
            // The first byte of the end may be the buffer's last.
            self.searched = self.buffer.len() - 1;
            return match self.buffer.len() > self.limit + 2 {
                true => Err(MllpError::TooLong(self.limit)),
                false => Ok(None),
            };
        };
        if end - 1 > self.limit {
            return Err(MllpError::TooLong(self.limit));
        }
        self.searched = 0;
        let mut frame = self.buffer.split_to(end + END.len());
        frame.advance(1);
        frame.truncate(end - 1);
        Ok(Some(frame.freeze()))
    }

    /// True if the stream may end here without losing part of a message.
    pub fn is_between_messages(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// Where a message ends.
pub(super) fn find_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(END.len()).position(|pair| pair == END)
}

/// The message in its frame.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 3);
    framed.extend_from_slice(&[START]);
    framed.extend_from_slice(message);
    framed.extend_from_slice(&END);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(decoder: &mut Decoder) -> Vec<Bytes> {
        std::iter::from_fn(|| decoder.message().unwrap()).collect()
    }

    #[test]
    fn a_message_comes_out_without_its_frame() {
        let mut decoder = Decoder::new(100);
        decoder.push(b"\x0BMSH|^~\\&|\rPID|1\r\x1C\x0D\r\n\x0Bnext\x1C\x0D\x0Brest");

        assert_eq!(all(&mut decoder), ["MSH|^~\\&|\rPID|1\r", "next"]);
        assert!(!decoder.is_between_messages());
        decoder.push(b"\x1C");
        assert_eq!(all(&mut decoder), [""; 0]);
        decoder.push(b"\x0D");
        assert_eq!(all(&mut decoder), ["rest"]);
        assert!(decoder.is_between_messages());
    }

    #[test]
    fn the_first_byte_of_the_end_may_stand_inside_a_message() {
        let mut decoder = Decoder::new(100);
        decoder.push(b"\x0Ba\x1Cb\x1C\x1C\x0D");

        assert_eq!(all(&mut decoder), ["a\u{1c}b\u{1c}"]);
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let mut decoder = Decoder::new(100);
        decoder.push(b"GET / HTTP/1.1");

        assert_eq!(decoder.message(), Err(MllpError::Stray(b'G')));
    }

    #[test]
    fn a_message_has_a_limit() {
        let framed = frame(&[b'x'; 10]);
        let mut exact = Decoder::new(10);
        exact.push(&framed);
        assert_eq!(exact.message().unwrap().unwrap().len(), 10);

        let mut whole = Decoder::new(9);
        whole.push(&framed);
        assert_eq!(whole.message(), Err(MllpError::TooLong(9)));

        let mut endless = Decoder::new(9);
        endless.push(&[START]);
        endless.push(&[b'x'; 11]);
        assert_eq!(endless.message(), Err(MllpError::TooLong(9)));
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..6),
            cut in 1..20_usize,
        ) {
            let messages: Vec<_> = messages.into_iter().filter(|message| {
                // A message cannot hold its own end, nor make one with the frame's.
                find_end(message).is_none()
            }).collect();
            let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
            let mut decoder = Decoder::new(50);
            let mut out = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.push(piece);
                out.extend(all(&mut decoder));
            }
            prop_assert!(decoder.is_between_messages());
            prop_assert_eq!(out, messages);
        }

        #[test]
        fn no_bytes_make_it_panic_or_hold_more_than_the_limit(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..20)) {
            let mut decoder = Decoder::new(20);
            decoder.push(&[START]);
            for piece in pieces {
                decoder.push(&piece);
                while let Ok(Some(message)) = decoder.message() {
                    prop_assert!(message.len() <= 20);
                }
            }
        }
    }
}
