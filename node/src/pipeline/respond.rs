//! The client's answer: which of the backend's headers it gets, and how the body flows.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::route::is_hop_by_hop;

const TRANSACTION_ID: HeaderName = HeaderName::from_static("x-openhim-transactionid");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What of a request decides the form of its answer.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    is_kept_alive: bool,
}

impl Shape {
    /// Reads the request's wishes.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let has = |wish: &str| {
            let values = request.headers().get_all(header::CONNECTION).iter();
            let mut tokens = values
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','));
            tokens.any(|token| token.trim().eq_ignore_ascii_case(wish))
        };
        Self {
            is_kept_alive: match request.version() {
                Version::HTTP_11 => !has("close"),
                _ => has("keep-alive"),
            },
        }
    }

    /// For an answer that does not go over HTTP.
    pub(super) fn inward() -> Self {
        Self { is_kept_alive: false }
    }

    /// The connection ends with this answer.
    pub(super) fn close(&mut self) {
        self.is_kept_alive = false;
    }

    /// Adds what concerns the connection.
    pub(super) fn finish<B>(&self, response: &mut Response<B>) {
        let headers = response.headers_mut();
        if self.is_kept_alive {
            headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
            headers.insert(KEEP_ALIVE, HeaderValue::from_static("timeout=5"));
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// What a client is told of a failed route.
pub(super) const FAILURE: &str = "An internal server error occurred";

/// What a client is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: AnswerBody,
}

/// The headers of an answer about which nothing is known.
pub(super) fn plain_headers() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers
}

impl Answer {
    /// A route failed: OpenHIM's words for everything that a client need not know.
    pub(super) fn failure() -> Self {
        let headers = plain_headers();
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            headers,
            body: AnswerBody::whole(Bytes::from_static(FAILURE.as_bytes())),
        }
    }

    /// The client takes neither the answer nor any coding of it.
    pub(super) fn not_acceptable(mut headers: HeaderMap) -> Self {
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        Self {
            status: StatusCode::NOT_ACCEPTABLE,
            headers,
            body: AnswerBody::whole(Bytes::from_static(b"Not Acceptable")),
        }
    }

    /// The channel takes other methods; with the text of the body, as it is stored.
    pub(super) fn method_not_allowed(method: &Method, allowed: &[String]) -> (Self, String) {
        let text = format!(
            "Request with method {method} is not allowed. Only {} methods are allowed",
            allowed.join(", ")
        );
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        let answer = Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            headers,
            body: AnswerBody::whole(Bytes::from(text.clone())),
        };
        (answer, text)
    }

    /// The response, as it goes to hyper.
    pub(super) fn into_response(self, shape: &Shape) -> Response<AnswerBody> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        shape.finish(&mut response);
        response
    }
}

/// The status that a client gets for a backend's.
pub(super) fn status(backend: StatusCode, headers: &HeaderMap, is_asynchronous: bool) -> StatusCode {
    if is_asynchronous && backend.as_u16() < 400 {
        return StatusCode::ACCEPTED;
    }
    let is_redirect = backend.is_redirection() && headers.contains_key(header::LOCATION);
    match backend.as_u16() {
        300..=303 | 305 | 307 | 308 => backend,
        _ if is_redirect => StatusCode::FOUND,
        _ => backend,
    }
}

/// The headers that a client gets for a backend's.
pub(super) fn headers(backend: &HeaderMap, transaction: &HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(backend.len() + 6);
    let media_type = match backend.get(header::CONTENT_TYPE) {
        Some(value) => content_type(value),
        None => Some(HeaderValue::from_static("application/octet-stream")),
    };
    headers.extend(media_type.map(|value| (header::CONTENT_TYPE, value)));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    for name in backend.keys() {
        if *name == header::SET_COOKIE {
            for cookie in backend.get_all(name) {
                headers.append(header::SET_COOKIE, cookie.clone());
            }
        } else if is_copied(name)
            && let Some(value) = joined(backend, name)
        {
            headers.insert(name.clone(), value);
        }
    }
    headers.insert(TRANSACTION_ID, transaction.clone());
    headers
}

fn is_copied(name: &HeaderName) -> bool {
    !(matches!(
        *name,
        header::CONTENT_TYPE | header::CONTENT_LENGTH | header::CONTENT_ENCODING
    ) || is_hop_by_hop(name))
}

/// All values of a field as one.
fn joined(map: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = map.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_none() {
        return Some(first.clone());
    }
    let values: Vec<_> = map.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&values.join(&b", "[..])).ok()
}

/// Media types, besides `text/*`, that are labelled UTF-8 where the backend does not say.
const UTF8: [&str; 7] = [
    "application/json",
    "application/javascript",
    "application/manifest+json",
    "application/fhir+json",
    "application/fhir+xml",
    "application/vnd.hl7v2+xml",
    "application/vnd.hl7cda+xml",
];

/// The label of a body: text is labelled UTF-8 where the backend does not say; a bare word is a file's extension.
fn content_type(value: &HeaderValue) -> Option<HeaderValue> {
    let Ok(text) = value.to_str() else {
        return Some(value.clone());
    };
    if !text.contains('/') {
        let guessed = mime_guess::from_ext(text.trim()).first_raw()?;
        return labelled(guessed).or_else(|| HeaderValue::from_str(guessed).ok());
    }
    let has_charset = text.to_ascii_lowercase().contains("charset=");
    if has_charset {
        return Some(value.clone());
    }
    Some(labelled(text).unwrap_or_else(|| value.clone()))
}

fn labelled(text: &str) -> Option<HeaderValue> {
    let media_type = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_text = media_type.starts_with("text/") || UTF8.contains(&media_type.as_str());
    if !is_text {
        return None;
    }
    HeaderValue::from_str(&format!("{text}; charset=utf-8")).ok()
}

/// True if an answer to this request has no body, whatever the backend sent.
pub(super) fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || matches!(status.as_u16(), 204 | 205 | 304)
}

/// A body that is sent to a client.
#[derive(Debug)]
pub struct AnswerBody(Kind);

#[derive(Debug)]
enum Kind {
    Whole(Option<Bytes>),
    Piped {
        pieces: mpsc::Receiver<Result<Bytes, Cut>>,
        /// As announced.
        left: Option<u64>,
    },
}

/// The backend broke off: the client must not take the answer for whole.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the backend broke off its answer")]
pub(super) struct Cut;

impl AnswerBody {
    /// A body that is there.
    pub fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// A body that is still coming, of `length` if that is known.
    pub(super) fn piped(pieces: mpsc::Receiver<Result<Bytes, Cut>>, length: Option<u64>) -> Self {
        Self(Kind::Piped { pieces, left: length })
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Piped { pieces, left } => {
                let piece = std::task::ready!(pieces.poll_recv(cx));
                Poll::Ready(match piece {
                    Some(Ok(bytes)) => {
                        if let Some(left) = left {
                            *left = left.saturating_sub(bytes.len() as u64);
                        }
                        Some(Ok(Frame::data(bytes)))
                    }
                    Some(Err(cut)) => Some(Err(io::Error::other(cut))),
                    None => None,
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Kind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Piped { left: Some(left), .. } => SizeHint::with_exact(*left),
            Kind::Piped { left: None, .. } => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled_as(text: &'static str) -> Option<String> {
        content_type(&HeaderValue::from_static(text)).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn text_is_labelled_utf_8_where_the_backend_does_not_say() {
        for (given, expected) in [
            ("text/plain", Some("text/plain; charset=utf-8")),
            ("text/xml; charset=latin1", Some("text/xml; charset=latin1")),
            ("application/json", Some("application/json; charset=utf-8")),
            (
                "application/fhir+json; fhirVersion=4.0",
                Some("application/fhir+json; fhirVersion=4.0; charset=utf-8"),
            ),
            ("application/xml", Some("application/xml")),
            ("application/hal+json", Some("application/hal+json")),
            ("image/png", Some("image/png")),
            ("json", Some("application/json; charset=utf-8")),
            ("png", Some("image/png")),
            ("nosuchextension", None),
        ] {
            assert_eq!(labelled_as(given).as_deref(), expected, "{given}");
        }
    }

    #[test]
    fn a_client_gets_the_backends_headers_but_those_of_its_connection() {
        let mut backend = HeaderMap::new();
        for (name, value) in [
            ("server", "b"),
            ("connection", "close"),
            ("content-length", "5"),
            ("set-cookie", "a=1; Path=/; HttpOnly"),
            ("set-cookie", "b=2"),
            ("x-dup", "a"),
            ("x-dup", "b"),
            ("vary", "Origin"),
        ] {
            backend.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }

        let headers = headers(&backend, &HeaderValue::from_static("id"));

        let all = |name: &str| {
            let values = headers.get_all(name).iter();
            values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(all("content-type"), ["application/octet-stream"]);
        assert_eq!(all("set-cookie"), ["a=1; Path=/; HttpOnly", "b=2"]);
        assert_eq!(all("x-dup"), ["a, b"]);
        assert_eq!(all("vary"), ["Origin"]);
        assert_eq!(all("x-openhim-transactionid"), ["id"]);
        assert_eq!((all("connection"), all("content-length")), (vec![], vec![]));
    }

    #[test]
    fn a_redirect_with_an_odd_code_becomes_302() {
        let mut located = HeaderMap::new();
        located.insert(header::LOCATION, HeaderValue::from_static("/x"));

        assert_eq!(status(StatusCode::NOT_MODIFIED, &located, false), 302);
        assert_eq!(status(StatusCode::NOT_MODIFIED, &HeaderMap::new(), false), 304);
        assert_eq!(status(StatusCode::PERMANENT_REDIRECT, &located, false), 308);
        assert_eq!(status(StatusCode::FOUND, &located, true), 202);
        assert_eq!(status(StatusCode::NOT_FOUND, &located, true), 404);
    }
}
