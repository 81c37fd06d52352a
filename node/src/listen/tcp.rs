//! The ports of TCP and TLS channels: connections in, one call of the pipeline for each message.
//!
//! A message is what one read yields, or a whole MLLP frame however it was cut on its way. Messages of one connection
//! are answered in the order in which they came; a framed one is carried alone, because its sender waits for the answer.
//! The body of the answer is written as it is. A sender of HL7 version 2 in MLLP frames always gets a framed answer: the
//! backend's own if it is HL7, else an acknowledgment. A connection is kept until its sender ends it; one whose sender
//! only stops sending still gets its answers.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::{Local, TimeZone};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tracing::{debug, warn};

use super::doors::{Door, Doors};
use super::http::{Acceptor, EXHAUSTED, HANDSHAKE, is_of_the_connection};
use crate::clock::Millis;
use crate::pipeline::AnswerBody;
use crate::tables::ChannelEntry;
use crate::wire::hl7::{Header, Verdict};
use crate::wire::mllp::{self, START};
use crate::wire::tcp_frame::Assembler;

/// What one read takes at most, as in Node.js.
const READ: usize = 64 << 10;
/// The largest framed message, unless requests are bounded more strictly.
const FRAME: usize = 64 << 20;
/// Messages of one connection that may wait for those before them.
const WAITING: usize = 64;
/// Plain messages of one connection that are carried at the same time.
const AT_ONCE: usize = 16;
/// An answer to an HL7 sender up to this size is looked at before it is sent.
const ACKNOWLEDGMENT: usize = 1 << 20;
/// How long the rest of a message may take when the node stops.
const LAST_PIECE: Duration = Duration::from_secs(1);
/// A silent connection is asked for a sign of life after this time, so that a peer that is gone is noticed.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

impl Acceptor {
    /// Serves all open ports, with the sockets of instance `at`, until told to stop.
    pub async fn serve_channels(self: Arc<Self>, mut doors: watch::Receiver<Doors>, at: usize, tls: Arc<ServerConfig>) {
        let mut served = HashSet::new();
        loop {
            let present = Arc::clone(&doors.borrow_and_update());
            served.retain(|number| present.iter().any(|door| door.number() == *number));
            for door in present.iter().filter(|door| served.insert(door.number())) {
                match door.bound.socket(at).and_then(TcpListener::from_std) {
                    Ok(listener) => {
                        let tls = door.is_tls.then(|| Arc::clone(&tls));
                        let serving = Arc::clone(&self).serve_channel(listener, Arc::clone(door), tls);
                        self.tracker.spawn(serving);
                    }
                    Err(error) => warn!(%error, channel.id = %door.channel, "A channel's port cannot be served"),
                }
            }
            drop(present);
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = doors.changed() => if changed.is_err() {
                    return self.stop.cancelled().await;
                },
            }
        }
    }

    async fn serve_channel(self: Arc<Self>, listener: TcpListener, door: Arc<Door>, tls: Option<Arc<ServerConfig>>) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                () = door.closed.cancelled() => return,
                accepted = async { (self.permit().await, listener.accept().await) } => accepted,
            };
            match accepted {
                (permit, Ok((stream, address))) => {
                    self.presence.arrived();
                    let connection =
                        Arc::clone(&self).channel_connection(stream, address, Arc::clone(&door), tls.clone(), permit);
                    self.tracker.spawn(connection);
                }
                (_, Err(error)) if is_of_the_connection(&error) => {}
                (_, Err(error)) => {
                    warn!(%error, "Connections wait: accepting failed");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }

    async fn channel_connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        door: Arc<Door>,
        tls: Option<Arc<ServerConfig>>,
        _permit: Option<OwnedSemaphorePermit>,
    ) {
        let alive = TcpKeepalive::new()
            .with_time(SIGN_OF_LIFE)
            .with_interval(SIGN_OF_LIFE / 4);
        // Without it, a dead peer is only noticed later.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&alive);
        let welcome = tokio::select! {
            () = door.closed.cancelled() => return,
            welcome = self.welcome(stream, address) => welcome,
        };
        let Some((stream, peer)) = welcome else { return };
        let talk = Talk {
            acceptor: &self,
            door: &door,
            sender: peer.address,
            silence: self.pipeline.settings.request_body.silence,
        };
        let Some(tls) = tls else {
            return talk.hold(stream).await;
        };
        match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream)).await {
            Ok(Ok(stream)) => talk.hold(stream).await,
            Ok(Err(error)) => debug!(%error, peer = %address, "A TLS handshake failed"),
            Err(_) => debug!(peer = %address, "A TLS handshake took too long"),
        }
    }
}

/// One connection of a channel.
struct Talk<'a> {
    acceptor: &'a Acceptor,
    door: &'a Door,
    sender: IpAddr,
    /// How long a message may stop in its middle, or a sender may refuse its answer.
    silence: Duration,
}

/// A message and what its sender expects.
struct Said {
    message: Bytes,
    is_framed: bool,
}

impl Talk<'_> {
    async fn hold<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) {
        let (reader, writer) = tokio::io::split(stream);
        let (messages, said) = mpsc::channel(WAITING);
        tokio::join!(self.listen(reader, messages), self.answer(said, writer));
    }

    /// Nothing more is to be read.
    async fn over(&self) {
        tokio::select! {
            () = self.acceptor.stop.cancelled() => {}
            () = self.door.closed.cancelled() => {}
        }
    }

    /// Reads messages until the sender ends, or breaks a bound, or the port closes between two messages.
    async fn listen(&self, mut reader: impl AsyncRead + Unpin, messages: mpsc::Sender<Said>) {
        let mut assembler = Assembler::new(self.frame_limit());
        let mut room = BytesMut::new();
        // Who has just come has a message on the way, and would see the connection end without an answer.
        let (mut is_over, mut is_new) = (false, true);
        loop {
            let is_amid = assembler.pending() > 0;
            if is_over && !is_amid && !is_new {
                return;
            }
            room.reserve(READ);
            let patience = if is_over { LAST_PIECE } else { self.silence };
            let read = tokio::select! {
                biased;
                () = self.over(), if !is_over => {
                    is_over = true;
                    continue;
                }
                read = reader.read_buf(&mut room) => read,
                () = tokio::time::sleep(patience), if is_amid || is_over => {
                    if !is_amid {
                        return;
                    }
                    return self.lost(assembler.pending(), "it did not go on in time");
                }
            };
            is_new = false;
            match read {
                Ok(0) | Err(_) if is_amid => return self.lost(assembler.pending(), "the connection ended"),
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            match assembler.read(room.split().freeze()) {
                Ok(whole) => {
                    for message in whole {
                        let is_framed = message.first() == Some(&START);
                        if messages.send(Said { message, is_framed }).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => return self.lost(assembler.pending(), &error.to_string()),
            }
        }
    }

    fn frame_limit(&self) -> usize {
        let limit = self.acceptor.pipeline.settings.request_body.bytes;
        limit.map_or(FRAME, |limit| FRAME.min(limit as usize))
    }

    /// A message that did not come whole is none.
    fn lost(&self, bytes: usize, reason: &str) {
        let id = self.door.channel;
        warn!(
            channel.id = %id, peer = %self.sender, bytes,
            "Channel {id}: the beginning of a message ({bytes} bytes) was dropped: {reason}"
        );
    }

    /// Carries messages and writes their answers until there are no more of either.
    async fn answer(&self, mut said: mpsc::Receiver<Said>, mut writer: impl AsyncWrite + Unpin) {
        let mut under_way = FuturesOrdered::new();
        let (mut next, mut is_open, mut is_heard, mut is_alone) = (None::<Said>, true, true, false);
        loop {
            let is_free = under_way.is_empty() || !is_alone && under_way.len() < AT_ONCE;
            if let Some(due) = next.take_if(|next| under_way.is_empty() || is_free && !next.is_framed) {
                is_alone = due.is_framed;
                under_way.push_back(self.carry(due));
                continue;
            }
            tokio::select! {
                message = said.recv(), if is_open && next.is_none() => match message {
                    Some(message) => next = Some(message),
                    None => is_open = false,
                },
                Some((answer, header)) = under_way.next(), if !under_way.is_empty() => {
                    // What was received is carried, whether its sender still listens or not.
                    is_heard = is_heard && self.write(&mut writer, answer, header).await.is_ok();
                }
                else => break,
            }
        }
        let _ = tokio::time::timeout(self.silence, writer.shutdown()).await;
    }

    async fn carry(&self, said: Said) -> (Response<AnswerBody>, Option<Header>) {
        let header = said.is_framed.then(|| Header::read(&said.message[1..])).flatten();
        let pipeline = Arc::clone(&self.acceptor.pipeline);
        let answer = match self.channel().await {
            Some(channel) => pipeline.tcp(said.message, channel, self.sender).await,
            None => {
                let mut answer = Response::new(AnswerBody::whole(Bytes::from_static(b"Internal Server Error")));
                *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                answer
            }
        };
        (answer, header)
    }

    /// The channel as it is now.
    async fn channel(&self) -> Option<Arc<ChannelEntry>> {
        let keeper = &self.acceptor.pipeline.tables;
        // If the store cannot be asked, the message will not be recorded either.
        let tables = keeper.for_message().await.unwrap_or_else(|_| keeper.load());
        tables.channels.by_id(self.door.channel).cloned()
    }

    async fn write(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        answer: Response<AnswerBody>,
        header: Option<Header>,
    ) -> io::Result<()> {
        let status = answer.status();
        let mut body = answer.into_body();
        if let Some(header) = header {
            let (begun, is_whole) = beginning(&mut body).await?;
            let bytes = match is_whole {
                true => self.acknowledgment(status, begun, &header),
                false => begun,
            };
            self.put(writer, &bytes).await?;
        }
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                self.put(writer, &bytes).await?;
            }
        }
        tokio::time::timeout(self.silence, writer.flush()).await?
    }

    async fn put(&self, writer: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = tokio::time::timeout(self.silence, writer.write(bytes)).await??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// What a sender of HL7 in frames can read.
    fn acknowledgment(&self, status: StatusCode, body: Bytes, header: &Header) -> Bytes {
        if body.first() == Some(&START) {
            return body;
        }
        if Header::read(&body).is_some() {
            return mllp::frame(&body);
        }
        let (verdict, text) = match status {
            _ if status.is_success() => (Verdict::Accept, ""),
            _ if status.is_client_error() => (Verdict::Reject, status.canonical_reason().unwrap_or("rejected")),
            _ => (Verdict::Error, status.canonical_reason().unwrap_or("error")),
        };
        let now = self.acceptor.pipeline.clock.now();
        let id = bson::oid::ObjectId::new().to_hex();
        mllp::frame(&header.acknowledge(verdict, text, &hl7_time(now), &id[4..]))
    }
}

/// The body up to its end or a little beyond what is looked at.
async fn beginning(body: &mut AnswerBody) -> io::Result<(Bytes, bool)> {
    let mut begun = BytesMut::new();
    while begun.len() <= ACKNOWLEDGMENT {
        match body.frame().await {
            None => return Ok((begun.freeze(), true)),
            Some(frame) => begun.extend_from_slice(&frame?.into_data().unwrap_or_default()),
        }
    }
    Ok((begun.freeze(), false))
}

/// A moment as HL7 writes it.
fn hl7_time(at: Millis) -> String {
    let local = Local.timestamp_millis_opt(at).earliest().unwrap_or_default();
    local.format("%Y%m%d%H%M%S%z").to_string()
}
