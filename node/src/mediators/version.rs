//! Versions of mediators: Semantic Versioning 2.0.

use semver::Version;

/// The version that the text is; blanks around it and one `v` before it do not matter.
pub(super) fn parse(text: &str) -> Option<Version> {
    let text = text.trim();
    Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()
}

/// True if `version` comes after `known`. A known version that is none comes before every other.
pub fn is_newer(version: &str, known: &str) -> bool {
    match (parse(version), parse(known)) {
        (Some(version), Some(known)) => version.cmp_precedence(&known).is_gt(),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_strict_but_for_blanks_and_a_v() {
        for text in ["1.0.0", " v1.2.3 ", "1.0.0-alpha.1+build", "0.0.1"] {
            assert!(parse(text).is_some(), "{text}");
        }
        for text in ["", "1.0", "01.0.0", "=1.0.0", "1.0.0.0", "x", "vv1.0.0"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn newer_means_of_higher_precedence() {
        assert!(is_newer("1.0.1", "1.0.0"));
        assert!(is_newer("1.0.0", "1.0.0-rc.1"));
        assert!(is_newer("1.10.0", "v1.9.0"));
        assert!(!is_newer("1.0.0+b", "1.0.0+a"));
        assert!(!is_newer("1.0.0", "1.0.0"));
        assert!(is_newer("1.0.0", "first"));
    }
}
