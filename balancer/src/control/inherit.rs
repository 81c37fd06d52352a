//! Sockets from before: of the service manager, or of the balancer this one takes over from.
//!
//! A balancer that is to be replaced starts the new program with a socket for its standard input, and sends over it all
//! its listening sockets and what it knows of its backends. Both accept until the new one says that it is ready; then the
//! old one stops accepting and drains. If the new one fails, the old one goes on as if nothing had been.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::discover::Target;
use super::edits::Edits;
use super::ports::Want;
use super::state::Duty;
use crate::health::Health;
use crate::listen::Listener;
use crate::plan::{Endpoint, Mode};

/// Set for a program that is to take over from the one that starts it.
const VARIABLE: &str = "OPENHIM_BALANCER_TAKES_OVER";
/// Sockets in one message; the kernel allows 253.
const AT_ONCE: usize = 200;
/// What the new program says when it serves.
const READY: &[u8] = b"ready";
/// How long it may take for that.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long each step of handing over may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest description that is read.
const LONGEST: u64 = 64 << 20;

/// Sockets that somebody else has bound.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(Option<Want>, Listener)>,
    /// The listener of metrics and status page.
    pub page: Option<TcpListener>,
    /// What the balancer before knew.
    pub known: Option<Known>,
    /// The balancer before, which waits.
    pub predecessor: Option<Predecessor>,
}

/// What one balancer gives to the next.
#[derive(Debug)]
pub struct HandOver {
    /// Listening sockets, each with what it is for.
    pub sockets: Vec<(Want, Listener)>,
    /// The listener of metrics and status page.
    pub page: Option<TcpListener>,
    /// What it knows.
    pub known: Known,
}

/// What a balancer knows that another one would have to find out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Known {
    /// Backends.
    pub backends: Vec<KnownBackend>,
    /// What an operator changed.
    pub edits: Edits,
    /// What names stood for.
    pub names: Vec<(Endpoint, Vec<Target>)>,
}

/// What is known of one backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KnownBackend {
    /// Its service.
    pub service: String,
    /// Its address.
    pub address: SocketAddr,
    /// What checks said last.
    pub health: Health,
    /// What an operator said last.
    pub duty: Duty,
}

/// The sockets that follow a description, in this order; then the page's, if there is one.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    sockets: Vec<Described>,
    has_page: bool,
    /// Its form may differ between versions; sockets are worth having without it.
    known: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize)]
struct Described {
    service: String,
    mode: Mode,
    address: SocketAddr,
}

impl Inherited {
    /// What this process was started with.
    #[must_use]
    pub fn from_environment() -> Self {
        if std::env::var_os(VARIABLE).is_some() {
            return match Self::from_predecessor() {
                Ok(inherited) => inherited,
                Err(error) => {
                    tracing::warn!(%error, "Nothing could be taken over from the balancer before");
                    Self::default()
                }
            };
        }
        Self::from_service_manager()
    }

    fn from_service_manager() -> Self {
        let mut given = listenfd::ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..given.len() {
            let tcp = given
                .take_tcp_listener(index)
                .ok()
                .flatten()
                .map(|it| (Mode::Tcp, OwnedFd::from(it)));
            let socket = tcp.or_else(|| {
                given
                    .take_udp_socket(index)
                    .ok()
                    .flatten()
                    .map(|it| (Mode::Udp, it.into()))
            });
            match socket.map(|(mode, socket)| Listener::adopt(mode, socket)) {
                Some(Ok(listener)) => inherited.sockets.push((None, listener)),
                Some(Err(error)) => tracing::warn!(%error, "A socket of the service manager cannot be used"),
                None => tracing::warn!("Socket {index} of the service manager is neither for TCP nor for UDP"),
            }
        }
        inherited
    }

    fn from_predecessor() -> io::Result<Self> {
        let line = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        line.set_read_timeout(Some(PATIENCE))?;
        let mut text = Vec::new();
        let mut length = [0; 8];
        (&line).read_exact(&mut length)?;
        (&line)
            .take(u64::from_be_bytes(length).min(LONGEST))
            .read_to_end(&mut text)?;
        let description: Description = serde_json::from_slice(&text)?;
        let count = description.sockets.len() + usize::from(description.has_page);
        let mut sockets = receive(&line, count)?.into_iter();
        let mut inherited = Self::default();
        for (described, socket) in description.sockets.into_iter().zip(&mut sockets) {
            let want = Want {
                service: described.service.into(),
                mode: described.mode,
                address: described.address,
            };
            inherited
                .sockets
                .push((Some(want), Listener::adopt(described.mode, socket)?));
        }
        inherited.page = sockets.next().map(TcpListener::from);
        inherited.known = serde_json::from_value(description.known)
            .inspect_err(|error| tracing::warn!(%error, "What the balancer before knew is not understood"))
            .ok();
        inherited.predecessor = Some(Predecessor(line));
        Ok(inherited)
    }

    /// The sockets for this address, if there are any.
    pub(super) fn take(&mut self, want: &Want) -> Vec<Listener> {
        let is_meant = |(given, listener): &(Option<Want>, Listener)| match given {
            Some(given) => given.is_same_place(want),
            None => listener.address().is_ok_and(|it| it == want.address) && listener.mode() == want.mode.transport(),
        };
        let (taken, left) = std::mem::take(&mut self.sockets).into_iter().partition(is_meant);
        self.sockets = left;
        let taken: Vec<(Option<Want>, Listener)> = taken;
        taken.into_iter().map(|(_, listener)| listener).collect()
    }
}

/// The balancer that this one takes over from. It goes on alone if this is dropped without a word.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Tells it that it can stop.
    pub fn release(mut self) {
        if let Err(error) = self.0.write_all(READY) {
            tracing::warn!(%error, "The balancer before does not listen any more");
        }
    }
}

/// The new program did not take over; this one goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// It could not be started.
    #[error("the new program could not be started")]
    Start(#[source] io::Error),
    /// The sockets could not be given to it.
    #[error("the sockets could not be handed over")]
    HandOver(#[source] io::Error),
    /// It ended, or took too long.
    #[error("the new program did not become ready")]
    NotReady(#[source] io::Error),
}

/// Starts the new program, gives it everything, and waits until it serves. Returns its process id. Blocks.
///
/// # Errors
/// See [`UpgradeError`]; the new program has been ended then.
pub fn upgrade(mut command: Command, hand_over: &HandOver) -> Result<u32, UpgradeError> {
    let (mut ours, theirs) = UnixStream::pair().map_err(UpgradeError::Start)?;
    command.stdin(OwnedFd::from(theirs)).env(VARIABLE, "1");
    let mut child = command.spawn().map_err(UpgradeError::Start)?;
    // It holds the other end open, and with it our hope.
    drop(command);
    let mut answer = [0; READY.len()];
    let outcome = send(&ours, hand_over).map_err(UpgradeError::HandOver).and_then(|()| {
        ours.set_read_timeout(Some(READY_WITHIN))
            .and_then(|()| ours.read_exact(&mut answer))
            .map_err(UpgradeError::NotReady)
    });
    if outcome.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    outcome.map(|()| child.id())
}

fn send(line: &UnixStream, hand_over: &HandOver) -> io::Result<()> {
    line.set_write_timeout(Some(PATIENCE))?;
    let described = |(want, _): &(Want, Listener)| Described {
        service: want.service.to_string(),
        mode: want.mode,
        address: want.address,
    };
    let description = serde_json::to_vec(&Description {
        sockets: hand_over.sockets.iter().map(described).collect(),
        has_page: hand_over.page.is_some(),
        known: serde_json::to_value(&hand_over.known)?,
    })?;
    let mut writer = line;
    writer.write_all(&(description.len() as u64).to_be_bytes())?;
    writer.write_all(&description)?;
    let sockets = hand_over.sockets.iter().map(|(_, listener)| listener.as_fd());
    let sockets: Vec<BorrowedFd<'_>> = sockets.chain(hand_over.page.iter().map(AsFd::as_fd)).collect();
    for part in sockets.chunks(AT_ONCE) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(part));
        // Sockets travel with a byte.
        sendmsg(line, &[IoSlice::new(b"s")], &mut control, SendFlags::empty())?;
    }
    Ok(())
}

fn receive(line: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::with_capacity(count);
    while sockets.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = recvmsg(
            line,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights);
            }
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Backend;

    fn listener() -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Listener::adopt(Mode::Tcp, listener.into()).expect("a listener")
    }

    #[test]
    fn many_sockets_travel_in_their_order() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let want = |service: &str| Want {
            service: service.into(),
            mode: Mode::Tcp,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let sockets: Vec<_> = (0..300).map(|index| (want(&index.to_string()), listener())).collect();
        let addresses: Vec<_> = sockets.iter().map(|(_, it)| it.address().expect("bound")).collect();
        let page = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let hand_over = HandOver {
            sockets,
            page: Some(page),
            known: Known::default(),
        };

        let sending = std::thread::spawn(move || send(&ours, &hand_over).map(|()| hand_over));
        let mut length = [0; 8];
        (&theirs).read_exact(&mut length).expect("a length");
        let mut text = vec![0; usize::try_from(u64::from_be_bytes(length)).expect("fits")];
        (&theirs).read_exact(&mut text).expect("a description");
        let received = receive(&theirs, 301).expect("all sockets");

        let hand_over = sending.join().expect("no panic").expect("sent");
        let ports: Vec<_> = received
            .into_iter()
            .map(|it| TcpListener::from(it).local_addr().expect("bound"))
            .collect();
        assert_eq!(ports[..300], addresses);
        assert_eq!(ports[300], hand_over.page.expect("there").local_addr().expect("bound"));
    }

    #[test]
    fn what_is_known_survives_the_way() {
        let endpoint: Endpoint = "10.0.0.2:80".parse().expect("valid");
        let mut edits = Edits::default();
        edits.set_backend(
            "s",
            &endpoint,
            None,
            Some(Backend {
                weight: 7,
                ..Backend::new(endpoint.clone())
            }),
        );
        let known = Known {
            backends: vec![KnownBackend {
                service: "s".into(),
                address: SocketAddr::from(([10, 0, 0, 2], 80)),
                health: Health::Up,
                duty: Duty::Drain,
            }],
            edits,
            names: vec![("n:80".parse().expect("valid"), vec![])],
        };

        let text = serde_json::to_string(&known).expect("json");
        let back: Known = serde_json::from_str(&text).expect("json");

        assert_eq!((back.backends[0].duty, back.names.len()), (Duty::Drain, 1));
        assert_eq!(back.edits.backends("s", Vec::new())[0].weight, 7);
    }

    #[test]
    fn a_program_that_ends_at_once_has_not_taken_over() {
        let hand_over = HandOver {
            sockets: vec![],
            page: None,
            known: Known::default(),
        };

        let error = upgrade(Command::new("false"), &hand_over).expect_err("it ended");

        assert!(
            matches!(error, UpgradeError::NotReady(_) | UpgradeError::HandOver(_)),
            "{error:?}"
        );
        let error = upgrade(Command::new("/nowhere/nothing"), &hand_over).expect_err("nothing there");
        assert!(matches!(error, UpgradeError::Start(_)));
    }
}
