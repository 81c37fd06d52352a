//! Version 2's extensions: type, length, value.

use super::HeaderError;

/// What the extensions of the specification are numbered.
pub mod kind {
    pub const ALPN: u8 = 0x01;
    pub const AUTHORITY: u8 = 0x02;
    pub const CRC32C: u8 = 0x03;
    pub const NOOP: u8 = 0x04;
    pub const UNIQUE_ID: u8 = 0x05;
    pub const SSL: u8 = 0x20;
    pub const SSL_VERSION: u8 = 0x21;
    pub const SSL_COMMON_NAME: u8 = 0x22;
    pub const SSL_CIPHER: u8 = 0x23;
    pub const NETNS: u8 = 0x30;
}

/// Longest unique id there may be.
const MAX_UNIQUE_ID: usize = 128;
/// Type and length.
const HEAD: usize = 3;
const CRC_TLV: [u8; HEAD] = [kind::CRC32C, 0, 4];

/// The client speaks TLS to the proxy; it has shown a certificate on this connection; in this session.
const SSL_USED: u8 = 0x01;
const SSL_CERT_CONNECTION: u8 = 0x02;
const SSL_CERT_SESSION: u8 = 0x04;

/// Well-formed extensions, as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// Checks that `bytes` are extensions from end to end, and those of the specification of a length it allows.
    pub(super) fn checked(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        let tlvs = Self(bytes);
        let mut length = 0;
        let mut checksums = 0;
        for (kind, value) in tlvs.iter() {
            length += HEAD + value.len();
            checksums += usize::from(kind == kind::CRC32C);
            let fits = match kind {
                kind::CRC32C => value.len() == 4 && checksums == 1,
                kind::UNIQUE_ID => value.len() <= MAX_UNIQUE_ID,
                kind::SSL => Ssl::parse(value).is_some(),
                _ => true,
            };
            if !fits {
                return Err(HeaderError::Tlv);
            }
        }
        if length == bytes.len() {
            Ok(tlvs)
        } else {
            Err(HeaderError::Tlv)
        }
    }

    /// Type and value of each, in order. Ends early at bytes that are no extension.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (&[kind, high, low], tail) = rest.split_first_chunk::<HEAD>()?;
            let (value, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            rest = tail;
            Some((kind, value))
        })
    }

    /// The value of the first extension of type `kind`.
    pub fn get(&self, kind: u8) -> Option<&'a [u8]> {
        self.iter().find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The host name the client asked for.
    pub fn authority(&self) -> Option<&'a str> {
        std::str::from_utf8(self.get(kind::AUTHORITY)?).ok()
    }

    /// The proxy's name for this connection.
    pub fn unique_id(&self) -> Option<&'a [u8]> {
        self.get(kind::UNIQUE_ID)
    }

    /// What the proxy knows from the client's TLS handshake.
    pub fn ssl(&self) -> Option<Ssl<'a>> {
        Ssl::parse(self.get(kind::SSL)?)
    }
}

/// The client's TLS connection to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ssl<'a> {
    /// The client showed a certificate.
    pub certificate: bool,
    /// The certificate was checked and found good.
    pub verified: bool,
    /// As in `TLSv1.3`.
    pub version: Option<&'a str>,
    /// Common name of the certificate's subject.
    pub common_name: Option<&'a str>,
    pub cipher: Option<&'a str>,
}

impl<'a> Ssl<'a> {
    fn parse(value: &'a [u8]) -> Option<Self> {
        let (&[client, verify @ ..], rest) = value.split_first_chunk::<5>()?;
        let parts = Tlvs(rest);
        if parts.iter().map(|(_, part)| HEAD + part.len()).sum::<usize>() != rest.len() {
            return None;
        }
        let text = |kind| parts.get(kind).and_then(|part| std::str::from_utf8(part).ok());
        Some(Self {
            certificate: client & (SSL_CERT_CONNECTION | SSL_CERT_SESSION) != 0,
            verified: verify == [0; 4],
            version: text(kind::SSL_VERSION),
            common_name: text(kind::SSL_COMMON_NAME),
            cipher: text(kind::SSL_CIPHER),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        let certificate = if self.certificate {
            SSL_CERT_CONNECTION | SSL_CERT_SESSION
        } else {
            0
        };
        out.push(SSL_USED | certificate);
        out.extend_from_slice(&u32::from(!self.verified).to_be_bytes());
        for (kind, text) in [
            (kind::SSL_VERSION, self.version),
            (kind::SSL_COMMON_NAME, self.common_name),
            (kind::SSL_CIPHER, self.cipher),
        ] {
            if let Some(text) = text {
                append(kind, text.as_bytes(), out);
            }
        }
    }
}

/// What to say beyond the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions<'a> {
    pub alpn: Option<&'a [u8]>,
    pub authority: Option<&'a str>,
    /// Cut to the 128 bytes that are allowed.
    pub unique_id: Option<&'a [u8]>,
    pub ssl: Option<Ssl<'a>>,
    /// Protect the header by a checksum.
    pub checksum: bool,
}

impl Extensions<'_> {
    /// Appends to the header that began at `start`, up to `limit` bytes of header in all.
    pub(super) fn write(&self, start: usize, limit: usize, out: &mut Vec<u8>) {
        if self.checksum {
            out.extend_from_slice(&CRC_TLV);
            out.extend_from_slice(&[0; 4]);
        }
        let mut add = |kind, value: Option<&[u8]>| {
            if let Some(value) = value
                && out.len() - start + HEAD + value.len() <= limit
            {
                append(kind, value, out);
            }
        };
        add(
            kind::UNIQUE_ID,
            self.unique_id.map(|id| &id[..id.len().min(MAX_UNIQUE_ID)]),
        );
        add(kind::ALPN, self.alpn);
        add(kind::AUTHORITY, self.authority.map(str::as_bytes));
        if let Some(ssl) = &self.ssl {
            let mut value = Vec::with_capacity(64);
            ssl.write(&mut value);
            add(kind::SSL, Some(&value));
        }
    }
}

/// Appends one extension; a value that no length can express is left out.
fn append(kind: u8, value: &[u8], out: &mut Vec<u8>) {
    if let Ok(length) = u16::try_from(value.len()) {
        out.push(kind);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
}

/// Checks the checksum of `header`, whose extensions begin at `at`, if it carries one.
pub(super) fn verify_checksum(header: &[u8], at: usize, tlvs: Tlvs<'_>) -> Result<(), HeaderError> {
    let mut offset = at;
    for (kind, value) in tlvs.iter() {
        offset += HEAD;
        if kind == kind::CRC32C {
            let sum = crc32c::crc32c(&header[..offset]);
            let sum = crc32c::crc32c_append(sum, &[0; 4]);
            let sum = crc32c::crc32c_append(sum, &header[offset + value.len()..]);
            return if value == sum.to_be_bytes() {
                Ok(())
            } else {
                Err(HeaderError::Checksum)
            };
        }
        offset += value.len();
    }
    Ok(())
}

/// Fills in the checksum of a header whose extensions begin, `at` that place, with room for it.
pub(super) fn fill_checksum(header: &mut [u8], at: usize) {
    let sum = crc32c::crc32c(header).to_be_bytes();
    if let Some(place) = header.get_mut(at + HEAD..at + HEAD + sum.len()) {
        place.copy_from_slice(&sum);
    }
}
