//! What the balancer answers itself: small, without secrets, as a page for people and as JSON for programs.

use std::fmt::Write;

/// An answer of the balancer's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// A sentence for whoever reads it.
    pub(super) says: &'static str,
    /// Seconds after which it may be worth another try.
    pub(super) retry_after: Option<u32>,
}

/// What an answer depends on besides what it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct To<'a> {
    /// The request's `Accept`.
    pub(super) accept: &'a [u8],
    pub(super) is_head: bool,
    pub(super) is_1_1: bool,
    /// The connection can carry another request.
    pub(super) keeps: bool,
    pub(super) request_id: &'a str,
}

impl Answer {
    pub(super) const fn new(status: u16, says: &'static str) -> Self {
        Self {
            status,
            says,
            retry_after: None,
        }
    }

    pub(super) const fn later(status: u16, says: &'static str) -> Self {
        Self {
            status,
            says,
            retry_after: Some(1),
        }
    }

    /// Appends it.
    pub(super) fn write(&self, out: &mut Vec<u8>, to: &To<'_>) {
        let name = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|it| it.canonical_reason())
            .unwrap_or_default();
        let wants_page = to.accept.windows(9).any(|it| it.eq_ignore_ascii_case(b"text/html"));
        let (media_type, body) = if wants_page {
            ("text/html; charset=utf-8", self.page(name, to.request_id))
        } else {
            ("application/json", self.json(name, to.request_id))
        };
        let mut head = format!(
            "HTTP/1.1 {} {name}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
            self.status,
            body.len()
        );
        // Writing into a String cannot fail.
        if let Some(seconds) = self.retry_after {
            let _ = write!(head, "Retry-After: {seconds}\r\n");
        }
        if !to.request_id.is_empty() {
            let _ = write!(head, "X-Request-Id: {}\r\n", to.request_id);
        }
        head.push_str(match (to.keeps, to.is_1_1) {
            (false, _) => "Connection: close\r\n\r\n",
            (true, false) => "Connection: keep-alive\r\n\r\n",
            (true, true) => "\r\n",
        });
        out.extend_from_slice(head.as_bytes());
        if !to.is_head {
            out.extend_from_slice(body.as_bytes());
        }
    }

    fn json(&self, name: &str, request_id: &str) -> String {
        let body = serde_json::json!({
            "status": self.status, "error": name, "message": self.says, "requestId": request_id,
        });
        format!("{body}\n")
    }

    fn page(&self, name: &str, request_id: &str) -> String {
        let id: String = request_id
            .chars()
            .map(|it| match it {
                '<' | '>' | '&' | '"' | '\'' => '?',
                it => it,
            })
            .collect();
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{status} {name}</title>\
             <body style=\"font:16px sans-serif;margin:3em\"><h1>{status} {name}</h1><p>{says}</p>\
             <p><small>Request {id}</small></p></body></html>\n",
            status = self.status,
            says = self.says,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(accept: &str, is_head: bool) -> String {
        let mut out = Vec::new();
        let to = To {
            accept: accept.as_bytes(),
            is_head,
            is_1_1: true,
            keeps: false,
            request_id: "a<b",
        };
        Answer::later(503, "No server can take this now.").write(&mut out, &to);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn people_get_a_page_and_programs_json() {
        let page = written("text/html,application/xhtml+xml", false);
        assert!(
            page.contains("Content-Type: text/html") && page.contains("Request a?b"),
            "{page}"
        );
        let json = written("*/*", false);
        let (head, body) = json.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n") && head.contains("Retry-After: 1\r\n"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).expect("json");
        assert_eq!(
            (body["status"].as_u64(), body["requestId"].as_str()),
            (Some(503), Some("a<b"))
        );
        assert!(written("", true).ends_with("\r\n\r\n"));
    }
}
