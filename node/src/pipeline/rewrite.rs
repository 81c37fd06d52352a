//! Rewrites the addresses in an answer so that they lead back here: `href`, `src` and `fullUrl` in JSON and XML.
//!
//! A rule says which host and port become which. A channel has rules of its own, and by default one for each primary
//! route of every channel, with the route's path transform turned round. An address that no rule concerns is left as it
//! is, byte for byte.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::model::channel::{RewriteRule, Route};
use crate::pattern::{PatternError, Substitution};

/// What an address in a body looks like: a name, a separator, and the address in quotes. The last group is the address.
const ADDRESS: &str = r#"(?:href|src|fullUrl)["|']?[:|=][\s\x{FEFF}]?["|']([^\s\x{FEFF}]*?)["|']"#;

static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(ADDRESS).ok());

/// The port of an address that names none.
const HTTP: u16 = 80;

/// One host and port, and what takes their place.
#[derive(Clone, Debug)]
pub struct Rule {
    /// In lower case.
    from_host: String,
    from_port: u16,
    to_host: String,
    to_port: u16,
    transform: Option<Substitution>,
}

impl Rule {
    /// A rule of the channel's own.
    ///
    /// # Errors
    /// Its path transform cannot be read.
    pub fn configured(rule: &RewriteRule, pattern_steps: usize) -> Result<Self, PatternError> {
        let transform = rule.path_transform.as_deref();
        Ok(Self {
            from_host: rule.from_host.to_lowercase(),
            from_port: rule.from_port,
            to_host: rule.to_host.clone(),
            to_port: rule.to_port,
            transform: transform
                .map(|transform| Substitution::parse(transform, pattern_steps))
                .transpose()?,
        })
    }

    /// The rule that a primary route stands for: its backend becomes the router at `host` and `port`. A route without a
    /// host has none.
    ///
    /// # Errors
    /// Its path transform cannot be read backwards.
    pub fn of_route(route: &Route, host: &str, port: u16, pattern_steps: usize) -> Result<Option<Self>, PatternError> {
        let (Some(from_host), Some(from_port)) = (&route.host, route.port) else {
            return Ok(None);
        };
        let transform = route.path_transform.as_deref();
        Ok(Some(Self {
            from_host: from_host.to_lowercase(),
            from_port,
            to_host: host.to_owned(),
            to_port: port,
            transform: transform
                .map(|transform| Substitution::parse_inverse(transform, pattern_steps))
                .transpose()?,
        }))
    }

    fn concerns(&self, host: &str, port: Option<u16>) -> bool {
        self.from_host.eq_ignore_ascii_case(host)
            && (port == Some(self.from_port) || (port.is_none() && self.from_port == HTTP))
    }
}

/// How one channel's answers are rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Rewriter<'a> {
    /// The first that concerns an address counts.
    pub rules: &'a [Rule],
    /// Host and port that an address without a host is taken to be on: the channel's primary route.
    pub home: Option<(&'a str, u16)>,
    /// An address that is led to this port becomes `https`, any other `http`.
    pub https_port: u16,
}

impl Rewriter<'_> {
    /// The body with its addresses rewritten.
    pub fn rewrite<'t>(&self, body: &'t str) -> Cow<'t, str> {
        let Some(pattern) = PATTERN.as_ref() else {
            return Cow::Borrowed(body);
        };
        pattern.replace_all(body, |found: &Captures<'_>| {
            let (Some(whole), Some(address)) = (found.get(0), found.get(1)) else {
                return String::new();
            };
            match self.rewritten(address.as_str()) {
                None => whole.as_str().to_owned(),
                Some(new) => {
                    let (before, after) = (&body[whole.start()..address.start()], &body[address.end()..whole.end()]);
                    format!("{before}{new}{after}")
                }
            }
        })
    }

    /// The new form of an address; `None` if it stays.
    fn rewritten(&self, address: &str) -> Option<String> {
        match Absolute::read(address) {
            Read::Absolute(url) => {
                let rule = self.rules.iter().find(|rule| rule.concerns(url.host, url.port))?;
                let scheme = if rule.to_port == self.https_port {
                    "https"
                } else {
                    "http"
                };
                let path = transformed(rule, if url.path.is_empty() { "/" } else { url.path });
                Some(format!(
                    "{scheme}://{}{}:{}{path}{}",
                    url.login, rule.to_host, rule.to_port, url.rest
                ))
            }
            Read::Relative { path, rest } => {
                let (host, port) = self.home?;
                let rule = self.rules.iter().find(|rule| rule.concerns(host, Some(port)))?;
                let has_path = !path.is_empty() && rule.transform.is_some();
                has_path.then(|| format!("{}{rest}", transformed(rule, path)))
            }
            Read::Other => None,
        }
    }
}

fn transformed<'p>(rule: &Rule, path: &'p str) -> Cow<'p, str> {
    match &rule.transform {
        Some(transform) => Cow::Owned(transform.apply(path)),
        None => Cow::Borrowed(path),
    }
}

/// An address with a host.
#[derive(Debug, PartialEq, Eq)]
struct Absolute<'a> {
    /// With its `@`, or empty.
    login: &'a str,
    host: &'a str,
    port: Option<u16>,
    path: &'a str,
    /// Query and fragment.
    rest: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
enum Read<'a> {
    Absolute(Absolute<'a>),
    Relative {
        path: &'a str,
        rest: &'a str,
    },
    /// An address of another kind, such as `urn:uuid:…`, or none.
    Other,
}

impl<'a> Absolute<'a> {
    fn read(address: &'a str) -> Read<'a> {
        let (before, rest) = address.split_at(address.find(['?', '#']).unwrap_or(address.len()));
        let Some((scheme, hierarchy)) = before.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
            return Read::Relative { path: before, rest };
        };
        let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        let Some(authority) = hierarchy.strip_prefix("//").filter(|_| is_web) else {
            return Read::Other;
        };
        let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
        let (login, place) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        // An address of version 6 has colons of its own.
        let colon = place
            .rfind(':')
            .filter(|colon| place.find(']').is_none_or(|bracket| bracket < *colon));
        let (host, port) = place.split_at(colon.unwrap_or(place.len()));
        let port = match port.strip_prefix(':') {
            None | Some("") => None,
            Some(digits) => match digits.parse() {
                Ok(port) => Some(port),
                Err(_) => return Read::Other,
            },
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        Read::Absolute(Self {
            login,
            host,
            port,
            path,
            rest,
        })
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEPS: usize = 10_000;

    fn rule(from: (&str, u16), to: (&str, u16), transform: Option<&str>) -> Rule {
        let rule = RewriteRule {
            from_host: from.0.into(),
            from_port: from.1,
            to_host: to.0.into(),
            to_port: to.1,
            path_transform: transform.map(str::to_owned),
        };
        Rule::configured(&rule, STEPS).unwrap()
    }

    fn rewrite(body: &str, rules: &[Rule]) -> String {
        let rewriter = Rewriter {
            rules,
            home: Some(("Backend.example", 8080)),
            https_port: 5000,
        };
        rewriter.rewrite(body).into_owned()
    }

    fn usual() -> [Rule; 2] {
        [
            rule(("BACKEND.example", 8080), ("him.example", 5001), Some("s/ihris/CSD/")),
            rule(("plain.example", 80), ("him.example", 5000), None),
        ]
    }

    #[test]
    fn addresses_in_json_and_xml_lead_to_the_router() {
        for (body, expected) in [
            (
                r#"{"href": "http://backend.example:8080/ihris/1?a=b#c"}"#,
                r#"{"href": "http://him.example:5001/CSD/1?a=b#c"}"#,
            ),
            (
                r#"{"fullUrl":"https://BACKEND.EXAMPLE:8080/x"}"#,
                r#"{"fullUrl":"http://him.example:5001/x"}"#,
            ),
            (
                r#"<a href="http://plain.example/x"/>"#,
                r#"<a href="https://him.example:5000/x"/>"#,
            ),
            (
                r#"<img src='http://plain.example:80'/>"#,
                r#"<img src='https://him.example:5000/'/>"#,
            ),
            (
                r#"'src':'http://u:p@backend.example:8080/'"#,
                r#"'src':'http://u:p@him.example:5001/'"#,
            ),
            (
                r#"<x xhref="http://plain.example/1"/>"#,
                r#"<x xhref="https://him.example:5000/1"/>"#,
            ),
            (
                r#"{"href":"http://plain.example/1","b":{"src":"http://plain.example/2"}}"#,
                r#"{"href":"https://him.example:5000/1","b":{"src":"https://him.example:5000/2"}}"#,
            ),
        ] {
            assert_eq!(rewrite(body, &usual()), expected);
        }
    }

    #[test]
    fn a_relative_address_stays_relative() {
        assert_eq!(rewrite(r#"href="/ihris/1?ihris""#, &usual()), r#"href="/CSD/1?ihris""#);
        assert_eq!(rewrite(r#"href="ihris/1""#, &usual()), r#"href="CSD/1""#);
    }

    #[test]
    fn what_no_rule_concerns_stays_as_it_is() {
        for body in [
            r#"{"href": "http://elsewhere.example/%7Ex?y= "}"#,
            r#"{"href": "http://plain.example:8080/x"}"#,
            r#"{"href": "https://backend.example/x"}"#,
            r#"{"fullUrl": "urn:uuid:5f1e-ihris"}"#,
            r#"{"href": "mailto:ihris@backend.example"}"#,
            r#"<a href = "http://plain.example/x"/>"#,
            r#"<a href2="http://plain.example/x"/>"#,
            r#"{"url": "http://plain.example/x"}"#,
            r#"href="""#,
            r##"href="#ihris""##,
            r#"href="http://plain.example:99999/""#,
            "",
        ] {
            assert_eq!(rewrite(body, &usual()), body);
        }
        assert_eq!(
            rewrite(r#"href="http://plain.example/""#, &[]),
            r#"href="http://plain.example/""#
        );
    }

    #[test]
    fn the_first_rule_counts() {
        let rules = [rule(("a", 80), ("one", 1), None), rule(("a", 80), ("two", 2), None)];

        assert_eq!(rewrite(r#"src="http://a/""#, &rules), r#"src="http://one:1/""#);
    }

    #[test]
    fn only_the_address_changes_not_the_word_before_it() {
        let rules = [rule(("backend.example", 8080), ("him", 1), Some("s/href/x/"))];

        assert_eq!(rewrite(r#"href="href""#, &rules), r#"href="x""#);
    }

    #[test]
    fn version_6_addresses_are_read() {
        let rules = [rule(("::1", 80), ("him", 1), None)];

        assert_eq!(rewrite(r#"src="http://[::1]/a""#, &rules), r#"src="http://him:1/a""#);
        assert_eq!(rewrite(r#"src="http://[::1]:80/a""#, &rules), r#"src="http://him:1/a""#);
    }

    proptest! {
        #[test]
        fn without_rules_nothing_changes_and_nothing_panics(body in r#"(href|src|fullUrl|["'|:=/?#@\[\]0-9a.é ]){0,30}"#) {
            prop_assert_eq!(rewrite(&body, &[]), body.clone());
            rewrite(&body, &usual());
        }
    }
}
