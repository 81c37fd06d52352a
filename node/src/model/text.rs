//! The text of a body, as much of it as is stored.
//!
//! A large body stays in the pieces in which it came: they are looked at, not copied, until they are written into the
//! transaction's document. What is no text in it is replaced, as it is where one reads it.

use bytes::Bytes;

/// Bytes up to which pieces are put together.
const SMALL: usize = 64 << 10;
const REPLACEMENT: &str = "\u{FFFD}";

/// Text in one or more pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// INVARIANT: one after the other they are UTF-8.
    pieces: Vec<Bytes>,
    length: usize,
    is_altered: bool,
}

impl Text {
    /// The text that these bytes are; what is none is replaced.
    pub fn of(pieces: Vec<Bytes>) -> Self {
        let length = pieces.iter().map(Bytes::len).sum();
        match end_of_text(&pieces) {
            Some(0) if length > SMALL || pieces.len() == 1 => Self {
                pieces,
                length,
                is_altered: false,
            },
            _ => Self::joined(&pieces, length),
        }
    }

    fn joined(pieces: &[Bytes], length: usize) -> Self {
        let mut bytes = Vec::with_capacity(length);
        for piece in pieces {
            bytes.extend_from_slice(piece);
        }
        match String::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(invalid) => Self {
                is_altered: true,
                ..String::from_utf8_lossy(invalid.as_bytes()).into_owned().into()
            },
        }
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// True if something was no text and was replaced.
    pub fn is_altered(&self) -> bool {
        self.is_altered
    }

    /// Keeps at most `length` bytes, and no half of a character.
    pub fn truncate(&mut self, length: usize) {
        if length >= self.length {
            return;
        }
        let mut left = length;
        while left > 0 && self.byte(left).is_some_and(|byte| byte & 0xC0 == 0x80) {
            left -= 1;
        }
        self.length = left;
        self.pieces.retain_mut(|piece| {
            piece.truncate(left);
            left -= piece.len();
            !piece.is_empty()
        });
    }

    fn byte(&self, mut at: usize) -> Option<u8> {
        for piece in &self.pieces {
            match piece.get(at) {
                Some(byte) => return Some(*byte),
                None => at -= piece.len(),
            }
        }
        None
    }

    /// Adds more.
    pub fn push_str(&mut self, more: &str) {
        self.length += more.len();
        self.pieces.push(Bytes::copy_from_slice(more.as_bytes()));
    }

    /// Its bytes, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(Bytes::as_ref)
    }

    /// The same in one piece.
    pub fn into_string(self) -> String {
        let mut bytes = Vec::with_capacity(self.length);
        for piece in &self.pieces {
            bytes.extend_from_slice(piece);
        }
        String::from_utf8(bytes).unwrap_or_default()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self {
            length: text.len(),
            pieces: vec![text.into()],
            is_altered: false,
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// The first `limit` bytes of what came in pieces, not copied.
pub fn beginning(chunks: &[Bytes], limit: usize) -> Vec<Bytes> {
    let mut left = limit;
    let mut pieces = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let piece = chunk.slice(..chunk.len().min(left));
        left -= piece.len();
        if piece.is_empty() {
            break;
        }
        pieces.push(piece);
    }
    pieces
}

/// How many bytes at the end are the beginning of a character; `None` if something before is no text.
fn end_of_text(pieces: &[Bytes]) -> Option<usize> {
    // The beginning of a character whose rest is in the next piece.
    let mut begun = [0; REPLACEMENT.len() + 1];
    let mut count = 0;
    for piece in pieces {
        let mut rest = piece.as_ref();
        while count > 0 {
            let Some((byte, later)) = rest.split_first() else { break };
            begun[count] = *byte;
            count += 1;
            rest = later;
            match std::str::from_utf8(&begun[..count]) {
                Ok(_) => count = 0,
                Err(error) if error.error_len().is_some() || count == begun.len() => return None,
                Err(_) => {}
            }
        }
        if let Err(error) = std::str::from_utf8(rest) {
            if error.error_len().is_some() {
                return None;
            }
            let tail = &rest[error.valid_up_to()..];
            begun[..tail.len()].copy_from_slice(tail);
            count = tail.len();
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], every: usize) -> Vec<Bytes> {
        bytes.chunks(every).map(Bytes::copy_from_slice).collect()
    }

    #[test]
    fn it_is_the_same_text_however_it_was_cut() {
        let long = "größer 日本 🎈 ".repeat(SMALL / 8);
        for source in ["größer 日本 🎈", &long] {
            for every in [1, 2, 3, 5, 1000] {
                let text = Text::of(cut(source.as_bytes(), every));
                assert_eq!((text.len(), text.is_altered()), (source.len(), false));
                assert_eq!(text.into_string(), *source);
            }
        }
    }

    #[test]
    fn what_is_no_text_is_replaced_as_it_is_where_one_reads_it() {
        let long = [b"x".repeat(SMALL), b"\xff\xc3(\xe2\x82".to_vec()].concat();
        for source in [&b"a\xffb"[..], b"\xe2\x82", b"a\xc3", &long] {
            for every in [1, 2, 1000] {
                let text = Text::of(cut(source, every));
                assert!(text.is_altered());
                assert_eq!(text.into_string(), String::from_utf8_lossy(source));
            }
        }
    }

    #[test]
    fn it_is_cut_between_characters_wherever_pieces_end() {
        let source = "aö日🎈b";
        for every in 1..6 {
            for length in 0..=source.len() + 1 {
                let mut text = Text {
                    pieces: cut(source.as_bytes(), every),
                    length: source.len(),
                    is_altered: false,
                };
                text.truncate(length);
                let expected = &source[..source.floor_char_boundary(length)];
                assert_eq!(text.len(), expected.len());
                text.push_str("…");
                assert_eq!(text.into_string(), format!("{expected}…"));
            }
        }
    }
}
