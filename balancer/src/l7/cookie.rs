//! Clients that stay with their backend by a cookie.
//!
//! The cookie holds a number made from the backend's address, the same in every balancer, so that any of them can read
//! what another has set.

use super::framing::{Known, Request};

/// The backend's number, as the cookie of this name in a request has it.
pub(super) fn read(request: &Request, head: &[u8], name: &str) -> Option<u64> {
    let cookies = request.fields.iter().filter(|it| it.known == Known::Cookie);
    cookies.flat_map(|it| it.value.text(head).split(';')).find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let is_it = key.trim() == name && value.len() == 16;
        is_it.then(|| u64::from_str_radix(value, 16).ok()).flatten()
    })
}

/// A `Set-Cookie` value that says this number.
pub(super) fn write(name: &str, key: u64, is_secure: bool) -> String {
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{name}={key:016x}; Path=/; HttpOnly; SameSite=Lax{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::framing::Limits;

    #[test]
    fn what_was_set_is_read_again() {
        let set = write("lb", 0x00ab_cdef_0123_4567, false);
        let pair = set.split(';').next().expect("a pair");
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: xlb=1; {pair}; b=c\r\n\r\n");
        let request = Request::read(head.as_bytes(), &Limits::default(), Vec::new()).expect("sound");

        assert_eq!(read(&request, head.as_bytes(), "lb"), Some(0x00ab_cdef_0123_4567));
        assert_eq!(read(&request, head.as_bytes(), "b"), None);
    }
}
