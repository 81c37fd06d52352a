//! A route of type `mllp`: one HL7 version 2 message in its frame, one framed answer.
//!
//! Connections are kept, because systems that speak MLLP like to be called on the same one. A message is sent again, on a
//! new connection, only if not one byte of it had left. The answer's own verdict (`MSA-1`) becomes the status.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::error::RouteError;
use super::socket::{self, LARGEST, Socket};
use crate::tables::Target;
use crate::wire::hl7::Verdict;
use crate::wire::mllp::{self, Decoder, START};

/// How long an idle connection is kept.
const KEEP: Duration = Duration::from_secs(60);
/// Idle connections kept for one target.
const KEPT_PER_TARGET: usize = 16;
const READ: usize = 16 << 10;

/// Idle connections by target.
#[derive(Default)]
pub(super) struct Lines {
    idle: Mutex<HashMap<Target, Vec<Line>>>,
}

struct Line {
    socket: Socket,
    tls: Option<Arc<ClientConfig>>,
    until: Instant,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lines")
    }
}

/// An answer without its frame.
pub(super) struct Told {
    pub(super) status: StatusCode,
    pub(super) message: Bytes,
}

impl Lines {
    /// Sends a message, framed unless it already is, and waits for the answer.
    ///
    /// # Errors
    /// The backend cannot be reached, breaks off, does not speak MLLP, or says nothing for `limit`.
    pub(super) async fn exchange(
        &self,
        target: &Target,
        tls: Option<Arc<ClientConfig>>,
        message: &[u8],
        limit: Duration,
    ) -> Result<Told, RouteError> {
        let framed = match message.first() {
            Some(&START) => Bytes::copy_from_slice(message),
            _ => mllp::frame(message),
        };
        let (mut socket, sent) = self.begin(target, tls.as_ref(), &framed, limit).await?;
        socket::write(&mut socket.stream, &framed[sent..], limit).await?;
        let message = answer(&mut socket, limit).await?;
        self.keep(target, socket, tls);
        let status = match Verdict::of(&message) {
            Some(Verdict::Error) => StatusCode::INTERNAL_SERVER_ERROR,
            Some(Verdict::Reject) => StatusCode::BAD_REQUEST,
            Some(Verdict::Accept) | None => StatusCode::OK,
        };
        Ok(Told { status, message })
    }

    /// A connection on which the message has begun, and how much of it has left.
    async fn begin(
        &self,
        target: &Target,
        tls: Option<&Arc<ClientConfig>>,
        framed: &[u8],
        limit: Duration,
    ) -> Result<(Socket, usize), RouteError> {
        while let Some(mut socket) = self.take(target, tls) {
            if let Ok(Ok(sent)) = tokio::time::timeout(limit, socket.stream.write(framed)).await {
                return Ok((socket, sent));
            }
        }
        Ok((socket::open(target, tls.cloned(), limit).await?, 0))
    }

    /// An idle connection, the youngest first; `None` if there is none to trust.
    fn take(&self, target: &Target, tls: Option<&Arc<ClientConfig>>) -> Option<Socket> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(target)?;
        while let Some(line) = kept.pop() {
            let has_same_trust = match (&line.tls, tls) {
                (None, None) => true,
                (Some(then), Some(now)) => Arc::ptr_eq(then, now),
                _ => false,
            };
            if has_same_trust && line.until > Instant::now() && !line.socket.link.is_stale() {
                return Some(line.socket);
            }
        }
        idle.remove(target);
        None
    }

    fn keep(&self, target: &Target, socket: Socket, tls: Option<Arc<ClientConfig>>) {
        let until = Instant::now() + KEEP;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(target.clone()).or_default();
        if kept.len() >= KEPT_PER_TARGET {
            kept.remove(0);
        }
        kept.push(Line { socket, tls, until });
    }

    /// Drops what was idle for too long.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, kept| {
            kept.retain(|line| line.until > now && !line.socket.link.is_stale());
            !kept.is_empty()
        });
    }
}

async fn answer(socket: &mut Socket, limit: Duration) -> Result<Bytes, RouteError> {
    let mut decoder = Decoder::new(LARGEST);
    let mut piece = vec![0; READ];
    loop {
        if let Some(message) = decoder
            .message()
            .map_err(|error| RouteError::Garbled(error.to_string()))?
        {
            return match decoder.is_between_messages() {
                true => Ok(message),
                // Which of them is the answer?
                false => Err(RouteError::Garbled("more than one answer to one message".into())),
            };
        }
        let reading = async { socket.stream.read(&mut piece).await.map_err(socket::read_error) };
        match socket::within(limit, reading).await? {
            0 if decoder.is_between_messages() => return Err(RouteError::HangUp),
            0 => return Err(RouteError::Aborted),
            count => decoder.push(&piece[..count]),
        }
    }
}
