//! Requests and answers of HTTP/1 as the balancer reads them: cut anywhere, they come to the same; what is taken for one
//! head is one head to a plain reader too; and no body ends but where it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_balancer::l7::framing::head::Asked;
use openhim_balancer::l7::framing::{Body, Length, Limits, Request, Response, Scan, Violation};

/// Lengths of the heads, contents of the bodies, and how it ended.
type Reading = (Vec<usize>, Vec<Vec<u8>>, Result<(), Violation>);

fn read(pieces: &[&[u8]], as_answers: bool) -> Reading {
    let limits = Limits::default();
    let (mut held, mut scan, mut heads, mut bodies) = (Vec::new(), Scan::default(), Vec::new(), Vec::new());
    let mut body: Option<Body> = None;
    let mut walk = |bytes: &[u8]| {
        held.extend_from_slice(bytes);
        loop {
            while let Some(current) = &mut body {
                if current.is_done() {
                    body = None;
                    break;
                }
                if held.is_empty() {
                    return Ok(());
                }
                let piece = current.step(&held)?;
                assert!(piece.length > 0 && piece.length <= held.len());
                let taken: Vec<u8> = held.drain(..piece.length).collect();
                if piece.is_content {
                    let content: &mut Vec<u8> = bodies.last_mut().expect("begun with its head");
                    content.extend_from_slice(&taken);
                }
            }
            let Some(length) = scan.find(&held, &limits)? else {
                return Ok(());
            };
            let head = &held[..length];
            assert!(head.ends_with(b"\r\n\r\n"));
            assert_eq!(head.windows(4).filter(|it| it == b"\r\n\r\n").count(), 1);
            let length_of_body = if as_answers {
                Response::read(head, &limits, Asked::default(), Vec::new())?.length
            } else {
                Request::read(head, &limits, Vec::new())?.length
            };
            check_length(head, length_of_body);
            heads.push(length);
            bodies.push(Vec::new());
            held.drain(..length);
            body = Some(Body::new(length_of_body, &limits));
        }
    };
    let end = pieces.iter().try_for_each(|piece| walk(piece));
    (heads, bodies, end)
}

/// A head that was accepted cannot say two things about the body.
fn check_length(head: &[u8], length: Length) {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let lines = |name: &str| text.lines().filter(|it| it.starts_with(name)).count();
    let (lengths, codings) = (lines("content-length"), lines("transfer-encoding"));
    assert!(lengths + codings <= 1 || text.contains("content-length-") || text.contains("transfer-encoding-"));
    if length == Length::Chunked {
        assert_eq!(codings, 1);
    }
}

fuzz_target!(|input: (bool, Vec<u8>, Vec<u8>)| {
    let (as_answers, bytes, cuts) = input;
    let whole = read(&[&bytes], as_answers);
    let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
    for cut in cuts {
        let (piece, tail) = rest.split_at(usize::from(cut).min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    pieces.push(rest);
    let by_pieces = read(&pieces, as_answers);
    assert_eq!(whole.0, by_pieces.0);
    assert_eq!(whole.2.is_err(), by_pieces.2.is_err());
    if whole.2.is_ok() {
        assert_eq!(whole.1, by_pieces.1);
    }
});
