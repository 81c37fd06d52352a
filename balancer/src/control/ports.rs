//! Which addresses are listened on, and for which service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::inherit::Inherited;
use crate::config::{Place, Problem, Problems};
use crate::listen::{self, Listener};
use crate::plan::{Mode, Service};

/// All open listeners.
#[derive(Debug, Default)]
pub struct Ports {
    open: Vec<Port>,
}

/// An address that a service should listen on, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Name of the service.
    pub service: Arc<str>,
    /// What comes in there.
    pub mode: Mode,
    /// Address; its port may be 0, which is any free one.
    pub address: SocketAddr,
}

impl Want {
    /// True if both mean the same socket. Any free port is another one each time, so then the services decide.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        (self.mode.transport(), self.address) == (other.mode.transport(), other.address)
            && (self.address.port() != 0 || self.service == other.service)
    }
}

/// An address that a service listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Name of the service.
    pub service: Arc<str>,
    /// The address, with the port that was given.
    pub address: SocketAddr,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for service `{service}`{}", cure(source))]
pub struct BindError {
    service: Arc<str>,
    address: SocketAddr,
    source: io::Error,
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another program has it; `ss -ltnp` shows which",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need the capability CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => ": this machine does not have that address",
        _ => "",
    }
}

#[derive(Debug)]
struct Port {
    want: Want,
    address: SocketAddr,
    /// Kept beside what the threads use, so that the address can go to another service, or another process, without
    /// losing a connection that waits.
    sockets: Vec<Listener>,
    closed: CancellationToken,
}

/// Sockets for an address, bound but not yet accepting.
pub type Fresh = Vec<(Want, Vec<Listener>)>;

/// What should be listened on.
#[must_use]
pub fn wanted(services: &[Service]) -> Vec<Want> {
    let want = |service: &Service, address: &SocketAddr| Want {
        service: Arc::clone(&service.name),
        mode: service.mode,
        address: *address,
    };
    services
        .iter()
        .flat_map(|service| service.listen.iter().map(|address| want(service, address)))
        .collect()
}

/// The same as problems of a configuration.
#[must_use]
pub fn as_problems(errors: Vec<BindError>) -> Problems {
    let problem = |error: BindError| Problem {
        place: Place::Default,
        path: "listen".into(),
        text: format!("{error} ({})", error.source),
    };
    Problems(errors.into_iter().map(problem).collect())
}

/// A listener of ours that was closed a moment ago goes when its threads come round to it, so an address in use gets a
/// fifth of a second to become free.
fn bind_patiently(want: &Want, threads: usize) -> io::Result<Vec<Listener>> {
    for _ in 0..20 {
        match listen::bind(want.mode, want.address, threads) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(Duration::from_millis(10)),
            outcome => return outcome,
        }
    }
    listen::bind(want.mode, want.address, threads)
}

impl Ports {
    /// Binds those addresses that are wanted and not open; sockets that were inherited come first.
    ///
    /// # Errors
    /// Each address that cannot be had; what was bound is closed again.
    pub fn bind_missing(
        &self,
        wanted: &[Want],
        threads: usize,
        inherited: &mut Inherited,
    ) -> Result<Fresh, Vec<BindError>> {
        let (mut fresh, mut errors) = (Fresh::new(), Vec::new());
        for want in wanted
            .iter()
            .filter(|want| self.open.iter().all(|port| !port.want.is_same_place(want)))
        {
            let sockets = inherited.take(want);
            let bound = if sockets.is_empty() {
                bind_patiently(want, threads)
            } else {
                listen::complete(want.mode, sockets, threads)
            };
            match bound {
                Ok(sockets) => fresh.push((want.clone(), sockets)),
                Err(source) => {
                    errors.push(BindError {
                        service: Arc::clone(&want.service),
                        address: want.address,
                        source,
                    });
                }
            }
        }
        if errors.is_empty() { Ok(fresh) } else { Err(errors) }
    }

    /// Closes what is not wanted, passes on what another service wants, and opens what was bound. `open` makes a thread
    /// accept on a socket until the token says stop.
    pub fn change(
        &mut self,
        wanted: &[Want],
        fresh: Fresh,
        open: impl Fn(&Want, Listener, usize, CancellationToken) -> io::Result<()>,
    ) {
        self.open.retain_mut(|port| {
            let is_kept = wanted.contains(&port.want);
            let heir = wanted.iter().find(|want| port.want.is_same_place(want));
            match heir {
                _ if is_kept => true,
                Some(heir) => {
                    port.closed.cancel();
                    port.want = heir.clone();
                    port.start(&open);
                    true
                }
                None => {
                    port.closed.cancel();
                    tracing::info!(service = %port.want.service, "No longer listening on {}", port.address);
                    false
                }
            }
        });
        for (want, sockets) in fresh {
            let address = sockets
                .first()
                .and_then(|socket| socket.address().ok())
                .unwrap_or(want.address);
            let mut port = Port {
                want,
                address,
                sockets,
                closed: CancellationToken::new(),
            };
            port.start(&open);
            tracing::info!(service = %port.want.service, "Listening on {}", port.address);
            self.open.push(port);
        }
    }

    /// Stops accepting everywhere.
    pub fn close_all(&mut self) {
        for port in self.open.drain(..) {
            port.closed.cancel();
        }
    }

    /// All sockets once more, each with what it is for.
    ///
    /// # Errors
    /// Too many open files.
    pub fn sockets(&self) -> io::Result<Vec<(Want, Listener)>> {
        let of_port = |port: &Port| {
            let want = port.want.clone();
            port.sockets
                .iter()
                .map(move |socket| Ok((want.clone(), socket.try_clone()?)))
                .collect::<Vec<_>>()
        };
        self.open.iter().flat_map(of_port).collect()
    }

    /// What is listened on.
    #[must_use]
    pub fn bound(&self) -> Vec<Bound> {
        self.open
            .iter()
            .map(|port| Bound {
                service: Arc::clone(&port.want.service),
                address: port.address,
            })
            .collect()
    }
}

impl Port {
    fn start(&mut self, open: &impl Fn(&Want, Listener, usize, CancellationToken) -> io::Result<()>) {
        self.closed = CancellationToken::new();
        for (index, socket) in self.sockets.iter().enumerate() {
            let opened = socket
                .try_clone()
                .and_then(|socket| open(&self.want, socket, index, self.closed.clone()));
            if let Err(error) = opened {
                tracing::error!(service = %self.want.service, %error, "Could not accept on {}", self.address);
            }
        }
    }
}
