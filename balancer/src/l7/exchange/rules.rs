//! What an exchange is held to, and how it may turn out.

use std::time::{Duration, Instant};

use crate::l7::framing::head::Asked;
use crate::l7::framing::{Body, Length, Limits, Violation};

/// Why an exchange did not come to its proper end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::l7) enum Fault {
    /// The backend's connection took nothing of the request.
    Unsent,
    /// The backend's connection ended before an answer began.
    NoAnswer,
    /// The backend's answer could be read in more than one way.
    BadAnswer(Violation),
    /// The backend was silent for too long, before an answer began.
    Silent,
    /// The answer broke off, or came to a standstill, after it began.
    CutShort,
    /// The client is gone.
    ClientGone,
    /// The client did not send the next part of its body, or take the next part of its answer, in time.
    ClientSlow,
    /// The client's body could be read in more than one way, or ended too early.
    BadBody(Violation),
    /// Ended from outside.
    Killed,
}

/// What the client's side is held to.
#[derive(Clone, Copy, Debug)]
pub(in crate::l7) struct Terms {
    pub(in crate::l7) limits: Limits,
    /// The next part of a request's body; the client's taking of an answer.
    pub(in crate::l7) body: Duration,
    /// The answer, and each next part of it; zero is never.
    pub(in crate::l7) response: Duration,
}

/// How a client wants its answer.
#[derive(Debug)]
pub(in crate::l7) struct Wanted {
    pub(in crate::l7) asked: Asked,
    pub(in crate::l7) is_1_1: bool,
    /// The connection can carry another request.
    pub(in crate::l7) keeps: bool,
    /// It waits for a word before it sends its body.
    pub(in crate::l7) expects_continue: bool,
    /// A whole `Set-Cookie` value.
    pub(in crate::l7) cookie: Option<String>,
}

/// The request's way up, which more than one exchange may share.
#[derive(Debug)]
pub(in crate::l7) struct Upload {
    /// What is still to come from the client.
    pub(in crate::l7) body: Body,
    /// What was taken of the body so far, while that is short enough to be sent again, and may be.
    pub(in crate::l7) replay: Option<Vec<u8>>,
    /// It may be sent again even if a backend has heard it.
    pub(in crate::l7) is_repeatable: bool,
    /// Bytes of the body so far.
    pub(in crate::l7) bytes: u64,
}

/// Longest body that is kept to be sent again.
const REPLAY: usize = 64 * 1024;

impl Upload {
    pub(in crate::l7) fn new(length: Length, limits: &Limits, is_repeatable: bool) -> Self {
        Self {
            body: Body::new(length, limits),
            replay: Some(Vec::new()),
            is_repeatable,
            bytes: 0,
        }
    }

    pub(in crate::l7) fn note(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(kept) = &mut self.replay {
            if kept.len() + bytes.len() > REPLAY {
                self.replay = None;
            } else {
                kept.extend_from_slice(bytes);
            }
        }
    }
}

/// What the client was told.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::l7) struct Told {
    /// The status, once an answer began.
    pub(in crate::l7) status: u16,
    /// Bytes of the answer's body.
    pub(in crate::l7) bytes: u64,
    /// When the answer began.
    pub(in crate::l7) at: Option<Instant>,
}
