//! Version 2: binary, with extensions.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tlv::{self, Extensions, Tlvs};
use super::{Claim, Header, HeaderError, MAX_LENGTH, Progress, one_family};

pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const UDP4: u8 = 0x12;
const TCP6: u8 = 0x21;
const UDP6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;

pub(super) fn parse(bytes: &[u8]) -> Result<Progress<'_>, HeaderError> {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        // Whatever is wrong already is said already.
        if let Some(&command) = bytes.get(12) {
            check_command(command)?;
        }
        return Ok(Progress::Incomplete(FIXED - bytes.len()));
    };
    let [.., command, family, high, low] = *fixed;
    check_command(command)?;
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_LENGTH {
        return Err(HeaderError::TooLong(length));
    }
    let address_length = match family {
        UNSPECIFIED => 0,
        TCP4 | UDP4 => 12,
        TCP6 | UDP6 => 36,
        UNIX_STREAM | UNIX_DATAGRAM => 216,
        _ => return Err(HeaderError::Family(family)),
    };
    if command == PROXY && length < FIXED + address_length {
        return Err(HeaderError::Addresses);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(Progress::Incomplete(length - bytes.len()));
    };
    // A proxy that speaks for itself, or for nobody, may fill the rest with anything.
    if command == LOCAL || family == UNSPECIFIED {
        let claim = if command == LOCAL { Claim::Local } else { Claim::Unknown };
        return Ok(Progress::Complete(Header {
            claim,
            length,
            tlvs: Tlvs::default(),
        }));
    }
    let (addresses, rest) = header[FIXED..].split_at(address_length);
    let tlvs = Tlvs::checked(rest)?;
    tlv::verify_checksum(header, FIXED + address_length, tlvs)?;
    Ok(Progress::Complete(Header {
        claim: claim(family, addresses),
        length,
        tlvs,
    }))
}

fn check_command(command: u8) -> Result<(), HeaderError> {
    if command == LOCAL || command == PROXY {
        Ok(())
    } else {
        Err(HeaderError::Command(command))
    }
}

fn claim(family: u8, addresses: &[u8]) -> Claim {
    let pair = match *addresses {
        [a, b, c, d, e, f, g, h, sh, sl, dh, dl] => Some((
            SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([sh, sl]))),
            SocketAddr::from((Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([dh, dl]))),
        )),
        _ => v6_pair(addresses),
    };
    match (family, pair) {
        (TCP4 | TCP6, Some((source, destination))) => Claim::Tcp { source, destination },
        (UDP4 | UDP6, Some((source, destination))) => Claim::Udp { source, destination },
        // Unix sockets have names, no addresses.
        _ => Claim::Unknown,
    }
}

fn v6_pair(addresses: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (source, rest) = addresses.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let [sh, sl, dh, dl] = *rest else { return None };
    Some((
        SocketAddr::from((Ipv6Addr::from(*source), u16::from_be_bytes([sh, sl]))),
        SocketAddr::from((Ipv6Addr::from(*destination), u16::from_be_bytes([dh, dl]))),
    ))
}

/// Appends the header for `claim`, with `extensions`. Extensions that do not fit into [`MAX_LENGTH`] are left out.
pub fn write(claim: Claim, extensions: &Extensions<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&SIGNATURE);
    match claim {
        Claim::Local => out.extend_from_slice(&[LOCAL, UNSPECIFIED, 0, 0]),
        Claim::Unknown => out.extend_from_slice(&[PROXY, UNSPECIFIED, 0, 0]),
        Claim::Tcp { source, destination } => write_addresses([TCP4, TCP6], source, destination, out),
        Claim::Udp { source, destination } => write_addresses([UDP4, UDP6], source, destination, out),
    }
    let extensions_at = out.len() - start;
    let extensions = if claim.addresses().is_some() {
        *extensions
    } else {
        Extensions::default()
    };
    extensions.write(start, MAX_LENGTH, out);
    let length = u16::try_from(out.len() - start - FIXED).unwrap_or(u16::MAX);
    out[start + 14..start + FIXED].copy_from_slice(&length.to_be_bytes());
    if extensions.checksum {
        tlv::fill_checksum(&mut out[start..], extensions_at);
    }
}

fn write_addresses(families: [u8; 2], source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (source, destination) = one_family(source, destination);
    let family = families[usize::from(source.is_ipv6())];
    out.extend_from_slice(&[PROXY, family, 0, 0]);
    for address in [source, destination] {
        match address {
            SocketAddr::V4(v4) => out.extend_from_slice(&v4.ip().octets()),
            SocketAddr::V6(v6) => out.extend_from_slice(&v6.ip().octets()),
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}
