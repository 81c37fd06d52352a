//! Strict HTTP/1 framing: where each message begins and ends, with no room for a second opinion.
//!
//! Stands in front of the HTTP library, on the bytes as they arrive from a client ([`Requests`]) or a backend
//! ([`Responses`]), and refuses whatever two parsers could read differently (RFC 9112, sections 3, 5, 6, 7 and 11.2:
//! request smuggling and response splitting). It follows the bytes through heads, bodies and chunks, so it also knows
//! whether a connection ended in the middle of a message and whether bytes follow the last one.
//!
//! A state machine without I/O. It never changes a byte and keeps at most one head or one chunk line.

mod head;

pub use head::Violation;
use head::{Head, Length, check_trailer, parse_request, parse_response};

/// How much of a head is accepted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a whole head; past it: 431.
    pub head_bytes: usize,
    /// Header lines; past it: 431.
    pub header_count: usize,
    /// Bytes of the request target; past it: 414.
    pub target_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            header_count: 128,
            target_bytes: 16 * 1024,
        }
    }
}

/// A chunk's size line, extensions included, may not be longer than this.
const CHUNK_LINE_BYTES: usize = 1024;

/// Where in a message the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a head, or between messages if nothing of it has arrived.
    Head,
    /// This many bytes of the body are still to come.
    Sized(u64),
    /// In the line that announces a chunk.
    ChunkLine,
    /// This many bytes of the chunk's data are still to come.
    ChunkData(u64),
    /// In the CRLF that ends a chunk's data; how many bytes of it have been seen.
    ChunkEnd(u8),
    /// In the trailer section.
    Trailer,
    /// The body lasts until the connection ends.
    UntilClose,
    /// The connection speaks another protocol now.
    Tunnel,
}

/// The walk through one direction of a connection, shared by both sides.
#[derive(Debug)]
struct Walk {
    place: Place,
    /// The head, chunk line or trailer section read so far.
    line: Vec<u8>,
    limits: Limits,
}

impl Walk {
    fn new(limits: Limits) -> Self {
        Self {
            place: Place::Head,
            line: Vec::new(),
            limits,
        }
    }

    /// Moves through `bytes`; `on_head` says what follows each head.
    fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_head: impl FnMut(&[u8], &Limits) -> Result<Head, Violation>,
    ) -> Result<(), Violation> {
        while !bytes.is_empty() {
            bytes = match self.place {
                Place::Head => self.head(bytes, &mut on_head)?,
                Place::Sized(left) => {
                    let (rest, left) = skip(bytes, left);
                    self.place = if left == 0 { Place::Head } else { Place::Sized(left) };
                    rest
                }
                Place::ChunkLine => self.chunk_line(bytes)?,
                Place::ChunkData(left) => {
                    let (rest, left) = skip(bytes, left);
                    self.place = if left == 0 {
                        Place::ChunkEnd(0)
                    } else {
                        Place::ChunkData(left)
                    };
                    rest
                }
                Place::ChunkEnd(seen) => self.chunk_end(bytes, seen)?,
                Place::Trailer => self.trailer(bytes)?,
                Place::UntilClose | Place::Tunnel => return Ok(()),
            };
        }
        Ok(())
    }

    fn head<'b>(
        &mut self,
        bytes: &'b [u8],
        on_head: &mut impl FnMut(&[u8], &Limits) -> Result<Head, Violation>,
    ) -> Result<&'b [u8], Violation> {
        let Some(rest) = self.section(bytes, self.limits.head_bytes, Violation::HeadTooLarge)? else {
            return Ok(&[]);
        };
        let head = on_head(&self.line, &self.limits)?;
        self.line.clear();
        self.place = match head.length {
            Length::None => Place::Head,
            Length::Exactly(0) => Place::Head,
            Length::Exactly(length) => Place::Sized(length),
            Length::Chunked => Place::ChunkLine,
            Length::UntilClose => Place::UntilClose,
            Length::Tunnel => Place::Tunnel,
        };
        Ok(rest)
    }

    /// Collects up to and including an empty line; `None` while it has not arrived. Every line must end in CRLF.
    fn section<'b>(
        &mut self,
        bytes: &'b [u8],
        limit: usize,
        too_large: Violation,
    ) -> Result<Option<&'b [u8]>, Violation> {
        for (index, &byte) in bytes.iter().enumerate() {
            match (self.line.last(), byte) {
                (Some(b'\r'), b'\n') => {}
                (Some(b'\r'), _) => return Err(Violation::BareCarriageReturn),
                (_, b'\n') => return Err(Violation::BareLineFeed),
                (_, 0) => return Err(Violation::NulByte),
                _ => {}
            }
            if self.line.len() == limit {
                return Err(too_large);
            }
            self.line.push(byte);
            // One empty line before a message is tolerated (RFC 9112, section 2.2).
            if self.place == Place::Head && self.line == b"\r\n" {
                self.line.clear();
            } else if self.line.ends_with(b"\r\n\r\n") || (self.place == Place::Trailer && self.line == b"\r\n") {
                return Ok(Some(&bytes[index + 1..]));
            }
        }
        Ok(None)
    }

    fn chunk_line<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Violation> {
        for (index, &byte) in bytes.iter().enumerate() {
            if self.line.last() == Some(&b'\r') {
                if byte != b'\n' {
                    return Err(Violation::BadChunk);
                }
                let size = chunk_size(&self.line[..self.line.len() - 1])?;
                self.line.clear();
                self.place = if size == 0 {
                    Place::Trailer
                } else {
                    Place::ChunkData(size)
                };
                return Ok(&bytes[index + 1..]);
            }
            if byte == b'\n' || byte == 0 || self.line.len() == CHUNK_LINE_BYTES {
                return Err(Violation::BadChunk);
            }
            self.line.push(byte);
        }
        Ok(&[])
    }

    fn chunk_end<'b>(&mut self, bytes: &'b [u8], seen: u8) -> Result<&'b [u8], Violation> {
        let expected = if seen == 0 { b'\r' } else { b'\n' };
        if bytes[0] != expected {
            return Err(Violation::BadChunk);
        }
        self.place = if seen == 0 {
            Place::ChunkEnd(1)
        } else {
            Place::ChunkLine
        };
        Ok(&bytes[1..])
    }

    fn trailer<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Violation> {
        let Some(rest) = self.section(bytes, self.limits.head_bytes, Violation::HeadTooLarge)? else {
            return Ok(&[]);
        };
        check_trailer(&self.line, &self.limits)?;
        self.line.clear();
        self.place = Place::Head;
        Ok(rest)
    }

    fn is_between_messages(&self) -> bool {
        self.place == Place::Head && self.line.is_empty()
    }
}

/// Takes up to `left` bytes off the front.
fn skip(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (&bytes[taken..], left - taken as u64)
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
        [b';', rest @ ..] => rest.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)),
        _ => false,
    };
    if digits.is_empty() || digits.len() > 15 || !extension_is_sound {
        return Err(Violation::BadChunk);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Violation::BadChunk)?;
    u64::from_str_radix(text, 16).map_err(|_| Violation::BadChunk)
}

/// Follows what a client sends.
#[derive(Debug)]
pub struct Requests(Walk);

impl Requests {
    /// At the start of a connection.
    pub fn new(limits: Limits) -> Self {
        Self(Walk::new(limits))
    }

    /// Follows the next bytes. `on_request` is told of each request: whether its method is HEAD or CONNECT matters for
    /// reading the answer.
    ///
    /// # Errors
    /// The bytes could be read in more than one way, or are over a limit. The connection has to end.
    pub fn feed(&mut self, bytes: &[u8], mut on_request: impl FnMut(Asked)) -> Result<(), Violation> {
        self.0.feed(bytes, |head, limits| {
            let (head, asked) = parse_request(head, limits)?;
            on_request(asked);
            Ok(head)
        })
    }

    /// The client's bytes belong to another protocol from here on (its `Upgrade` was granted).
    pub fn becomes_tunnel(&mut self) {
        self.0.place = Place::Tunnel;
        self.0.line.clear();
    }

    /// True if a client that ends its side now has left nothing half said.
    pub fn is_between_messages(&self) -> bool {
        self.0.is_between_messages()
    }
}

/// What the answer's framing depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The answer has no body whatever its head says.
    pub is_head: bool,
    /// The request asked for another protocol.
    pub wants_upgrade: bool,
}

/// Follows what a backend sends.
#[derive(Debug)]
pub struct Responses {
    walk: Walk,
    /// Requests that wait for their answer, oldest first.
    awaited: std::collections::VecDeque<Asked>,
}

impl Responses {
    /// At the start of a connection.
    pub fn new(limits: Limits) -> Self {
        Self {
            walk: Walk::new(limits),
            awaited: std::collections::VecDeque::new(),
        }
    }

    /// A request went out.
    pub fn expect(&mut self, asked: Asked) {
        self.awaited.push_back(asked);
    }

    /// Follows the next bytes.
    ///
    /// # Errors
    /// The bytes could be read in more than one way, or nobody asked for them. The connection must not be used again.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let awaited = &mut self.awaited;
        self.walk.feed(bytes, |head, limits| {
            let asked = *awaited.front().ok_or(Violation::UnaskedBytes)?;
            let (head, is_final) = parse_response(head, limits, asked)?;
            if is_final {
                awaited.pop_front();
            }
            Ok(head)
        })?;
        match self.walk.line.is_empty() || !self.awaited.is_empty() || self.walk.place != Place::Head {
            true => Ok(()),
            false => Err(Violation::UnaskedBytes),
        }
    }

    /// True if every request has its whole answer and nothing follows: the connection may carry another request.
    pub fn is_reusable(&self) -> bool {
        self.awaited.is_empty() && self.walk.is_between_messages()
    }

    /// True if a backend that closes now has cut an answer short.
    pub fn is_cut_short_by_close(&self) -> bool {
        match self.walk.place {
            Place::UntilClose | Place::Tunnel => false,
            Place::Head => !self.walk.line.is_empty() || !self.awaited.is_empty(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests;
