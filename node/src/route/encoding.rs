//! Content codings: decoding what backends send, choosing and making what clients get.
//!
//! [`Decoder`] turns an encoded body into plain bytes piece by piece, with a bound on what may come out: a few bytes can
//! stand for gigabytes. [`negotiate`] picks the coding of an answer, [`Encoder`] makes it.

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, GzEncoder, MultiGzDecoder, ZlibDecoder, ZlibEncoder};
use http::{HeaderMap, header};
use zstd::stream::raw::{DParameter, Operation};

/// Brotli: quality as OpenHIM's, window as the library's default.
const BROTLI_QUALITY: u32 = 4;
const BROTLI_WINDOW: u32 = 22;
const BROTLI_BUFFER: usize = 4096;

/// Zstandard frames that ask for a larger window (as a power of two) are refused.
const MAX_ZSTD_WINDOW: u32 = 27;

/// A coding that can be decoded, and all but `zstd` also made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    Brotli,
    Gzip,
    Deflate,
    Zstd,
}

impl Coding {
    /// The coding of this name in `Content-Encoding`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "br" => Self::Brotli,
            "gzip" | "x-gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }

    /// Its name in `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}

/// How a body with these headers is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// Not at all.
    Plain,
    /// In a way that can be decoded.
    Known(Coding),
    /// In a way that can only be passed on.
    Unknown,
}

/// Reads `Content-Encoding`.
pub fn encoded(headers: &HeaderMap) -> Encoded {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter().flat_map(|value| {
        let names = value.to_str().unwrap_or("?").split(',').map(str::trim);
        names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"))
    });
    match (codings.next(), codings.next()) {
        (None, _) => Encoded::Plain,
        (Some(name), None) => Coding::named(name).map_or(Encoded::Unknown, Encoded::Known),
        // Coded more than once.
        (Some(_), Some(_)) => Encoded::Unknown,
    }
}

/// Why an encoded body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the decoded body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the encoded body is damaged: {0}")]
    Damaged(io::Error),
}

/// Takes decoded bytes up to a limit.
#[derive(Debug)]
struct Sink {
    bytes: Vec<u8>,
    /// Bytes that may still come.
    left: usize,
    is_full: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.left {
            self.is_full = true;
            return Err(io::Error::other("too large"));
        }
        self.left -= bytes.len();
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Inner {
    Brotli(Box<brotli::DecompressorWriter<Sink>>),
    Gzip(Box<MultiGzDecoder<Sink>>),
    Zlib(Box<ZlibDecoder<Sink>>),
    Raw(Box<DeflateDecoder<Sink>>),
    Zstd(Box<ZstdDecoder>),
    /// `deflate` means zlib's format and is often sent raw: the first byte tells.
    Undecided(Sink),
}

/// Zstandard, with an eye on where frames end: the library's writer takes a frame that is cut short for whole.
struct ZstdDecoder {
    raw: zstd::stream::raw::Decoder<'static>,
    sink: Sink,
    is_at_end: bool,
}

impl ZstdDecoder {
    fn new(sink: Sink) -> io::Result<Self> {
        let mut raw = zstd::stream::raw::Decoder::new()?;
        raw.set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW))?;
        Ok(Self {
            raw,
            sink,
            is_at_end: false,
        })
    }

    fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut output = [0; 8192];
        let mut read = 0;
        loop {
            let status = self.raw.run_on_buffers(&piece[read..], &mut output)?;
            read += status.bytes_read;
            self.sink.write_all(&output[..status.bytes_written])?;
            self.is_at_end = status.remaining == 0;
            if read == piece.len() && (self.is_at_end || status.bytes_written < output.len()) {
                return Ok(());
            }
            if self.is_at_end {
                self.raw.reinit()?;
            }
        }
    }

    fn finish(&self) -> io::Result<()> {
        match self.is_at_end {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Decodes a body piece by piece.
pub struct Decoder {
    inner: Inner,
    coding: Coding,
    limit: usize,
    /// An empty body is an empty body, whatever its coding.
    has_begun: bool,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("coding", &self.coding)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder that yields at most `limit` bytes in all.
    ///
    /// # Errors
    /// The library has no memory for it.
    pub fn new(coding: Coding, limit: usize) -> Result<Self, DecodeError> {
        let sink = Sink {
            bytes: Vec::new(),
            left: limit,
            is_full: false,
        };
        let inner = match coding {
            Coding::Brotli => Inner::Brotli(Box::new(brotli::DecompressorWriter::new(sink, BROTLI_BUFFER))),
            Coding::Gzip => Inner::Gzip(Box::new(MultiGzDecoder::new(sink))),
            Coding::Deflate => Inner::Undecided(sink),
            Coding::Zstd => Inner::Zstd(Box::new(ZstdDecoder::new(sink).map_err(DecodeError::Damaged)?)),
        };
        Ok(Self {
            inner,
            coding,
            limit,
            has_begun: false,
        })
    }

    /// Takes the next piece; answers with what it adds.
    ///
    /// # Errors
    /// The body is damaged or too large.
    pub fn push(&mut self, piece: &[u8]) -> Result<Bytes, DecodeError> {
        let Some(first) = piece.first() else {
            return Ok(Bytes::new());
        };
        self.has_begun = true;
        self.decide(*first);
        let written = match &mut self.inner {
            Inner::Brotli(decoder) => decoder.write_all(piece),
            Inner::Gzip(decoder) => decoder.write_all(piece),
            Inner::Zlib(decoder) => decoder.write_all(piece),
            Inner::Raw(decoder) => decoder.write_all(piece),
            Inner::Zstd(decoder) => decoder.push(piece),
            Inner::Undecided(_) => Ok(()),
        };
        let flushed = written.and_then(|()| match &mut self.inner {
            // The others keep what is ready until they are told.
            Inner::Gzip(decoder) => decoder.flush(),
            Inner::Zlib(decoder) => decoder.flush(),
            Inner::Raw(decoder) => decoder.flush(),
            Inner::Brotli(_) | Inner::Zstd(_) | Inner::Undecided(_) => Ok(()),
        });
        self.outcome(flushed)
    }

    /// Ends the body; answers with the rest of it.
    ///
    /// # Errors
    /// The body ends too early, is damaged or too large.
    pub fn finish(mut self) -> Result<Bytes, DecodeError> {
        if !self.has_begun {
            return Ok(Bytes::new());
        }
        let finished = match &mut self.inner {
            Inner::Brotli(decoder) => decoder.close(),
            Inner::Gzip(decoder) => decoder.try_finish(),
            Inner::Zlib(decoder) => decoder.try_finish(),
            Inner::Raw(decoder) => decoder.try_finish(),
            Inner::Zstd(decoder) => decoder.finish(),
            Inner::Undecided(_) => Ok(()),
        };
        self.outcome(finished)
    }

    fn decide(&mut self, first: u8) {
        let Inner::Undecided(sink) = &mut self.inner else {
            return;
        };
        let sink = Sink {
            bytes: Vec::new(),
            left: sink.left,
            is_full: false,
        };
        // Zlib's header: compression method 8.
        self.inner = match first & 0x0F {
            8 => Inner::Zlib(Box::new(ZlibDecoder::new(sink))),
            _ => Inner::Raw(Box::new(DeflateDecoder::new(sink))),
        };
    }

    fn outcome(&mut self, done: io::Result<()>) -> Result<Bytes, DecodeError> {
        let limit = self.limit;
        let sink = self.sink();
        match done {
            _ if sink.is_full => Err(DecodeError::TooLarge(limit)),
            Ok(()) => Ok(Bytes::from(std::mem::take(&mut sink.bytes))),
            Err(error) => Err(DecodeError::Damaged(error)),
        }
    }

    fn sink(&mut self) -> &mut Sink {
        match &mut self.inner {
            Inner::Brotli(decoder) => decoder.get_mut(),
            Inner::Gzip(decoder) => decoder.get_mut(),
            Inner::Zlib(decoder) => decoder.get_mut(),
            Inner::Raw(decoder) => decoder.get_mut(),
            Inner::Zstd(decoder) => &mut decoder.sink,
            Inner::Undecided(sink) => sink,
        }
    }
}

/// Decodes a whole body of which at most `limit` bytes may come out.
///
/// # Errors
/// The body is damaged, cut short or too large.
pub fn decode(coding: Coding, body: &[u8], limit: usize) -> Result<Bytes, DecodeError> {
    let mut decoder = Decoder::new(coding, limit)?;
    let first = decoder.push(body)?;
    let rest = decoder.finish()?;
    Ok(match (first.is_empty(), rest.is_empty()) {
        (_, true) => first,
        (true, _) => rest,
        _ => [first, rest].concat().into(),
    })
}

/// What a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negotiated {
    /// The body as it is.
    Identity,
    Coding(Coding),
    /// Neither the plain body nor any coding that we make.
    NotAcceptable,
}

/// Picks the coding of an answer by `Accept-Encoding`: the highest quality wins, among equals `br` before `gzip` before
/// `deflate`. `*` stands for gzip and deflate. Without the header, the body stays as it is.
pub fn negotiate(headers: &HeaderMap) -> Negotiated {
    let wishes: Vec<(&str, f32)> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .filter_map(wish)
        .collect();
    if wishes.is_empty() {
        return Negotiated::Identity;
    }
    let quality = |name: &str| {
        let named = wishes.iter().find(|(wished, _)| wished.eq_ignore_ascii_case(name));
        named.map(|(_, quality)| *quality)
    };
    let any = quality("*");
    let offers = [
        (Coding::Brotli, quality("br")),
        (Coding::Gzip, quality("gzip").or_else(|| quality("x-gzip")).or(any)),
        (Coding::Deflate, quality("deflate").or(any)),
    ];
    let best = offers
        .into_iter()
        .filter_map(|(coding, quality)| Some((coding, quality.filter(|quality| *quality > 0.0)?)))
        // The first of equals: `max_by` takes the last, so the order is turned.
        .rev()
        .max_by(|one, other| one.1.total_cmp(&other.1));
    let identity = quality("identity");
    match best {
        // The plain body wins only where it is asked for by name with more weight.
        Some((_, quality)) if identity.is_some_and(|identity| identity > quality) => Negotiated::Identity,
        Some((coding, _)) => Negotiated::Coding(coding),
        None if identity == Some(0.0) || (identity.is_none() && any == Some(0.0)) => Negotiated::NotAcceptable,
        None => Negotiated::Identity,
    }
}

/// One element of `Accept-Encoding`.
fn wish(element: &str) -> Option<(&str, f32)> {
    let mut parts = element.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let quality = parts.find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim()
            .eq_ignore_ascii_case("q")
            .then(|| value.trim().parse::<f32>().unwrap_or(0.0))
    });
    Some((name, quality.unwrap_or(1.0).clamp(0.0, 1.0)))
}

/// Bodies below this are not worth a coding.
const MIN_LENGTH: usize = 8;

/// True if an answer of this media type gains by a coding.
pub fn is_compressible(content_type: &str) -> bool {
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    media_type.starts_with("text/")
        || ["+json", "+xml", "+text"]
            .iter()
            .any(|suffix| media_type.ends_with(suffix))
        || COMPRESSIBLE.contains(&media_type.as_str())
}

/// Types that the common media-type database calls compressible and that the rules above miss.
const COMPRESSIBLE: [&str; 18] = [
    "application/dart",
    "application/ecmascript",
    "application/javascript",
    "application/json",
    "application/postscript",
    "application/rtf",
    "application/tar",
    "application/toml",
    "application/vnd.dart",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-httpd-php",
    "application/x-javascript",
    "application/x-ns-proxy-autoconfig",
    "application/x-sh",
    "application/x-tar",
    "application/x-www-form-urlencoded",
    "application/xml",
];

/// True if an answer with these headers and a body of this length, if known, may be encoded.
pub fn may_encode(headers: &HeaderMap, length: Option<u64>) -> bool {
    let has_no_transform = |value: &http::HeaderValue| {
        let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
        text.split(',').any(|directive| directive.trim() == "no-transform")
    };
    length.is_none_or(|length| length >= MIN_LENGTH as u64)
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.get_all(header::CACHE_CONTROL).iter().any(has_no_transform)
        && headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.to_str().is_ok_and(is_compressible))
}

enum Maker {
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Deflate(Box<ZlibEncoder<Vec<u8>>>),
}

/// Encodes a body piece by piece.
pub struct Encoder(Maker);

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// An encoder; `None` for a coding that is not made.
    pub fn new(coding: Coding) -> Option<Self> {
        Some(Self(match coding {
            Coding::Brotli => Maker::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER,
                BROTLI_QUALITY,
                BROTLI_WINDOW,
            ))),
            Coding::Gzip => Maker::Gzip(Box::new(GzEncoder::new(Vec::new(), Compression::default()))),
            Coding::Deflate => Maker::Deflate(Box::new(ZlibEncoder::new(Vec::new(), Compression::default()))),
            Coding::Zstd => return None,
        }))
    }

    /// Takes the next piece; answers with all that can be sent of it, so that a client can read what was said so far.
    ///
    /// # Errors
    /// None is known; the libraries' interface has one.
    pub fn push(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        let out = match &mut self.0 {
            Maker::Brotli(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                encoder.get_mut()
            }
            Maker::Gzip(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                encoder.get_mut()
            }
            Maker::Deflate(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                encoder.get_mut()
            }
        };
        Ok(Bytes::from(std::mem::take(out)))
    }

    /// Ends the body; answers with the rest of it.
    ///
    /// # Errors
    /// None is known; the libraries' interface has one.
    pub fn finish(self) -> io::Result<Bytes> {
        Ok(Bytes::from(match self.0 {
            Maker::Brotli(encoder) => encoder.into_inner(),
            Maker::Gzip(encoder) => encoder.finish()?,
            Maker::Deflate(encoder) => encoder.finish()?,
        }))
    }
}
