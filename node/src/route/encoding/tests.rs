use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1 << 20;

fn encode(coding: Coding, body: &[u8]) -> Vec<u8> {
    if coding == Coding::Zstd {
        return zstd::encode_all(body, 3).unwrap();
    }
    let mut encoder = Encoder::new(coding).unwrap();
    let mut out = encoder.push(body).unwrap().to_vec();
    out.extend(encoder.finish().unwrap());
    out
}

fn raw_deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

const ALL: [Coding; 4] = [Coding::Brotli, Coding::Gzip, Coding::Deflate, Coding::Zstd];

fn accept(value: &'static str) -> Negotiated {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
    negotiate(&headers)
}

#[test]
fn content_encoding_is_read() {
    for (value, expected) in [
        ("gzip", Encoded::Known(Coding::Gzip)),
        ("X-GZIP", Encoded::Known(Coding::Gzip)),
        ("deflate", Encoded::Known(Coding::Deflate)),
        ("br", Encoded::Known(Coding::Brotli)),
        ("identity", Encoded::Plain),
        ("identity, zstd", Encoded::Known(Coding::Zstd)),
        ("", Encoded::Plain),
        ("compress", Encoded::Unknown),
        ("gzip, br", Encoded::Unknown),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(value));
        assert_eq!(encoded(&headers), expected, "{value}");
    }
    assert_eq!(encoded(&HeaderMap::new()), Encoded::Plain);
}

#[test]
fn deflate_is_read_with_and_without_zlibs_header() {
    assert_eq!(
        decode(Coding::Deflate, &raw_deflate(b"hello hello"), LIMIT).unwrap(),
        "hello hello"
    );
    assert_eq!(
        decode(Coding::Deflate, &encode(Coding::Deflate, b"hello"), LIMIT).unwrap(),
        "hello"
    );
}

#[test]
fn an_empty_body_is_empty_in_every_coding() {
    for coding in ALL {
        assert_eq!(decode(coding, b"", LIMIT).unwrap(), "", "{coding:?}");
        assert_eq!(decode(coding, &encode(coding, b""), LIMIT).unwrap(), "", "{coding:?}");
    }
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let zeros = vec![0; 50 << 20];
    for coding in ALL {
        let bomb = encode(coding, &zeros);
        assert!(bomb.len() < 200_000, "{coding:?} {}", bomb.len());
        assert!(
            matches!(decode(coding, &bomb, LIMIT), Err(DecodeError::TooLarge(LIMIT))),
            "{coding:?}"
        );
    }
}

#[test]
fn a_body_of_exactly_the_limit_is_decoded() {
    for coding in ALL {
        let encoded = encode(coding, &[7; 1000]);
        assert_eq!(decode(coding, &encoded, 1000).unwrap().len(), 1000, "{coding:?}");
        assert!(decode(coding, &encoded, 999).is_err(), "{coding:?}");
    }
}

#[test]
fn damage_is_an_error() {
    for coding in ALL {
        assert!(
            matches!(
                decode(coding, b"this is not encoded at all", LIMIT),
                Err(DecodeError::Damaged(_))
            ),
            "{coding:?}"
        );
    }
    for coding in ALL {
        let text: Vec<u8> = (0..10_000_u32)
            .flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes())
            .collect();
        let encoded = encode(coding, &text);
        let cut = decode(coding, &encoded[..encoded.len() / 2], LIMIT);
        assert!(
            matches!(cut, Err(DecodeError::Damaged(_))),
            "{coding:?} {:?}",
            cut.map(|bytes| bytes.len())
        );
    }
}

#[test]
fn several_members_are_one_body() {
    for coding in [Coding::Gzip, Coding::Zstd] {
        let two = [encode(coding, b"one "), encode(coding, b"two")].concat();

        assert_eq!(decode(coding, &two, LIMIT).unwrap(), "one two");
    }
}

#[test]
fn what_was_pushed_can_be_read_at_once() {
    for coding in [Coding::Brotli, Coding::Gzip, Coding::Deflate] {
        let mut encoder = Encoder::new(coding).unwrap();
        let first = encoder.push(b"first part").unwrap();
        let mut decoder = Decoder::new(coding, LIMIT).unwrap();

        assert_eq!(decoder.push(&first).unwrap(), "first part", "{coding:?}");
    }
    assert!(Encoder::new(Coding::Zstd).is_none());
}

#[test]
fn the_clients_wish_is_granted() {
    use Negotiated::{Identity, NotAcceptable};
    let coded = Negotiated::Coding;
    for (value, expected) in [
        ("gzip", coded(Coding::Gzip)),
        ("gzip, deflate, br", coded(Coding::Brotli)),
        ("gzip;q=1.0, br;q=0.5", coded(Coding::Gzip)),
        ("deflate, gzip", coded(Coding::Gzip)),
        ("DEFLATE", coded(Coding::Deflate)),
        ("*", coded(Coding::Gzip)),
        ("gzip;q=0, *", coded(Coding::Deflate)),
        ("*;q=0.1, br;q=0", coded(Coding::Gzip)),
        ("gzip;q=0", Identity),
        ("identity", Identity),
        ("identity;q=0.5, gzip;q=0.2", Identity),
        ("gzip;q=0.5, identity;q=0.5", coded(Coding::Gzip)),
        ("zstd", Identity),
        ("", Identity),
        ("identity;q=0", NotAcceptable),
        ("*;q=0", NotAcceptable),
        ("identity;q=0, gzip;q=0", NotAcceptable),
        ("identity;q=0, gzip", coded(Coding::Gzip)),
        (";q=1,,", Identity),
        ("gzip;q=nonsense", Identity),
    ] {
        assert_eq!(accept(value), expected, "{value}");
    }
    assert_eq!(negotiate(&HeaderMap::new()), Identity);
}

#[test]
fn only_what_gains_by_it_is_encoded() {
    for (media_type, expected) in [
        ("text/plain; charset=utf-8", true),
        ("application/fhir+json", true),
        ("Application/XML", true),
        ("application/javascript", true),
        ("application/octet-stream", false),
        ("image/png", false),
        ("image/svg+xml", true),
    ] {
        assert_eq!(is_compressible(media_type), expected, "{media_type}");
    }
    let with = |name: http::HeaderName, value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(name, HeaderValue::from_static(value));
        headers
    };
    assert!(may_encode(&with(header::SERVER, "x"), Some(8)));
    assert!(may_encode(&with(header::SERVER, "x"), None));
    assert!(!may_encode(&with(header::SERVER, "x"), Some(7)));
    assert!(!may_encode(
        &with(header::CACHE_CONTROL, "public, No-Transform"),
        Some(100)
    ));
    assert!(!may_encode(&with(header::CONTENT_ENCODING, "gzip"), Some(100)));
    assert!(!may_encode(&HeaderMap::new(), Some(100)));
}

proptest! {
    #[test]
    fn a_body_survives_every_coding_however_it_is_cut(
        body in prop::collection::vec(any::<u8>(), 0..3000),
        cut in 1..200_usize,
    ) {
        let mut all: Vec<(Coding, Vec<u8>)> = ALL.map(|coding| (coding, encode(coding, &body))).into();
        all.push((Coding::Deflate, raw_deflate(&body)));
        for (coding, encoded) in all {
            let mut decoder = Decoder::new(coding, body.len()).unwrap();
            let mut decoded = Vec::new();
            for piece in encoded.chunks(cut) {
                decoded.extend(decoder.push(piece).unwrap());
            }
            decoded.extend(decoder.finish().unwrap());
            prop_assert_eq!(&decoded, &body, "{:?}", coding);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        for coding in ALL {
            let _ = decode(coding, &body, 10_000);
        }
    }
}
