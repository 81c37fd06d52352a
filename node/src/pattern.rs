//! JavaScript's regular expressions with a bound on their work.
//!
//! Channels, path transforms and rewrite rules come from people who tested them in JavaScript, so the dialect is
//! ECMAScript's without flags, with the leniency that browsers and Node have (Annex B). A pattern is read once into a
//! tree ([`syntax`]). What is regular runs on the `regex` crate, in time linear in the text; look-around and
//! back-references run on a small backtracking machine ([`backtrack`]) that counts its steps and gives up.
//!
//! One difference is visible: a character beyond U+FFFF is one character here and two in JavaScript.
//!
//! No pattern and no text can make a call panic, or take longer than its budget.

mod backtrack;
mod charset;
mod linear;
mod substitution;
mod syntax;
#[cfg(test)]
mod tests;
pub mod xpath;

use std::borrow::Cow;

pub use self::substitution::Substitution;
use backtrack::Program;

/// Longest pattern in bytes.
const MAX_PATTERN: usize = 16 * 1024;

/// Steps granted for each byte of text on top of the budget, so that reading a long body once always fits.
const STEPS_PER_BYTE: usize = 8;

/// The most steps that the length of a text may add.
const MAX_STEPS_FOR_LENGTH: usize = 32_000_000;

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("invalid regular expression: {reason} at character {at}")]
    Syntax {
        /// Counted from 0.
        at: usize,
        reason: &'static str,
    },
    #[error("regular expression longer than {MAX_PATTERN} bytes")]
    TooLong,
    #[error("regular expression nested too deeply")]
    TooDeep,
    #[error("a path transform has the form s/from/to/ or s/from/to/g")]
    NoSubstitution,
}

/// A compiled pattern. Compile once, use from any thread.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    /// Present if the pattern is regular.
    linear: Option<regex::Regex>,
    /// True if [`Pattern::linear`] also agrees with JavaScript on where matches and groups begin and end.
    linear_spans: bool,
    program: Program,
    /// Capture groups and the whole match, also those that can never take part.
    groups: usize,
    steps: usize,
}

impl Pattern {
    /// Reads a pattern. A call that needs more than about `steps` steps of backtracking counts as no match.
    ///
    /// # Errors
    /// JavaScript would refuse the text too, or it is larger than anything written by hand.
    pub fn compile(text: &str, steps: usize) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        let tree = syntax::parse(text)?;
        Ok(Self {
            text: text.into(),
            linear: linear::compile(&tree.root),
            linear_spans: tree.root.has_plain_loops(),
            program: Program::compile(&tree),
            groups: tree.groups as usize + 1,
            steps,
        })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if the pattern matches somewhere in `text`.
    pub fn is_match(&self, text: &str) -> bool {
        match &self.linear {
            Some(regex) => regex.is_match(text),
            None => self.program.find(text, 0, &mut self.budget(text)).is_some(),
        }
    }

    /// Replaces the first match, or every match, as JavaScript's `String.replace` does: `$1`, `$<name>`, `$&`,
    /// `` $` ``, `$'` and `$$` are understood in `template`. Where the budget ends, the rest of the text stays.
    pub fn replace<'t>(&self, text: &'t str, template: &str, global: bool) -> Cow<'t, str> {
        let mut budget = self.budget(text);
        let mut out = String::new();
        let (mut copied, mut from, mut replaced) = (0, 0, false);
        while let Some(found) = self.find(text, from, &mut budget) {
            replaced = true;
            out.push_str(&text[copied..found.start()]);
            self.expand(&mut out, text, template, &found);
            copied = found.end();
            if !global {
                break;
            }
            from = match text[found.end()..].chars().next() {
                Some(next) if found.start() == found.end() => found.end() + next.len_utf8(),
                None if found.start() == found.end() => break,
                _ => found.end(),
            };
        }
        if !replaced {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[copied..]);
        Cow::Owned(out)
    }

    fn budget(&self, text: &str) -> usize {
        let for_length = text.len().saturating_mul(STEPS_PER_BYTE).min(MAX_STEPS_FOR_LENGTH);
        self.steps.saturating_add(for_length)
    }

    fn find(&self, text: &str, from: usize, budget: &mut usize) -> Option<Spans> {
        match &self.linear {
            Some(regex) if self.linear_spans => {
                let captures = regex.captures_at(text, from)?;
                let spans = (0..self.groups).map(|group| captures.get(group).map(|found| found.range()));
                Some(Spans(
                    spans.map(|span| span.map(|span| (span.start, span.end))).collect(),
                ))
            }
            _ => self.program.find(text, from, budget),
        }
    }

    fn expand(&self, out: &mut String, text: &str, template: &str, found: &Spans) {
        let mut rest = template;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let reference = &rest[at..];
            let used = self.expand_one(out, text, reference, found);
            rest = &reference[used..];
        }
        out.push_str(rest);
    }

    /// Writes what the reference at the start of `reference` stands for; answers with its length in bytes.
    fn expand_one(&self, out: &mut String, text: &str, reference: &str, found: &Spans) -> usize {
        let bytes = reference.as_bytes();
        match bytes.get(1) {
            Some(b'$') => out.push('$'),
            Some(b'&') => out.push_str(&text[found.start()..found.end()]),
            Some(b'`') => out.push_str(&text[..found.start()]),
            Some(b'\'') => out.push_str(&text[found.end()..]),
            Some(b'<') if !self.program.names().is_empty() => {
                let Some(end) = reference.find('>') else {
                    out.push('$');
                    return 1;
                };
                if let Some(group) = self.program.group_named(&reference[2..end]) {
                    out.push_str(found.group(text, group));
                }
                return end + 1;
            }
            Some(first) if first.is_ascii_digit() => return self.expand_number(out, text, bytes, found),
            _ => {
                out.push('$');
                return 1;
            }
        }
        2
    }

    fn expand_number(&self, out: &mut String, text: &str, reference: &[u8], found: &Spans) -> usize {
        let digit = |at: usize| {
            let byte = reference.get(at).filter(|byte| byte.is_ascii_digit())?;
            Some(usize::from(byte - b'0'))
        };
        let exists = |group: &usize| (1..found.0.len()).contains(group);
        let one = digit(1);
        let two = one.and_then(|tens| Some(tens * 10 + digit(2)?));
        if let Some(group) = two.filter(exists) {
            out.push_str(found.group(text, group));
            3
        } else if let Some(group) = one.filter(exists) {
            out.push_str(found.group(text, group));
            2
        } else {
            out.push('$');
            1
        }
    }
}

/// Where a match and its groups lie, in bytes; group 0 is the match.
#[derive(Debug, PartialEq, Eq)]
struct Spans(Vec<Option<(usize, usize)>>);

impl Spans {
    fn start(&self) -> usize {
        self.0[0].map_or(0, |span| span.0)
    }

    fn end(&self) -> usize {
        self.0[0].map_or(0, |span| span.1)
    }

    /// What a group matched; nothing if it took no part.
    fn group<'t>(&self, text: &'t str, group: usize) -> &'t str {
        match self.0.get(group) {
            Some(Some((start, end))) => &text[*start..*end],
            _ => "",
        }
    }
}
