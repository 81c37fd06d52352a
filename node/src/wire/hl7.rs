//! As much of HL7 version 2 as an acknowledgment takes: the message header in, `MSH` and `MSA` out.
//!
//! Works on bytes, because a message's character set is its sender's business.

use std::fmt::Write as _;

/// What a receiver says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `AA`: taken.
    Accept,
    /// `AE`: something went wrong; sending it again may help.
    Error,
    /// `AR`: it will never be taken.
    Reject,
}

impl Verdict {
    fn code(self) -> &'static str {
        match self {
            Self::Accept => "AA",
            Self::Error => "AE",
            Self::Reject => "AR",
        }
    }

    /// The verdict in a message's `MSA` segment; `None` if it has none that is known.
    pub fn of(message: &[u8]) -> Option<Self> {
        let header = Header::read(message)?;
        let mut segments = message.split(|byte| matches!(byte, b'\r' | b'\n'));
        let verdict = segments.find(|segment| segment.starts_with(b"MSA"))?;
        match verdict.split(|byte| *byte == header.separator).nth(1)? {
            b"AA" | b"CA" => Some(Self::Accept),
            b"AE" | b"CE" => Some(Self::Error),
            b"AR" | b"CR" => Some(Self::Reject),
            _ => None,
        }
    }
}

/// The header of a message that can be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    separator: u8,
    /// `MSH` without its first field: `MSH-2` is the first.
    fields: Vec<Vec<u8>>,
}

impl Header {
    /// Reads the header of a message without its frame; `None` if it is no HL7 version 2.
    pub fn read(message: &[u8]) -> Option<Self> {
        let rest = message.strip_prefix(b"MSH")?;
        let (&separator, rest) = rest.split_first()?;
        if separator.is_ascii_alphanumeric() || matches!(separator, b'\r' | b'\n') {
            return None;
        }
        let line = rest.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
        let fields = line.split(|byte| *byte == separator).map(<[u8]>::to_vec).collect();
        Some(Self { separator, fields })
    }

    /// `MSH-n` as the standard counts.
    fn field(&self, n: usize) -> &[u8] {
        self.fields.get(n - 2).map_or(&[], Vec::as_slice)
    }

    /// An acknowledgment, without a frame. `time` is written as HL7 writes it, `id` names the acknowledgment.
    pub fn acknowledge(&self, verdict: Verdict, text: &str, time: &str, id: &str) -> Vec<u8> {
        let separator = [self.separator];
        let component = self.field(2).first().copied().unwrap_or(b'^');
        let trigger = self
            .field(9)
            .split(|byte| *byte == component)
            .nth(1)
            .unwrap_or_default();
        let mut kind = b"ACK".to_vec();
        if !trigger.is_empty() {
            kind.push(component);
            kind.extend_from_slice(trigger);
        }
        let header: [&[u8]; 12] = [
            b"MSH",
            self.field(2),
            self.field(5),
            self.field(6),
            self.field(3),
            self.field(4),
            time.as_bytes(),
            b"",
            &kind,
            id.as_bytes(),
            self.field(11),
            self.field(12),
        ];
        let mut message = header.join(&separator[..]);
        message.extend_from_slice(b"\rMSA");
        let plain = self.plain(text);
        let rest: [&[u8]; 3] = [verdict.code().as_bytes(), self.field(10), plain.as_bytes()];
        for field in rest.into_iter().filter(|field| !field.is_empty()) {
            message.push(self.separator);
            message.extend_from_slice(field);
        }
        message.push(b'\r');
        message
    }

    /// Text without what has a meaning in a message.
    fn plain(&self, text: &str) -> String {
        let mut plain = String::with_capacity(text.len());
        for letter in text.chars().filter(|letter| !letter.is_control()) {
            let is_special =
                u8::try_from(letter).is_ok_and(|byte| byte == self.separator || self.field(2).contains(&byte));
            // Writing to a string cannot fail.
            let _ = plain.write_char(if is_special { ' ' } else { letter });
        }
        plain
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADT: &[u8] = b"MSH|^~\\&|LAB|CLINIC|HIM|MOH|20260101||ADT^A01|C42|P|2.5\rPID|1\r";

    #[test]
    fn an_acknowledgment_goes_back_to_the_sender_and_names_its_message() {
        let ack = Header::read(ADT)
            .unwrap()
            .acknowledge(Verdict::Accept, "", "20260102", "7");

        assert_eq!(
            String::from_utf8(ack.clone()).unwrap(),
            "MSH|^~\\&|HIM|MOH|LAB|CLINIC|20260102||ACK^A01|7|P|2.5\rMSA|AA|C42\r"
        );
        assert_eq!(Verdict::of(&ack), Some(Verdict::Accept));
    }

    #[test]
    fn a_refusal_says_why_in_text_that_cannot_break_the_message() {
        let ack = Header::read(ADT)
            .unwrap()
            .acknowledge(Verdict::Error, "a|b\rc", "", "1");

        assert!(ack.ends_with(b"MSA|AE|C42|a bc\r"));
        assert_eq!(Verdict::of(&ack), Some(Verdict::Error));
    }

    #[test]
    fn other_separators_are_the_senders_choice() {
        let header = Header::read(b"MSH#*~\\&#A####1##ORU*R01#9#P#2.3").unwrap();

        let ack = header.acknowledge(Verdict::Reject, "", "2", "3");

        assert_eq!(ack, b"MSH#*~\\&###A##2##ACK*R01#3#P#2.3\rMSA#AR#9\r");
    }

    #[test]
    fn what_is_no_message_is_not_acknowledged() {
        for text in [&b""[..], b"MSH", b"MSHx", b"GET / HTTP/1.1", b"{}"] {
            assert_eq!(Header::read(text), None, "{text:?}");
        }
        assert_eq!(Verdict::of(ADT), None);
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(rest in prop::collection::vec(any::<u8>(), 0..60)) {
            let message = [&b"MSH"[..], &rest].concat();
            if let Some(header) = Header::read(&message) {
                let ack = header.acknowledge(Verdict::Accept, "x", "1", "2");
                prop_assert!(ack.starts_with(b"MSH"));
            }
            let _ = Verdict::of(&message);
        }
    }
}
