//! Sets of characters, as ranges.

/// The largest code point.
const LAST: u32 = char::MAX as u32;

/// What JavaScript's `\s` matches: white space, line ends and the byte order mark.
const SPACE: [(u32, u32); 10] = [
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
];

/// A set of code points. Surrogates may be in it and never match, because no text has any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CharSet {
    /// Sorted, without overlap.
    ranges: Vec<(u32, u32)>,
    /// The first 128 again, for speed.
    ascii: u128,
}

impl CharSet {
    pub(super) fn new(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        let mut ascii = 0;
        for &(low, high) in merged.iter().take_while(|range| range.0 < 128) {
            for code in low..=high.min(127) {
                ascii |= 1 << code;
            }
        }
        Self { ranges: merged, ascii }
    }

    /// `.`: anything but a line end.
    pub(super) fn dot() -> Self {
        Self::new(vec![(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]).negated()
    }

    /// `\d`.
    pub(super) fn digit() -> Self {
        Self::new(vec![('0' as u32, '9' as u32)])
    }

    /// `\w`.
    pub(super) fn word() -> Self {
        Self::new(
            [('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]
                .map(|(low, high)| (low as u32, high as u32))
                .to_vec(),
        )
    }

    /// `\s`.
    pub(super) fn space() -> Self {
        Self::new(SPACE.to_vec())
    }

    pub(super) fn negated(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.ranges.len() + 1);
        let mut next = 0;
        for &(low, high) in &self.ranges {
            if next < low {
                gaps.push((next, low - 1));
            }
            next = high + 1;
        }
        if next <= LAST {
            gaps.push((next, LAST));
        }
        Self::new(gaps)
    }

    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    pub(super) fn contains(&self, c: char) -> bool {
        let code = c as u32;
        if code < 128 {
            return self.ascii >> code & 1 == 1;
        }
        self.ranges
            .binary_search_by(|&(low, high)| {
                if high < code {
                    std::cmp::Ordering::Less
                } else if low > code {
                    std::cmp::Ordering::Greater
                } else {
                    std::cmp::Ordering::Equal
                }
            })
            .is_ok()
    }
}

/// True for what `\b` takes as part of a word.
pub(super) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
