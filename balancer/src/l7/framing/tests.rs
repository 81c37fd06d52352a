use proptest::prelude::*;

use super::*;

fn requests(bytes: &[u8]) -> Result<(usize, Requests), Violation> {
    let mut requests = Requests::new(Limits::default());
    let mut count = 0;
    requests.feed(bytes, |_| count += 1)?;
    Ok((count, requests))
}

fn refusal(bytes: &str) -> Violation {
    requests(bytes.as_bytes())
        .map(|(count, _)| count)
        .expect_err("must be refused")
}

fn answers(to: &[Asked], bytes: &[u8]) -> Result<Responses, Violation> {
    let mut responses = Responses::new(Limits::default());
    to.iter().for_each(|asked| responses.expect(*asked));
    responses.feed(bytes).map(|()| responses)
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
        \r\nGET http://b/z HTTP/1.1\r\nHost: b\r\n\r\n\
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
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", Violation::BadFirstLine),
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
    let endless = format!("5;{}", "x".repeat(2 * CHUNK_LINE_BYTES));
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
    let reusable = |asked: &[Asked], bytes: &str| answers(asked, bytes.as_bytes()).expect("sound").is_reusable();
    assert!(reusable(&[GET], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    assert!(reusable(
        &[GET],
        "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ));
    assert!(reusable(&[HEAD], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"));
    assert!(reusable(
        &[GET],
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"
    ));
    assert!(reusable(
        &[GET],
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
    ));
    assert!(reusable(
        &[GET, HEAD],
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    ));
    assert!(!reusable(&[GET], "HTTP/1.1 200 OK\r\n\r\nuntil close"));
    assert!(!reusable(
        &[UPGRADE],
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n\0\x01anything"
    ));
}

#[test]
fn bytes_that_answer_nothing_end_the_connection() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!",
        "HTTP/1.1 204 No Content\r\n\r\nbody",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        assert_eq!(
            answers(&[GET], bytes.as_bytes()).expect_err("refused"),
            Violation::UnaskedBytes,
            "{bytes:?}"
        );
    }
    assert_eq!(
        answers(&[], b"HTTP/1.1 408 x\r\n\r\n").expect_err("refused"),
        Violation::UnaskedBytes
    );
}

#[test]
fn a_cut_answer_is_known_as_such() {
    let cut = |bytes: &str| {
        answers(&[GET], bytes.as_bytes())
            .expect("sound so far")
            .is_cut_short_by_close()
    };
    assert!(cut(""));
    assert!(cut("HTTP/1.1 200 OK\r\n"));
    assert!(cut("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"));
    assert!(cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"));
    assert!(!cut("HTTP/1.1 200 OK\r\n\r\nok"));
    assert!(!cut("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
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

        let mut pieces = Requests::new(Limits::default());
        let (mut count, mut rest, mut failure) = (0, &whole[..], None);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() || failure.is_some() { break; }
            let (piece, tail) = rest.split_at((*cut).min(rest.len()));
            failure = pieces.feed(piece, |_| count += 1).err();
            rest = tail;
        }
        let in_pieces = failure.map_or(Ok((count, pieces.is_between_messages())), Err);
        prop_assert_eq!(at_once, in_pieces);
    }

    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = requests(&bytes);
        let _ = answers(&[GET, HEAD, UPGRADE], &bytes);
    }
}
