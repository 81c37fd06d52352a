//! What a handshake told, in the words that backends and logs know.

use std::fmt::Write;

use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::proxy_protocol::tlv::Ssl;

/// What a TLS handshake told.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// As HAProxy writes it: `TLSv1.3`.
    pub version: &'static str,
    /// As OpenSSL names it.
    pub cipher: &'static str,
    /// The name the client asked for.
    pub server_name: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<Vec<u8>>,
    /// The client's certificate, if it showed one that was verified.
    pub certificate: Option<Certificate>,
}

/// A verified certificate of a client.
#[derive(Clone, Debug, Default)]
pub struct Certificate {
    /// Common name of its subject.
    pub common_name: String,
    /// The whole of it, in PEM.
    pub pem: String,
}

impl Facts {
    /// What there is to tell of a connection whose handshake is done.
    #[must_use]
    pub fn of(connection: &ServerConnection) -> Self {
        // Who could not be verified did not get through the handshake.
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            version: version(connection.protocol_version()),
            cipher: connection
                .negotiated_cipher_suite()
                .map_or("", |suite| cipher(suite.suite())),
            server_name: connection.server_name().map(str::to_owned),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            certificate: certificate.map(|it| Certificate {
                common_name: common_name(it),
                pem: pem(it),
            }),
        }
    }

    /// The same for a PROXY header.
    #[must_use]
    pub fn as_ssl(&self) -> Ssl<'_> {
        Ssl {
            certificate: self.certificate.is_some(),
            verified: self.certificate.is_some(),
            version: Some(self.version),
            common_name: self.certificate.as_ref().map(|it| it.common_name.as_str()),
            cipher: Some(self.cipher),
        }
    }
}

/// True if a connection went on from an earlier one.
#[must_use]
pub fn is_resumed(connection: &ServerConnection) -> bool {
    connection.handshake_kind() == Some(HandshakeKind::Resumed)
}

fn version(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}

fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> String {
    let parsed = X509Certificate::from_der(certificate).ok();
    let name = parsed
        .as_ref()
        .and_then(|(_, it)| it.subject().iter_common_name().next());
    name.and_then(|it| it.as_str().ok()).unwrap_or_default().to_owned()
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in base64(certificate).as_bytes().chunks(64) {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    text + "-----END CERTIFICATE-----\n"
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let whole = chunk
            .iter()
            .chain([&0; 2])
            .take(3)
            .fold(0_u32, |sum, it| sum << 8 | u32::from(*it));
        for index in 0..4 {
            let letter = LETTERS[(whole >> (18 - 6 * index)) as usize & 63];
            out.push(if index > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_can_be_read_back() {
        use rustls_pki_types::pem::PemObject;
        for length in [0, 1, 2, 3, 47, 48, 49, 500] {
            let bytes: Vec<u8> = (0..length).map(|it: u32| (it * 7 + 3) as u8).collect();
            let text = pem(&CertificateDer::from(bytes.clone()));
            let back = CertificateDer::from_pem_slice(text.as_bytes()).expect("PEM");
            assert_eq!(back.as_ref(), bytes, "{text}");
        }
    }
}
