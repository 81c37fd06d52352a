//! Connection strings as people write them.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What may not stand as it is in a user's name or password.
const RESERVED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b':')
    .add(b'/')
    .add(b'?')
    .add(b'#')
    .add(b'[')
    .add(b']')
    .add(b'@')
    .add(b'%')
    .add(b'$')
    .add(b'&')
    .add(b'+')
    .add(b',')
    .add(b';')
    .add(b'=');

/// Options that other drivers knew once and that mean nothing to this one.
const RETIRED: [&str; 7] = [
    "usenewurlparser",
    "useunifiedtopology",
    "usecreateindex",
    "usefindandmodify",
    "poolsize",
    "autoreconnect",
    "promiselibrary",
];

/// The connection string with credentials encoded where they are not, and `parameters` added where it has no own.
pub(super) fn complete(url: &str, parameters: &[(String, String)]) -> String {
    let mut url = encode_credentials(url);
    for (name, value) in parameters {
        if RETIRED.contains(&name.to_ascii_lowercase().as_str()) || has_parameter(&url, name) {
            continue;
        }
        url.push_str(separator(&url));
        url.push_str(name);
        url.push('=');
        url.extend(utf8_percent_encode(value, RESERVED));
    }
    url
}

/// The hosts in a connection string, for messages.
pub(super) fn hosts(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = &rest[..start_of_parameters(rest)];
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn encode_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    // A password may hold any of `/?@`; the last `@` before the parameters ends it.
    let end = rest[..start_of_parameters(rest)].rfind('@');
    let Some((credentials, place)) = end.map(|end| (&rest[..end], &rest[end + 1..])) else {
        return url.to_owned();
    };
    let encoded = match credentials.split_once(':') {
        Some((user, password)) => format!("{}:{}", encode(user), encode(password)),
        None => encode(credentials),
    };
    format!("{scheme}://{encoded}@{place}")
}

/// The place of the `?` that a parameter follows, or the end.
fn start_of_parameters(rest: &str) -> usize {
    let is_parameter = |text: &str| {
        let name = text.split('=').next().unwrap_or(text);
        text.contains('=') && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    rest.match_indices('?')
        .map(|(place, _)| place)
        .find(|place| rest[place + 1..].is_empty() || is_parameter(&rest[place + 1..]))
        .unwrap_or(rest.len())
}

/// Encodes what is not encoded yet.
fn encode(text: &str) -> String {
    if is_encoded(text) {
        return text.to_owned();
    }
    utf8_percent_encode(text, RESERVED).to_string()
}

fn is_encoded(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hex = |place: usize| bytes.get(place).is_some_and(u8::is_ascii_hexdigit);
    bytes.iter().enumerate().all(|(place, byte)| match byte {
        b'%' => hex(place + 1) && hex(place + 2),
        b':' | b'/' | b'?' | b'#' | b'[' | b']' | b'@' | b' ' => false,
        byte => byte.is_ascii(),
    })
}

fn has_parameter(url: &str, name: &str) -> bool {
    let Some((_, query)) = place_and_query(url) else {
        return false;
    };
    query
        .split('&')
        .filter_map(|pair| pair.split('=').next())
        .any(|known| known.eq_ignore_ascii_case(name))
}

fn separator(url: &str) -> &'static str {
    let place = url.split_once("://").map_or(url, |(_, rest)| rest);
    match (place_and_query(url), place.contains('/')) {
        (Some((_, "")), _) => "",
        (Some(_), _) => "&",
        (None, true) => "?",
        (None, false) => "/?",
    }
}

fn place_and_query(url: &str) -> Option<(&str, &str)> {
    url.split_once('?')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_in_credentials_are_encoded_for_the_user() {
        let cases = [
            ("mongodb://localhost/openhim", "mongodb://localhost/openhim"),
            (
                "mongodb://him:plain@a:1,b:2/openhim?w=1",
                "mongodb://him:plain@a:1,b:2/openhim?w=1",
            ),
            (
                "mongodb://him:p@ss/w?rd@a/openhim?w=1",
                "mongodb://him:p%40ss%2Fw%3Frd@a/openhim?w=1",
            ),
            ("mongodb://him:pw@a/x?appName=c@b", "mongodb://him:pw@a/x?appName=c@b"),
            ("mongodb://him:100%@a/x", "mongodb://him:100%25@a/x"),
            ("mongodb://him:p%40ss@a/x", "mongodb://him:p%40ss@a/x"),
            ("mongodb://him:a:b@a/x", "mongodb://him:a%3Ab@a/x"),
            ("mongodb://him:ü@a/x", "mongodb://him:%C3%BC@a/x"),
            (
                "mongodb+srv://him:p#w@cluster.example.org/x",
                "mongodb+srv://him:p%23w@cluster.example.org/x",
            ),
        ];
        for (written, meant) in cases {
            assert_eq!(complete(written, &[]), meant);
        }
    }

    #[test]
    fn parameters_are_added_where_the_string_has_no_own() {
        let parameters = [
            ("w", "1"),
            ("useNewUrlParser", "true"),
            ("readPreference", "primaryPreferred"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let cases = [
            ("mongodb://a", "mongodb://a/?w=1&readPreference=primaryPreferred"),
            ("mongodb://a/x", "mongodb://a/x?w=1&readPreference=primaryPreferred"),
            (
                "mongodb://a/x?W=majority",
                "mongodb://a/x?W=majority&readPreference=primaryPreferred",
            ),
        ];
        for (written, meant) in cases {
            assert_eq!(complete(written, &parameters), meant);
        }
    }

    #[test]
    fn messages_name_hosts_and_never_credentials() {
        assert_eq!(hosts("mongodb://him:secret@a:1,b:2/openhim?w=1"), "a:1,b:2");
        assert_eq!(hosts("mongodb://him:se/c?r@et@a:1/openhim?w=1"), "a:1");
        assert_eq!(hosts("mongodb://localhost"), "localhost");
    }
}
