//! The life of a datagram flow: who is let in, who serves it, and what is left in the end.
//!
//! [`udp`] moves the datagrams; here is what it asks.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::choose::Choice;
use super::sessions::{Open, SessionMeter, Why};
use super::udp::{self, Admitted, Clients, Dropped, Flow, FlowEnd, Limits};
use super::{Door, source};
use crate::backend::connect::ConnectError;
use crate::log::{By, End as Ending, Line};
use crate::relay::Meter;
use crate::service::{Gate, Place, is_admitted};

/// When a flow is over without a configured limit: a datagram flow has no end of its own.
pub const SILENCE: Duration = Duration::from_secs(60);

/// Serves the datagrams that come in on `socket` until the future is dropped.
///
/// # Errors
/// The socket does not work any more.
pub async fn serve(socket: std::net::UdpSocket, door: Arc<Door>, all: Arc<Gate>) -> io::Result<()> {
    let idle = door.service.live.load().service.timeouts.idle;
    let idle = if idle.is_zero() { SILENCE } else { idle };
    let limits = Limits {
        idle,
        flows: all.limit(),
    };
    udp::serve(socket, Arc::new(Inlet { door, all }), limits).await
}

struct Inlet {
    door: Arc<Door>,
    all: Arc<Gate>,
}

impl Clients for Inlet {
    type Flow = Served;

    fn admit(&self, client: SocketAddr, tried: &[SocketAddr]) -> Option<Admitted<Served>> {
        let door = &self.door;
        let counters = &door.service.counters;
        let snapshot = door.service.live.load();
        if !is_admitted(&snapshot.service, client) {
            counters.denied.add(1);
            return None;
        }
        // A flow that looks for another backend was counted when it began.
        if tried.is_empty() {
            if !door.service.is_within_rate(client.ip(), Instant::now()) {
                counters.rate_limited.add(1);
                return None;
            }
            counters.accepted.add(1);
        } else {
            counters.redispatched.add(1);
        }
        let places = (self.all.try_enter()?, door.service.gate.try_enter()?);
        let mut chooser = door.chooser.lock().unwrap_or_else(PoisonError::into_inner);
        let choice = chooser.choose(&door.service, &snapshot, client.ip(), tried);
        drop(chooser);
        let Choice::Picked(chosen) = choice else {
            counters.no_backend.add(1);
            return None;
        };
        let state = Arc::clone(chosen.pick.state());
        state.connected(Duration::ZERO);
        let open = door.sessions.open(&door.service, client, Instant::now(), chosen.pick);
        let flow = Served {
            meter: open.meter(),
            open,
            door: Arc::clone(door),
            retries: tried.len(),
            _places: places,
        };
        Some(Admitted {
            backend: state.address,
            source: source(chosen.client_ip, client),
            flow,
        })
    }

    fn dropped(&self, _why: Dropped) {
        self.door.service.counters.dropped_datagrams.add(1);
    }
}

/// A flow that has a backend.
struct Served {
    open: Open,
    meter: SessionMeter,
    door: Arc<Door>,
    retries: usize,
    _places: (Place, Place),
}

impl Meter for Served {
    fn to_backend(&self, bytes: u64) {
        self.meter.to_backend(bytes);
    }

    fn to_client(&self, bytes: u64) {
        self.meter.to_client(bytes);
    }
}

impl Flow for Served {
    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.open.session().poll_ended(cx)
    }

    fn over(&self, end: FlowEnd) {
        let session = self.open.session();
        let end = match end {
            FlowEnd::Silence => Ending {
                by: By::Client,
                word: "silence",
                code: "--",
            },
            FlowEnd::Refused(kind) => {
                let error = ConnectError::Refused(io::Error::from(kind));
                self.door.service.connect_failed(session.backend(), &error);
                Ending {
                    by: By::Backend,
                    word: "refused",
                    code: "SC",
                }
            }
            FlowEnd::Ended => match session.ended() {
                Some(Why::Operator) => Ending {
                    by: By::Operator,
                    word: "killed",
                    code: "KD",
                },
                Some(Why::BackendDown) => Ending {
                    by: By::Balancer,
                    word: "backend-down",
                    code: "DD",
                },
                _ => Ending {
                    by: By::Balancer,
                    word: "closed",
                    code: "KD",
                },
            },
        };
        let Some(journal) = &self.door.journal else { return };
        let (bytes_in, bytes_out) = session.moved();
        journal.write(&Line {
            service: &self.door.service.name,
            client: session.client,
            backend: Some(session.backend().address),
            queue: Duration::ZERO,
            connect: Duration::ZERO,
            total: session.since.elapsed(),
            bytes_in,
            bytes_out,
            retries: u32::try_from(self.retries).unwrap_or(u32::MAX),
            end,
        });
    }
}
