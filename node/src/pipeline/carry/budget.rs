//! What a transaction may still keep of its bodies.

use std::sync::Arc;

use bytes::Bytes;

use crate::model::body_budget::BodyBudget;
use crate::model::text::Text;
use crate::pipeline::Settings;
use crate::record::capture;

/// The budget of one transaction, charged in the order in which bodies are stored.
#[derive(Debug)]
pub(super) struct Ledger {
    total_mb: f64,
    marker: Arc<str>,
    used: u64,
}

impl Ledger {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            total_mb: settings.stored_bodies_mb,
            marker: Arc::clone(&settings.marker),
            used: 0,
        }
    }

    fn budget(&self) -> BodyBudget<'_> {
        BodyBudget::new(Some(self.total_mb), &self.marker).spent(self.used)
    }

    /// Bytes that bodies may still occupy.
    pub(super) fn left(&self) -> usize {
        self.budget().left() as usize
    }

    /// A body as it is stored: `kept` is its beginning, `length` that of all of it.
    pub(super) fn text(&mut self, kept: Vec<Bytes>, length: u64) -> Text {
        let mut budget = self.budget();
        let before = budget.left();
        let text = capture::stored_text(kept, length, &mut budget);
        let charged = before - budget.left();
        self.used += charged;
        text
    }
}
