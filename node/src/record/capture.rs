//! What is kept of a body while it streams by.
//!
//! A capture takes the beginning of a body, as much as the transaction's budget may hold, and counts the rest. What is
//! kept becomes text at the end, cut and marked by the budget. What is sent is never cut.

use bytes::Bytes;

use crate::model::body_budget::{BodyBudget, Room};
use crate::model::text::{Text, beginning};

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
        self.chunks.concat()
    }

    /// The first `limit` bytes of what was kept, as they came.
    pub fn beginning(&self, limit: usize) -> Vec<Bytes> {
        beginning(&self.chunks, limit)
    }
}

/// A body as text, cut to what the budget has left; charges the budget. `length` is that of the whole body.
pub fn stored_text(kept: Vec<Bytes>, length: u64, budget: &mut BodyBudget<'_>) -> Text {
    let mut text = Text::of(kept);
    match budget.charge(length.max(text.len() as u64)) {
        Room::Whole => text,
        Room::Cut { keep } => {
            text.truncate(keep as usize);
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

        let text = stored_text(vec![Bytes::from_static(b"abcdef")], 9, &mut budget);

        assert_eq!(text.into_string(), "abc#");
        let text = stored_text(vec![Bytes::from_static(b"x")], 1, &mut budget);
        assert_eq!(text.into_string(), "#");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_such() {
        let mut budget = BodyBudget::new(None, "#");

        let text = stored_text(vec![Bytes::from_static(b"a\xff")], 2, &mut budget);
        assert_eq!(text.into_string(), "a\u{FFFD}");
    }
}
