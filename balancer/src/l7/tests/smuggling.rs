//! What could be read in more than one way, each form of it, in both directions. The oracle is what the backend has
//! parsed: how many requests, and what was in them.

use super::peers::{Act, Backend, OK, balancer, within};

/// What a second reader might take for a request of its own.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// The requests that a backend has parsed: line and body.
fn parsed(backend: &Backend) -> Vec<(String, String)> {
    let of = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    backend
        .seen()
        .iter()
        .map(|it| (it.line().to_owned(), of(&it.body)))
        .collect()
}

#[tokio::test]
async fn no_ambiguous_head_reaches_a_backend_and_nothing_after_it_does() {
    let backend = Backend::answering(OK).await;
    let balancer = balancer(&[&backend], &[]).await;
    for (what, head) in [
        (
            "conflicting lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 35\r\n\r\n",
        ),
        (
            "the same length twice",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "a list of lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 0\r\n\r\n",
        ),
        (
            "a length with a sign",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n",
        ),
        (
            "a negative length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        ),
        (
            "a hexadecimal length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x23\r\n\r\n",
        ),
        (
            "a length with a space in it",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 5\r\n\r\n",
        ),
        (
            "an empty length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
        ),
        (
            "a length beyond 64 bits",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
        ),
        (
            "length and chunks",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunks and length",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        ),
        (
            "another coding",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "identity",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        ),
        (
            "chunked twice",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked in two lines",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked with quotes",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked with a tab before it",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("a folded line", "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
        ("a folded first line", "POST / HTTP/1.1\r\n Host: a\r\n\r\n"),
        (
            "a folded coding",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a bare LF",
            "POST / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 35\r\n\r\n",
        ),
        ("bare LFs alone", "POST / HTTP/1.1\nHost: a\n\n"),
        ("a head that ends in a bare LF", "POST / HTTP/1.1\r\nHost: a\r\n\n"),
        (
            "a bare CR",
            "POST / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 35\r\n\r\n",
        ),
        ("a CR twice", "POST / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
        ("a NUL in a value", "POST / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n"),
        ("a NUL in a name", "POST / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n"),
        ("a NUL in the target", "POST /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "a space before the colon",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 35\r\n\r\n",
        ),
        (
            "a tab before the colon",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 35\r\n\r\n",
        ),
        (
            "a line without a colon",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length\r\n\r\n",
        ),
        ("an empty name", "POST / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n"),
        ("Host twice", "POST / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("another Host", "POST / HTTP/1.1\r\nHost: a\r\nhOsT: b\r\n\r\n"),
        ("no Host", "POST / HTTP/1.1\r\nX: y\r\n\r\n"),
        ("a Host with a user", "POST / HTTP/1.1\r\nHost: me@a\r\n\r\n"),
        ("a Host that is a list", "POST / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        (
            "another host in the target",
            "POST http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        ("a user in the target", "POST http://b@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a tunnel", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("another scheme", "POST ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a fragment", "POST /x#y HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "an upgrade with a body",
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 35\r\n\r\n",
        ),
        (
            "an upgrade in chunks",
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("two spaces", "POST  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a third word", "POST / x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a lower-case version", "POST / http/1.1\r\nHost: a\r\n\r\n"),
        ("no version", "POST /\r\nHost: a\r\n\r\n"),
    ] {
        let answer = balancer.talk(&format!("{head}{HIDDEN}")).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(matches!(status, "400" | "505"), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{what}: {answer}");
    }
    assert_eq!(parsed(&backend), []);
}

#[tokio::test]
async fn a_body_with_bad_chunks_does_not_become_a_request() {
    for (what, body) in [
        ("a size that is none", "x\r\nabc\r\n0\r\n\r\n"),
        ("an empty size", "\r\nabc\r\n0\r\n\r\n"),
        ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a size with a space", "3 \r\nabc\r\n0\r\n\r\n"),
        ("a size beyond 60 bits", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("a size that ends in LF", "3\nabc\r\n0\r\n\r\n"),
        ("a size that ends in CR", "3\rabc\r\n0\r\n\r\n"),
        ("an extension with a LF", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("an extension with a CR", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("too much data", "3\r\nabcd\r\n0\r\n\r\n"),
        ("too little data", "3\r\nab\r\n0\r\n\r\n"),
        ("data that ends in LF", "3\r\nabc\n0\r\n\r\n"),
        ("a last chunk that ends in LF", "3\r\nabc\r\n0\n\r\n"),
        ("an end in LF", "3\r\nabc\r\n0\r\n\n"),
        ("an end in CR", "3\r\nabc\r\n0\r\n\rX\r\n\r\n"),
        ("a trailer with a length", "3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n"),
        (
            "a trailer with a coding",
            "3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("a trailer with a host", "3\r\nabc\r\n0\r\nHost: b\r\n\r\n"),
        ("a folded trailer", "3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n"),
        (
            "a trailer with a space before its colon",
            "3\r\nabc\r\n0\r\nX : y\r\n\r\n",
        ),
    ] {
        let backend = Backend::answering(OK).await;
        let balancer = balancer(&[&backend], &[]).await;

        let answer = balancer
            .talk(&format!(
                "POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{HIDDEN}"
            ))
            .await;

        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
        // It has read the head at most: it never got a whole request.
        assert_eq!(parsed(&backend), [], "{what}");
    }
}

#[tokio::test]
async fn what_is_sound_arrives_as_exactly_that() {
    let request = |line: &str, body: &str| (line.to_owned(), body.to_owned());
    for (sent, expected) in [
        (
            format!("\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n{HIDDEN}"),
            vec![request("POST /a HTTP/1.1", HIDDEN)],
        ),
        (
            format!(
                "POST /a HTTP/1.1\r\nHost: a\r\ntransfer-ENCODING:\tchunked \r\n\r\n21;x=\"y\"\r\n{HIDDEN}\r\n000\r\nX-Sum: 1\r\n\r\n"
            ),
            vec![request("POST /a HTTP/1.1", HIDDEN)],
        ),
        (
            "GET http://A/x?y HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            vec![request("GET /x?y HTTP/1.1", ""), request("OPTIONS * HTTP/1.1", "")],
        ),
        (
            "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            vec![request("GET /a HTTP/1.1", ""), request("GET /b HTTP/1.1", "")],
        ),
    ] {
        let backend = Backend::answering(OK).await;
        let balancer = balancer(&[&backend], &[]).await;
        let mut client = balancer.connect().await;

        client.send(&sent).await;
        for _ in &expected {
            assert_eq!(client.until("ok").await, OK, "{sent}");
        }

        assert_eq!(parsed(&backend), expected, "{sent}");
    }
}

#[tokio::test]
async fn what_an_upgrade_carries_is_a_request_again_if_the_backend_answers_otherwise() {
    for status in ["200 OK", "400 Bad Request", "426 Upgrade Required"] {
        let answer: &'static str = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").leak();
        let backend = Backend::answering(answer).await;
        let balancer = balancer(&[&backend], &[]).await;
        let mut client = balancer.connect().await;

        // The bytes after it are either for a tunnel or a request; since there is no tunnel, one like any other: checked.
        client
            .send("GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nGET /b HTTP/1.1\r\nHost : a\r\n\r\n")
            .await;

        client.until("ok").await;
        let refused = client.rest().await;
        assert!(refused.starts_with("HTTP/1.1 400 "), "{status}: {refused}");
        assert_eq!(
            parsed(&backend),
            [("GET /a HTTP/1.1".to_owned(), String::new())],
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_body_where_none_can_be_is_nobodys_answer() {
    for (method, answer) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        ),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        ),
    ] {
        let backend = Backend::start(move |it| match it.line() {
            "GET /b HTTP/1.1" => Act::Say(OK),
            _ => Act::Say(answer),
        })
        .await;
        let balancer = balancer(&[&backend], &[]).await;
        let (mut client, mut other) = (balancer.connect().await, balancer.connect().await);

        client.send(format!("{method} /a HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        client.until("\r\n\r\n").await;
        other.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n").await;

        assert_eq!(other.until("ok").await, OK, "{method} {answer}");
        client
            .send("GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;
        let rest = within("the rest", client.rest()).await;
        assert!(!rest.contains("evil"), "{method} {answer}: {rest}");
        assert!(
            backend.seen().iter().skip(1).all(|it| it.connection != 1),
            "{method} {answer}"
        );
    }
}
