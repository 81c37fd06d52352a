//! Connections to backends that wait for the next request, on one thread.
//!
//! A backend may close such a connection at any moment. One that has, or that says something unasked, is not used again;
//! what cannot be seen in time is for [`retry`](super::retry) to judge.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv};
use std::os::fd::AsRawFd;
use tokio::io::{AsyncRead, ReadBuf};

use super::transport::BackendStream;
use crate::plan::Service;
use crate::relay::Peer;

/// Connections kept for one backend.
const MOST: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Pool {
    /// The policies that the connections were made under.
    made_for: Option<Arc<Service>>,
    backends: Vec<(SocketAddr, Vec<Idle>)>,
}

#[derive(Debug)]
struct Idle {
    stream: BackendStream,
    since: Instant,
}

impl Pool {
    /// A connection to this backend that can still be used, the youngest first.
    pub(super) fn take(
        &mut self,
        policy: &Arc<Service>,
        address: SocketAddr,
        must_be_sure: bool,
    ) -> Option<BackendStream> {
        self.follow(policy);
        let idle = &mut self.backends.iter_mut().find(|it| it.0 == address)?.1;
        let keep = policy.http.backend_idle_timeout;
        while let Some(mut it) = idle.pop() {
            if it.since.elapsed() < keep && it.is_quiet() && !(must_be_sure && it.has_news()) {
                return Some(it.stream);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(super) fn put(&mut self, policy: &Arc<Service>, address: SocketAddr, stream: BackendStream) {
        self.follow(policy);
        if policy.http.backend_idle_timeout.is_zero() {
            return;
        }
        let idle = match self.backends.iter().position(|it| it.0 == address) {
            Some(index) => &mut self.backends[index].1,
            None => {
                self.backends.push((address, Vec::new()));
                let last = self.backends.len() - 1;
                &mut self.backends[last].1
            }
        };
        if idle.len() < MOST {
            idle.push(Idle {
                stream,
                since: Instant::now(),
            });
        }
    }

    /// Closes what has waited for too long, or was closed by the other side.
    pub(super) fn sweep(&mut self) {
        let keep = self
            .made_for
            .as_ref()
            .map_or(Duration::ZERO, |it| it.http.backend_idle_timeout);
        for (_, idle) in &mut self.backends {
            idle.retain_mut(|it| it.since.elapsed() < keep && it.is_quiet());
        }
        self.backends.retain(|(_, idle)| !idle.is_empty());
    }

    /// Connections that were made under other policies are not what is wanted now.
    fn follow(&mut self, policy: &Arc<Service>) {
        if !self.made_for.as_ref().is_some_and(|it| Arc::ptr_eq(it, policy)) {
            self.backends.clear();
            self.made_for = Some(Arc::clone(policy));
        }
    }
}

impl Idle {
    /// True if nothing has been heard from the other side, as far as this thread has been told.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut cx, &mut buffer).is_pending()
    }

    /// Asks the kernel itself, which may know more than this thread has been told.
    fn has_news(&self) -> bool {
        let Some(socket) = self.stream.socket() else {
            return true;
        };
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        !matches!(
            recv(socket.as_raw_fd(), &mut [0], flags),
            Err(nix::errno::Errno::EAGAIN)
        )
    }
}
