//! What follows a head, piece by piece.

use super::head::check_trailer;
use super::{Limits, Scan, Violation};

/// A chunk's size line, extensions included, may not be longer than this.
const CHUNK_LINE_BYTES: usize = 1024;
/// A chunk's size line, or the trailer section, is kept only until it is complete.
const TRAILER_BYTES: usize = 8 * 1024;

/// How long the body of a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    /// There is none.
    #[default]
    None,
    /// This many bytes.
    Exactly(u64),
    /// In chunks, which say themselves where they end.
    Chunked,
    /// As long as the connection stands.
    UntilClose,
    /// The connection speaks another protocol from here on.
    Tunnel,
}

/// Where in a body the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Done,
    /// This many bytes are still to come.
    Sized(u64),
    /// In the line that announces a chunk.
    ChunkLine,
    /// This many bytes of the chunk's data are still to come.
    ChunkData(u64),
    /// In the CRLF that ends a chunk's data; how many bytes of it have been seen.
    ChunkEnd(u8),
    Trailer,
    Endless,
}

/// The next few bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many of the bytes they are; never 0 unless the body is over or there are none.
    pub length: usize,
    /// True for content, false for what stands around chunks.
    pub is_content: bool,
}

/// The walk through one body.
#[derive(Debug)]
pub struct Body {
    place: Place,
    /// The chunk line or trailer section read so far.
    line: Vec<u8>,
    scan: Scan,
    header_count: usize,
}

impl Body {
    /// At the first byte after a head that announced `length`.
    #[must_use]
    pub fn new(length: Length, limits: &Limits) -> Self {
        Self {
            place: match length {
                Length::None | Length::Exactly(0) => Place::Done,
                Length::Exactly(length) => Place::Sized(length),
                Length::Chunked => Place::ChunkLine,
                Length::UntilClose | Length::Tunnel => Place::Endless,
            },
            line: Vec::new(),
            scan: Scan::default(),
            header_count: limits.header_count,
        }
    }

    /// True once the message is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.place == Place::Done
    }

    /// True if the end of the connection is the proper end of the message, now or any time.
    #[must_use]
    pub fn may_end_by_close(&self) -> bool {
        matches!(self.place, Place::Done | Place::Endless)
    }

    /// Follows as many of `bytes` as belong to the message, and says how many that are.
    ///
    /// # Errors
    /// The bytes could be read in more than one way.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut taken = 0;
        while taken < bytes.len() && !self.is_done() {
            taken += self.step(&bytes[taken..])?.length;
        }
        Ok(taken)
    }

    /// Follows the next piece of `bytes`.
    ///
    /// # Errors
    /// The bytes could be read in more than one way.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Piece, Violation> {
        let content = |length| Piece {
            length,
            is_content: true,
        };
        match self.place {
            Place::Done => Ok(content(0)),
            Place::Endless => Ok(content(bytes.len())),
            Place::Sized(left) => {
                let (taken, left) = take(bytes, left);
                self.place = if left == 0 { Place::Done } else { Place::Sized(left) };
                Ok(content(taken))
            }
            Place::ChunkData(left) => {
                let (taken, left) = take(bytes, left);
                self.place = if left == 0 {
                    Place::ChunkEnd(0)
                } else {
                    Place::ChunkData(left)
                };
                Ok(content(taken))
            }
            Place::ChunkLine => self.chunk_line(bytes).map(around),
            Place::ChunkEnd(seen) => self.chunk_end(bytes, seen).map(around),
            Place::Trailer => self.trailer(bytes).map(around),
        }
    }

    fn chunk_line(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(bytes.len(), |at| at + 1);
        if self.line.len() + taken > CHUNK_LINE_BYTES {
            return Err(Violation::BadChunk);
        }
        self.line.extend_from_slice(&bytes[..taken]);
        // The size alone may follow for long, but nothing else may stand there.
        if self.line.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
            return Err(Violation::BadChunk);
        }
        if end.is_some() {
            let line = self.line.strip_suffix(b"\r\n").ok_or(Violation::BadChunk)?;
            let size = chunk_size(line)?;
            self.line.clear();
            self.place = if size == 0 {
                Place::Trailer
            } else {
                Place::ChunkData(size)
            };
        }
        Ok(taken)
    }

    fn chunk_end(&mut self, bytes: &[u8], seen: u8) -> Result<usize, Violation> {
        let expected = if seen == 0 { b'\r' } else { b'\n' };
        match bytes.first() {
            None => return Ok(0),
            Some(&byte) if byte != expected => return Err(Violation::BadChunk),
            Some(_) => {}
        }
        self.place = if seen == 0 {
            Place::ChunkEnd(1)
        } else {
            Place::ChunkLine
        };
        Ok(1)
    }

    fn trailer(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let before = self.line.len();
        self.line
            .extend_from_slice(&bytes[..bytes.len().min(TRAILER_BYTES + 1)]);
        let limits = Limits {
            head_bytes: TRAILER_BYTES,
            header_count: self.header_count,
            target_bytes: 0,
        };
        let length = if self.line.starts_with(b"\r\n") {
            Some(2)
        } else if self.line == b"\r" {
            None
        } else {
            self.scan
                .find(&self.line, &limits)
                .map_err(|violation| match violation {
                    Violation::TargetTooLong => Violation::HeadTooLarge,
                    Violation::BadFirstLine => Violation::BadHeaderName,
                    other => other,
                })?
        };
        let Some(length) = length else {
            return Ok(self.line.len() - before);
        };
        check_trailer(&self.line[..length], &limits)?;
        self.line = Vec::new();
        self.place = Place::Done;
        Ok(length - before)
    }
}

fn around(length: usize) -> Piece {
    Piece {
        length,
        is_content: false,
    }
}

/// How many of `bytes` are among the next `left`, and how many are left after them.
fn take(bytes: &[u8], left: u64) -> (usize, u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (taken, left - taken as u64)
}

/// The number in front of a chunk: hexadecimal digits, then nothing or an extension of visible characters.
fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let end = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let (digits, extension) = line.split_at(end);
    let extension_is_sound = match extension {
        [] => true,
        [b';', rest @ ..] => super::head::is_field_value(rest),
        _ => false,
    };
    if digits.is_empty() || digits.len() > 15 || !extension_is_sound {
        return Err(Violation::BadChunk);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Violation::BadChunk)?;
    u64::from_str_radix(text, 16).map_err(|_| Violation::BadChunk)
}
