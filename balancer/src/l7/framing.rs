//! Strict HTTP/1 framing: where each message begins and ends, with no room for a second opinion.
//!
//! Every byte of a client and of a backend goes through here before it goes on, and whatever two parsers could read
//! differently is refused (RFC 9112, sections 3, 5, 6, 7 and 11.2: request smuggling and response splitting):
//! [`Scan`] finds the end of a head, [`head`] reads it, [`Body`] follows what comes after.
//!
//! State machines without I/O. They never change a byte.

mod body;
mod field;
pub mod head;

pub use body::{Body, Length, Piece};
pub use field::{Field, Known, Span};
pub use head::{Request, Response, Violation};

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

/// Looks for the end of a head in bytes that arrive piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// Bytes looked at.
    seen: usize,
    /// Where the line begins that is not complete yet.
    line: usize,
}

impl Scan {
    /// The length of the head at the start of `bytes`, its empty line included; `None` while that has not arrived.
    /// `bytes` begins at the same byte in each call until a head was found.
    ///
    /// # Errors
    /// A line does not end in CRLF, this cannot become a head, or it is over a limit.
    pub fn find(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Violation> {
        if bytes.first().is_some_and(|&byte| !head::is_token(byte)) {
            return Err(head::first_line_fault(bytes));
        }
        let most = bytes.len().min(limits.head_bytes);
        while let Some(offset) = bytes[self.seen..most].iter().position(|&byte| byte == b'\n') {
            let at = self.seen + offset;
            if at == self.line || bytes[at - 1] != b'\r' {
                return Err(Violation::BareLineFeed);
            }
            self.seen = at + 1;
            if at == self.line + 1 {
                *self = Self::default();
                return Ok(Some(at + 1));
            }
            self.line = at + 1;
        }
        self.seen = most;
        match bytes.len() > limits.head_bytes {
            // What does not even end its first line has a long target.
            true if self.line == 0 => Err(Violation::TargetTooLong),
            true => Err(Violation::HeadTooLarge),
            false => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
