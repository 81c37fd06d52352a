//! One request on one connection to a backend: both directions at once.
//!
//! The request goes up and the answer comes down independently, each as fast as its reader takes it: an answer may come
//! before the request is complete. Memory is held only for what the other side does not take at the moment. Framing is
//! followed byte by byte; nothing beyond the end of a message is passed on.

use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::alarm::Alarm;
use super::framing::{Body, Field, Length, Response, Scan, Violation};
use super::headers::{Downward, has_visible_end, write_response};
use super::presence::Presence;
use super::transport::{BackendStream, Wire, poll_take};
use crate::l4::sessions::{Open, SessionMeter};
use crate::relay::{Meter, Peer};

mod part;
mod rules;

pub(super) use part::part;
pub(super) use rules::{Fault, Terms, Told, Upload, Wanted};

/// Bytes that are gathered so that they go out together.
const GATHER: usize = 32 * 1024;
/// A client sends its body at least this fast per `body_timeout`.
const BODY_STEP: u64 = 1024;

#[derive(Debug)]
enum Stage {
    Head(Scan),
    Body(Body, Coding),
    Done,
}

/// What happens to the chunks of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// They stay as they are.
    Same,
    /// They are taken off, for a client that does not know them.
    TakenOff,
    /// They are put around a body that the backend ends by closing: a body cut short can then be told from a whole one.
    PutOn,
}

/// What a finished exchange leaves behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    /// The backend's connection can carry another request.
    pub(super) is_reusable: bool,
    /// The client's connection can.
    pub(super) keeps: bool,
    /// Both connections speak another protocol now.
    pub(super) is_tunnel: bool,
}

#[derive(Debug)]
pub(super) struct Exchange<'e, C> {
    client: &'e mut Wire<C>,
    backend: &'e mut Wire<BackendStream>,
    upload: &'e mut Upload,
    alarm: &'e mut Alarm,
    presence: &'e mut Presence,
    terms: &'e Terms,
    wanted: Wanted,
    open: &'e Open,
    meter: SessionMeter,
    stage: Stage,
    pub(super) told: Told,
    /// The backend takes nothing any more.
    up_is_broken: bool,
    /// The backend's side allows another request after this one.
    backend_keeps: bool,
    is_tunnel: bool,
    clock: Watchers,
    fields: Vec<Field>,
    /// What of the totals the meter has.
    metered: (u64, u64),
}

/// What silence is measured from.
#[derive(Debug)]
struct Watchers {
    /// Totals when something last moved, and when that was.
    moved: (u64, Instant),
    /// Bytes of the body when the client last gave enough, and when that was.
    fed: (u64, Instant),
}

impl<'e, C: Peer> Exchange<'e, C> {
    /// The head, and what was sent of the body before, stand in the backend's output.
    #[expect(clippy::too_many_arguments, reason = "the two ends and the rules between them")]
    pub(super) fn new(
        client: &'e mut Wire<C>,
        backend: &'e mut Wire<BackendStream>,
        upload: &'e mut Upload,
        alarm: &'e mut Alarm,
        presence: &'e mut Presence,
        terms: &'e Terms,
        wanted: Wanted,
        open: &'e Open,
        fields: Vec<Field>,
    ) -> Self {
        let now = Instant::now();
        let bytes = upload.bytes;
        let metered = (backend.output.total, client.output.total);
        Self {
            client,
            backend,
            upload,
            alarm,
            presence,
            terms,
            wanted,
            meter: open.meter(),
            open,
            stage: Stage::Head(Scan::default()),
            told: Told::default(),
            up_is_broken: false,
            backend_keeps: true,
            is_tunnel: false,
            clock: Watchers {
                moved: (0, now),
                fed: (bytes, now),
            },
            fields,
            metered,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Finished, Fault>> {
        if self.open.session().poll_ended(cx).is_ready() {
            return Poll::Ready(Err(Fault::Killed));
        }
        let up = self.poll_up(cx);
        let down = match up {
            Poll::Ready(Err(fault)) => Poll::Ready(Err(fault)),
            _ => self.poll_down(cx),
        };
        self.count();
        if let Poll::Ready(result) = down {
            return Poll::Ready(result.map(|()| self.finished()));
        }
        if up.is_ready() {
            self.presence.listen(cx, self.client).map_err(|_| Fault::ClientGone)?;
        }
        self.poll_time(cx).map(Err)
    }

    /// Moves the request. Ready once there is no more to be done for it.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let Self {
            client,
            backend,
            upload,
            ..
        } = self;
        loop {
            if self.up_is_broken {
                return Poll::Ready(Ok(()));
            }
            if !upload.body.is_done() && backend.output.bytes.len() < GATHER {
                let held = client.input.held();
                let used = upload.body.advance(held).map_err(Fault::BadBody)?;
                upload.note(&held[..used]);
                backend.output.bytes.extend_from_slice(&held[..used]);
                client.input.consume(used);
            }
            if !backend.output.is_empty() {
                let before = backend.output.total;
                match backend.poll_flush(cx) {
                    // Up to now it was the backend that was waited for.
                    Poll::Ready(Ok(())) if !upload.body.is_done() => self.clock.fed = (upload.bytes, Instant::now()),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) if before == 0 && backend.output.total == 0 => {
                        return Poll::Ready(Err(Fault::Unsent));
                    }
                    Poll::Ready(Err(_)) => {
                        // It may have answered all the same.
                        self.up_is_broken = true;
                        continue;
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            if upload.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            let mut is_broken = false;
            let taken = ready!(poll_take(cx, &mut client.stream, &mut client.input, |cx, bytes| {
                let used = upload.body.advance(bytes)?;
                upload.note(&bytes[..used]);
                is_broken = backend.write_through(cx, &bytes[..used]).is_err();
                Ok::<usize, Violation>(used)
            }));
            self.up_is_broken = is_broken;
            match taken {
                Err(_) => return Poll::Ready(Err(Fault::ClientGone)),
                Ok(Err(violation)) => return Poll::Ready(Err(Fault::BadBody(violation))),
                // What ends in the middle of its request waits for no answer.
                Ok(Ok(false)) => return Poll::Ready(Err(Fault::ClientGone)),
                Ok(Ok(true)) => {}
            }
        }
    }

    /// Moves the answer. Ready once the client has all of it.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            match &mut self.stage {
                Stage::Head(scan) => {
                    if self.client.output.bytes.len() > GATHER {
                        ready!(self.client.poll_flush(cx)).map_err(|_| Fault::ClientGone)?;
                    }
                    let found = scan.find(self.backend.input.held(), &self.terms.limits);
                    match found.map_err(Fault::BadAnswer)? {
                        Some(length) => self.take_head(length)?,
                        None => match ready!(self.backend.poll_fill(cx)) {
                            Ok(0) | Err(_) => return Poll::Ready(Err(Fault::NoAnswer)),
                            Ok(_) => {}
                        },
                    }
                    // An interim answer does not wait for the final one.
                    if !self.client.output.is_empty()
                        && matches!(self.stage, Stage::Head(_))
                        && let Poll::Ready(Err(_)) = self.client.poll_flush(cx)
                    {
                        return Poll::Ready(Err(Fault::ClientGone));
                    }
                }
                Stage::Body(..) => {
                    if !ready!(self.poll_body(cx))? {
                        self.stage = Stage::Done;
                    }
                }
                Stage::Done => {
                    let flushed = ready!(self.client.poll_flush(cx));
                    return Poll::Ready(flushed.map_err(|_| Fault::ClientGone));
                }
            }
        }
    }

    /// Takes over a head of this length at the start of what was read.
    fn take_head(&mut self, length: usize) -> Result<(), Fault> {
        let head = &self.backend.input.held()[..length];
        let fields = std::mem::take(&mut self.fields);
        let response = Response::read(head, &self.terms.limits, self.wanted.asked, fields).map_err(Fault::BadAnswer)?;
        let is_final = response.is_final();
        if is_final {
            // Who answers before it has heard everything does not want to hear the rest.
            self.wanted.keeps &= self.upload.body.is_done() && has_visible_end(&response, self.wanted.is_1_1);
            self.told.status = response.status;
            self.told.at = Some(Instant::now());
            let lasts = !response.options.close && (response.is_1_1 || response.options.keep_alive);
            self.backend_keeps = lasts && !response.is_doubtful;
            self.is_tunnel = response.length == Length::Tunnel;
        }
        let coding = match response.length {
            Length::UntilClose if self.wanted.is_1_1 => Coding::PutOn,
            Length::Chunked if !self.wanted.is_1_1 => Coding::TakenOff,
            _ => Coding::Same,
        };
        if is_final || self.wanted.is_1_1 {
            let downward = Downward {
                client_is_1_1: self.wanted.is_1_1,
                keeps: self.wanted.keeps,
                is_chunked_here: coding == Coding::PutOn,
                cookie: self.wanted.cookie.as_deref(),
            };
            write_response(&mut self.client.output.bytes, &response, head, &downward);
        }
        self.backend.input.consume(length);
        if is_final {
            let length = if self.is_tunnel { Length::None } else { response.length };
            self.stage = Stage::Body(Body::new(length, &self.terms.limits), coding);
        } else {
            self.wanted.expects_continue &= response.status != 100;
        }
        self.fields = response.fields;
        Ok(())
    }

    /// Moves the next part of the answer's body; false at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Fault>> {
        let Self {
            client,
            backend,
            told,
            stage,
            ..
        } = self;
        let Stage::Body(body, coding) = stage else {
            return Poll::Ready(Ok(false));
        };
        let coding = *coding;
        if coding == Coding::Same && !body.is_done() && client.output.bytes.len() < GATHER {
            let held = backend.input.held();
            let used = body.advance(held).map_err(Fault::BadAnswer)?;
            told.bytes += used as u64;
            client.output.bytes.extend_from_slice(&held[..used]);
            backend.input.consume(used);
        }
        if !client.output.is_empty() {
            ready!(client.poll_flush(cx)).map_err(|_| Fault::ClientGone)?;
        }
        if body.is_done() {
            return Poll::Ready(Ok(false));
        }
        let mut is_gone = false;
        let taken = ready!(poll_take(cx, &mut backend.stream, &mut backend.input, |cx, bytes| {
            if coding != Coding::TakenOff {
                let used = body.advance(bytes)?;
                told.bytes += used as u64;
                if coding == Coding::Same {
                    is_gone = client.write_through(cx, &bytes[..used]).is_err();
                } else {
                    put_chunk(&mut client.output.bytes, &bytes[..used]);
                }
                return Ok::<usize, Violation>(used);
            }
            let mut used = 0;
            while used < bytes.len() && !body.is_done() {
                let piece = body.step(&bytes[used..])?;
                if piece.is_content {
                    client.output.bytes.extend_from_slice(&bytes[used..used + piece.length]);
                    told.bytes += piece.length as u64;
                }
                used += piece.length;
            }
            Ok(used)
        }));
        match taken {
            _ if is_gone => Poll::Ready(Err(Fault::ClientGone)),
            Ok(Ok(true)) => Poll::Ready(Ok(true)),
            Ok(Ok(false)) if body.may_end_by_close() => {
                if coding == Coding::PutOn {
                    client.output.bytes.extend_from_slice(b"0\r\n\r\n");
                }
                Poll::Ready(Ok(false))
            }
            Ok(Ok(false)) | Err(_) => Poll::Ready(Err(Fault::CutShort)),
            Ok(Err(violation)) => Poll::Ready(Err(Fault::BadAnswer(violation))),
        }
    }

    /// Ready when something takes too long.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        loop {
            let Some((deadline, meaning)) = self.deadline() else {
                return Poll::Pending;
            };
            ready!(self.alarm.poll(cx, deadline));
            match meaning {
                Meaning::Is(fault) => return Poll::Ready(fault),
                Meaning::Pursue => {
                    let may_be_asked = self.may_be_asked();
                    if self.presence.pursue(cx, self.client, may_be_asked).is_err() {
                        return Poll::Ready(Fault::ClientGone);
                    }
                }
            }
        }
    }

    /// When time is up next, and what that means.
    fn deadline(&self) -> Option<(Instant, Meaning)> {
        let Terms { body, response, .. } = *self.terms;
        let (moved, is_up_done) = (self.clock.moved.1, self.upload.body.is_done() || self.up_is_broken);
        let is_heard = !self.wanted.expects_continue || self.upload.bytes > 0;
        let waits_for_body = !is_up_done && is_heard && self.backend.output.is_empty();
        let waits_for_backend = match &self.stage {
            Stage::Head(_) => is_up_done || !is_heard || !self.backend.output.is_empty(),
            Stage::Body(..) => self.client.output.is_empty() && !waits_for_body,
            Stage::Done => false,
        };
        let silence = match self.stage {
            Stage::Head(_) => Fault::Silent,
            _ => Fault::CutShort,
        };
        let slow = |since: Instant| (since + body, Meaning::Is(Fault::ClientSlow));
        let pursuit = self.presence.due(self.may_be_asked());
        [
            waits_for_body.then(|| slow(self.clock.fed.1)),
            (!self.client.output.is_empty()).then(|| slow(moved)),
            (waits_for_backend && !response.is_zero()).then(|| (moved + response, Meaning::Is(silence))),
            pursuit.map(|at| (at, Meaning::Pursue)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(deadline, _)| *deadline)
    }

    /// True while the client has heard nothing of an answer.
    fn may_be_asked(&self) -> bool {
        matches!(self.stage, Stage::Head(_)) && self.client.output.is_empty()
    }

    /// Keeps the books of what moved.
    fn count(&mut self) {
        let (up, down) = (self.backend.output.total, self.client.output.total);
        if up > 0 && !self.upload.is_repeatable {
            self.upload.replay = None;
        }
        if (up, down) != self.metered {
            self.meter.to_backend(up - self.metered.0);
            self.meter.to_client(down - self.metered.1);
            self.metered = (up, down);
        }
        let all = up + down + self.upload.bytes + self.told.bytes;
        if all != self.clock.moved.0 {
            let now = Instant::now();
            self.clock.moved = (all, now);
            if self.upload.bytes >= self.clock.fed.0 + BODY_STEP {
                self.clock.fed = (self.upload.bytes, now);
            }
        }
    }

    fn finished(&self) -> Finished {
        let is_up_done = self.upload.body.is_done() && !self.up_is_broken && self.backend.output.is_empty();
        let is_clean = self.backend.input.held().is_empty() && !self.backend.input.ended;
        Finished {
            is_reusable: is_up_done && is_clean && self.backend_keeps && !self.is_tunnel,
            // Requests that came before the client's side ended are still answered.
            keeps: self.wanted.keeps
                && !self.is_tunnel
                && !(self.client.input.ended && self.client.input.held().is_empty()),
            is_tunnel: self.is_tunnel,
        }
    }

    /// What the client was told, and the memory for the next one's header lines.
    pub(super) fn into_told(self) -> (Told, Vec<Field>) {
        (self.told, self.fields)
    }
}

fn put_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// What it means that time is up.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    Is(Fault),
    /// Find out whether the client is still there.
    Pursue,
}
