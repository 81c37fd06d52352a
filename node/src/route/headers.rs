//! Request headers: one set as the client sent it, stored as it came, and a copy for each route.
//!
//! Names are lower-case on the wire. In the store, what the client sent keeps its lower-case name and what was added
//! here has OpenHIM's spelling.

use std::borrow::Cow;

use bson::{RawArrayBuf, RawDocumentBuf};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

use crate::model::transaction::put_header;
use crate::tables::RouteEntry;

/// Codings that can be decoded here; a backend may answer in no other.
const CODINGS: [&str; 8] = ["gzip", "x-gzip", "deflate", "br", "zstd", "identity", "*", ""];

/// Fields of which only the first counts, as in Node.js; repeated others are joined.
const SINGLE: [HeaderName; 17] = [
    header::AGE,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::ETAG,
    header::EXPIRES,
    header::FROM,
    header::HOST,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::LAST_MODIFIED,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PROXY_AUTHORIZATION,
    header::REFERER,
    header::RETRY_AFTER,
    header::USER_AGENT,
];

const CLIENT_ID: HeaderName = HeaderName::from_static("x-openhim-clientid");
const TRANSACTION_ID: HeaderName = HeaderName::from_static("x-openhim-transactionid");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A request's headers.
#[derive(Clone, Debug)]
pub struct RequestHeaders {
    map: HeaderMap,
    /// Fields that were added here, with the names that are stored.
    added: Vec<(HeaderName, &'static str)>,
    /// Fields that the client's `Connection` names.
    of_connection: Vec<HeaderName>,
}

impl RequestHeaders {
    /// Takes what a client sent. Nobody but this node says who the client is and which transaction this is.
    pub fn received(mut map: HeaderMap) -> Self {
        join_repeated(&mut map);
        map.remove(&CLIENT_ID);
        map.remove(&TRANSACTION_ID);
        let of_connection = map
            .get(header::CONNECTION)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(',').filter_map(|name| name.trim().parse().ok()).collect())
            .unwrap_or_default();
        Self {
            map,
            added: Vec::new(),
            of_connection,
        }
    }

    /// Takes what was stored of a request that is sent again. Who the client was stays said.
    pub fn replayed(mut map: HeaderMap) -> Self {
        join_repeated(&mut map);
        Self {
            map,
            added: Vec::new(),
            of_connection: Vec::new(),
        }
    }

    /// All fields.
    pub fn map(&self) -> &HeaderMap {
        &self.map
    }

    /// The value of a field.
    pub fn get(&self, name: impl header::AsHeaderName) -> Option<&HeaderValue> {
        self.map.get(name)
    }

    /// The value of a field as text; `None` if it is absent or not ASCII.
    pub fn text(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.map.get(name).and_then(|value| value.to_str().ok())
    }

    /// Names the client for the backends.
    pub fn set_client(&mut self, client_id: &str) {
        if let Ok(value) = HeaderValue::from_bytes(client_id.as_bytes()) {
            self.map.insert(CLIENT_ID, value);
            self.added.push((CLIENT_ID, "X-OpenHIM-ClientID"));
        }
    }

    /// Says from where and to which host the request came, behind what earlier proxies said.
    pub fn set_forwarded(&mut self, address: &str) {
        self.append(FORWARDED_FOR, "X-Forwarded-For", address.as_bytes());
        if let Some(host) = self.map.get(header::HOST).cloned() {
            self.append(FORWARDED_HOST, "X-Forwarded-Host", host.as_bytes());
        }
    }

    fn append(&mut self, name: HeaderName, stored: &'static str, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        let before = self
            .map
            .get(&name)
            .map(HeaderValue::as_bytes)
            .filter(|before| !before.is_empty());
        let value = match before {
            Some(before) => HeaderValue::from_bytes(&[before, b", ", value].concat()),
            None => HeaderValue::from_bytes(value),
        };
        let Ok(value) = value else { return };
        if self.map.insert(name.clone(), value).is_none() {
            self.added.push((name, stored));
        }
    }

    /// As they are stored with the transaction.
    pub fn stored(&self) -> RawDocumentBuf {
        self.document(|_| true)
    }

    /// As they are stored with what was sent over a route.
    pub(super) fn stored_for(&self, route: &RouteEntry) -> RawDocumentBuf {
        self.document(|name| self.goes_to(route, name) && *name != header::HOST)
    }

    /// The same by name, as they are stored but not as the store wants names.
    pub(super) fn named_for(&self, route: &RouteEntry) -> Vec<(String, String)> {
        let fields = self.map.iter();
        fields
            .filter(|(name, _)| self.goes_to(route, name) && **name != header::HOST)
            .map(|(name, value)| {
                let added = self.added.iter().find(|(added, _)| added == name);
                let name = added.map_or_else(|| name.as_str(), |(_, stored)| stored);
                (name.to_owned(), text(value).into_owned())
            })
            .collect()
    }

    fn document(&self, wanted: impl Fn(&HeaderName) -> bool) -> RawDocumentBuf {
        let mut document = RawDocumentBuf::new();
        for (name, value) in self.map.iter().filter(|(name, _)| wanted(name)) {
            let stored = self.added.iter().find(|(added, _)| added == name);
            let name = stored.map_or_else(|| name.as_str(), |(_, stored)| stored);
            put_header(&mut document, name, &*text(value));
        }
        document
    }

    /// A copy for a route, with the route's host and credentials.
    pub(super) fn for_route(&self, route: &RouteEntry, transaction: HeaderValue) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.map.len() + 3);
        map.insert(header::HOST, route.host_header.clone());
        for (name, value) in &self.map {
            if *name == header::ACCEPT_ENCODING {
                if let Some(value) = decodable(value) {
                    map.insert(header::ACCEPT_ENCODING, value);
                }
            } else if *name != header::HOST && self.goes_to(route, name) {
                map.append(name.clone(), value.clone());
            }
        }
        if let Some(own) = &route.authorization
            && !map.contains_key(header::AUTHORIZATION)
        {
            map.insert(header::AUTHORIZATION, own.clone());
        }
        map.insert(TRANSACTION_ID, transaction);
        map
    }

    fn goes_to(&self, route: &RouteEntry, name: &HeaderName) -> bool {
        if *name == header::AUTHORIZATION {
            return route.route.forward_auth_header;
        }
        // The framing of the body stays the client's.
        *name == header::TRANSFER_ENCODING || !(is_hop_by_hop(name) || self.of_connection.contains(name))
    }
}

/// True for fields that concern one connection only.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Header fields as they are stored: names lower-case, repeated fields joined, cookies that are set as a list.
pub fn stored(map: &HeaderMap) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for name in map.keys() {
        let mut values = map.get_all(name).iter().map(text);
        if *name == header::SET_COOKIE {
            let cookies: RawArrayBuf = values.map(Cow::into_owned).collect();
            put_header(&mut document, name.as_str(), cookies);
            continue;
        }
        let mut joined = values.next().unwrap_or_default();
        for value in values {
            joined += ", ";
            joined += value;
        }
        put_header(&mut document, name.as_str(), &*joined);
    }
    document
}

/// Header bytes are Latin-1 where they are not ASCII.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    match value.to_str() {
        Ok(ascii) => Cow::Borrowed(ascii),
        Err(_) => value.as_bytes().iter().map(|byte| char::from(*byte)).collect(),
    }
}

fn join_repeated(map: &mut HeaderMap) {
    if map.len() == map.keys_len() {
        return;
    }
    let repeated: Vec<_> = map
        .keys()
        .filter(|name| map.get_all(*name).iter().nth(1).is_some())
        .cloned()
        .collect();
    for name in repeated {
        let separator: &[u8] = if name == header::COOKIE { b"; " } else { b", " };
        let values: Vec<_> = map.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        let joined = if SINGLE.contains(&name) {
            HeaderValue::from_bytes(values[0])
        } else {
            HeaderValue::from_bytes(&values.join(separator))
        };
        if let Ok(value) = joined {
            map.insert(name, value);
        }
    }
}

/// The part of `Accept-Encoding` that this node can decode; `None` if nothing is left.
fn decodable(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let is_known = |item: &&str| {
        let coding = item.split(';').next().unwrap_or_default().trim();
        CODINGS.iter().any(|known| known.eq_ignore_ascii_case(coding))
    };
    if text.split(',').all(|item| is_known(&item)) {
        return Some(value.clone());
    }
    let kept: Vec<_> = text.split(',').map(str::trim).filter(is_known).collect();
    (!kept.is_empty()).then(|| HeaderValue::from_str(&kept.join(", ")).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(fields: &[(&'static str, &'static str)]) -> RequestHeaders {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        RequestHeaders::received(map)
    }

    #[test]
    fn repeated_fields_are_joined_as_node_js_joins_them() {
        let headers = received(&[
            ("x-a", "1"),
            ("x-a", "2"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("user-agent", "first"),
            ("user-agent", "second"),
        ]);

        assert_eq!(headers.text("x-a"), Some("1, 2"));
        assert_eq!(headers.text("cookie"), Some("a=1; b=2"));
        assert_eq!(headers.text("user-agent"), Some("first"));
    }

    #[test]
    fn nobody_can_pretend_to_be_a_client() {
        let mut headers = received(&[("x-openhim-clientid", "admin"), ("x-openhim-transactionid", "1")]);
        assert_eq!(headers.text("x-openhim-clientid"), None);

        headers.set_client("clinic");

        assert_eq!(headers.stored(), bson::rawdoc! {"X-OpenHIM-ClientID": "clinic"});
    }

    #[test]
    fn forwarding_appends_to_what_earlier_proxies_said() {
        let mut first = received(&[("host", "him:5001")]);
        first.set_forwarded("10.0.0.9");
        let mut later = received(&[("host", "him"), ("x-forwarded-for", "9.9.9.9")]);
        later.set_forwarded("10.0.0.9");

        assert_eq!(
            first.stored(),
            bson::rawdoc! {"host": "him:5001", "X-Forwarded-For": "10.0.0.9", "X-Forwarded-Host": "him:5001"}
        );
        assert_eq!(
            later.stored(),
            bson::rawdoc! {"host": "him", "x-forwarded-for": "9.9.9.9, 10.0.0.9", "X-Forwarded-Host": "him"}
        );
    }

    #[test]
    fn a_backend_is_asked_only_for_codings_that_can_be_decoded() {
        let accept = |text| decodable(&HeaderValue::from_static(text));

        assert_eq!(accept("gzip, deflate, br, zstd").unwrap(), "gzip, deflate, br, zstd");
        assert_eq!(accept("compress, gzip;q=0.5").unwrap(), "gzip;q=0.5");
        assert_eq!(accept("compress"), None);
    }

    #[test]
    fn stored_answers_keep_each_cookie_and_full_width_dots() {
        let mut map = HeaderMap::new();
        map.append("set-cookie", HeaderValue::from_static("a=1"));
        map.append("set-cookie", HeaderValue::from_static("b=2"));
        map.append("x-dup", HeaderValue::from_static("a"));
        map.append("x-dup", HeaderValue::from_static("b"));
        map.append("x.dot", HeaderValue::from_bytes(b"caf\xe9").unwrap());

        assert_eq!(
            stored(&map),
            bson::rawdoc! {"set-cookie": ["a=1", "b=2"], "x-dup": "a, b", "x\u{FF0E}dot": "café"}
        );
    }
}
