//! From the bytes of a request body to JSON values, as koa-bodyparser reads them.
//!
//! JSON types and forms become objects, every other type is an empty object. A body is read before anybody is
//! authenticated, so everything here has a bound: bytes after decompression, nesting, and the number of values.

mod form;
mod room;
mod text;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bson::Document;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde_json::{Map, Value};

use super::error::{Fault, Refusal};
use crate::model::json;
pub(super) use form::{decode, parse as form_value};
pub(super) use room::Room;
use room::Taken;

/// Longest form, bytes.
const FORM_BYTES: usize = 56 * 1024;
/// A sender that is silent for longer is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// How long and how much of a refused body is still read, so that the sender gets to see the answer.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 256 * 1024 * 1024;

/// Where the bytes come from.
pub(super) trait Stream: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Send + Unpin {}

impl<B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Send + Unpin> Stream for B {}

/// A parsed body.
#[derive(Clone, Debug)]
pub(super) struct Body {
    /// An object or array; `{}` for a body that was not parsed.
    pub(super) value: Value,
    /// Length of the text that was parsed; `None` if the type was none that is parsed.
    pub(super) raw_length: Option<usize>,
    /// Held as long as the body is.
    room: Option<Arc<Taken>>,
}

impl Default for Body {
    fn default() -> Self {
        Self {
            value: Value::Object(Map::new()),
            raw_length: None,
            room: None,
        }
    }
}

impl Body {
    /// The body as the store would keep it; an array is an empty document.
    ///
    /// # Errors
    /// It is nested too deeply, or a key has a null byte.
    pub(super) fn document(&self) -> Result<Document, Fault> {
        Ok(json::to_document(self.value.clone())?)
    }

    /// The body's property `name`.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.value.get(name)
    }

    /// The body's property `name` if it is text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

/// Reads and parses the body of a request; `limit` is the longest JSON text in bytes.
pub(super) async fn read(
    headers: &HeaderMap,
    incoming: impl Stream,
    limit: usize,
    room: &Room,
) -> Result<Body, Refusal> {
    let kind = kind(headers);
    if kind == Kind::Other {
        return Ok(Body::default());
    }
    let limit = if kind == Kind::Form { FORM_BYTES } else { limit };
    let encoding = match encoding(headers) {
        Ok(encoding) => encoding,
        Err(refusal) => {
            linger(incoming).await;
            return Err(refusal);
        }
    };
    let (bytes, taken) = collect(headers, incoming, limit, room).await?;
    let most = if encoding == Encoding::Identity {
        bytes.len()
    } else {
        limit
    };
    let parsed = room.parse(most).await;
    let bytes = inflate(bytes, encoding, limit)?;
    drop(taken);
    let mut body = parse(kind, &bytes)?;
    body.room = Some(Arc::new(parsed));
    Ok(body)
}

fn parse(kind: Kind, bytes: &[u8]) -> Result<Body, Refusal> {
    let text = String::from_utf8_lossy(bytes);
    let value = match kind {
        Kind::Form => form::parse(&text),
        _ if text.is_empty() => Value::Object(Map::new()),
        _ => text::parse(&text).map_err(|_| Refusal::MalformedBody)?,
    };
    Ok(Body {
        value,
        raw_length: Some(text.len()),
        room: None,
    })
}

fn kind(headers: &HeaderMap) -> Kind {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|value| value.trim().to_ascii_lowercase());
    match media_type.as_deref() {
        Some(
            "application/json"
            | "application/json-patch+json"
            | "application/vnd.api+json"
            | "application/csp-report"
            | "application/scim+json",
        ) => Kind::Json,
        Some("application/x-www-form-urlencoded") => Kind::Form,
        _ => Kind::Other,
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let name = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.to_str().unwrap_or("?").to_ascii_lowercase());
    match name.as_deref() {
        None | Some("" | "identity") => Ok(Encoding::Identity),
        Some("gzip") => Ok(Encoding::Gzip),
        Some("deflate") => Ok(Encoding::Deflate),
        Some(_) => Err(Refusal::UnsupportedEncoding),
    }
}

async fn collect(
    headers: &HeaderMap,
    mut incoming: impl Stream,
    limit: usize,
    room: &Room,
) -> Result<(Bytes, Taken), Refusal> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        linger(incoming).await;
        return Err(Refusal::BodyTooLarge);
    }
    let mut collected = BytesMut::new();
    let mut taken = Taken::nothing();
    loop {
        match tokio::time::timeout(SILENCE, incoming.frame()).await {
            Err(_) => return Err(Refusal::BodyTimeout),
            Ok(None) => return Ok((collected.freeze(), taken)),
            Ok(Some(Err(_))) => return Err(Refusal::MalformedBody),
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if collected.len() + data.len() > limit {
                    linger(incoming).await;
                    return Err(Refusal::BodyTooLarge);
                }
                room.arrive(&mut taken, collected.len(), data.len())?;
                collected.extend_from_slice(&data);
            }
        }
    }
}

/// Reads on for a moment: closing a connection with unread data would destroy the answer on its way.
async fn linger(mut incoming: impl Stream) {
    let drain = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = incoming.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > LINGER_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

fn inflate(bytes: Bytes, encoding: Encoding, limit: usize) -> Result<Bytes, Refusal> {
    let unpacked = match encoding {
        Encoding::Identity => return Ok(bytes),
        Encoding::Gzip => unpack(flate2::read::MultiGzDecoder::new(&bytes[..]), limit),
        // Senders disagree whether "deflate" has zlib's header; zlib's first byte tells.
        Encoding::Deflate if bytes.first().is_some_and(|first| first & 0x0f == 8) => {
            unpack(flate2::read::ZlibDecoder::new(&bytes[..]), limit)
        }
        Encoding::Deflate => unpack(flate2::read::DeflateDecoder::new(&bytes[..]), limit),
    }?;
    Ok(unpacked.into())
}

fn unpack(decoder: impl Read, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut unpacked = Vec::new();
    decoder
        .take(limit as u64 + 1)
        .read_to_end(&mut unpacked)
        .map_err(|_| Refusal::MalformedBody)?;
    if unpacked.len() > limit {
        return Err(Refusal::BodyTooLarge);
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn typed(media_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, http::HeaderValue::from_static(media_type))])
    }

    #[test]
    fn json_types_may_have_parameters_and_a_stray_semicolon() {
        assert_eq!(kind(&typed("application/json;charset=UTF-8")), Kind::Json);
        assert_eq!(kind(&typed("Application/JSON;")), Kind::Json);
        assert_eq!(kind(&typed("application/vnd.api+json")), Kind::Json);
        assert_eq!(kind(&typed("text/json")), Kind::Other);
        assert_eq!(kind(&HeaderMap::new()), Kind::Other);
    }

    #[test]
    fn only_objects_and_arrays_are_json_bodies() {
        assert!(parse(Kind::Json, b" \n[1]").is_ok());
        assert!(parse(Kind::Json, b"\"text\"").is_err());
        assert!(parse(Kind::Json, b"12").is_err());
        assert!(parse(Kind::Json, b"{\"a\":").is_err());
        assert_eq!(parse(Kind::Json, b"").unwrap().raw_length, Some(0));
    }

    #[test]
    fn a_compressed_body_may_not_grow_past_the_limit() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(&vec![b' '; 1 << 20]).unwrap();
        let packed = Bytes::from(packer.finish().unwrap());

        assert!(matches!(
            inflate(packed.clone(), Encoding::Gzip, 1 << 19),
            Err(Refusal::BodyTooLarge)
        ));
        assert_eq!(inflate(packed, Encoding::Gzip, 1 << 20).unwrap().len(), 1 << 20);
    }

    #[test]
    fn deflate_is_read_with_and_without_a_header() {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zlib.write_all(b"{}").unwrap();
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        raw.write_all(b"{}").unwrap();

        for packed in [zlib.finish().unwrap(), raw.finish().unwrap()] {
            assert_eq!(inflate(packed.into(), Encoding::Deflate, 10).unwrap(), "{}");
        }
    }
}
