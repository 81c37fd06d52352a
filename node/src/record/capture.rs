//! What is kept of a body while it streams by.
//!
//! A capture takes the beginning of a body, as much as the transaction's budget may hold, and counts the rest. What is
//! kept becomes text at the end, cut and marked by the budget. What is sent is never cut.

use bytes::Bytes;

use crate::model::body_budget::{BodyBudget, Room};

/// The kept beginning of a body.
#[derive(Debug, Default)]
pub struct Capture {
    chunks: Vec<Bytes>,
    kept: usize,
    /// Bytes of the whole body so far.
    seen: u64,
    limit: usize,
}

impl Capture {
    /// Keeps at most `limit` bytes; the budget's rest when the body began.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Takes the next piece.
    pub fn push(&mut self, bytes: &Bytes) {
        self.seen += bytes.len() as u64;
        let room = self.limit - self.kept;
        if room > 0 {
            let taken = bytes.slice(..bytes.len().min(room));
            self.kept += taken.len();
            self.chunks.push(taken);
        }
    }

    /// Counts bytes that are not looked at.
    pub fn skip(&mut self, bytes: usize) {
        self.seen += bytes as u64;
    }

    /// Bytes of the whole body so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// True if nothing was left out.
    pub fn is_whole(&self) -> bool {
        self.kept as u64 == self.seen
    }

    /// What was kept, in one piece.
    pub fn bytes(&self) -> Vec<u8> {
        self.beginning(self.kept)
    }

    /// The first `limit` bytes of what was kept, in one piece.
    pub fn beginning(&self, limit: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.kept.min(limit));
        for chunk in &self.chunks {
            let room = limit - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        bytes
    }
}

/// A body as text, cut to what the budget has left; charges the budget. `length` is that of the whole body.
pub fn stored_text(kept: Vec<u8>, length: u64, budget: &mut BodyBudget<'_>) -> String {
    let mut text =
        String::from_utf8(kept).unwrap_or_else(|invalid| String::from_utf8_lossy(invalid.as_bytes()).into_owned());
    match budget.charge(length.max(text.len() as u64)) {
        Room::Whole => text,
        Room::Cut { keep } => {
            text.truncate(text.floor_char_boundary(keep as usize));
            text.push_str(budget.marker());
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_keeps_the_beginning_and_counts_the_rest() {
        let mut capture = Capture::new(5);
        for piece in ["abc", "def", "ghi"] {
            capture.push(&Bytes::from_static(piece.as_bytes()));
        }

        assert_eq!(capture.bytes(), b"abcde");
        assert_eq!(capture.seen(), 9);
        assert!(!capture.is_whole());
    }

    #[test]
    fn a_body_larger_than_the_budget_is_cut_and_marked() {
        let mut budget = BodyBudget::new(Some(1.0), "#").spent(1_048_576 - 4);

        let text = stored_text(b"abcdef".to_vec(), 9, &mut budget);

        assert_eq!(text, "abc#");
        assert_eq!(stored_text(b"x".to_vec(), 1, &mut budget), "#");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_such() {
        let mut budget = BodyBudget::new(None, "#");

        assert_eq!(stored_text(vec![b'a', 0xff], 2, &mut budget), "a\u{FFFD}");
    }
}
