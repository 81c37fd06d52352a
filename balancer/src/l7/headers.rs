//! Heads as they go on: to the backend, and to the client.
//!
//! Lines keep their order and their letters. Dropped is what is meant for the next hop alone (RFC 9110, section 7.6.1) and
//! what a client says of itself without being believed; added is what only the balancer knows.

use std::net::SocketAddr;

use super::forwarded;
use super::framing::head::lists;
use super::framing::{Field, Known, Length, Request, Response};
use super::transport::ClientInfo;

/// Longest request id that is taken from a client.
const REQUEST_ID_BYTES: usize = 128;

/// What a request's head for the backend depends on, besides the head itself.
#[derive(Debug)]
pub(super) struct Upward<'a> {
    pub(super) info: &'a ClientInfo,
    /// The peer's words about the client count.
    pub(super) is_trusted: bool,
    /// The id it gets if it brings none.
    pub(super) request_id: &'a str,
    /// Stands for the host if the client named none.
    pub(super) backend: SocketAddr,
}

/// The id that a client gave its request, if it can be used.
pub(super) fn request_id<'h>(request: &Request, head: &'h [u8]) -> Option<&'h str> {
    let id = request.field(Known::XRequestId)?.text(head);
    let is_sound = !id.is_empty() && id.len() <= REQUEST_ID_BYTES && id.bytes().all(|it| it.is_ascii_graphic());
    is_sound.then_some(id)
}

/// Appends the head of a request for a backend.
pub(super) fn write_request(out: &mut Vec<u8>, request: &Request, head: &[u8], upward: &Upward<'_>) {
    // Room for the lines that are added, so that it is made once.
    out.reserve(head.len() + 512);
    let path = request.path.of(head);
    out.extend_from_slice(request.method.of(head));
    out.push(b' ');
    match path.first() {
        None if request.method.of(head) == b"OPTIONS" => out.push(b'*'),
        None | Some(b'?') => out.push(b'/'),
        Some(_) => {}
    }
    out.extend_from_slice(path);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let has_id = request_id(request, head).is_some();
    let has_host = !request.host.of(head).is_empty() || request.is_1_1;
    if !has_host {
        write_line(out, b"Host", upward.backend.to_string().as_bytes());
    }
    let mut takes_trailers = false;
    for field in &request.fields {
        let goes_on = match field.known {
            Known::Connection | Known::KeepAlive | Known::ProxyConnection => false,
            Known::Te => {
                takes_trailers |= lists(field.value.of(head), "trailers");
                false
            }
            Known::Upgrade => request.wants_upgrade,
            Known::Expect => request.expects_continue,
            Known::Host => has_host,
            Known::XForwardedFor | Known::XForwardedHost | Known::XForwardedProto | Known::Forwarded => false,
            Known::XRealIp | Known::XSslClient => upward.is_trusted,
            Known::XRequestId => has_id,
            Known::Other => !(request.options.others && is_nominated(&request.fields, field, head)),
            _ => true,
        };
        if goes_on {
            write_line(out, field.name.of(head), field.value.of(head));
        }
    }
    match (request.wants_upgrade, takes_trailers) {
        (true, _) => out.extend_from_slice(b"Connection: Upgrade\r\n"),
        (false, true) => out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n"),
        (false, false) => {}
    }
    forwarded::write(out, upward.info, upward.is_trusted, request, head);
    if !has_id {
        write_line(out, b"X-Request-Id", upward.request_id.as_bytes());
    }
    if let Some(certificate) = upward.info.tls.as_ref().and_then(|tls| tls.certificate.as_ref()) {
        write_line(out, b"X-SSL-Client-CN", &visible(&certificate.common_name));
        let pem = percent_encoding::utf8_percent_encode(&certificate.pem, percent_encoding::NON_ALPHANUMERIC);
        write_line(out, b"X-SSL-Client-Cert", pem.to_string().as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// What an answer's head for the client depends on, besides the head itself.
#[derive(Debug)]
pub(super) struct Downward<'a> {
    pub(super) client_is_1_1: bool,
    /// The connection can carry another request.
    pub(super) keeps: bool,
    /// The body that the backend ends by closing is chunked for the client.
    pub(super) is_chunked_here: bool,
    /// A whole `Set-Cookie` value.
    pub(super) cookie: Option<&'a str>,
}

/// Appends the head of an answer for the client.
pub(super) fn write_response(out: &mut Vec<u8>, response: &Response, head: &[u8], downward: &Downward<'_>) {
    out.reserve(head.len() + 128);
    let status = response.status_and_reason.of(head);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status);
    // The space stands even if no reason follows.
    out.extend_from_slice(if status.len() == 3 { b" \r\n" } else { b"\r\n" });
    let is_upgrade = response.status == 101 || response.status == 426;
    for field in &response.fields {
        let goes_on = match field.known {
            Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::Te => false,
            Known::Upgrade => is_upgrade,
            Known::TransferEncoding => downward.client_is_1_1 && !response.is_doubtful,
            Known::ContentLength => !response.is_doubtful,
            Known::Other => !(response.options.others && is_nominated(&response.fields, field, head)),
            _ => true,
        };
        if goes_on {
            write_line(out, field.name.of(head), field.value.of(head));
        }
    }
    if downward.is_chunked_here {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if let Some(cookie) = downward.cookie.filter(|_| response.is_final()) {
        write_line(out, b"Set-Cookie", cookie.as_bytes());
    }
    match response.status {
        101 => out.extend_from_slice(b"Connection: Upgrade\r\n"),
        100..=199 => {}
        426 if downward.keeps => out.extend_from_slice(b"Connection: Upgrade\r\n"),
        _ if !downward.keeps => out.extend_from_slice(b"Connection: close\r\n"),
        _ if !downward.client_is_1_1 => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// True if the answer's end can be seen without the end of the connection.
pub(super) fn has_visible_end(response: &Response, client_is_1_1: bool) -> bool {
    match response.length {
        Length::None | Length::Exactly(_) => true,
        Length::Chunked | Length::UntilClose => client_is_1_1,
        Length::Tunnel => false,
    }
}

fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// True if a `Connection` line says that this field is for the next hop alone.
fn is_nominated(fields: &[Field], field: &Field, head: &[u8]) -> bool {
    let name = field.name.text(head);
    fields
        .iter()
        .any(|it| it.known == Known::Connection && lists(it.value.of(head), name))
}

fn visible(text: &str) -> Vec<u8> {
    text.bytes()
        .map(|it| if it < b' ' || it == 0x7f { b'?' } else { it })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::framing::Limits;
    use crate::l7::framing::head::Asked;
    use crate::l7::transport::Protocol;

    fn upward(head: &str, is_trusted: bool) -> String {
        let info = ClientInfo {
            client: SocketAddr::from(([192, 0, 2, 7], 4000)),
            local: SocketAddr::from(([192, 0, 2, 1], 80)),
            protocol: Protocol::Http1,
            tls: None,
        };
        let request = Request::read(head.as_bytes(), &Limits::default(), Vec::new()).expect("sound");
        let mut out = Vec::new();
        let upward = Upward {
            info: &info,
            is_trusted,
            request_id: "id",
            backend: SocketAddr::from(([10, 0, 0, 2], 5001)),
        };
        write_request(&mut out, &request, head.as_bytes(), &upward);
        String::from_utf8(out).expect("text")
    }

    fn downward(head: &str, client_is_1_1: bool, keeps: bool) -> String {
        let asked = Asked {
            wants_upgrade: true,
            ..Asked::default()
        };
        let response = Response::read(head.as_bytes(), &Limits::default(), asked, Vec::new()).expect("sound");
        let mut out = Vec::new();
        let downward = Downward {
            client_is_1_1,
            keeps,
            is_chunked_here: false,
            cookie: None,
        };
        write_response(&mut out, &response, head.as_bytes(), &downward);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn order_and_case_of_lines_are_kept() {
        let told = upward(
            "GET /a HTTP/1.1\r\nhOST: a\r\nX-b: 1\r\nx-A:2\r\nCookie: c=d\r\n\r\n",
            false,
        );
        assert!(
            told.starts_with("GET /a HTTP/1.1\r\nhOST: a\r\nX-b: 1\r\nx-A: 2\r\nCookie: c=d\r\nX-Forwarded-For: "),
            "{told}"
        );
        assert!(told.ends_with("\r\nX-Request-Id: id\r\n\r\n"), "{told}");
    }

    #[test]
    fn what_is_for_one_hop_goes_no_further() {
        let told = upward(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine, host, Cookie\r\nKeep-Alive: 5\r\nX-Mine: 1\r\n\
             Cookie: c\r\nProxy-Connection: x\r\nTE: trailers, gzip\r\nUpgrade: h2c\r\n\r\n",
            false,
        );
        assert!(
            told.starts_with("GET / HTTP/1.1\r\nHost: a\r\nCookie: c\r\nTE: trailers\r\nConnection: TE\r\nX-Forw"),
            "{told}"
        );
        let back = downward(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Mine\r\nKeep-Alive: 5\r\nX-Mine: 1\r\nContent-Length: 0\r\n\r\n",
            true,
            true,
        );
        assert_eq!(back, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn nobody_can_pretend_to_be_someone_else() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\n\
            X-SSL-Client-CN: admin\r\n\r\n";
        let told = upward(head, false);
        assert!(!told.contains("10.0.0.1") && !told.contains("admin"), "{told}");
        let told = upward(head, true);
        assert!(told.contains("X-Forwarded-For: 10.0.0.1, 192.0.2.7\r\n"), "{told}");
        assert!(told.contains("X-SSL-Client-CN: admin\r\n"), "{told}");
    }

    #[test]
    fn an_absolute_target_becomes_a_path() {
        for (target, expected) in [
            ("http://a/b?c", "GET /b?c HTTP"),
            ("http://a", "GET / HTTP"),
            ("http://a?c", "GET /?c HTTP"),
        ] {
            let told = upward(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), false);
            assert!(told.starts_with(expected), "{told}");
        }
    }

    #[test]
    fn a_client_of_http_1_0_gets_what_it_can_read() {
        let told = upward("GET / HTTP/1.0\r\n\r\n", false);
        assert!(told.starts_with("GET / HTTP/1.1\r\nHost: 10.0.0.2:5001\r\n"), "{told}");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(
            downward(chunked, false, false),
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
        );
        let sized = "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\n";
        assert_eq!(
            downward(sized, false, true),
            "HTTP/1.1 200 \r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn a_granted_upgrade_says_so_and_a_body_that_cannot_be_is_not_announced() {
        let told = downward(
            "HTTP/1.1 101 Switching\r\nConnection: x, upgrade\r\nUpgrade: websocket\r\n\r\n",
            true,
            false,
        );
        assert_eq!(
            told,
            "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        );
        let told = downward("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", true, true);
        assert_eq!(told, "HTTP/1.1 204 No Content\r\n\r\n");
    }
}
