//! Finds the server name in the first message of a TLS client, of which any part may not have come yet.
//!
//! Records and the message are read to the byte, in whatever pieces they are cut; nothing is decrypted and nothing is
//! changed. What Encrypted Client Hello hides stays hidden: only the outer name is seen.
//!
//! [RFC 8446, section 4.1.2](https://www.rfc-editor.org/rfc/rfc8446#section-4.1.2) and
//! [RFC 6066, section 3](https://www.rfc-editor.org/rfc/rfc6066#section-3).

/// Most bytes that are looked at. Real ones have less than 2 KiB; those with large keys for times to come a little more.
pub const LONGEST: usize = 32 * 1024;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A whole message; the name it asks for, in lower case, if it asks for one.
    Name(Option<String>),
    /// Not TLS.
    Other,
    /// More has to come to tell.
    Incomplete,
    /// It begins like TLS and is none, or is longer than [`LONGEST`].
    Malformed,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Longest record that a client may send in plain text.
const RECORD: usize = 1 << 14;

/// Looks at the first bytes of a connection.
#[must_use]
pub fn look(bytes: &[u8]) -> Hello {
    match bytes.first() {
        None => return Hello::Incomplete,
        Some(&HANDSHAKE) => {}
        Some(_) => return Hello::Other,
    }
    let mut message = Vec::new();
    match gather(bytes, &mut message) {
        Some(true) => name(&message).map_or(Hello::Malformed, Hello::Name),
        Some(false) if bytes.len() < LONGEST => Hello::Incomplete,
        Some(false) | None => Hello::Malformed,
    }
}

/// Puts the message together from its records. True once it is whole; `None` if these are no records of it.
fn gather(bytes: &[u8], message: &mut Vec<u8>) -> Option<bool> {
    let mut rest = bytes;
    loop {
        // What is wrong is said as soon as it is seen.
        let known = |index: usize, is_right: fn(u8) -> bool| rest.get(index).is_none_or(|it| is_right(*it));
        if !known(0, |kind| kind == HANDSHAKE) || !known(1, |major| major == 3) {
            return None;
        }
        let Some((&[_, _, _, high, low], body)) = rest.split_first_chunk::<5>() else {
            return Some(false);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > RECORD {
            return None;
        }
        message.extend_from_slice(&body[..length.min(body.len())]);
        if message[..].first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return None;
        }
        if let Some(&[_, a, b, c]) = message.first_chunk::<4>() {
            let whole = 4 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
            if whole > LONGEST {
                return None;
            }
            if message.len() >= whole {
                message.truncate(whole);
                return Some(true);
            }
        }
        match body.get(length..) {
            Some(next) => rest = next,
            None => return Some(false),
        }
    }
}

/// The name in a whole message; `None` if it is not one.
fn name(message: &[u8]) -> Option<Option<String>> {
    let mut at = Cursor(message);
    // Kind and length of the message, version, random.
    at.take(4 + 2 + 32)?;
    let session = at.byte()?;
    at.take(usize::from(session))?;
    let suites = at.number()?;
    at.take(usize::from(suites))?;
    let compressions = at.byte()?;
    at.take(usize::from(compressions))?;
    if at.0.is_empty() {
        // Extensions are optional in TLS 1.2.
        return Some(None);
    }
    let length = at.number()?;
    let mut extensions = Cursor(at.take(usize::from(length))?);
    if !at.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let length = extensions.number()?;
        let data = extensions.take(usize::from(length))?;
        if kind == SERVER_NAME {
            // A second one would let two readers disagree.
            if found.is_some() {
                return None;
            }
            found = Some(host_name(data)?);
        }
    }
    Some(found)
}

fn host_name(data: &[u8]) -> Option<String> {
    let mut at = Cursor(data);
    let length = at.number()?;
    let mut list = Cursor(at.take(usize::from(length))?);
    let kind = list.byte()?;
    let length = list.number()?;
    let name = list.take(usize::from(length))?;
    let is_alone = at.0.is_empty() && list.0.is_empty() && kind == HOST_NAME;
    let is_name = |it: &u8| it.is_ascii_alphanumeric() || b"-._".contains(it);
    if !is_alone || name.is_empty() || name.len() > 255 || !name.iter().all(is_name) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some(name.trim_end_matches('.').to_ascii_lowercase())
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|it| u16::from_be_bytes(*it))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::ClientConnection;
    use rustls_pki_types::ServerName;

    use super::*;

    /// What rustls sends first to a server of this name.
    fn real(name: &str) -> Vec<u8> {
        let config = Arc::new(crate::tls::client::lax().expect("TLS"));
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut connection = ClientConnection::new(config, name).expect("a client");
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).expect("written");
        bytes
    }

    /// A message in one record, with these extensions.
    fn made(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(u16::try_from(extensions.len()).expect("short").to_be_bytes());
        body.extend(extensions);
        let mut message = vec![1, 0];
        message.extend(u16::try_from(body.len()).expect("short").to_be_bytes());
        message.extend(body);
        records(&message, message.len())
    }

    /// A message in records of this size.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let mut record = vec![22, 3, 1];
            record.extend(u16::try_from(part.len()).expect("short").to_be_bytes());
            record.extend(part);
            record
        };
        message.chunks(size).flat_map(record).collect()
    }

    fn server_name(name: &[u8]) -> Vec<u8> {
        let length = |more: usize| u16::try_from(name.len() + more).expect("short").to_be_bytes();
        let mut extension = vec![0, 0];
        extension.extend(length(5));
        extension.extend(length(3));
        extension.push(0);
        extension.extend(length(0));
        extension.extend(name);
        extension
    }

    fn named(name: &str) -> Hello {
        Hello::Name(Some(name.to_owned()))
    }

    #[test]
    fn a_real_client_is_understood_wherever_it_is_cut() {
        let bytes = real("Node-1.Example.org");
        for length in 0..bytes.len() {
            assert_eq!(look(&bytes[..length]), Hello::Incomplete, "{length}");
        }
        assert_eq!(look(&bytes), named("node-1.example.org"));
        let mut more = bytes.clone();
        more.extend([20, 3, 3, 0, 1, 1]);
        assert_eq!(look(&more), named("node-1.example.org"), "what follows does not matter");
    }

    #[test]
    fn a_message_may_be_split_over_records_of_any_size() {
        let message = &real("node.example")[5..];
        for size in 1..=message.len() {
            let bytes = records(message, size);
            assert_eq!(look(&bytes), named("node.example"), "{size}");
            assert_eq!(look(&bytes[..bytes.len() - 1]), Hello::Incomplete, "{size}");
        }
    }

    #[test]
    fn without_a_name_there_is_none() {
        assert_eq!(look(&real("192.0.2.1")), Hello::Name(None));
        assert_eq!(look(&made(&[])), Hello::Name(None));
    }

    #[test]
    fn what_hides_the_real_name_shows_the_outer_one() {
        let mut extensions = vec![0xfe, 0x0d, 0, 3, 1, 2, 3];
        extensions.extend(server_name(b"public.example"));
        assert_eq!(look(&made(&extensions)), named("public.example"));
    }

    #[test]
    fn what_is_not_tls_is_told_by_its_first_byte() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x80\x2e\x01\x03\x01",
            b"SSH-2.0-x\r\n",
            b"\0",
        ] {
            assert_eq!(look(bytes), Hello::Other);
        }
    }

    #[test]
    fn what_begins_like_tls_and_is_none_is_refused() {
        let twice = [server_name(b"a.example"), server_name(b"b.example")].concat();
        let cases: [(&str, Vec<u8>); 12] = [
            ("another version", vec![22, 9]),
            ("an empty record", vec![22, 3, 1, 0, 0]),
            ("too long a record", vec![22, 3, 1, 0x40, 1]),
            ("another message", vec![22, 3, 1, 0, 1, 2]),
            ("too long a message", vec![22, 3, 1, 0, 4, 1, 1, 0, 0]),
            (
                "another record between",
                [&records(&[1, 0, 1, 0], 4)[..], &[23, 3, 3]].concat(),
            ),
            ("two names", made(&twice)),
            ("an empty name", made(&server_name(b""))),
            ("bytes that are no name", made(&server_name(b"a\0b"))),
            ("an extension that is cut", made(&[0, 0, 0, 9, 0])),
            (
                "bytes behind the list",
                made(&[0, 0, 0, 8, 0, 5, 0, 0, 2, b'a', b'b', 0]),
            ),
            ("another kind of name", made(&[0, 0, 0, 6, 0, 4, 1, 0, 1, b'a'])),
        ];
        for (what, bytes) in cases {
            assert_eq!(look(&bytes), Hello::Malformed, "{what}");
        }
    }

    #[test]
    fn an_endless_one_is_given_up() {
        let mut message = vec![1, 0, 0x7f, 0xf0];
        message.extend(vec![0; LONGEST]);
        let bytes = records(&message, 16);
        let given_up = (0..bytes.len()).find(|length| look(&bytes[..*length]) == Hello::Malformed);
        assert_eq!(given_up, Some(LONGEST));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm_and_more_of_them_never_take_a_verdict_back(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(first) = bytes.first_mut() {
                *first = 22;
            }
            let mut verdict = None;
            for length in 0..=bytes.len() {
                match (look(&bytes[..length]), &verdict) {
                    (Hello::Incomplete, None) => {}
                    (now, None) => verdict = Some(now),
                    (now, Some(before)) => prop_assert_eq!(&now, before),
                }
            }
        }

        #[test]
        fn a_changed_byte_does_no_harm(at in 0_usize..200, to in any::<u8>()) {
            let mut bytes = real("node.example");
            bytes[at] = to;
            let _ = look(&bytes);
        }
    }
}
