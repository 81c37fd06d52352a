use proptest::prelude::*;

use super::head::Asked;
use super::*;

/// Follows what a client sends, as the data path does.
struct Requests {
    held: Vec<u8>,
    scan: Scan,
    body: Option<Body>,
}

impl Requests {
    fn new() -> Self {
        Self {
            held: Vec::new(),
            scan: Scan::default(),
            body: None,
        }
    }

    fn feed(&mut self, bytes: &[u8], mut on_request: impl FnMut()) -> Result<(), Violation> {
        self.held.extend_from_slice(bytes);
        let limits = Limits::default();
        loop {
            if let Some(body) = &mut self.body {
                let taken = body.advance(&self.held)?;
                self.held.drain(..taken);
                if !body.is_done() {
                    return Ok(());
                }
                self.body = None;
            }
            let Some(length) = self.scan.find(&self.held, &limits)? else {
                return Ok(());
            };
            let request = Request::read(&self.held[..length], &limits, Vec::new())?;
            on_request();
            self.held.drain(..length);
            self.body = Some(Body::new(request.length, &limits));
        }
    }

    fn is_between_messages(&self) -> bool {
        self.held.is_empty() && self.body.as_ref().is_none_or(Body::is_done)
    }
}

fn requests(bytes: &[u8]) -> Result<(usize, Requests), Violation> {
    let mut requests = Requests::new();
    let mut count = 0;
    requests.feed(bytes, || count += 1)?;
    Ok((count, requests))
}

fn refusal(bytes: &str) -> Violation {
    requests(bytes.as_bytes())
        .map(|(count, _)| count)
        .expect_err("must be refused")
}

/// The final answer to `asked` at the start of `bytes`, how its body stands after them, and what follows it.
fn answer(asked: Asked, mut bytes: &[u8]) -> Result<(Response, Body, usize), Violation> {
    let limits = Limits::default();
    loop {
        let length = Scan::default().find(bytes, &limits)?.expect("a whole head");
        let response = Response::read(&bytes[..length], &limits, asked, Vec::new())?;
        bytes = &bytes[length..];
        if response.is_final() {
            let mut body = Body::new(response.length, &limits);
            let taken = body.advance(bytes)?;
            return Ok((response, body, bytes.len() - taken));
        }
    }
}

const GET: Asked = Asked {
    is_head: false,
    wants_upgrade: false,
};
const HEAD: Asked = Asked {
    is_head: true,
    wants_upgrade: false,
};
const UPGRADE: Asked = Asked {
    is_head: false,
    wants_upgrade: true,
};

#[test]
fn pipelined_requests_of_every_kind_are_counted() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /x HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhello\
        POST /y HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\n\r\n5;q=\"1\"\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n\
        GET http://b/z HTTP/1.1\r\nHost: b\r\n\r\n\
        OPTIONS * HTTP/1.0\r\n\r\n";
    let (count, requests) = requests(bytes).expect("all are sound");
    assert_eq!(count, 5);
    assert!(requests.is_between_messages());
}

#[test]
fn every_ambiguous_request_is_refused() {
    let with = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let cases: &[(&str, Violation)] = &[
        (
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            Violation::BadContentLength,
        ),
        (
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            Violation::BadContentLength,
        ),
        ("Content-Length: 5, 5\r\n", Violation::BadContentLength),
        ("Content-Length: +5\r\n", Violation::BadContentLength),
        ("Content-Length: -1\r\n", Violation::BadContentLength),
        ("Content-Length: 0x5\r\n", Violation::BadContentLength),
        ("Content-Length: 5 5\r\n", Violation::BadContentLength),
        ("Content-Length: \r\n", Violation::BadContentLength),
        ("Content-Length: 99999999999999999999\r\n", Violation::BadContentLength),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Violation::TwoLengths,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            Violation::TwoLengths,
        ),
        ("Transfer-Encoding: gzip, chunked\r\n", Violation::BadTransferEncoding),
        (
            "Transfer-Encoding: chunked, chunked\r\n",
            Violation::BadTransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Violation::BadTransferEncoding,
        ),
        ("Transfer-Encoding: identity\r\n", Violation::BadTransferEncoding),
        ("Transfer-Encoding: xchunked\r\n", Violation::BadTransferEncoding),
        ("Transfer-Encoding: \u{b}chunked\r\n", Violation::BadHeaderValue),
        ("Transfer-Encoding : chunked\r\n", Violation::BadHeaderName),
        ("X: a\r\n b\r\n", Violation::FoldedHeader),
        ("X: a\r\n\tb\r\n", Violation::FoldedHeader),
        (" X: a\r\n", Violation::FoldedHeader),
        ("X: a\rb\r\n", Violation::BareCarriageReturn),
        ("X: a\nY: b\r\n", Violation::BareLineFeed),
        ("X: a\0b\r\n", Violation::NulByte),
        ("X Y: a\r\n", Violation::BadHeaderName),
        (": a\r\n", Violation::BadHeaderName),
        ("nonsense\r\n", Violation::BadHeaderName),
        ("Host: a\r\n", Violation::BadHost),
        ("Upgrade: x\r\nContent-Length: 1\r\n", Violation::UpgradeWithBody),
        ("Expect: magic\r\n", Violation::BadExpectation),
    ];
    for (lines, violation) in cases {
        assert_eq!(refusal(&with(lines)), *violation, "{lines:?}");
    }
}

#[test]
fn the_first_line_and_the_host_have_one_form_only() {
    let cases: &[(&str, Violation)] = &[
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::BadFirstLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Violation::BadFirstLine),
        ("GET /\r\n\r\n", Violation::BadFirstLine),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::BadFirstLine),
        ("GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n", Violation::BadFirstLine),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Connect),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", Violation::Connect),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Violation::BadFirstLine),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Violation::BadVersion),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Violation::BadVersion),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Violation::BadFirstLine),
        (
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            Violation::BadTransferEncoding,
        ),
        ("GET / HTTP/1.1\r\n\r\n", Violation::BadHost),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Violation::BadHost),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", Violation::BadHost),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Violation::HostMismatch),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Violation::BadFirstLine),
    ];
    for (bytes, violation) in cases {
        assert_eq!(refusal(bytes), *violation, "{bytes:?}");
    }
}

#[test]
fn chunks_end_where_they_say() {
    let chunked = |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let bad = [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloX\r\n",
        "0x5\r\nhello\r\n",
        "-5\r\n",
        "\r\n",
        "5 \r\n",
    ];
    for body in bad {
        assert_eq!(refusal(&chunked(body)), Violation::BadChunk, "{body:?}");
    }
    assert_eq!(refusal(&chunked("ffffffffffffffff\r\n")), Violation::BadChunk);
    assert_eq!(
        refusal(&chunked("0\r\nContent-Length: 5\r\n\r\n")),
        Violation::BadTrailer
    );
    assert_eq!(refusal(&chunked("0\r\nX: a\r\n b\r\n\r\n")), Violation::FoldedHeader);
    let endless = format!("5;{}", "x".repeat(2048));
    assert_eq!(refusal(&chunked(&endless)), Violation::BadChunk);
}

#[test]
fn limits_have_their_own_status() {
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(17 * 1024));
    assert_eq!(refusal(&long_target).status(), 414);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert_eq!(refusal(&many).status(), 431);
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(70_000));
    assert_eq!(refusal(&large).status(), 431);
    assert_eq!(refusal("GET / HTTP/3.0\r\n\r\n").status(), 505);
    assert_eq!(refusal("GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n").status(), 417);
}

#[test]
fn an_answer_is_as_long_as_its_request_and_status_say() {
    let is_whole = |asked: Asked, bytes: &str| {
        let (_, body, rest) = answer(asked, bytes.as_bytes()).expect("sound");
        body.is_done() && rest == 0
    };
    assert!(is_whole(GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    assert!(is_whole(
        GET,
        "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ));
    assert!(is_whole(HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"));
    assert!(is_whole(GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"));
    assert!(is_whole(
        GET,
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
    ));
    assert!(!is_whole(GET, "HTTP/1.1 200 OK\r\n\r\nuntil close"));
    assert!(!is_whole(
        UPGRADE,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\0\x01anything"
    ));
}

#[test]
fn bytes_after_an_answer_are_no_part_of_it() {
    for (bytes, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!", 1),
        ("HTTP/1.1 204 No Content\r\n\r\nbody", 4),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody", 4),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
            19,
        ),
    ] {
        let (_, _, rest) = answer(GET, bytes.as_bytes()).expect("sound");
        assert_eq!(rest, expected, "{bytes:?}");
    }
    let doubtful = |bytes: &[u8]| answer(GET, bytes).expect("sound").0.is_doubtful;
    assert!(doubtful(b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody"));
    assert!(!doubtful(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"));
}

#[test]
fn an_answer_that_can_be_read_in_two_ways_is_none() {
    for (bytes, violation) in [
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Violation::UnaskedBytes),
        ("HTTP/1.1 20 OK\r\n\r\n", Violation::BadFirstLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", Violation::BadFirstLine),
        ("HTTP/1.1 099 OK\r\n\r\n", Violation::BadFirstLine),
        ("HTTP/2 200 OK\r\n\r\n", Violation::BadFirstLine),
        ("ICY 200 OK\r\n\r\n", Violation::BadFirstLine),
        ("HTTP/1.1 200 O\rK\r\n\r\n", Violation::BareCarriageReturn),
        ("HTTP/1.1 200 OK\nX: y\n\n", Violation::BareLineFeed),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            Violation::BadContentLength,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Violation::TwoLengths,
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Violation::BadTransferEncoding,
        ),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Violation::FoldedHeader),
    ] {
        assert_eq!(
            answer(GET, bytes.as_bytes()).expect_err("refused"),
            violation,
            "{bytes:?}"
        );
    }
}

#[test]
fn a_cut_answer_is_known_as_such() {
    let cut = |bytes: &str| {
        let (_, body, _) = answer(GET, bytes.as_bytes()).expect("sound so far");
        !body.may_end_by_close()
    };
    assert!(cut("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"));
    assert!(cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"));
    assert!(!cut("HTTP/1.1 200 OK\r\n\r\nok"));
    assert!(!cut("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
}

#[test]
fn a_wish_for_another_protocol_counts_only_where_it_can_be_granted() {
    let wants = |lines: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        Request::read(head.as_bytes(), &Limits::default(), Vec::new())
            .expect("sound")
            .wants_upgrade
    };
    assert!(wants("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"));
    assert!(!wants("Upgrade: websocket\r\n"));
    assert!(!wants(
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
    ));
}

#[test]
fn the_path_is_the_target_without_scheme_and_host() {
    for (target, path) in [
        ("/a?b", "/a?b"),
        ("http://a/b?c", "/b?c"),
        ("http://a?c", "?c"),
        ("http://a", ""),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let request = Request::read(head.as_bytes(), &Limits::default(), Vec::new()).expect("sound");
        assert_eq!(request.path.text(head.as_bytes()), path);
    }
}

const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST / HTTP/1.1\r\n",
    "Host: a\r\n",
    "\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "abc",
    "3\r\nabc\r\n",
    "0\r\n\r\n",
    "\n",
    "X: y\r\n",
    "\0",
    " ",
];

proptest! {
    /// However the network cuts the bytes, the verdict is the same.
    #[test]
    fn segmentation_changes_nothing(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..12),
        cuts in proptest::collection::vec(1_usize..9, 1..40),
    ) {
        let whole = pieces.concat().into_bytes();
        let at_once = requests(&whole).map(|(count, requests)| (count, requests.is_between_messages()));

        let mut pieces = Requests::new();
        let (mut count, mut rest, mut failure) = (0, &whole[..], None);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() || failure.is_some() { break; }
            let (piece, tail) = rest.split_at((*cut).min(rest.len()));
            failure = pieces.feed(piece, || count += 1).err();
            rest = tail;
        }
        let in_pieces = failure.map_or(Ok((count, pieces.is_between_messages())), Err);
        prop_assert_eq!(at_once, in_pieces);
    }

    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = requests(&bytes);
        if let Ok(Some(length)) = Scan::default().find(&bytes, &Limits::default()) {
            for asked in [GET, HEAD, UPGRADE] {
                let _ = Response::read(&bytes[..length], &Limits::default(), asked, Vec::new());
            }
        }
    }
}
