//! The state as ipvsadm's tables and as text for people.

use std::fmt::Write;
use std::time::Duration;

use super::Control;
use crate::control::report::Observed;
use crate::ipvsadm::{Connection, Numbers, Protocol, Server, Service, Virtual};
use crate::metrics::{Rates, Report};
use crate::plan::Mode;

impl Control {
    /// All services as ipvsadm knows them: one for each address.
    pub(super) fn shown(&self, observed: &Observed) -> Vec<Service> {
        let bound = self.ports.bound();
        let mut services = Vec::new();
        for entry in self.state.services().iter().filter(|entry| !entry.is_leaving) {
            let name = &entry.service.name;
            let servers = entry
                .members
                .iter()
                .filter(|member| member.leaves_by.is_none())
                .map(|member| Server {
                    address: member.address(),
                    weight: member.spec.weight,
                    upper: member.spec.maxconn.unwrap_or(0),
                    lower: 0,
                    active: member.state.active(),
                    inactive: 0,
                    persistent: 0,
                    totals: numbers(observed.since_zero(name, Some(member.address()), Observed::of_member(member))),
                    rates: rates(observed.rates(name, Some(member.address()))),
                });
            let servers: Vec<Server> = servers.collect();
            let unresolved: Vec<String> = self.unresolved(name).map(|(name, _)| name.to_string()).collect();
            for address in bound.iter().filter(|it| it.service == *name).map(|it| it.address) {
                services.push(Service {
                    service: Virtual {
                        protocol: protocol(entry.service.mode),
                        address,
                    },
                    schedule: entry.service.schedule,
                    persistence: entry.service.sticky.map(|it| it.timeout),
                    totals: numbers(observed.since_zero(name, None, Observed::of_service(entry))),
                    rates: rates(observed.rates(name, None)),
                    servers: servers.clone(),
                    unresolved: unresolved.clone(),
                });
            }
        }
        services
    }

    pub(super) fn shown_connections(&self) -> Vec<Connection> {
        let bound = self.ports.bound();
        let sessions = self.threads.iter().flat_map(|thread| thread.sessions.list());
        let shown = sessions.map(|session| {
            let service = session.service.live.load();
            Connection {
                protocol: protocol(service.service.mode),
                expires: service.service.timeouts.idle,
                state: "ESTABLISHED",
                client: session.client,
                service: bound
                    .iter()
                    .find(|it| it.service == session.service.name)
                    .map_or(session.client, |it| it.address),
                server: session.backend().address,
            }
        });
        shown.collect()
    }

    /// Silence that ends connections, half-closed ones, datagram flows; 0 is never.
    pub(super) fn shown_timeouts(&self) -> [u64; 3] {
        let services = self.sources.services();
        let longest = |mode: Mode, time: fn(&crate::plan::Service) -> Duration| {
            services
                .iter()
                .filter(|it| it.mode.transport() == mode)
                .map(time)
                .max()
                .unwrap_or_default()
                .as_secs()
        };
        [
            longest(Mode::Tcp, |it| it.timeouts.idle),
            longest(Mode::Tcp, |it| it.timeouts.half_close),
            longest(Mode::Udp, |it| it.timeouts.idle),
        ]
    }
}

fn protocol(mode: Mode) -> Protocol {
    match mode {
        Mode::Tcp | Mode::Http => Protocol::Tcp,
        Mode::Udp => Protocol::Udp,
    }
}

fn numbers([connections, bytes_in, bytes_out]: [u64; 3]) -> Numbers {
    Numbers {
        connections,
        packets_in: 0,
        packets_out: 0,
        bytes_in,
        bytes_out,
    }
}

fn rates(rates: Rates) -> Numbers {
    let whole = |rate: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rates are not negative"
        )]
        let whole = rate.round() as u64;
        whole
    };
    numbers([whole(rates.connections), whole(rates.bytes_in), whole(rates.bytes_out)])
}

/// The whole state for people.
pub(super) fn state(report: &Report) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(
        out,
        "{} of {} connections, up for {} s",
        report.active, report.limit, report.uptime_seconds
    );
    for problem in &report.reloads.problems {
        let _ = writeln!(out, "NOT APPLIED: {problem}");
    }
    for service in &report.services {
        let listen: Vec<String> = service.listen.iter().map(ToString::to_string).collect();
        let panic = if service.panicking {
            "  TOO FEW HEALTHY: using failing ones too"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "\n{}  {}  {} {}  {} active, {:.1}/s{panic}",
            service.name,
            listen.join(" "),
            service.mode,
            service.schedule,
            service.active,
            service.rates.connections
        );
        for backend in &service.backends {
            let kind = if backend.backup { " backup" } else { "" };
            let name = backend
                .name
                .as_ref()
                .map(|name| format!(" ({name})"))
                .unwrap_or_default();
            let _ = writeln!(
                out,
                "  {:<22} {:<8} weight {:<3} active {:<5} total {:<8}{kind}{name}  {}",
                backend.address, backend.state, backend.weight, backend.active, backend.connections, backend.why
            );
        }
    }
    out
}
