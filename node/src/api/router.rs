//! Which handler a path belongs to.
//!
//! Paths match without regard to case, with or without one slash at the end; a parameter is one segment that is not
//! empty, percent-decoded once. A `GET` route answers `HEAD` too. The first route of the table that fits wins, so the
//! table's order is part of the contract. Nothing here knows who is asking.

use std::future::Future;
use std::pin::Pin;

use http::Method;
use percent_encoding::percent_decode_str;

use super::auth::Caller;
use super::context::Call;
use super::error::Refusal;
use super::reply::Reply;

/// What a handler answers.
pub(super) type Answer = Result<Reply, Refusal>;
type Pending = Pin<Box<dyn Future<Output = Answer> + Send>>;

pub(super) type PublicHandler = Box<dyn Fn(Call) -> Pending + Send + Sync>;
pub(super) type GatedHandler = Box<dyn Fn(Call, Caller) -> Pending + Send + Sync>;

/// The code behind a route: open to everybody, or for authenticated callers only.
pub(super) enum Handler {
    Public(PublicHandler),
    Gated(GatedHandler),
}

impl Handler {
    /// The code, if it is open to everybody.
    pub(super) fn public(&self) -> Option<&PublicHandler> {
        match self {
            Self::Public(handler) => Some(handler),
            Self::Gated(_) => None,
        }
    }

    /// The code, if it is for authenticated callers.
    pub(super) fn gated(&self) -> Option<&GatedHandler> {
        match self {
            Self::Public(_) => None,
            Self::Gated(handler) => Some(handler),
        }
    }
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Public(_) => "Public",
            Self::Gated(_) => "Gated",
        })
    }
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// Segments begin with `/`; those that begin with `:` are parameters.
    pub(super) pattern: &'static str,
    /// One sentence for the API's description.
    pub(super) summary: &'static str,
    pub(super) handler: Handler,
}

/// A route that needs no login.
pub(super) fn public<F, P>(method: Method, pattern: &'static str, handler: F, summary: &'static str) -> Route
where
    F: Fn(Call) -> P + Send + Sync + 'static,
    P: Future<Output = Answer> + Send + 'static,
{
    Route {
        method,
        pattern,
        summary,
        handler: Handler::Public(Box::new(move |call| Box::pin(handler(call)))),
    }
}

/// A route behind the gate.
fn gated<F, P>(method: Method, pattern: &'static str, handler: F, summary: &'static str) -> Route
where
    F: Fn(Call, Caller) -> P + Send + Sync + 'static,
    P: Future<Output = Answer> + Send + 'static,
{
    Route {
        method,
        pattern,
        summary,
        handler: Handler::Gated(Box::new(move |call, caller| Box::pin(handler(call, caller)))),
    }
}

/// `GET` (and `HEAD`) behind the gate.
pub(super) fn get<F, P>(pattern: &'static str, handler: F, summary: &'static str) -> Route
where
    F: Fn(Call, Caller) -> P + Send + Sync + 'static,
    P: Future<Output = Answer> + Send + 'static,
{
    gated(Method::GET, pattern, handler, summary)
}

/// `POST` behind the gate.
pub(super) fn post<F, P>(pattern: &'static str, handler: F, summary: &'static str) -> Route
where
    F: Fn(Call, Caller) -> P + Send + Sync + 'static,
    P: Future<Output = Answer> + Send + 'static,
{
    gated(Method::POST, pattern, handler, summary)
}

/// `PUT` behind the gate.
pub(super) fn put<F, P>(pattern: &'static str, handler: F, summary: &'static str) -> Route
where
    F: Fn(Call, Caller) -> P + Send + Sync + 'static,
    P: Future<Output = Answer> + Send + 'static,
{
    gated(Method::PUT, pattern, handler, summary)
}

/// `DELETE` behind the gate.
pub(super) fn delete<F, P>(pattern: &'static str, handler: F, summary: &'static str) -> Route
where
    F: Fn(Call, Caller) -> P + Send + Sync + 'static,
    P: Future<Output = Answer> + Send + 'static,
{
    gated(Method::DELETE, pattern, handler, summary)
}

/// The values of a path's parameters: name and percent-decoded text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Params(Vec<(&'static str, String)>);

impl Params {
    /// Parameter `name`, with JavaScript's `unescape` applied on top, as most of OpenHIM's handlers do. Empty if the
    /// route has none of that name.
    pub(super) fn get(&self, name: &str) -> String {
        unescape(self.once(name))
    }

    /// Parameter `name`, decoded once.
    pub(super) fn once(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map_or("", |(_, value)| value)
    }
}

/// Why a path that fits cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("path parameter is not valid percent-encoded UTF-8")]
pub(super) struct MalformedPath;

/// The first handler in `table` that serves `method` on `path`, among those that `wanted` picks out.
pub(super) fn find<'t, H>(
    table: &'t [Route],
    method: &Method,
    path: &str,
    wanted: impl Fn(&'t Route) -> Option<&'t H>,
) -> Result<Option<(&'t H, Params)>, MalformedPath> {
    for route in table.iter().filter(|route| serves(route, method)) {
        if let Some(handler) = wanted(route)
            && let Some(params) = fit(route.pattern, path)?
        {
            return Ok(Some((handler, params)));
        }
    }
    Ok(None)
}

fn serves(route: &Route, method: &Method) -> bool {
    route.method == *method || (*method == Method::HEAD && route.method == Method::GET)
}

fn fit(pattern: &'static str, path: &str) -> Result<Option<Params>, MalformedPath> {
    let path = match path.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() => shorter,
        _ => path,
    };
    let mut wanted = pattern.split('/');
    let mut given = path.split('/');
    let mut raw = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => break,
            (Some(name), Some(segment)) if name.starts_with(':') => {
                if segment.is_empty() {
                    return Ok(None);
                }
                raw.push((&name[1..], segment));
            }
            (Some(text), Some(segment)) if text.eq_ignore_ascii_case(segment) => {}
            _ => return Ok(None),
        }
    }
    let mut params = Params::default();
    for (name, segment) in raw {
        params.0.push((name, decode(segment)?));
    }
    Ok(Some(params))
}

/// Decodes as `decodeURIComponent` does: a lone `%` or bytes that are no UTF-8 are errors.
fn decode(segment: &str) -> Result<String, MalformedPath> {
    let bytes = segment.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let escaped = || {
            bytes
                .get(at + 1..at + 3)
                .is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
        };
        if *byte == b'%' && !escaped() {
            return Err(MalformedPath);
        }
    }
    percent_decode_str(segment)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| MalformedPath)
}

/// JavaScript's `unescape`: `%XX` and `%uXXXX`, everything else as it is.
fn unescape(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let chars: Vec<char> = text.chars().collect();
    let mut units: Vec<u16> = Vec::with_capacity(chars.len());
    let mut at = 0;
    let mut buffer = [0; 2];
    while at < chars.len() {
        let (unit, length) = match escape_at(&chars, at) {
            Some(found) => found,
            None => {
                units.extend_from_slice(chars[at].encode_utf16(&mut buffer));
                at += 1;
                continue;
            }
        };
        units.push(unit);
        at += length;
    }
    String::from_utf16_lossy(&units)
}

fn escape_at(chars: &[char], at: usize) -> Option<(u16, usize)> {
    let hex = |from: usize, digits: usize| -> Option<u16> {
        let text: String = chars.get(from..from + digits)?.iter().collect();
        (text.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .then(|| u16::from_str_radix(&text, 16).ok())
            .flatten()
    };
    if chars[at] != '%' {
        return None;
    }
    if chars.get(at + 1) == Some(&'u') {
        return hex(at + 2, 4).map(|unit| (unit, 6));
    }
    hex(at + 1, 2).map(|unit| (unit, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pattern: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
        fit(pattern, path).unwrap().map(|params| params.0)
    }

    #[test]
    fn paths_match_in_any_case_and_with_one_slash_at_the_end() {
        assert!(params("/channels", "/CHANNELS/").is_some());
        assert!(params("/channels", "/channels//").is_none());
        assert!(params("/channels", "/channel").is_none());
        assert!(params("/channels/:id", "/channels/").is_none());
        assert!(params("/channels", "channels").is_none());
    }

    #[test]
    fn a_parameter_is_one_decoded_segment_in_its_own_case() {
        assert_eq!(
            params("/users/:email", "/Users/Root%40OpenHIM.org"),
            Some(vec![("email", "Root@OpenHIM.org".to_owned())])
        );
        assert_eq!(params("/users/:email", "/users/a/b"), None);
    }

    #[test]
    fn a_parameter_is_unescaped_a_second_time() {
        let params = fit("/a/:x", "/a/%2541%25u00e9%25zz").unwrap().unwrap();
        assert_eq!(params.once("x"), "%41%u00e9%zz");
        assert_eq!(params.get("x"), "Aé%zz");
    }

    #[test]
    fn a_malformed_escape_is_an_error_only_where_the_pattern_fits() {
        assert_eq!(fit("/users/:email", "/users/%E0%A4"), Err(MalformedPath));
        assert_eq!(fit("/users/:email", "/users/100%"), Err(MalformedPath));
        assert_eq!(fit("/users", "/%zz"), Ok(None));
    }
}
