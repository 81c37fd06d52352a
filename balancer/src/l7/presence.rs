//! Whether a client that waits is still there.
//!
//! One that has ended its side may have gone, or may only have finished sending. It is asked by a word that means nothing
//! to who waits for an answer, and that is refused by the kernel of who is gone; only HTTP/1.1 has such a word.
//! [`request`](super::request) watches by it while a request waits for a backend, [`exchange`](super::exchange) while the
//! answer is awaited. It never ends a request itself, and never writes once an answer has begun.

use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};

use super::alarm::Alarm;
use super::transport::Wire;
use crate::relay::Peer;

/// Bytes of later requests that are read while an answer is awaited.
const READ_AHEAD: usize = 16 * 1024;
/// A client whose side has ended is asked this long after whether it is still there, ...
const ASK_AFTER: Duration = Duration::from_millis(600);
/// ... and its kernel's word is looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What it is asked by.
const ASK: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// What can be found out about a client, and what was.
#[derive(Debug)]
pub(super) struct Presence {
    /// It has a connection of its own, of which the end of one direction means something.
    can_half_close: bool,
    /// It knows interim answers.
    is_1_1: bool,
    /// When its side ended, or it was last looked for since.
    left: Option<Instant>,
    was_asked: bool,
}

impl Presence {
    pub(super) fn new(can_half_close: bool, is_1_1: bool) -> Self {
        Self {
            can_half_close,
            is_1_1,
            left: None,
            was_asked: false,
        }
    }

    /// Hears what the client says meanwhile: it may ask for more already.
    pub(super) fn listen<C: Peer>(&mut self, cx: &mut Context<'_>, client: &mut Wire<C>) -> Result<(), Gone> {
        while !client.input.ended && client.input.held().len() < READ_AHEAD {
            match client.poll_fill(cx) {
                Poll::Ready(Ok(0)) if !self.can_half_close => return Err(Gone),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Err(Gone),
                Poll::Pending => break,
            }
        }
        if client.input.ended {
            // Perhaps while an earlier request was under way.
            self.left.get_or_insert_with(Instant::now);
        }
        let is_broken = |socket| getsockopt(socket, sockopt::SocketError).is_ok_and(|error| error != 0);
        match self.left.is_some() && client.stream.socket().is_some_and(is_broken) {
            true => Err(Gone),
            false => Ok(()),
        }
    }

    /// When [`pursue`](Self::pursue) is due, if it is. `may_be_asked` is false once the client has been told something.
    pub(super) fn due(&self, may_be_asked: bool) -> Option<Instant> {
        let left = self.left.filter(|_| self.is_1_1)?;
        let is_question = may_be_asked && !self.was_asked;
        Some(left + if is_question { ASK_AFTER } else { LOOK_EVERY })
    }

    /// Asks, or looks what came of it.
    pub(super) fn pursue<C: Peer>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Wire<C>,
        may_be_asked: bool,
    ) -> Result<(), Gone> {
        self.left = Some(Instant::now());
        if !may_be_asked || self.was_asked {
            return self.listen(cx, client);
        }
        self.was_asked = true;
        client.output.bytes.extend_from_slice(ASK);
        match client.poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(Gone),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Carries `what` out as long as the client is there. Nothing is on its way to it yet.
    pub(super) async fn during<C: Peer, T>(
        &mut self,
        client: &mut Wire<C>,
        alarm: &mut Alarm,
        what: impl Future<Output = T>,
    ) -> Result<T, Gone> {
        let mut what = pin!(what);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(it) = what.as_mut().poll(cx) {
                return Poll::Ready(Ok(it));
            }
            self.listen(cx, client)?;
            loop {
                let may_be_asked = client.output.is_empty();
                let Some(due) = self.due(may_be_asked) else {
                    return Poll::Pending;
                };
                ready!(alarm.poll(cx, due));
                self.pursue(cx, client, may_be_asked)?;
            }
        })
        .await
    }
}
