//! Bind first, serve later.
//!
//! All ports are bound before anything else is done, so that a port in use stops the start while nothing has happened
//! yet; they listen when everything behind them is ready.
//! Each instance accepts on a socket of its own; the kernel spreads connections over them. The sockets belong to the
//! node and outlive an instance: its successor accepts what waited meanwhile, and no connection is refused.

pub mod audit;
mod connection;
pub mod doors;
pub mod http;
mod preface;
pub mod tcp;

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// Connections that may wait to be accepted on one socket.
const BACKLOG: i32 = 4096;

/// A port that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address} for {what}")]
pub struct BindError {
    pub what: &'static str,
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

/// One address, with a socket for each instance.
#[derive(Debug)]
pub struct Bound {
    pub what: &'static str,
    /// With the port that the kernel chose, if it was asked to.
    pub address: SocketAddr,
    sockets: Vec<TcpListener>,
}

impl Bound {
    /// Binds `count` sockets to one address. Port 0 lets the kernel choose. Nobody can connect yet.
    ///
    /// # Errors
    /// The address is in use or is not ours.
    pub fn new(what: &'static str, address: SocketAddr, count: usize) -> Result<Self, BindError> {
        let failed = |source| BindError { what, address, source };
        if address.port() != 0 {
            refuse_if_in_use(address).map_err(failed)?;
        }
        let first = bound(address).map_err(failed)?;
        let address = first.local_addr().map_err(failed)?;
        let mut sockets = vec![first];
        for _ in 1..count.max(1) {
            sockets.push(bound(address).map_err(failed)?);
        }
        Ok(Self { what, address, sockets })
    }

    /// Lets clients connect; they wait until an instance accepts them.
    ///
    /// # Errors
    /// Another program began to listen meanwhile.
    pub fn listen(&self) -> Result<(), BindError> {
        self.sockets
            .iter()
            .try_for_each(|socket| SockRef::from(socket).listen(BACKLOG))
            .map_err(|source| BindError {
                what: self.what,
                address: self.address,
                source,
            })
    }

    /// The socket of instance `at`, once more: it stays bound when this one is closed.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub fn socket(&self, at: usize) -> io::Result<TcpListener> {
        self.sockets[at % self.sockets.len()].try_clone()
    }
}

/// Several sockets of one user may share a port; another program's port must not be shared by accident.
fn refuse_if_in_use(address: SocketAddr) -> io::Result<()> {
    let socket = socket(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))
}

fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `::` serves IPv4 too, as Node.js does.
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn all_instances_share_one_port() {
        let bound = Bound::new("router", any(), 3).unwrap();

        for at in 0..3 {
            assert_eq!(bound.socket(at).unwrap().local_addr().unwrap(), bound.address);
        }
    }

    #[test]
    fn nobody_can_connect_before_everything_is_ready() {
        let bound = Bound::new("router", any(), 2).unwrap();
        assert!(std::net::TcpStream::connect(bound.address).is_err());

        bound.listen().unwrap();

        assert!(std::net::TcpStream::connect(bound.address).is_ok());
    }

    #[test]
    fn a_port_in_use_is_refused_even_if_its_owner_would_share_it() {
        let owner = Bound::new("router", any(), 1).unwrap();
        owner.listen().unwrap();

        let error = Bound::new("router", owner.address, 1).unwrap_err();

        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(
            error.to_string(),
            format!("could not listen on {} for router", owner.address)
        );
    }

    #[test]
    fn a_successor_finds_the_connections_that_waited() {
        let bound = Bound::new("router", any(), 1).unwrap();
        bound.listen().unwrap();
        drop(bound.socket(0).unwrap());
        let client = std::net::TcpStream::connect(bound.address).unwrap();

        let successor = bound.socket(0).unwrap();
        successor.set_nonblocking(false).unwrap();
        let (_, peer) = successor.accept().unwrap();

        assert_eq!(peer, client.local_addr().unwrap());
    }
}
