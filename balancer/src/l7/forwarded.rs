//! Who the client is behind other proxies, and how backends are told.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::framing::{Known, Request};
use super::transport::ClientInfo;
use crate::service::is_in;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// The client, as far as it can be believed. Its port is 0 if only its address was told.
    pub(super) client: SocketAddr,
    /// The peer is a proxy whose word counts.
    pub(super) is_trusted: bool,
}

impl Origin {
    /// The peer itself, or, if that is a trusted proxy, the last address it names that is none.
    pub(super) fn of(info: &ClientInfo, trusted: &[IpNet], request: &Request, head: &[u8]) -> Self {
        let peer = info.client;
        if trusted.is_empty() || !is_in(trusted, peer.ip().to_canonical()) {
            return Self {
                client: peer,
                is_trusted: false,
            };
        }
        let named = named(request, head);
        let client = named.iter().rev().find(|ip| !is_in(trusted, **ip)).or(named.first());
        Self {
            client: client.map_or(peer, |ip| SocketAddr::new(*ip, 0)),
            is_trusted: true,
        }
    }
}

/// The addresses of `X-Forwarded-For`, else of `Forwarded`; nothing in front of one that cannot be read.
fn named(request: &Request, head: &[u8]) -> Vec<IpAddr> {
    let values = |known: Known| {
        request
            .fields
            .iter()
            .filter(move |it| it.known == known)
            .map(|it| it.value.text(head))
    };
    let mut addresses = Vec::new();
    let mut add = |text: &str| match address(text) {
        Some(ip) => addresses.push(ip),
        None => addresses.clear(),
    };
    if request.field(Known::XForwardedFor).is_some() {
        values(Known::XForwardedFor)
            .flat_map(|it| it.split(','))
            .for_each(&mut add);
    } else {
        for element in values(Known::Forwarded).flat_map(elements) {
            add(parameter(element, "for").unwrap_or_default());
        }
    }
    addresses
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|it| it.split_once(']')).map(|it| it.0);
    let ip: IpAddr = match bare {
        Some(bare) => bare.parse().ok()?,
        None => text
            .parse()
            .ok()
            .or_else(|| text.parse().ok().map(|it: SocketAddr| it.ip()))?,
    };
    Some(ip.to_canonical())
}

/// The elements of a `Forwarded` value; a comma inside quotes separates nothing.
fn elements(value: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    value.split(move |letter| {
        is_quoted ^= letter == '"';
        letter == ',' && !is_quoted
    })
}

fn parameter<'v>(element: &'v str, name: &str) -> Option<&'v str> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Appends `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded`. What a trusted peer said stands before.
pub(super) fn write(out: &mut Vec<u8>, info: &ClientInfo, is_trusted: bool, request: &Request, head: &[u8]) {
    let said = |known: Known| {
        let fields = request.fields.iter().filter(move |it| is_trusted && it.known == known);
        fields.map(|it| it.value.of(head)).filter(|value| !value.is_empty())
    };
    let mut ip = String::with_capacity(48);
    // Writing into a String cannot fail.
    let _ = write!(ip, "{}", info.client.ip().to_canonical());
    list(out, b"X-Forwarded-For: ", said(Known::XForwardedFor), |out| {
        out.extend_from_slice(ip.as_bytes());
    });
    let host = request.host.of(head);
    line(
        out,
        b"X-Forwarded-Proto: ",
        said(Known::XForwardedProto).next_back(),
        info.scheme().as_bytes(),
    );
    if !host.is_empty() {
        line(
            out,
            b"X-Forwarded-Host: ",
            said(Known::XForwardedHost).next_back(),
            host,
        );
    }
    list(out, b"Forwarded: ", said(Known::Forwarded), |out| {
        // An IPv6 address stands in brackets, and what has colons in quotes (RFC 7239, section 6).
        match ip.contains(':') {
            true => [b"for=\"[", ip.as_bytes(), b"]\""]
                .iter()
                .for_each(|it| out.extend_from_slice(it)),
            false => [b"for=", ip.as_bytes()].iter().for_each(|it| out.extend_from_slice(it)),
        }
        if !host.is_empty() {
            let quote: &[u8] = if host.iter().any(|it| b":[]".contains(it)) {
                b"\""
            } else {
                b""
            };
            for part in [b";host=", quote, host, quote] {
                out.extend_from_slice(part);
            }
        }
        out.extend_from_slice(b";proto=");
        out.extend_from_slice(info.scheme().as_bytes());
    });
}

fn line(out: &mut Vec<u8>, name: &[u8], said: Option<&[u8]>, otherwise: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(said.unwrap_or(otherwise));
    out.extend_from_slice(b"\r\n");
}

fn list<'h>(out: &mut Vec<u8>, name: &[u8], said: impl Iterator<Item = &'h [u8]>, last: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(name);
    for value in said {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
    last(out);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::framing::Limits;
    use crate::l7::transport::Protocol;

    fn info(client: &str) -> ClientInfo {
        ClientInfo {
            client: client.parse().expect("an address"),
            local: SocketAddr::from(([127, 0, 0, 1], 80)),
            protocol: Protocol::Http1,
            tls: None,
        }
    }

    fn read(lines: &str) -> (Vec<u8>, Request) {
        let head = format!("GET / HTTP/1.1\r\nHost: a:81\r\n{lines}\r\n").into_bytes();
        let request = Request::read(&head, &Limits::default(), Vec::new()).expect("sound");
        (head, request)
    }

    fn client(peer: &str, lines: &str) -> String {
        let trusted = ["10.0.0.0/8".parse().expect("a network")];
        let (head, request) = read(lines);
        Origin::of(&info(peer), &trusted, &request, &head)
            .client
            .ip()
            .to_string()
    }

    #[test]
    fn only_a_trusted_peer_can_name_another_client() {
        let forwarded = "X-Forwarded-For: 192.0.2.66, 192.0.2.7, 10.1.1.1\r\n";
        assert_eq!(client("10.0.0.1:9", forwarded), "192.0.2.7");
        assert_eq!(client("192.0.2.200:9", forwarded), "192.0.2.200");
        assert_eq!(client("10.0.0.1:9", ""), "10.0.0.1");
        assert_eq!(
            client(
                "10.0.0.1:9",
                "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-For: nonsense\r\n"
            ),
            "10.0.0.1"
        );
        assert_eq!(
            client(
                "10.0.0.1:9",
                "Forwarded: for=\"[2001:db8::7]:80\";proto=https, For=10.9.9.9\r\n"
            ),
            "2001:db8::7"
        );
    }

    #[test]
    fn what_is_told_to_backends_follows_the_words_of_a_trusted_peer() {
        let (head, request) =
            read("X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\nX-Forwarded-Proto: https\r\n");
        let told = |peer: &str, is_trusted| {
            let mut out = Vec::new();
            write(&mut out, &info(peer), is_trusted, &request, &head);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(
            told("10.0.0.1:9", true),
            "X-Forwarded-For: 192.0.2.7, 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a:81\r\n\
             Forwarded: for=192.0.2.7, for=10.0.0.1;host=\"a:81\";proto=http\r\n"
        );
        assert_eq!(
            told("[2001:db8::1]:9", false),
            "X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:81\r\n\
             Forwarded: for=\"[2001:db8::1]\";host=\"a:81\";proto=http\r\n"
        );
    }
}
