//! The listening socket: receives with the address that was sent to, and answers from it.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, recvmsg,
    sendmsg, setsockopt, sockopt,
};
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// No datagram is larger.
pub(super) const LARGEST: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST].into_boxed_slice());
}

/// A datagram that came in.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) client: SocketAddr,
    /// Which of our addresses it was sent to.
    pub(super) at: IpAddr,
    pub(super) length: usize,
}

#[derive(Debug)]
pub(super) struct Sockets {
    socket: UdpSocket,
    /// The address it is bound to; unspecified: each datagram says which one it came to.
    bound: IpAddr,
}

impl Sockets {
    pub(super) fn new(listener: std::net::UdpSocket) -> io::Result<Self> {
        let bound = listener.local_addr()?.ip();
        if bound.is_unspecified() {
            if bound.is_ipv4() {
                setsockopt(&listener, sockopt::Ipv4PacketInfo, &true)?;
            } else {
                setsockopt(&listener, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
        }
        Ok(Self {
            socket: UdpSocket::from_std(listener)?,
            bound,
        })
    }

    /// The next datagram.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Arrival> {
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, || self.try_receive(buffer))
                .await;
            match received {
                Ok(Some(arrival)) => return Ok(arrival),
                // From nobody that can be answered, or an error about an answer that did not arrive.
                Ok(None) => {}
                Err(error) if is_about_a_peer(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Option<Arrival>> {
        let mut slices = [IoSliceMut::new(buffer)];
        let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
        let received = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let mut at = self.bound;
        for message in received.cmsgs()? {
            match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    // The address of the packet itself, which for a multicast or broadcast is not one to answer from.
                    at = IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => at = IpAddr::from(info.ipi6_addr.s6_addr),
                _ => {}
            }
        }
        let length = received.bytes;
        Ok(received
            .address
            .and_then(|address| to_std(&address))
            .map(|client| Arrival { client, at, length }))
    }

    /// Answers `client` from `at`.
    pub(super) fn send(&self, datagram: &[u8], client: SocketAddr, at: IpAddr) -> io::Result<()> {
        if !self.bound.is_unspecified() {
            rustix::net::sendto(
                &self.socket,
                datagram,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                &client,
            )?;
            return Ok(());
        }
        let data = [IoSlice::new(datagram)];
        let fd = self.socket.as_raw_fd();
        match (at, client) {
            (IpAddr::V4(at), SocketAddr::V4(client)) => {
                let from = libc::in_addr {
                    s_addr: u32::from_ne_bytes(at.octets()),
                };
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: from,
                    ipi_addr: from,
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(
                    fd,
                    &data,
                    &control,
                    MsgFlags::MSG_DONTWAIT,
                    Some(&SockaddrIn::from(client)),
                )?;
            }
            (IpAddr::V6(at), SocketAddr::V6(client)) => {
                // A link-local address is only one together with its interface.
                let link = if at.is_unicast_link_local() {
                    client.scope_id()
                } else {
                    0
                };
                let from = libc::in6_addr { s6_addr: at.octets() };
                let info = libc::in6_pktinfo {
                    ipi6_addr: from,
                    ipi6_ifindex: link,
                };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(
                    fd,
                    &data,
                    &control,
                    MsgFlags::MSG_DONTWAIT,
                    Some(&SockaddrIn6::from(client)),
                )?;
            }
            _ => return Err(io::ErrorKind::AddrNotAvailable.into()),
        }
        Ok(())
    }
}

/// Sends now or never, without asking tokio first, who knows nothing yet of a socket that was just made.
pub(super) fn send_now(socket: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    rustix::net::send(socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one datagram into the thread's buffer and hands it to `then`. An error alone, which is how a deaf backend
/// shows, is no readability.
pub(super) async fn with_buffer<T>(socket: &UdpSocket, then: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    let mut then = Some(then);
    socket
        .async_io(Interest::READABLE | Interest::ERROR, || {
            BUFFER.with_borrow_mut(|buffer| {
                let length = rustix::net::recv(socket, &mut **buffer, RecvFlags::DONTWAIT)?.0;
                then.take()
                    .map(|then| then(&buffer[..length]))
                    .ok_or_else(|| io::ErrorKind::Other.into())
            })
        })
        .await
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        nix::sys::socket::AddressFamily::Inet => address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into())),
        nix::sys::socket::AddressFamily::Inet6 => address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())),
        _ => None,
    }
}

/// True for what the kernel reports on an unconnected socket about somebody we had answered.
fn is_about_a_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkUnreachable | Interrupted
    )
}
