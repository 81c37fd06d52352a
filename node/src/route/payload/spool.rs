//! A large body for several routes: a file that is written once and read by each at its own pace.
//!
//! The file has no name, so that it is gone with its last reader, also after a crash.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::watch;

use super::{BodyFault, Inflow};

/// Bytes that a reader takes from the file at once.
const PIECE: usize = 256 << 10;

/// How far the file has been written.
#[derive(Clone, Copy, Debug)]
struct Progress {
    written: u64,
    end: Option<Result<(), BodyFault>>,
}

/// The file and the beginning that never went into it.
#[derive(Debug)]
pub(super) struct Spool {
    beginning: Vec<Bytes>,
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
}

impl Spool {
    /// Makes the file and copies what still comes into it.
    pub(super) fn start(beginning: Vec<Bytes>, inflow: Inflow, fault: Arc<AtomicU8>) -> io::Result<Arc<Self>> {
        let file = Arc::new(unnamed_file()?);
        let (sender, progress) = watch::channel(Progress { written: 0, end: None });
        tokio::spawn(copy(inflow, Arc::clone(&file), sender, fault));
        Ok(Arc::new(Self {
            beginning,
            file,
            progress,
        }))
    }

    pub(super) fn reader(self: &Arc<Self>) -> SpoolReader {
        SpoolReader {
            state: State::Beginning(0),
            spool: Arc::clone(self),
        }
    }
}

fn unnamed_file() -> io::Result<File> {
    tempfile::tempfile()
}

async fn copy(mut inflow: Inflow, file: Arc<File>, progress: watch::Sender<Progress>, fault: Arc<AtomicU8>) {
    let mut written = 0;
    let end = loop {
        let bytes = match inflow.next().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break Ok(()),
            Err(reason) => break Err(reason),
        };
        let length = bytes.len() as u64;
        let target = Arc::clone(&file);
        let outcome = tokio::task::spawn_blocking(move || target.write_all_at(&bytes, written)).await;
        match outcome {
            Ok(Ok(())) => written += length,
            Ok(Err(error)) => {
                tracing::error!(%error, "A large request body could not be kept for its routes");
                break Err(BodyFault::Broken);
            }
            Err(_) => break Err(BodyFault::Broken),
        }
        if progress.send(Progress { written, end: None }).is_err() {
            // No route reads any more.
            return;
        }
    };
    if let Err(reason) = end {
        fault.store(reason.code(), Ordering::Relaxed);
    }
    let _ = progress.send(Progress {
        written,
        end: Some(end),
    });
}

/// The position behind a piece, and the piece; empty at the end.
type Piece = io::Result<(u64, Bytes)>;

/// One route's place in the body.
pub(super) struct SpoolReader {
    spool: Arc<Spool>,
    state: State,
}

enum State {
    Beginning(usize),
    Reading(Pin<Box<dyn Future<Output = Piece> + Send>>),
    Done,
}

impl SpoolReader {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match &mut self.state {
                State::Beginning(at) => match self.spool.beginning.get(*at) {
                    Some(chunk) => {
                        *at += 1;
                        return Poll::Ready(Some(Ok(chunk.clone())));
                    }
                    None => self.state = State::Reading(Box::pin(read(Arc::clone(&self.spool), 0))),
                },
                State::Reading(next) => {
                    return Poll::Ready(match std::task::ready!(next.as_mut().poll(cx)) {
                        Ok((_, bytes)) if bytes.is_empty() => {
                            self.state = State::Done;
                            None
                        }
                        Ok((position, bytes)) => {
                            self.state = State::Reading(Box::pin(read(Arc::clone(&self.spool), position)));
                            Some(Ok(bytes))
                        }
                        Err(error) => {
                            self.state = State::Done;
                            Some(Err(error))
                        }
                    });
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

/// The piece at `position`.
async fn read(spool: Arc<Spool>, position: u64) -> Piece {
    let mut progress = spool.progress.clone();
    let seen = progress
        .wait_for(|progress| progress.written > position || progress.end.is_some())
        .await
        .map(|progress| *progress)
        .map_err(|_| io::Error::other(BodyFault::Broken))?;
    if seen.written <= position {
        return match seen.end {
            Some(Err(reason)) => Err(io::Error::other(reason)),
            _ => Ok((position, Bytes::new())),
        };
    }
    let length = (seen.written - position).min(PIECE as u64) as usize;
    let file = Arc::clone(&spool.file);
    let bytes = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; length];
        file.read_exact_at(&mut piece, position).map(|()| piece)
    })
    .await
    .map_err(io::Error::other)??;
    Ok((position + length as u64, bytes.into()))
}
