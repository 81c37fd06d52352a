//! Digests by the names that OpenSSL gives them, because stored clients and users name theirs so.

use sha2::Digest as _;

/// A digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digest {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha512To224,
    Sha512To256,
    Sha3To224,
    Sha3To256,
    Sha3To384,
    Sha3To512,
    Ripemd160,
    /// MD5 and SHA-1 side by side, as TLS 1.1 had it.
    Md5Sha1,
}

impl Digest {
    /// The digest of this name: the short one, `RSA-…` or `…WithRSAEncryption`, in any letter case.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let short = name.strip_prefix("rsa-").unwrap_or(&name);
        let short = short.strip_prefix("id-rsassa-pkcs1-v1_5-with-").unwrap_or(short);
        Some(match short.strip_suffix("withrsaencryption").unwrap_or(short) {
            "md5" | "ssl3-md5" => Self::Md5,
            "sha1" | "sha1-2" | "ssl3-sha1" => Self::Sha1,
            "sha224" => Self::Sha224,
            "sha256" => Self::Sha256,
            "sha384" => Self::Sha384,
            "sha512" => Self::Sha512,
            "sha512/224" | "sha512-224" => Self::Sha512To224,
            "sha512/256" | "sha512-256" => Self::Sha512To256,
            "sha3-224" => Self::Sha3To224,
            "sha3-256" => Self::Sha3To256,
            "sha3-384" => Self::Sha3To384,
            "sha3-512" => Self::Sha3To512,
            "ripemd" | "ripemd160" | "rmd160" | "ripemd160withrsa" => Self::Ripemd160,
            "md5-sha1" => Self::Md5Sha1,
            _ => return None,
        })
    }

    /// The digest of all parts, one after the other, as lower-case hexadecimal digits.
    pub fn hex(self, parts: &[&[u8]]) -> String {
        match self {
            Self::Md5 => run::<md5::Md5>(parts),
            Self::Sha1 => run::<sha1::Sha1>(parts),
            Self::Sha224 => run::<sha2::Sha224>(parts),
            Self::Sha256 => run::<sha2::Sha256>(parts),
            Self::Sha384 => run::<sha2::Sha384>(parts),
            Self::Sha512 => run::<sha2::Sha512>(parts),
            Self::Sha512To224 => run::<sha2::Sha512_224>(parts),
            Self::Sha512To256 => run::<sha2::Sha512_256>(parts),
            Self::Sha3To224 => run::<sha3::Sha3_224>(parts),
            Self::Sha3To256 => run::<sha3::Sha3_256>(parts),
            Self::Sha3To384 => run::<sha3::Sha3_384>(parts),
            Self::Sha3To512 => run::<sha3::Sha3_512>(parts),
            Self::Ripemd160 => run::<ripemd::Ripemd160>(parts),
            Self::Md5Sha1 => run::<md5::Md5>(parts) + &run::<sha1::Sha1>(parts),
        }
    }
}

fn run<D: sha2::Digest>(parts: &[&[u8]]) -> String {
    let mut digest = D::new();
    for part in parts {
        digest.update(part);
    }
    hex(&digest.finalize())
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_by_every_name_that_openssl_has_for_them() {
        for (name, expected) in [
            ("sha512", Digest::Sha512),
            ("RSA-SHA512", Digest::Sha512),
            ("sha512WithRSAEncryption", Digest::Sha512),
            ("RSA-SHA1-2", Digest::Sha1),
            ("RSA-SHA512/256", Digest::Sha512To256),
            ("id-rsassa-pkcs1-v1_5-with-sha3-256", Digest::Sha3To256),
            ("ripemd160WithRSA", Digest::Ripemd160),
            ("RSA-MD5", Digest::Md5),
            ("md5-sha1", Digest::Md5Sha1),
        ] {
            assert_eq!(Digest::named(name), Some(expected), "{name}");
        }
        for name in ["bcrypt", "", "RSA-", "sha", "whirlpool"] {
            assert_eq!(Digest::named(name), None, "{name}");
        }
    }

    #[test]
    fn digests_have_their_published_values() {
        for (digest, expected) in [
            (Digest::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            (Digest::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                Digest::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                Digest::Sha3To256,
                "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
            ),
            (Digest::Ripemd160, "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
            (
                Digest::Sha512To256,
                "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23",
            ),
        ] {
            assert_eq!(digest.hex(&[b"a", b"bc"]), expected, "{digest:?}");
        }
    }
}
