//! Which channels may match a path, found without trying the pattern of each.
//!
//! Most patterns are written `^/some/path$` or `^/some/.*`. The literal text after `^` is looked up in a hash table, so
//! that a thousand such channels cost as little as ten; every other pattern is always a candidate. A candidate is only
//! a candidate: the pattern itself decides.

use std::collections::HashMap;

/// From the beginning of a path to the channels that ask for it.
#[derive(Debug, Default)]
pub(super) struct Urls {
    by_prefix: HashMap<Box<[u8]>, Vec<u32>>,
    /// The lengths that occur in `by_prefix`.
    lengths: Vec<usize>,
    /// Channels whose pattern says nothing about the beginning of the path.
    anywhere: Vec<u32>,
}

impl Urls {
    /// Takes the patterns in the order of their channels.
    pub(super) fn new<'a>(patterns: impl Iterator<Item = &'a str>) -> Self {
        let mut urls = Self::default();
        for (at, pattern) in patterns.enumerate() {
            let at = at as u32;
            match literal_prefix(pattern) {
                Some(prefix) if !prefix.is_empty() => {
                    urls.by_prefix.entry(prefix.into_boxed_slice()).or_default().push(at);
                }
                _ => urls.anywhere.push(at),
            }
        }
        urls.lengths = urls.by_prefix.keys().map(|prefix| prefix.len()).collect();
        urls.lengths.sort_unstable();
        urls.lengths.dedup();
        urls
    }

    /// Positions of the channels that may match `path`, in order.
    pub(super) fn candidates(&self, path: &str) -> Candidates<'_> {
        let path = path.as_bytes();
        let mut lists = Lists::default();
        lists.push(&self.anywhere);
        for length in self.lengths.iter().take_while(|length| **length <= path.len()) {
            if let Some(found) = self.by_prefix.get(&path[..*length]) {
                lists.push(found);
            }
        }
        Candidates(lists)
    }
}

/// Sorted lists that are read as one.
#[derive(Debug, Default)]
struct Lists<'a> {
    first: [&'a [u32]; 4],
    used: usize,
    more: Vec<&'a [u32]>,
}

impl<'a> Lists<'a> {
    fn push(&mut self, list: &'a [u32]) {
        if list.is_empty() {
            return;
        }
        match self.first.get_mut(self.used) {
            Some(place) => {
                *place = list;
                self.used += 1;
            }
            None => self.more.push(list),
        }
    }

    /// Takes the smallest of all first elements.
    fn pop(&mut self) -> Option<u32> {
        let smallest = self.first[..self.used]
            .iter_mut()
            .chain(&mut self.more)
            .filter(|list| !list.is_empty())
            .min_by_key(|list| list[0])?;
        let (head, rest) = smallest.split_first()?;
        *smallest = rest;
        Some(*head)
    }
}

/// Positions in ascending order.
#[derive(Debug)]
pub(super) struct Candidates<'a>(Lists<'a>);

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0.pop()
    }
}

/// The text with which every match of an anchored pattern begins; `None` if there is none to be sure of.
fn literal_prefix(pattern: &str) -> Option<Vec<u8>> {
    let rest = pattern.strip_prefix('^')?;
    if has_top_level_alternative(rest) {
        return None;
    }
    let mut prefix = Vec::new();
    let mut characters = rest.chars().peekable();
    while let Some(character) = characters.next() {
        let literal = match character {
            '\\' => match characters.next() {
                Some(escaped) if escaped.is_ascii_punctuation() => escaped,
                _ => break,
            },
            '.' | '[' | ']' | '(' | ')' | '{' | '}' | '*' | '+' | '?' | '|' | '^' | '$' => break,
            literal => literal,
        };
        // What may occur no time at all is not part of every match.
        if matches!(characters.peek(), Some('*' | '?' | '{')) {
            break;
        }
        prefix.extend_from_slice(literal.encode_utf8(&mut [0; 4]).as_bytes());
        if characters.peek() == Some(&'+') {
            break;
        }
    }
    Some(prefix)
}

/// True if `^` may bind only a part of the pattern.
fn has_top_level_alternative(pattern: &str) -> bool {
    let mut depth = 0_usize;
    let mut is_class = false;
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            '[' => is_class = true,
            ']' => is_class = false,
            '(' if !is_class => depth += 1,
            ')' if !is_class => depth = depth.saturating_sub(1),
            '|' if !is_class && depth == 0 => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(pattern: &str) -> Option<String> {
        literal_prefix(pattern).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_literal_beginning_of_an_anchored_pattern_is_found() {
        for (pattern, expected) in [
            ("^/fhir/Patient$", "/fhir/Patient"),
            (r"^\/fhir\/v1\.0\/.*$", "/fhir/v1.0/"),
            ("^/a/(b|c)$", "/a/"),
            ("^/colou?r", "/colo"),
            ("^/x+y", "/x"),
            ("^/x*y", "/"),
            ("^/x{0,2}", "/"),
            (r"^/\d+", "/"),
            ("^/ü", "/ü"),
        ] {
            assert_eq!(prefix(pattern).as_deref(), Some(expected), "{pattern}");
        }
    }

    #[test]
    fn what_is_not_surely_anchored_has_no_literal_beginning() {
        for pattern in ["/fhir", "^/a|/b", "(^/a)", r"\^/a"] {
            assert_eq!(prefix(pattern), None, "{pattern}");
        }
        assert_eq!(prefix("^/[|]a").as_deref(), Some("/"));
        assert_eq!(prefix(r"^/\|a").as_deref(), Some("/|a"));
    }

    #[test]
    fn candidates_come_in_the_order_of_their_channels() {
        let urls = Urls::new(
            [
                "^/a/b$", "x", "^/a", "^/zzz", "^/a/b$", "^/", "^/a/", "^/a/b", "^/a/b/c",
            ]
            .into_iter(),
        );

        assert_eq!(urls.candidates("/a/b").collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6, 7]);
        assert_eq!(urls.candidates("").collect::<Vec<_>>(), [1]);
    }
}
