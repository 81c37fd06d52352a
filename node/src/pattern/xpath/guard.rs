//! Looks at a document before it is parsed, because the parser's time grows with the square of what is counted here.
//!
//! Documents of the real world stay far below these numbers; one above them has no text.

use std::collections::BTreeSet;

/// Attributes of one element.
const MAX_ATTRIBUTES: usize = 256;

/// Different prefixes that a document declares.
const MAX_PREFIXES: usize = 64;

/// True if parsing the document takes time in proportion to its length. A document type makes it false.
pub(super) fn is_harmless(xml: &str) -> bool {
    let mut prefixes = BTreeSet::new();
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let skipped = [("!--", "-->"), ("![CDATA[", "]]>"), ("?", "?>"), ("/", ">")];
        if let Some((start, end)) = skipped.into_iter().find(|(start, _)| rest.starts_with(start)) {
            // What does not end is refused by the parser.
            let Some(found) = rest[start.len()..].find(end) else {
                return true;
            };
            rest = &rest[start.len() + found + end.len()..];
        } else if rest.starts_with('!') {
            return false;
        } else {
            let Some(after) = start_tag(rest, &mut prefixes) else {
                return false;
            };
            rest = after;
        }
    }
    true
}

/// Passes over a start tag; `None` if there is too much in it.
fn start_tag<'a>(tag: &'a str, prefixes: &mut BTreeSet<&'a str>) -> Option<&'a str> {
    let (mut rest, mut attributes) = (tag, 0);
    while let Some(at) = rest.find(['=', '>', '"', '\'']) {
        let (before, found) = rest.split_at(at);
        rest = &found[1..];
        match found.as_bytes()[0] {
            b'>' => return Some(rest),
            b'=' => {
                attributes += 1;
                let name = before
                    .trim_end()
                    .rsplit(|c: char| c.is_ascii_whitespace())
                    .next()
                    .unwrap_or_default();
                if name.starts_with("xmlns") {
                    prefixes.insert(name);
                }
                if attributes > MAX_ATTRIBUTES || prefixes.len() > MAX_PREFIXES {
                    return None;
                }
            }
            quote => rest = rest.split_once(char::from(quote)).map_or("", |(_, after)| after),
        }
    }
    Some("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(attributes: usize) -> String {
        let attributes: String = (0..attributes).map(|index| format!(" a{index} = \"=='>\"")).collect();
        format!("<a{attributes}>")
    }

    #[test]
    fn attributes_are_counted_for_each_element() {
        assert!(is_harmless(&tag(256).repeat(3)));
        assert!(!is_harmless(&tag(257)));
        assert!(!is_harmless(&format!(
            "<!-- <b> --><?x <c ?><![CDATA[<d ]]></e>{}",
            tag(257)
        )));
    }

    #[test]
    fn prefixes_are_counted_for_the_document() {
        let declared = |count: usize| -> String { (0..count).map(|index| format!("<a xmlns:p{index}='u'>")).collect() };

        assert!(is_harmless(&declared(64)));
        assert!(!is_harmless(&declared(65)));
        assert!(is_harmless(&"<div xmlns='http://www.w3.org/1999/xhtml'>".repeat(1000)));
    }

    #[test]
    fn what_looks_like_an_attribute_and_is_none_is_not_counted() {
        let noise = "a=b ".repeat(1000);

        for xml in [
            format!("<a>{noise}</a>"),
            format!("<!-- <a {noise}> -->"),
            format!("<a><![CDATA[<a {noise}>]]></a>"),
            format!("<?x <a {noise}?>"),
            format!("<a b='{noise}'/>"),
        ] {
            assert!(is_harmless(&xml), "{xml}");
        }
    }

    #[test]
    fn a_document_type_is_not_harmless() {
        assert!(!is_harmless("<!DOCTYPE a><a/>"));
        assert!(is_harmless("<a"));
        assert!(is_harmless("<a b='"));
        assert!(is_harmless(""));
    }
}
