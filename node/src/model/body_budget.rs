//! How much of its bodies one transaction may keep.
//!
//! All bodies of a transaction share one budget, charged in the order they are stored. The body that would exceed it is
//! cut and marked, and so is every one after it. Only what is stored is cut, never what is sent.

/// The largest budget, in MiB: a stored document must stay below 16.
const LARGEST_MIB: f64 = 15.0;

/// Bytes left for the bodies of one transaction.
#[derive(Clone, Debug)]
pub struct BodyBudget<'a> {
    left: u64,
    marker: &'a str,
}

/// What may be kept of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// All of it.
    Whole,
    /// So many bytes, then the marker.
    Cut { keep: u64 },
}

impl<'a> BodyBudget<'a> {
    /// The budget that `api.maxBodiesSizeMB` stands for, with `api.truncateAppend` as marker.
    pub fn new(max_bodies_size_mb: Option<f64>, marker: &'a str) -> Self {
        let mib = max_bodies_size_mb
            .filter(|mib| (1.0..=LARGEST_MIB).contains(mib))
            .unwrap_or(LARGEST_MIB);
        Self {
            left: (mib * 1_048_576.0) as u64,
            marker,
        }
    }

    /// Takes away what other bodies of the transaction already occupy.
    pub fn spent(mut self, bytes: u64) -> Self {
        self.left = self.left.saturating_sub(bytes);
        self
    }

    /// Bytes that bodies may still occupy.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Charges a body of `length` bytes.
    pub fn charge(&mut self, length: u64) -> Room {
        if length <= self.left {
            self.left -= length;
            return Room::Whole;
        }
        let keep = self.left.saturating_sub(self.marker.len() as u64);
        self.left = 0;
        Room::Cut { keep }
    }

    /// What follows the kept bytes of a cut body.
    pub fn marker(&self) -> &'a str {
        self.marker
    }

    /// Charges a body and cuts it, on a character boundary; true if it was cut.
    pub fn fit(&mut self, body: &mut String) -> bool {
        match self.charge(body.len() as u64) {
            Room::Whole => false,
            Room::Cut { keep } => {
                body.truncate(body.floor_char_boundary(keep as usize));
                body.push_str(self.marker);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "\n[truncated ...]";

    #[test]
    fn the_setting_counts_between_one_and_fifteen() {
        for (setting, bytes) in [
            (Some(1.0), 1_048_576),
            (Some(15.0), 15_728_640),
            (Some(0.5), 15_728_640),
            (Some(16.0), 15_728_640),
            (None, 15_728_640),
        ] {
            assert_eq!(BodyBudget::new(setting, MARKER).left, bytes, "{setting:?}");
        }
    }

    #[test]
    fn the_body_that_exceeds_the_budget_is_cut_to_it_and_the_next_is_only_the_marker() {
        let mut budget = BodyBudget::new(Some(1.0), MARKER);
        let mut first = "x".repeat(1_048_576 - 20);
        let mut second = "y".repeat(100);
        let mut third = "z".to_owned();

        assert!(!budget.fit(&mut first));
        assert!(budget.fit(&mut second));
        assert!(budget.fit(&mut third));

        assert_eq!(second, format!("yyyy{MARKER}"));
        assert_eq!(third, MARKER);
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        let mut budget = BodyBudget::new(Some(1.0), MARKER).spent(1_048_576 - 19);
        let mut body = "ééé".repeat(10);

        assert!(budget.fit(&mut body));

        assert_eq!(body, format!("é{MARKER}"));
    }

    #[test]
    fn a_body_that_just_fits_is_kept() {
        let mut budget = BodyBudget::new(Some(1.0), MARKER).spent(1_048_576 - 3);

        assert_eq!(budget.charge(3), Room::Whole);
        assert_eq!(budget.charge(0), Room::Whole);
        assert_eq!(budget.charge(1), Room::Cut { keep: 0 });
    }
}
