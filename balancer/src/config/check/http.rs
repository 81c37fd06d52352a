//! Rules for requests.

use super::Reader;
use crate::config::values;
use crate::plan::{Http, Mode};

/// Name of the cookie when none is written.
const COOKIE: &str = "openhim-backend";

impl Reader<'_> {
    /// All but the routes.
    pub(super) fn http(&mut self, mode: Mode) -> Http {
        let unsaid = Http::default();
        Http {
            keep_alive_timeout: self.parsed(
                "keep_alive_timeout",
                unsaid.keep_alive_timeout,
                values::positive_duration,
            ),
            header_timeout: self.parsed("header_timeout", unsaid.header_timeout, values::positive_duration),
            body_timeout: self.parsed("body_timeout", unsaid.body_timeout, values::positive_duration),
            response_timeout: self.parsed("response_timeout", unsaid.response_timeout, values::duration),
            backend_idle_timeout: self.parsed("backend_idle_timeout", unsaid.backend_idle_timeout, values::duration),
            max_header_bytes: self.parsed("max_header_bytes", unsaid.max_header_bytes, |text| {
                values::number(text, 1024..=1 << 20)
            }),
            max_headers: self.parsed("max_headers", unsaid.max_headers, |text| {
                values::number(text, 8..=10_000)
            }),
            max_target_bytes: self.parsed("max_target_bytes", unsaid.max_target_bytes, |text| {
                values::number(text, 256..=1 << 20)
            }),
            client_maxconn: self.parsed("client_maxconn", None, |text| {
                values::number(text, 1..=1_000_000).map(Some)
            }),
            trusted_proxies: self.networks("trusted_proxies"),
            cookie: self.cookie(mode),
            routes: Vec::new(),
        }
    }

    fn cookie(&mut self, mode: Mode) -> Option<String> {
        let name = self.parsed("sticky_cookie", COOKIE.to_owned(), |text| {
            let is_sound = !text.is_empty()
                && text
                    .bytes()
                    .all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it));
            if is_sound {
                Ok(text.to_owned())
            } else {
                Err(format!(
                    "`{text}` is not a cookie's name; write letters, digits and -_."
                ))
            }
        });
        let is_wanted = self.text("sticky").is_some_and(|(text, _, _)| text == "cookie");
        (is_wanted && mode == Mode::Http).then_some(name)
    }
}
