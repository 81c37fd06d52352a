//! Syslog messages over TCP and TLS: octet counting, RFC 5425 and RFC 6587 (`LENGTH SP MESSAGE`).
//!
//! Frames may be cut and joined in any way. Line ends between two frames, which some senders add, are passed over.

use bytes::{Buf, Bytes, BytesMut};

/// Digits that a length may have.
const MAX_DIGITS: usize = 9;

/// Why no more messages can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyslogFrameError {
    #[error("a syslog message does not begin with its length")]
    NoLength,
    #[error("syslog message is longer than {0} bytes")]
    TooLong(usize),
}

/// Reads messages out of a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    limit: usize,
}

impl Decoder {
    /// A decoder for messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            limit,
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None` until more bytes arrive.
    ///
    /// # Errors
    /// There is no length, or it is too large; nothing more can be read then.
    pub fn message(&mut self) -> Result<Option<Bytes>, SyslogFrameError> {
        let blanks = self
            .buffer
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        self.buffer.advance(blanks);
        let digits = self.buffer.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > MAX_DIGITS {
            return Err(SyslogFrameError::TooLong(self.limit));
        }
        match self.buffer.get(digits) {
            None => return Ok(None),
            Some(b' ') if digits > 0 => {}
            Some(_) => return Err(SyslogFrameError::NoLength),
        }
        let length = self.buffer[..digits]
            .iter()
            .fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
        if length > self.limit {
            return Err(SyslogFrameError::TooLong(self.limit));
        }
        let start = digits + 1;
        if self.buffer.len() < start + length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(start + length);
        frame.advance(start);
        Ok(Some(frame.freeze()))
    }

    /// True if the stream may end here without losing part of a message.
    pub fn is_between_messages(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// The message in its frame.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::from(format!("{} ", message.len()).as_bytes());
    framed.extend_from_slice(message);
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
    fn several_frames_in_one_segment_are_several_messages() {
        let mut decoder = Decoder::new(100);
        decoder.push(b"5 hello3 abc\n2 \xC3\xA9");

        assert_eq!(all(&mut decoder), [&b"hello"[..], b"abc", "é".as_bytes()]);
        assert!(decoder.is_between_messages());
    }

    #[test]
    fn lengths_count_bytes() {
        assert_eq!(frame("é".as_bytes()), "2 é");
    }

    #[test]
    fn what_has_no_length_is_an_error() {
        for text in ["<85>1 x", " 5 hello", "5hello", "-5 hello", "+5 hello"] {
            let mut decoder = Decoder::new(100);
            decoder.push(text.as_bytes());
            assert_eq!(decoder.message(), Err(SyslogFrameError::NoLength), "{text}");
        }
    }

    #[test]
    fn a_message_has_a_limit() {
        let message = |text: &str| {
            let mut decoder = Decoder::new(5);
            decoder.push(text.as_bytes());
            decoder.message()
        };

        assert_eq!(message("5 hello").unwrap().unwrap(), "hello");
        assert_eq!(message("6 "), Err(SyslogFrameError::TooLong(5)));
        assert_eq!(message("99999999999999999999"), Err(SyslogFrameError::TooLong(5)));
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..6),
            cut in 1..20_usize,
        ) {
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
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut decoder = Decoder::new(20);
            decoder.push(&bytes);
            while let Ok(Some(message)) = decoder.message() {
                prop_assert!(message.len() <= 20);
            }
        }
    }
}
