//! Path transforms: `s/from/to/g`.

use std::borrow::Cow;

use super::{Pattern, PatternError};

/// A transform of paths, as channels and rewrite rules hold it.
///
/// A slash inside `from` or `to` is written `\/`. OpenHIM puts a colon in its place while it splits, and every colon
/// then becomes a slash, so that a transform cannot speak of colons; this is kept.
#[derive(Clone, Debug)]
pub struct Substitution {
    from: Pattern,
    to: String,
    global: bool,
}

impl Substitution {
    /// Reads `s/from/to`, with or without a slash at its end, with `g` after that if every match is meant.
    ///
    /// # Errors
    /// There is no `/`, or `from` is no pattern.
    pub fn parse(expression: &str, steps: usize) -> Result<Self, PatternError> {
        let (from, to, global) = split(expression)?;
        Ok(Self {
            from: Pattern::compile(&from, steps)?,
            to,
            global,
        })
    }

    /// Reads a transform and turns it round, as addresses in answers need it: what `to` says becomes what `from` says.
    ///
    /// # Errors
    /// As [`Substitution::parse`], with `to` as the pattern.
    pub fn parse_inverse(expression: &str, steps: usize) -> Result<Self, PatternError> {
        let (from, to, global) = split(expression)?;
        Ok(Self {
            from: Pattern::compile(&to, steps)?,
            to: from,
            global,
        })
    }

    /// The transformed path.
    pub fn apply(&self, path: &str) -> String {
        match self.from.replace(path, &self.to, self.global) {
            Cow::Borrowed(path) => path.to_owned(),
            Cow::Owned(path) => path,
        }
    }
}

fn split(expression: &str) -> Result<(String, String, bool), PatternError> {
    let marked = expression.replace("\\/", ":");
    let mut parts = marked.split('/').skip(1);
    let from = parts.next().ok_or(PatternError::NoSubstitution)?;
    let to = parts.next().unwrap_or_default();
    Ok((from.replace(':', "/"), to.replace(':', "/"), parts.next() == Some("g")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(expression: &str, path: &str) -> String {
        Substitution::parse(expression, 10_000).unwrap().apply(path)
    }

    #[test]
    fn transforms_do_what_openhims_do() {
        for (expression, path, expected) in [
            ("s/foo/bar", "foo", "bar"),
            ("s/foo/bar", "foofoofoo", "barfoofoo"),
            ("s/foo/bar", "foo/bar", "bar/bar"),
            ("s/foo/", "foo", ""),
            ("s/o/e/g", "foo", "fee"),
            ("s/foo//g", "foofoo", ""),
            ("s/foo/bar/g", "foofoofoo", "barbarbar"),
            (r"s/foo\/bar/", "foo/bar", ""),
            (r"s/\/foo\/bar/", "foo/foo/bar/bar", "foo/bar"),
            (r"s/prefix\//", "prefix/foo/bar", "foo/bar"),
            (r"s/^\/a\/(\d+)/\/b\/$1\/x/", "/a/12/c", "/b/12/x/c"),
            ("s/pt/target/g", "/pt/pt/x", "/target/target/x"),
            ("s/foo/bar/i", "foofoo", "barfoo"),
            ("s/a:b/x/", "a/b", "x"),
        ] {
            assert_eq!(apply(expression, path), expected, "{expression} on {path}");
        }
    }

    #[test]
    fn what_is_no_transform_is_refused() {
        assert_eq!(
            Substitution::parse("foo", 100).unwrap_err(),
            PatternError::NoSubstitution
        );
        assert!(Substitution::parse("s/(/x/", 100).is_err());
    }

    #[test]
    fn the_inverse_leads_back() {
        let inverse = Substitution::parse_inverse(r"s/\/CSD\/v1/\/ihris/g", 100).unwrap();

        assert_eq!(inverse.apply("/ihris/a/ihris"), "/CSD/v1/a/CSD/v1");
    }
}
