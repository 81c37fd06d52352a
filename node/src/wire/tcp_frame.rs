//! Messages of a TCP channel, which has no framing of its own.
//!
//! OpenHIM takes what one read yields for one message. That stays so for plain bytes. A message that begins like MLLP is
//! put together until its end, however it was cut on its way, and comes out with its frame, byte for byte.

use bytes::{Bytes, BytesMut};

use super::mllp::{END, START, find_end};

/// A framed message is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("framed message is longer than {0} bytes")]
pub struct TooLong(usize);

/// Makes messages out of reads.
#[derive(Debug)]
pub struct Assembler {
    /// The beginning of a framed message, and what follows it.
    frame: BytesMut,
    /// Bytes of it that hold no end.
    searched: usize,
    limit: usize,
}

impl Assembler {
    /// An assembler for framed messages of at most `limit` bytes, frame included.
    pub fn new(limit: usize) -> Self {
        Self {
            frame: BytesMut::new(),
            searched: 0,
            limit,
        }
    }

    /// Takes what one read yielded; answers with the messages that are whole now.
    ///
    /// # Errors
    /// A framed message is too long; the connection can't be read any further.
    pub fn read(&mut self, bytes: Bytes) -> Result<Vec<Bytes>, TooLong> {
        let mut messages = Vec::new();
        if bytes.is_empty() {
            return Ok(messages);
        }
        if self.frame.is_empty() && bytes[0] != START {
            messages.push(bytes);
            return Ok(messages);
        }
        self.frame.extend_from_slice(&bytes);
        while self.frame.first() == Some(&START) {
            let from = self.searched.max(1);
            let Some(end) = find_end(&self.frame[from..]).map(|end| from + end + END.len()) else {
                self.searched = self.frame.len() - 1;
                return match self.frame.len() > self.limit {
                    true => Err(TooLong(self.limit)),
                    false => Ok(messages),
                };
            };
            if end > self.limit {
                return Err(TooLong(self.limit));
            }
            self.searched = 0;
            messages.push(self.frame.split_to(end).freeze());
        }
        // What follows a frame and begins none is a plain message of its own.
        if !self.frame.is_empty() {
            messages.push(self.frame.split().freeze());
        }
        Ok(messages)
    }

    /// Bytes of a message that has not ended.
    pub fn pending(&self) -> usize {
        self.frame.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(assembler: &mut Assembler, bytes: &'static [u8]) -> Vec<Bytes> {
        assembler.read(Bytes::from_static(bytes)).unwrap()
    }

    #[test]
    fn what_one_read_yields_is_one_message() {
        let mut assembler = Assembler::new(100);

        assert_eq!(read(&mut assembler, b"one two"), ["one two"]);
        assert_eq!(read(&mut assembler, b"x\x0By\x1C\x0D"), [&b"x\x0By\x1C\x0D"[..]]);
        assert_eq!(read(&mut assembler, b""), [""; 0]);
    }

    #[test]
    fn a_framed_message_is_put_together() {
        let mut assembler = Assembler::new(100);

        assert_eq!(read(&mut assembler, b"\x0Babc"), [""; 0]);
        assert_eq!(read(&mut assembler, b"def\x1C"), [""; 0]);
        assert_eq!(assembler.pending(), 8);
        assert_eq!(read(&mut assembler, b"\x0D"), [&b"\x0Babcdef\x1C\x0D"[..]]);
        assert_eq!(assembler.pending(), 0);
        assert_eq!(read(&mut assembler, b"plain"), ["plain"]);
    }

    #[test]
    fn several_messages_in_one_read_are_several() {
        let mut assembler = Assembler::new(100);

        assert_eq!(
            read(&mut assembler, b"\x0Ba\x1C\x0D\x0Bb\x1C\x0Dplain"),
            [&b"\x0Ba\x1C\x0D"[..], b"\x0Bb\x1C\x0D", b"plain"]
        );
    }

    #[test]
    fn a_framed_message_has_a_limit() {
        assert_eq!(
            Assembler::new(5).read(Bytes::from_static(b"\x0Babcde")),
            Err(TooLong(5))
        );
        assert_eq!(
            Assembler::new(5).read(Bytes::from_static(b"\x0Babc\x1C\x0D")),
            Err(TooLong(5))
        );
        assert_eq!(
            Assembler::new(6)
                .read(Bytes::from_static(b"\x0Babc\x1C\x0D"))
                .unwrap()
                .len(),
            1
        );
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_or_doubled(pieces in prop::collection::vec(prop::collection::vec(
            prop::sample::select(vec![START, END[0], END[1], b'a']), 0..8), 0..12)) {
            let mut assembler = Assembler::new(1000);
            let mut out = Vec::new();
            for piece in &pieces {
                for message in assembler.read(Bytes::from(piece.clone())).unwrap() {
                    out.extend_from_slice(&message);
                }
            }
            out.extend_from_slice(&assembler.frame);
            prop_assert_eq!(out, pieces.concat());
        }
    }
}
