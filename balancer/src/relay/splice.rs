//! Moves bytes between two sockets without bringing them into this process, by way of a kernel pipe.
//!
//! Pipes are made when first needed and kept by the thread for the next flow; a flow holds one only while bytes are in
//! it. There is a ceiling on how many exist, because the kernel gives each user a budget of pipe memory and hands out
//! crippled pipes beyond it. Whoever gets none copies instead.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe is asked to hold. A quarter of what an unprivileged user may ask for.
pub const CAPACITY: usize = 256 * 1024;
/// Below this a pipe is not worth its system calls: the kernel has run out of pipe memory for us.
const LEAST_CAPACITY: usize = 64 * 1024;
/// Pipes at most, over all threads: three quarters of the kernel's default budget of pipe memory for one user.
pub const MOST_PIPES: usize = 192;
/// Empty pipes that a thread keeps.
const MOST_KEPT: usize = 32;

static PIPES: AtomicUsize = AtomicUsize::new(0);
static CEILING: AtomicUsize = AtomicUsize::new(MOST_PIPES);

thread_local! {
    static KEPT: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
thread_local! {
    static TAKEN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How often this thread has reached for a pipe.
#[cfg(test)]
pub(super) fn taken() -> usize {
    TAKEN.get()
}

/// A pipe of our own; closed when dropped.
#[derive(Debug)]
pub(super) struct Pipe {
    read_end: OwnedFd,
    write_end: OwnedFd,
    /// Bytes in it. Not comparable with the capacity: the kernel moves whole segments by reference, so a pipe may hold
    /// more bytes than it was said to.
    held: usize,
}

/// Lowers the number of pipes that may exist at once, each of which costs two file descriptors; zero turns splicing
/// off.
pub fn limit_pipes(most: usize) {
    CEILING.store(most.min(MOST_PIPES), Ordering::Relaxed);
}

/// An empty pipe, or `None` when there are enough already or none is to be had.
pub(super) fn take() -> Option<Pipe> {
    #[cfg(test)]
    TAKEN.set(TAKEN.get() + 1);
    KEPT.with_borrow_mut(Vec::pop).or_else(Pipe::open)
}

/// Takes a pipe back. One that still holds bytes is closed: they belong to a flow that is over.
pub(super) fn give_back(pipe: Pipe) {
    if pipe.is_empty() {
        KEPT.with_borrow_mut(|kept| {
            if kept.len() < MOST_KEPT {
                kept.push(pipe);
            }
        });
    }
}

/// True when the kernel cannot splice this socket at all, so that copying is the way.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(
            rustix::io::Errno::INVAL
                | rustix::io::Errno::NOSYS
                | rustix::io::Errno::PERM
                | rustix::io::Errno::OPNOTSUPP
        )
    )
}

impl Pipe {
    fn open() -> Option<Self> {
        let ceiling = CEILING.load(Ordering::Relaxed);
        let reserved = PIPES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < ceiling).then_some(n + 1));
        reserved.ok()?;
        let Ok((read_end, write_end)) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC) else {
            PIPES.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        let pipe = Self {
            read_end,
            write_end,
            held: 0,
        };
        let capacity = rustix::pipe::fcntl_setpipe_size(&pipe.write_end, CAPACITY)
            .or_else(|_| rustix::pipe::fcntl_getpipe_size(&pipe.write_end))
            .unwrap_or(0);
        (capacity >= LEAST_CAPACITY).then_some(pipe)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes in what `source` has; ready with its length, zero at the end of the source. The pipe must be empty, or a
    /// full pipe would be mistaken for a source without data.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, source: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(source.poll_read_ready(cx))?;
            let moved = source.try_io(Interest::READABLE, || {
                Ok(rustix::pipe::splice(
                    source,
                    None,
                    &self.write_end,
                    None,
                    CAPACITY,
                    SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
                )?)
            });
            match moved {
                Ok(moved) => {
                    self.held += moved;
                    return Poll::Ready(Ok(moved));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Hands to `sink` what it takes; ready with the number of bytes.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, sink: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(sink.poll_write_ready(cx))?;
            let moved = sink.try_io(Interest::WRITABLE, || {
                Ok(rustix::pipe::splice(
                    &self.read_end,
                    None,
                    sink,
                    None,
                    self.held,
                    SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
                )?)
            });
            match moved {
                Ok(moved) => {
                    self.held = self.held.saturating_sub(moved);
                    return Poll::Ready(Ok(moved));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::Relaxed);
    }
}
