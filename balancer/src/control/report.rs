//! From the state to what an operator sees.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Control;
use super::state::{Duty, Entry, Member};
use crate::config::Problems;
use crate::health::Health;
use crate::metrics::rate::Meter;
use crate::metrics::{BackendReport, CertificateReport, NameReport, Rates, Reloads, Report, ServiceReport};
use crate::plan::{CheckKind, Endpoint, Mode};
use crate::tls::Material;
use crate::tls::server::Shown;

/// A service, or one backend of it.
type Key = (Arc<str>, Option<SocketAddr>);

/// What is remembered only to be shown.
#[derive(Debug)]
pub(super) struct Observed {
    started: Instant,
    reloads: Reloads,
    meters: HashMap<Key, Meter>,
    /// What counters were at the last `-Z`.
    zeros: HashMap<Key, [u64; 3]>,
}

impl Observed {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            reloads: Reloads::default(),
            meters: HashMap::new(),
            zeros: HashMap::new(),
        }
    }

    /// Takes note of a reload.
    pub(super) fn reloaded(&mut self, result: &Result<(), Problems>) {
        match result {
            Ok(()) => {
                self.reloads.good += 1;
                self.reloads.problems.clear();
            }
            Err(problems) => {
                self.reloads.bad += 1;
                self.reloads.problems = problems.iter().map(ToString::to_string).collect();
                for problem in problems.iter() {
                    tracing::error!("Not applied: {problem}");
                }
            }
        }
    }

    /// Takes rates; call it about once a second.
    pub(super) fn sample(&mut self, control: &Control, now: Instant) {
        control.settle();
        let mut meters = HashMap::new();
        for (key, counters) in counters(control) {
            let mut meter = self.meters.remove(&key).unwrap_or_else(|| Meter::new(now, counters));
            meter.sample(now, counters);
            meters.insert(key, meter);
        }
        self.meters = meters;
    }

    /// Makes what operators are shown begin at zero now, for one service or for all. What programs read goes on.
    pub(super) fn zero(&mut self, control: &Control, service: Option<&str>) {
        let chosen = counters(control).filter(|((name, _), _)| service.is_none_or(|it| *it == **name));
        self.zeros.extend(chosen);
    }

    /// Counters since the last [`zero`](Self::zero).
    pub(super) fn since_zero(&self, service: &Arc<str>, backend: Option<SocketAddr>, counters: [u64; 3]) -> [u64; 3] {
        let zeros = self
            .zeros
            .get(&(Arc::clone(service), backend))
            .copied()
            .unwrap_or_default();
        std::array::from_fn(|index| counters[index].saturating_sub(zeros[index]))
    }

    /// Recent rates.
    pub(super) fn rates(&self, service: &Arc<str>, backend: Option<SocketAddr>) -> Rates {
        self.meters
            .get(&(Arc::clone(service), backend))
            .map(Meter::rates)
            .unwrap_or_default()
    }

    /// Connections, bytes in, bytes out.
    pub(super) fn of_service(entry: &Entry) -> [u64; 3] {
        let counters = &entry.shared.counters;
        [
            counters.accepted.get(),
            counters.bytes_to_backend.get(),
            counters.bytes_to_client.get(),
        ]
    }

    /// Connections, bytes in, bytes out.
    pub(super) fn of_member(member: &Member) -> [u64; 3] {
        [
            member.state.connections.get(),
            member.state.bytes_to_backend.get(),
            member.state.bytes_to_client.get(),
        ]
    }

    pub(super) fn report(&self, control: &Control, now: Instant) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: (now - self.started).as_secs(),
            threads: control.threads.len(),
            active: control.gate.inside(),
            limit: control.gate.limit(),
            log_dropped: control
                .threads
                .iter()
                .filter_map(|it| it.journal.as_ref())
                .map(|it| it.dropped())
                .sum(),
            reloads: self.reloads.clone(),
            names: control.name_reports(now),
            services: control
                .state
                .services()
                .iter()
                .map(|entry| self.service(control, entry, now))
                .collect(),
        }
    }

    fn service(&self, control: &Control, entry: &Entry, now: Instant) -> ServiceReport {
        let (service, counters) = (&entry.service, &entry.shared.counters);
        let bound = control.ports.bound();
        let limit = entry.shared.gate.limit();
        ServiceReport {
            name: service.name.to_string(),
            listen: bound
                .iter()
                .filter(|it| it.service == service.name)
                .map(|it| it.address)
                .collect(),
            mode: match service.mode {
                Mode::Tcp => "tcp",
                Mode::Http => "http",
                Mode::Udp => "udp",
            },
            schedule: service.schedule.to_string(),
            sticky_seconds: service.sticky.map(|sticky| sticky.timeout.as_secs()),
            check: service.check.kind.to_string(),
            panicking: entry.is_panicking,
            active: entry.shared.gate.inside(),
            limit: if limit == usize::MAX { 0 } else { limit },
            waiting: entry.shared.waiting.count(),
            accepted: counters.accepted.get(),
            denied: counters.denied.get(),
            rate_limited: counters.rate_limited.get(),
            bad_proxy_header: counters.bad_proxy_header.get(),
            tls_handshakes: counters.tls_handshakes.get(),
            tls_resumed: counters.tls_resumed.get(),
            tls_failed: counters.tls_failed.get(),
            certificates: certificates(&entry.tls),
            no_backend: counters.no_backend.get(),
            queue_overflow: counters.queue_overflow.get(),
            queued: counters.queued.get(),
            redispatched: counters.redispatched.get(),
            accept_errors: counters.accept_errors.get(),
            dropped_datagrams: counters.dropped_datagrams.get(),
            bytes_in: counters.bytes_to_backend.get(),
            bytes_out: counters.bytes_to_client.get(),
            requests: (service.mode == Mode::Http).then(|| counters.requests.counts()),
            rates: self.rates(&service.name, None),
            backends: entry
                .members
                .iter()
                .map(|member| self.backend(control, entry, member, now))
                .chain(
                    control
                        .unresolved(&service.name)
                        .map(|(name, why)| unresolved(name, why)),
                )
                .collect(),
        }
    }

    fn backend(&self, control: &Control, entry: &Entry, member: &Member, now: Instant) -> BackendReport {
        let state = &member.state;
        let (word, mut why) = describe(entry, member);
        let standing = control.names.standing(&member.spec.endpoint);
        if let Some(error) = standing.and_then(|it| it.why.as_ref())
            && member.leaves_by.is_none()
        {
            let before = if why.is_empty() { "" } else { "; " };
            let _ = write!(why, "{before}last known address of {}: {error}", member.spec.endpoint);
        }
        let snapshot = entry.shared.live.load();
        let mut candidates = snapshot.candidates();
        #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
        let connect_seconds = state.connect_micros.get() as f64 / 1e6;
        BackendReport {
            address: state.address.to_string(),
            name: match &member.spec.endpoint {
                Endpoint::Address(_) => None,
                name => Some(name.to_string()),
            },
            state: word,
            why,
            usable: candidates.any(|candidate| Arc::ptr_eq(&candidate.state, state)),
            since_seconds: (now - member.since).as_secs(),
            changes: member.changes,
            weight: member.spec.weight,
            backup: member.spec.backup,
            active: state.active(),
            limit: member.spec.maxconn.unwrap_or(0),
            connections: state.connections.get(),
            connect_errors: state.connect_errors.get(),
            connect_timeouts: state.connect_timeouts.get(),
            redispatched: state.redispatched.get(),
            aborted: state.aborted.get(),
            connect_seconds,
            bytes_in: state.bytes_to_backend.get(),
            bytes_out: state.bytes_to_client.get(),
            requests: (entry.service.mode == Mode::Http).then(|| state.requests.counts()),
            probes_passed: member.probes.0,
            probes_failed: member.probes.1,
            last_probe_ms: member.last_probe.map(|took| took.as_secs_f64() * 1000.0),
            rates: self.rates(&entry.service.name, Some(state.address)),
        }
    }
}

impl Control {
    /// Names of a service that stand for nothing, and why.
    pub(super) fn unresolved(&self, service: &str) -> impl Iterator<Item = (&Endpoint, String)> {
        let wished = self.state.service(service).map(|entry| entry.names.as_slice());
        let names = wished.unwrap_or_default().iter();
        let lost = names.filter(|name| self.sources.names.get(name).is_none_or(Vec::is_empty));
        lost.map(|name| {
            let why = self.names.standing(name).and_then(|it| it.why.as_ref());
            (
                name,
                why.map_or_else(|| "not asked yet".to_owned(), ToString::to_string),
            )
        })
    }

    fn name_reports(&self, now: Instant) -> Vec<NameReport> {
        let mut endpoints: Vec<Endpoint> = self.sources.endpoints().into_iter().collect();
        endpoints.sort_unstable();
        let report = |endpoint: Endpoint| {
            let standing = self.names.standing(&endpoint).cloned().unwrap_or_default();
            NameReport {
                name: endpoint.to_string(),
                addresses: self.sources.names.get(&endpoint).map_or(0, Vec::len),
                failing_seconds: standing.failing_since.map(|since| (now - since).as_secs()),
                why: standing.why.map(|why| why.to_string()).unwrap_or_default(),
                lookups_good: standing.good,
                lookups_failed: standing.failed,
            }
        };
        endpoints.into_iter().map(report).collect()
    }
}

fn certificates(tls: &Material) -> Vec<CertificateReport> {
    let shown = tls.server.iter().flat_map(|it| &it.certificates);
    let report = |it: &Shown| CertificateReport {
        file: it.file.display().to_string(),
        names: it.names.clone(),
        not_after: it.not_after,
    };
    shown.map(report).collect()
}

/// A name without an address, where a backend should be.
fn unresolved(name: &Endpoint, why: String) -> BackendReport {
    BackendReport {
        address: name.to_string(),
        name: Some(name.to_string()),
        state: "unresolved",
        why: format!("it stands for no address: {why}"),
        ..BackendReport::default()
    }
}

fn counters(control: &Control) -> impl Iterator<Item = (Key, [u64; 3])> {
    control.state.services().iter().flat_map(|entry| {
        let name = &entry.service.name;
        let backends = entry
            .members
            .iter()
            .map(|it| ((Arc::clone(name), Some(it.address())), Observed::of_member(it)));
        std::iter::once(((Arc::clone(name), None), Observed::of_service(entry))).chain(backends)
    })
}

/// One word for how a backend is, and why.
fn describe(entry: &Entry, member: &Member) -> (&'static str, String) {
    if member.leaves_by.is_some() {
        let why = match &member.spec.endpoint {
            name if entry.names.contains(name) => format!("{name} stands for others now; its connections may end"),
            _ => "no longer configured; its connections may end".into(),
        };
        return ("removed", why);
    }
    match member.duty {
        Duty::Drain => return ("drain", "an operator lets its connections end".into()),
        Duty::Maint => return ("maint", "an operator took it out for maintenance".into()),
        Duty::Ready => {}
    }
    match member.machine.health() {
        Health::Down(failure) if entry.is_panicking => ("down", format!("{failure}; used because too few are healthy")),
        Health::Down(failure) => ("down", failure.to_string()),
        Health::Unknown => ("unknown", "not checked yet".into()),
        Health::Up => match (member.ejection.reason(), member.spec.weight) {
            (Some(reason), _) => ("ejected", reason.to_owned()),
            (None, 0) => ("drain", "its weight is 0".into()),
            (None, _) if entry.service.check.kind == CheckKind::None => ("up", "not checked".into()),
            (None, _) => ("up", String::new()),
        },
    }
}
