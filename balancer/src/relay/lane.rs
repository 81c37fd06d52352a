//! One direction of a flow: reads from the source, writes to the sink, passes the end on.
//!
//! A read goes into the thread's scratch buffer and straight out again; only what the sink does not take is copied
//! into memory of the lane's own, and nothing more is read until it is gone: that is all the back-pressure there is.
//! A lane that keeps reading large pieces between two plain sockets turns to [`splice`], and back when
//! the pieces become small.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::splice::{self, Pipe};
use super::{Opening, Peer};

/// What one read can bring; one such buffer a thread.
const SCRATCH: usize = 64 * 1024;
/// Large blocks of memory begin at the start of a page, and copying between two places that are as far into their pages
/// takes processors several times as long as any other: what is read does not begin where a TLS record does.
const SHIFT: usize = 2048;
/// A read of this size speaks for a bulk transfer ...
const BIG: usize = 16 * 1024;
/// ... if it is the second in a row.
const BIG_IN_A_ROW: u8 = 2;
/// Pieces below this are cheaper to copy than to splice; two in a row end the splicing.
const SMALL: usize = 4 * 1024;
const SMALL_IN_A_ROW: u8 = 2;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SHIFT + SCRATCH].into_boxed_slice());
}

/// Why a lane cannot go on, and on which side.
#[derive(Debug)]
pub(super) enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

/// What one flow may move before other flows of the thread get their turn.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(1024 * 1024)
    }
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Lane {
    stage: Stage,
    mode: Mode,
    unsent: Unsent,
    /// The end of the source is not passed on as a FIN: the flow will be reset instead.
    without_fin: bool,
    /// Written, but possibly still in a layer above the socket.
    unflushed: bool,
    /// Bytes of `moved` that are not the peer's own.
    overhead: u32,
    moved: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The source has ended; what is unsent goes out, then the end.
    Ended,
    Finished,
}

#[derive(Debug)]
enum Mode {
    Copy {
        big: u8,
    },
    Splice {
        small: u8,
    },
    /// The kernel refused to splice these sockets.
    CopyOnly,
}

impl Default for Mode {
    fn default() -> Self {
        Self::Copy { big: 0 }
    }
}

/// Bytes read from the source that the sink has not taken.
#[derive(Debug, Default)]
enum Unsent {
    #[default]
    Nothing,
    Bytes {
        bytes: Box<[u8]>,
        sent: usize,
    },
    Piped(Pipe),
}

impl Lane {
    /// A lane whose sink first gets `opening`.
    pub(super) fn opening_with(opening: Opening) -> Self {
        let Opening { bytes, header_len } = opening;
        let overhead = u32::try_from(header_len.min(bytes.len())).unwrap_or(u32::MAX);
        let unsent = match bytes.len() {
            0 => Unsent::Nothing,
            _ => Unsent::Bytes {
                bytes: bytes.into_boxed_slice(),
                sent: 0,
            },
        };
        Self {
            unsent,
            overhead,
            ..Self::default()
        }
    }

    /// Bytes the sink took.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Bytes of the source that the sink took.
    pub(super) fn counted(&self) -> u64 {
        self.moved.saturating_sub(u64::from(self.overhead))
    }

    pub(super) fn is_finished(&self) -> bool {
        self.stage == Stage::Finished
    }

    /// The sink is gone: what is unsent has no address any more.
    pub(super) fn abandon(&mut self) {
        self.unsent = Unsent::Nothing;
        self.stage = Stage::Finished;
    }

    /// Nothing more will come from the source; what did come is still delivered.
    pub(super) fn source_is_gone(&mut self) {
        self.without_fin = true;
        if self.stage == Stage::Open {
            self.stage = Stage::Ended;
        }
    }

    /// The source's end, when it comes, is not to be passed on as a FIN.
    pub(super) fn ends_without_fin(&mut self) {
        self.without_fin = true;
    }

    /// Moves bytes until neither side can go on. Ready when the source's end has been passed on.
    pub(super) fn poll<S: Peer, D: Peer>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut D,
        budget: &mut Budget,
        count: impl Fn(u64),
    ) -> Poll<Result<(), Broken>> {
        loop {
            if self.stage == Stage::Finished {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_unsent(cx, sink, &count)).map_err(Broken::Sink)?;
            if self.stage == Stage::Ended {
                ready!(self.poll_end(cx, sink)).map_err(Broken::Sink)?;
                self.stage = Stage::Finished;
                return Poll::Ready(Ok(()));
            }
            if budget.0 == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let spliced = match (source.plain(), sink.plain()) {
                (Some(from), Some(_)) if matches!(self.mode, Mode::Splice { .. }) => self.poll_splice(cx, from)?,
                _ => None,
            };
            let read = match spliced {
                Some(read) => read,
                None => self.poll_copy(cx, source, sink, &count)?,
            };
            match read {
                Poll::Ready(0) => {
                    self.stage = Stage::Ended;
                }
                Poll::Ready(read) => budget.0 = budget.0.saturating_sub(read),
                Poll::Pending => {
                    // With nothing to read, what the sink's upper layer holds back must not wait for more.
                    if self.unflushed && matches!(self.unsent, Unsent::Nothing) {
                        ready!(Pin::new(sink).poll_flush(cx)).map_err(Broken::Sink)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Ready when nothing is unsent.
    fn poll_unsent<D: Peer>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut D,
        count: &impl Fn(u64),
    ) -> Poll<io::Result<()>> {
        loop {
            let written = match &mut self.unsent {
                Unsent::Nothing => return Poll::Ready(Ok(())),
                Unsent::Bytes { bytes, sent } => {
                    let written = ready!(Pin::new(&mut *sink).poll_write(cx, &bytes[*sent..]))?;
                    *sent += written;
                    let done = *sent == bytes.len();
                    if done {
                        self.unsent = Unsent::Nothing;
                    }
                    written
                }
                Unsent::Piped(pipe) => {
                    // A lane that holds a pipe was between two plain sockets when it filled it.
                    let Some(to) = sink.plain() else {
                        return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
                    };
                    let written = ready!(pipe.poll_drain(cx, to))?;
                    if pipe.is_empty()
                        && let Unsent::Piped(pipe) = std::mem::take(&mut self.unsent)
                    {
                        splice::give_back(pipe);
                    }
                    written
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(written, count);
        }
    }

    /// Passes the end of the source on.
    fn poll_end<D: Peer>(&mut self, cx: &mut Context<'_>, sink: &mut D) -> Poll<io::Result<()>> {
        if self.without_fin {
            Pin::new(sink).poll_flush(cx)
        } else {
            Pin::new(sink).poll_shutdown(cx)
        }
    }

    /// One read by way of the scratch buffer; ready with its length, zero at the end. What the sink does not take at
    /// once is left in `unsent`.
    fn poll_copy<S: Peer, D: Peer>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut D,
        count: &impl Fn(u64),
    ) -> Result<Poll<usize>, Broken> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch[SHIFT..]);
            match Pin::new(source).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(result) => result.map_err(Broken::Source)?,
            }
            let read = buffer.filled();
            self.saw_read_of(read.len());
            let mut sent = 0;
            while sent < read.len() {
                match Pin::new(&mut *sink)
                    .poll_write(cx, &read[sent..])
                    .map_err(Broken::Sink)?
                {
                    Poll::Ready(0) => return Err(Broken::Sink(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(written) => {
                        sent += written;
                        self.wrote(written, count);
                    }
                    Poll::Pending => {
                        self.unsent = Unsent::Bytes {
                            bytes: read[sent..].into(),
                            sent: 0,
                        };
                        break;
                    }
                }
            }
            Ok(Poll::Ready(read.len()))
        })
    }

    /// One read into a pipe, which is left in `unsent`; ready with its length, zero at the end. `None`: there is no pipe
    /// to be had, or the kernel cannot splice this socket, and the lane is back to copying.
    fn poll_splice(&mut self, cx: &mut Context<'_>, source: &TcpStream) -> Result<Option<Poll<usize>>, Broken> {
        let Some(mut pipe) = splice::take() else {
            self.mode = Mode::default();
            return Ok(None);
        };
        let read = match pipe.poll_fill(cx, source) {
            Poll::Ready(Ok(read)) if read > 0 => {
                self.saw_read_of(read);
                self.unsent = Unsent::Piped(pipe);
                return Ok(Some(Poll::Ready(read)));
            }
            Poll::Ready(Err(error)) if splice::is_unsupported(&error) => {
                self.mode = Mode::CopyOnly;
                Ok(None)
            }
            Poll::Ready(Err(error)) => Err(Broken::Source(error)),
            Poll::Ready(Ok(_)) => Ok(Some(Poll::Ready(0))),
            Poll::Pending => Ok(Some(Poll::Pending)),
        };
        splice::give_back(pipe);
        read
    }

    fn wrote(&mut self, bytes: usize, count: &impl Fn(u64)) {
        let before = self.counted();
        self.moved += bytes as u64;
        self.unflushed = true;
        count(self.counted() - before);
    }

    /// Chooses between copying and splicing by the size of what comes.
    fn saw_read_of(&mut self, bytes: usize) {
        match &mut self.mode {
            Mode::Copy { big } if bytes >= BIG => {
                *big += 1;
                if *big == BIG_IN_A_ROW {
                    self.mode = Mode::Splice { small: 0 };
                }
            }
            Mode::Copy { big } => *big = 0,
            Mode::Splice { small } if bytes < SMALL => {
                *small += 1;
                if *small == SMALL_IN_A_ROW {
                    self.mode = Mode::default();
                }
            }
            Mode::Splice { small } => *small = 0,
            Mode::CopyOnly => {}
        }
    }
}
