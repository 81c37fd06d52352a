//! How sockets are made and what is asked of the kernel for them.
//!
//! Used by the listeners, by whoever connects to a backend, and by the relay when it has to reset. Options that an
//! accepted socket inherits are set once, on the listener, so that a new connection costs no system call for them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{GetSockOpt, SetSockOpt, sockopt};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

#[cfg(test)]
mod tests;

/// A peer that is silent for this long is asked whether it is still there, ...
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// ... and again after each such pause.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// A peer that acknowledges neither what it was sent nor such a question is given up after this time. Where it is set, the
/// kernel does not count unanswered questions: there have to be several within it, or one lost packet would end a
/// connection at rest.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

sockopt_impl!(
    /// Wakes the listener only once the client has sent something; seconds.
    TcpDeferAccept, Both, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, u32
);
sockopt_impl!(
    /// The socket's memory counters.
    SocketMemory, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; 9]
);
/// Index into [`SocketMemory`]: bytes of memory in use for what was written and not yet acknowledged.
const WRITE_QUEUED: usize = 5;

/// What a listener is asked for beyond its address.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listening {
    /// Several listeners share the address, the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Accept only once the client has sent something, waiting at most this long. Breaks protocols in which the server
    /// speaks first.
    pub defer_accept: Option<Duration>,
}

/// Binds and listens.
///
/// An IPv6 address takes IPv6 only, so that `0.0.0.0` and `[::]` can be listed side by side.
pub fn listen(address: SocketAddr, options: Listening) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = socket.into();
    adopt(&listener, options)?;
    Ok(listener)
}

/// Sets on a listener, also one that was handed over, what its accepted sockets shall have.
pub fn adopt(listener: &std::net::TcpListener, options: Listening) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    keep_honest(SockRef::from(listener))?;
    let defer = options
        .defer_accept
        .map_or(0, |wait| u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).max(1));
    if defer > 0 {
        TcpDeferAccept.set(listener, &defer)?;
    }
    Ok(())
}

/// Where a connection to a backend comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// Whatever address the route gives.
    #[default]
    Any,
    /// This address of ours.
    Address(IpAddr),
    /// The client's address, which is not ours: needs `CAP_NET_ADMIN`, and backends that route their answers through
    /// this machine.
    Transparent(IpAddr),
}

/// Whether there is something to send as soon as a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBytes {
    /// They are here: the handshake's last packet waits for them, which saves one. Should they not be sent after all, it
    /// goes out a little later.
    Here,
    /// They are not, or nobody knows.
    NotYet,
}

impl FirstBytes {
    /// What `client` has sent so far.
    pub fn of(client: &TcpStream) -> Self {
        match rustix::io::ioctl_fionread(client) {
            Ok(unread) if unread > 0 => Self::Here,
            _ => Self::NotYet,
        }
    }
}

/// Connects to a backend. The caller sets the time limit.
///
/// # Errors
/// There is no way there, nobody answers, or the source cannot be had.
pub async fn connect(backend: SocketAddr, source: Source, first: FirstBytes) -> io::Result<TcpStream> {
    let socket = if backend.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = prepare_source(&SockRef::from(&socket), backend, source)? {
        socket.bind(from)?;
    }
    keep_honest(SockRef::from(&socket))?;
    if first == FirstBytes::Here {
        rustix::net::sockopt::set_tcp_quickack(&socket, false)?;
    }
    socket.connect(backend).await
}

/// Binds a socket for datagrams. Addresses as for [`listen`].
///
/// # Errors
/// The address is in use, or not ours to use.
pub fn listen_datagrams(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket that exchanges datagrams with one backend.
///
/// # Errors
/// As for [`connect`], but for whatever only an answer could tell.
pub fn connect_datagrams(backend: SocketAddr, source: Source) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(backend), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if let Some(from) = prepare_source(&SockRef::from(&socket), backend, source)? {
        socket.bind(&from.into())?;
    }
    socket.connect(&backend.into())?;
    Ok(socket.into())
}

/// Readies a socket for `source`; the address to bind, if any.
fn prepare_source(socket: &SockRef<'_>, backend: SocketAddr, source: Source) -> io::Result<Option<SocketAddr>> {
    let address = match source {
        Source::Any => return Ok(None),
        Source::Address(address) => address,
        Source::Transparent(address) => {
            match backend {
                SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
                SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
            }
            address.to_canonical()
        }
    };
    if address.is_ipv4() != backend.is_ipv4() {
        let reason = "source and backend are of different families";
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, reason));
    }
    // One source port then serves as many backends as there are, not one.
    sockopt::IpBindAddressNoPort.set(&**socket, &true)?;
    Ok(Some(SocketAddr::new(address, 0)))
}

/// No delay for small writes, and no silence for ever.
fn keep_honest(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Makes closing `stream` send a reset. What the peer has not acknowledged by then is lost: see [`undelivered`].
pub fn reset_on_close(stream: &TcpStream) {
    // Fails only for something that is not a socket any more.
    let _ = stream.set_zero_linger();
}

/// Nonzero while the peer has not acknowledged everything that was written; an amount of kernel memory, good for
/// seeing progress.
pub fn undelivered(stream: &TcpStream) -> u64 {
    SocketMemory
        .get(stream)
        .map_or(0, |memory| u64::from(memory[WRITE_QUEUED]))
}

/// How many files this process may have open, and what that allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileBudget {
    /// The limit as it is now.
    pub files: u64,
    /// Connections that fit, each with a socket to the client and one to the backend.
    pub connections: usize,
    /// Pipes that fit beside them; for [`limit_pipes`](crate::relay::limit_pipes).
    pub pipes: usize,
}

impl FileBudget {
    /// Files for everything that is not a connection: listeners, runtimes, checks, control, logs.
    const RESERVED: u64 = 64;

    /// What `files` allow when `threads` serve.
    pub fn of(files: u64, threads: usize) -> Self {
        let threads = threads as u64;
        let pipes = (files / 16).min(crate::relay::MOST_PIPES as u64);
        let left = files.saturating_sub(Self::RESERVED + 8 * threads + 2 * pipes);
        Self {
            files,
            connections: usize::try_from(left / 2).unwrap_or(usize::MAX).max(1),
            pipes: pipes as usize,
        }
    }
}

/// Raises the soft limit on open files to the hard one and says what it is then.
pub fn raise_file_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // No limit at all is told as the kernel's own ceiling.
    let most = maximum.unwrap_or(1 << 20);
    let now = current.unwrap_or(most);
    if now >= most {
        return now;
    }
    match setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(most),
            maximum,
        },
    ) {
        Ok(()) => most,
        Err(_) => now,
    }
}
