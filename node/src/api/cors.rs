//! Cross-origin rules: any origin may call, with credentials, and is named in the answer.
//!
//! The console always runs on another port, so every one of its calls is cross-origin. Who may do what is decided by
//! the session, not here.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

const METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,PUT,POST,DELETE");

/// True for a browser's question before the real request; it is answered 204 without authentication.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// What every answer to this request carries, errors included.
pub(super) fn headers(request: &HeaderMap) -> HeaderMap {
    let mut answer = HeaderMap::new();
    answer.insert(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = request.get(ORIGIN) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    answer
}

/// What the answer to a preflight carries on top.
pub(super) fn preflight_headers(request: &HeaderMap) -> HeaderMap {
    let mut answer = headers(request);
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    if let Some(asked) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    answer
}
