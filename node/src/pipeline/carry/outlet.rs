//! The way of an answer's body: from the backend's coding to the client's, and what of it is kept for the record.
//!
//! A body whose coding the client takes is passed on as it came and decoded only to be shown. Any other is decoded, and
//! coded again if that is worth it. Nothing is held back longer than a piece.

use bytes::Bytes;
use http::header;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::pipeline::respond;
use crate::record::capture::Capture;
use crate::route::RouteError;
use crate::route::encoding::{self, Coding, DecodeError, Decoder, Encoded, Encoder, Negotiated};

/// How a body comes and how it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Decoded on its way.
    decode: Option<Coding>,
    /// Passed on as it came: the backend's label, and the coding if we know it.
    pass: Option<(HeaderValue, Option<Coding>)>,
    /// Coded on its way.
    encode: Option<Coding>,
}

impl Way {
    /// As it comes, so it goes.
    pub(super) const STRAIGHT: Self = Self {
        decode: None,
        pass: None,
        encode: None,
    };

    /// Decides how a backend's body is led to this client; `must_read` if its text is wanted.
    pub(super) fn choose(backend: &HeaderMap, wishes: &HeaderMap, must_read: bool) -> Self {
        match encoding::encoded(backend) {
            Encoded::Plain => Self::STRAIGHT,
            Encoded::Known(coding) if must_read || !takes(wishes, coding) => Self {
                decode: Some(coding),
                ..Self::STRAIGHT
            },
            Encoded::Known(coding) => Self::passing(backend, Some(coding)),
            Encoded::Unknown => Self::passing(backend, None),
        }
    }

    fn passing(backend: &HeaderMap, coding: Option<Coding>) -> Self {
        let labels: Vec<_> = backend
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        Self {
            pass: HeaderValue::from_bytes(&labels.join(&b", "[..]))
                .ok()
                .map(|label| (label, coding)),
            ..Self::STRAIGHT
        }
    }

    /// Codes the body for the client if it wants that and the body gains by it; `answer` is what the client is told.
    ///
    /// # Errors
    /// The client takes neither the plain body nor any coding that is made here.
    pub(super) fn compress(
        &mut self,
        wishes: &HeaderMap,
        answer: &HeaderMap,
        length: Option<u64>,
    ) -> Result<(), NotAcceptable> {
        if self.pass.is_some() {
            return Ok(());
        }
        match encoding::negotiate(wishes) {
            Negotiated::NotAcceptable => return Err(NotAcceptable),
            Negotiated::Coding(coding) if encoding::may_encode(answer, length) => self.encode = Some(coding),
            Negotiated::Coding(_) | Negotiated::Identity => {}
        }
        Ok(())
    }

    /// True if the bytes that go are those that come.
    pub(super) fn is_straight(&self) -> bool {
        self.decode.is_none() && self.encode.is_none()
    }

    /// True if the body is plain once it was decoded.
    pub(super) fn is_readable(&self) -> bool {
        self.pass.is_none()
    }

    /// Labels the answer.
    pub(super) fn label(&self, headers: &mut HeaderMap) {
        let label = match (&self.pass, self.encode) {
            (Some((label, _)), _) => label.clone(),
            (None, Some(coding)) => HeaderValue::from_static(coding.name()),
            (None, None) => return,
        };
        headers.insert(header::CONTENT_ENCODING, label);
    }

    /// Text of the whole body, decoded; `None` if that cannot be done.
    pub(super) fn decoded(&self, body: &Bytes, limit: usize) -> Result<Bytes, RouteError> {
        match self.decode {
            None => Ok(body.clone()),
            Some(coding) => encoding::decode(coding, body, limit).map_err(damaged),
        }
    }

    /// The whole body as it goes.
    pub(super) fn encoded(&self, body: Bytes) -> Bytes {
        let Some(mut encoder) = self.encode.and_then(Encoder::new) else {
            return body;
        };
        let coded = encoder
            .push(&body)
            .and_then(|first| Ok([first, encoder.finish()?].concat()));
        // Unreachable: the coders write to memory.
        coded.map_or(body, Bytes::from)
    }
}

/// The client takes nothing that could be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotAcceptable;

/// True if the client's `Accept-Encoding` lists the coding.
fn takes(wishes: &HeaderMap, coding: Coding) -> bool {
    let items = wishes.get_all(header::ACCEPT_ENCODING).iter();
    let mut items = items
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    items.any(|item| {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        let is_refused = parameters
            .split_once('=')
            .is_some_and(|(_, quality)| quality.trim().parse::<f32>() == Ok(0.0));
        !is_refused && (name.trim() == "*" || Coding::named(name) == Some(coding))
    })
}

fn damaged(error: DecodeError) -> RouteError {
    match error {
        DecodeError::TooLarge(_) => RouteError::TooLarge("the decoded response body is too large"),
        DecodeError::Damaged(_) => RouteError::Garbled(error.to_string()),
    }
}

/// A body on its way, piece by piece.
#[derive(Debug)]
pub(super) struct Flow {
    decoder: Option<Decoder>,
    encoder: Option<Encoder>,
    shown: Shown,
}

impl Flow {
    /// Begins; at most `limit` bytes may come out of a decoder, `kept` bytes are kept.
    ///
    /// # Errors
    /// There is no memory for a decoder.
    pub(super) fn new(way: &Way, limit: usize, kept: usize) -> Result<Self, RouteError> {
        Ok(Self {
            decoder: way
                .decode
                .map(|coding| Decoder::new(coding, limit))
                .transpose()
                .map_err(damaged)?,
            encoder: way.encode.and_then(Encoder::new),
            shown: Shown::new(way, kept),
        })
    }

    /// Takes a piece from the backend; answers with what goes to the client.
    ///
    /// # Errors
    /// The piece cannot be decoded.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<Bytes, RouteError> {
        let plain = match &mut self.decoder {
            Some(decoder) => decoder.push(&piece).map_err(damaged)?,
            None => piece,
        };
        self.shown.push(&plain);
        self.code(plain)
    }

    fn code(&mut self, plain: Bytes) -> Result<Bytes, RouteError> {
        match &mut self.encoder {
            Some(encoder) if !plain.is_empty() => encoder
                .push(&plain)
                .map_err(|error| RouteError::Garbled(error.to_string())),
            _ => Ok(plain),
        }
    }

    /// The backend's body has ended; answers with the last that goes to the client.
    ///
    /// # Errors
    /// The body ended too early.
    pub(super) fn finish(&mut self) -> Result<Bytes, RouteError> {
        let rest = match self.decoder.take() {
            Some(decoder) => decoder.finish().map_err(damaged)?,
            None => Bytes::new(),
        };
        self.shown.push(&rest);
        let mut last = self.code(rest)?;
        if let Some(encoder) = self.encoder.take() {
            let end = encoder
                .finish()
                .map_err(|error| RouteError::Garbled(error.to_string()))?;
            last = if last.is_empty() {
                end
            } else {
                [last, end].concat().into()
            };
        }
        Ok(last)
    }

    /// True if everything that may be kept was kept.
    pub(super) fn keeps_more(&self) -> bool {
        self.shown.capture.is_whole()
    }

    /// Bytes that went by, decoded if the way decodes.
    pub(super) fn seen(&self) -> u64 {
        self.shown.capture.seen()
    }

    /// What is kept for the record.
    pub(super) fn into_shown(self) -> Capture {
        self.shown.finish()
    }
}

/// What is kept of a body so that people can read it.
#[derive(Debug)]
struct Shown {
    /// For a body that is passed on in its coding.
    decoder: Option<Decoder>,
    /// The body is kept as it goes by.
    is_plain: bool,
    capture: Capture,
}

/// A few bytes can stand for very many: what is only shown is decoded in pieces of this size, and so far beyond what is
/// kept.
const SHOWN_PIECE: usize = 1 << 10;
const SHOWN_AHEAD: usize = 8 << 20;

impl Shown {
    fn new(way: &Way, kept: usize) -> Self {
        let coding = way.pass.as_ref().and_then(|(_, coding)| *coding);
        let limit = kept.saturating_add(SHOWN_AHEAD);
        Self {
            decoder: coding
                .filter(|_| kept > 0)
                .and_then(|coding| Decoder::new(coding, limit).ok()),
            is_plain: coding.is_none(),
            capture: Capture::new(kept),
        }
    }

    fn push(&mut self, piece: &Bytes) {
        if self.decoder.is_none() && self.is_plain {
            self.capture.push(piece);
            return;
        }
        for part in piece.chunks(SHOWN_PIECE) {
            match &mut self.decoder {
                // What is only shown need not be decoded beyond what is kept.
                Some(decoder) if self.capture.is_whole() => match decoder.push(part) {
                    Ok(plain) => self.capture.push(&plain),
                    Err(_) => self.give_up(part.len()),
                },
                _ => self.capture.skip(part.len()),
            }
        }
    }

    /// A body that cannot be read is not ours to judge: the client got what the backend sent.
    fn give_up(&mut self, lost: usize) {
        self.decoder = None;
        self.capture.skip(lost);
    }

    fn finish(mut self) -> Capture {
        if let Some(decoder) = self.decoder.take()
            && let Ok(rest) = decoder.finish()
        {
            self.capture.push(&rest);
        }
        self.capture
    }
}

/// What is kept of a whole body.
pub(super) fn shown(way: &Way, body: &Bytes, kept: usize) -> Capture {
    let mut shown = Shown::new(way, kept);
    shown.push(body);
    shown.finish()
}

/// Whether a body goes to the client at all.
pub(super) fn has_body(method: &Method, status: StatusCode) -> bool {
    !respond::is_bodiless(method, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    fn gzip(text: &[u8]) -> Bytes {
        let mut encoder = Encoder::new(Coding::Gzip).unwrap();
        let first = encoder.push(text).unwrap();
        [first, encoder.finish().unwrap()].concat().into()
    }

    #[test]
    fn a_coding_that_the_client_takes_is_passed_on_and_shown_in_plain() {
        let backend = headers(&[("content-encoding", "gzip")]);
        let way = Way::choose(&backend, &headers(&[("accept-encoding", "br, gzip;q=0.5")]), false);
        let body = gzip(b"hello world");

        let mut answer = HeaderMap::new();
        way.label(&mut answer);

        assert_eq!(answer.get("content-encoding").unwrap(), "gzip");
        assert_eq!(way.decoded(&body, 100).unwrap(), body);
        assert_eq!(shown(&way, &body, 100).bytes(), b"hello world");
    }

    #[test]
    fn a_coding_that_the_client_does_not_take_is_undone() {
        let backend = headers(&[("content-encoding", "gzip")]);
        for wishes in [headers(&[]), headers(&[("accept-encoding", "gzip;q=0, br")])] {
            let way = Way::choose(&backend, &wishes, false);

            assert_eq!(way.decoded(&gzip(b"hello"), 100).unwrap(), "hello");
            assert!(way.decoded(&gzip(b"hello")[..12].to_vec().into(), 100).is_err());
        }
    }

    #[test]
    fn an_unknown_coding_is_passed_on_with_its_label() {
        let way = Way::choose(&headers(&[("content-encoding", "compress")]), &headers(&[]), true);
        let mut answer = HeaderMap::new();
        way.label(&mut answer);

        assert_eq!(answer.get("content-encoding").unwrap(), "compress");
        assert_eq!(shown(&way, &Bytes::from_static(b"x"), 10).bytes(), b"x");
    }

    #[test]
    fn a_plain_text_is_coded_for_a_client_that_wants_it() {
        let wishes = headers(&[("accept-encoding", "gzip")]);
        let mut way = Way::STRAIGHT;
        way.compress(&wishes, &headers(&[("content-type", "text/plain")]), Some(11))
            .unwrap();

        assert_eq!(
            encoding::decode(Coding::Gzip, &way.encoded("hello world".into()), 100).unwrap(),
            "hello world"
        );
        let mut image = Way::STRAIGHT;
        image
            .compress(&wishes, &headers(&[("content-type", "image/png")]), Some(11))
            .unwrap();
        assert!(image.is_straight());
    }

    #[test]
    fn a_body_that_flows_is_decoded_coded_and_shown() {
        let backend = headers(&[("content-encoding", "gzip")]);
        let wishes = headers(&[("accept-encoding", "deflate")]);
        let mut way = Way::choose(&backend, &wishes, false);
        way.compress(&wishes, &headers(&[("content-type", "text/plain")]), None)
            .unwrap();
        let mut flow = Flow::new(&way, 1000, 5).unwrap();
        let body = gzip(b"hello world");

        let mut sent = flow.push(body.slice(..15)).unwrap().to_vec();
        sent.extend(flow.push(body.slice(15..)).unwrap());
        sent.extend(flow.finish().unwrap());

        assert_eq!(encoding::decode(Coding::Deflate, &sent, 100).unwrap(), "hello world");
        let shown = flow.into_shown();
        assert_eq!((shown.bytes(), shown.seen()), (b"hello".to_vec(), 11));
    }

    #[test]
    fn what_is_only_shown_is_not_decoded_further_than_it_is_kept() {
        let backend = headers(&[("content-encoding", "gzip")]);
        let way = Way::choose(&backend, &headers(&[("accept-encoding", "gzip")]), false);
        let bomb = gzip(&vec![b'a'; 1 << 20]);

        let mut flow = Flow::new(&way, 10, 5).unwrap();
        for piece in bomb.chunks(64) {
            flow.push(Bytes::copy_from_slice(piece)).unwrap();
        }

        let shown = flow.into_shown();
        assert_eq!(shown.bytes(), b"aaaaa");
        assert!(!shown.is_whole());
    }
}
