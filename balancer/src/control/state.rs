//! The state of the balancer and how it changes: no I/O, no clock, no chance of its own.
//!
//! Inputs are calls with the present moment: a new wish of what should be, results of probes, failed connects, words of an
//! operator. Outputs are published snapshots and the [`Effect`]s that [`State::poll`] returns for the control task to carry
//! out. Everything about who gets traffic is decided here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::backend::BackendState;
use crate::backend::connect::{Report, Reports};
use crate::health::passive::Ejection;
use crate::health::{Change, Failure, Health, HealthMachine};
use crate::l4::sessions::Why;
use crate::plan::{Backend, BackendTls, Check, CheckKind, Endpoint, OnDown, Service};
use crate::service::ServiceState;
use crate::snapshot::{Pool, Snapshot};
use crate::tls::Material;
use crate::tls::client::Secured;

mod pool;
#[cfg(test)]
mod tests;

/// Removed backends whose counters are kept, for the case that they return.
const REMEMBERED: usize = 256;
/// What connections are left to a backend whose name stands for others now: as long as they like.
const UNHURRIED: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How often shares are adjusted while a backend starts slowly.
const SLOW_START_STEP: Duration = Duration::from_millis(500);

/// What one service should be: its policies, and its backends with every name resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// Policies.
    pub service: Arc<Service>,
    /// Backends, no address twice.
    pub backends: Vec<(SocketAddr, Backend)>,
    /// What it has of TLS.
    pub tls: Material,
    /// Names that are configured. An address that one of them stands for no more gets nothing new, and keeps its
    /// connections: nobody took it out of service.
    pub names: Vec<Endpoint>,
}

/// Something for the control task to carry out.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask a backend, and tell [`State::probed`].
    Probe {
        /// For whom.
        target: Target,
        /// What to ask.
        check: Check,
        /// How, if the backend speaks TLS.
        tls: Option<Secured>,
    },
    /// Connect to a backend that was put out, and tell [`State::tried`].
    Try {
        /// For whom.
        target: Target,
        /// How long it may take.
        limit: Duration,
        /// How, if the backend speaks TLS.
        tls: Option<Secured>,
    },
    /// End live connections.
    End {
        /// Of this service.
        service: Arc<str>,
        /// Of this backend.
        address: SocketAddr,
        /// For this reason.
        why: Why,
    },
}

/// One backend at the time a question was asked; an answer for one that has gone since is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Service it belongs to.
    pub service: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    ticket: u64,
}

/// What an operator decided about a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Duty {
    /// Nothing: its health decides.
    #[default]
    Ready,
    /// It gets nothing new.
    Drain,
    /// It gets nothing new and is not checked.
    Maint,
}

/// All services and backends.
#[derive(Debug)]
pub struct State {
    services: Vec<Entry>,
    reports: Reports,
    next_ticket: u64,
}

/// One service.
#[derive(Debug)]
pub struct Entry {
    /// Its policies.
    pub service: Arc<Service>,
    /// What the data threads share.
    pub shared: Arc<ServiceState>,
    /// Its backends, in the order they were written; those on their way out at the end.
    pub members: Vec<Member>,
    /// What it has of TLS.
    pub tls: Material,
    /// Names among what its backends were written as.
    pub names: Vec<Endpoint>,
    /// True while failing backends get traffic because too few are healthy.
    pub is_panicking: bool,
    /// True once it was removed and only drains.
    pub is_leaving: bool,
    remembered: Vec<Arc<BackendState>>,
    version: u64,
    slow_step: Option<Instant>,
}

/// One backend of one service.
#[derive(Debug)]
pub struct Member {
    /// As it was written.
    pub spec: Backend,
    /// Counters.
    pub state: Arc<BackendState>,
    /// What checks say.
    pub machine: HealthMachine,
    /// What failed connects say.
    pub ejection: Ejection,
    /// What an operator says.
    pub duty: Duty,
    /// When what is under way is ended, if an operator said so.
    pub drain_by: Option<Instant>,
    /// When checks last changed their mind.
    pub since: Instant,
    /// How often they did.
    pub changes: u64,
    /// Probes that passed and that failed.
    pub probes: (u64, u64),
    /// How long the last one took.
    pub last_probe: Option<Duration>,
    /// When it has to be gone, if it was removed.
    pub leaves_by: Option<Instant>,
    has_been_up: bool,
    /// Start of its slow start.
    fresh_since: Option<Instant>,
    ticket: u64,
    probe_at: Option<Instant>,
    is_probing: bool,
    probe_began: Option<Instant>,
    is_trying: bool,
}

impl Member {
    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.state.address
    }

    fn is_leaving(&self) -> bool {
        self.leaves_by.is_some()
    }
}

impl State {
    /// Nothing yet. Data threads will tell failed connects to `reports`.
    #[must_use]
    pub fn new(reports: Reports) -> Self {
        Self {
            services: Vec::new(),
            reports,
            next_ticket: 0,
        }
    }

    /// All services, also those that only drain.
    #[must_use]
    pub fn services(&self) -> &[Entry] {
        &self.services
    }

    /// The service of that name, unless it only drains.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Entry> {
        self.services
            .iter()
            .find(|entry| &*entry.service.name == name && !entry.is_leaving)
    }

    /// True once every backend was probed at least once.
    #[must_use]
    pub fn is_first_round_over(&self) -> bool {
        let mut members = self.services.iter().flat_map(|entry| &entry.members);
        members.all(|member| member.is_leaving() || member.duty == Duty::Maint || !member.machine.is_new())
    }

    /// Makes `wishes` what should be. Who stays keeps health, counters and connections.
    pub fn apply(&mut self, wishes: Vec<Wish>, now: Instant) {
        for entry in &mut self.services {
            if wishes.iter().all(|wish| wish.service.name != entry.service.name) {
                entry.is_leaving = true;
                entry.update_members(&[], Vec::new(), now, &mut self.next_ticket);
                entry.publish(now);
            }
        }
        for wish in wishes {
            let found = self
                .services
                .iter()
                .position(|entry| entry.service.name == wish.service.name);
            let entry = match found {
                Some(index) => &mut self.services[index],
                None => {
                    self.services.push(Entry::new(&wish.service, self.reports.clone()));
                    let last = self.services.len() - 1;
                    &mut self.services[last]
                }
            };
            entry.is_leaving = false;
            entry.change_policies(wish.service, wish.tls, now);
            entry.update_members(&wish.backends, wish.names, now, &mut self.next_ticket);
            entry.publish(now);
        }
        self.give_groups();
    }

    /// Tells each service its groups.
    fn give_groups(&self) {
        for entry in &self.services {
            let is_own = |it: &&Entry| it.service.parent.as_ref() == Some(&entry.service.name) && !it.is_leaving;
            let groups = self.services.iter().filter(is_own);
            entry
                .shared
                .set_groups(groups.map(|it| Arc::clone(&it.shared)).collect());
        }
    }

    /// Carries on what time has brought, and says what is to be done now.
    pub fn poll(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        for entry in &mut self.services {
            entry.poll(now, &mut effects);
        }
        self.services
            .retain(|entry| !(entry.is_leaving && entry.members.is_empty()));
        effects
    }

    /// When [`State::poll`] should be called next, if nothing happens before.
    #[must_use]
    pub fn next_poll(&self, now: Instant) -> Option<Instant> {
        self.services.iter().filter_map(|entry| entry.next_poll(now)).min()
    }

    /// Takes the result of a probe. `chance` is from 0 to 1. Returns what follows for live connections.
    pub fn probed(
        &mut self,
        target: &Target,
        result: Result<(), Failure>,
        now: Instant,
        chance: f64,
    ) -> Option<Effect> {
        let (entry, index) = self.find(target)?;
        let effect = entry.probed(index, result, now, chance);
        entry.publish(now);
        effect
    }

    /// Takes the result of a trial.
    pub fn tried(&mut self, target: &Target, result: Result<(), Failure>, now: Instant) {
        let Some((entry, index)) = self.find(target) else {
            return;
        };
        let name = Arc::clone(&entry.service.name);
        let member = &mut entry.members[index];
        member.is_trying = false;
        match result {
            Ok(()) => entry.readmit(index, now),
            Err(failure) => {
                tracing::debug!(service = %name, backend = %member.address(), "Still not reachable: {failure}");
                member.ejection.still_out(now, failure.text);
            }
        }
        entry.publish(now);
    }

    /// Takes note of a connect that failed.
    pub fn connect_failed(&mut self, report: Report, now: Instant) {
        let Some(entry) = self
            .services
            .iter_mut()
            .find(|entry| entry.service.name == report.service)
        else {
            return;
        };
        if let Some(index) = entry
            .members
            .iter()
            .position(|member| member.address() == report.address)
        {
            entry.connect_failed(index, report.reason, now);
            entry.publish(now);
        }
    }

    /// Sets what an operator decided; false if there is no such backend.
    pub fn set_duty(&mut self, service: &str, address: SocketAddr, duty: Duty, now: Instant) -> bool {
        self.decide(service, address, duty, None, now)
    }

    /// Gives a backend nothing new, and ends what is under way there at `deadline`; false if there is no such backend.
    pub fn drain_by(&mut self, service: &str, address: SocketAddr, deadline: Instant, now: Instant) -> bool {
        self.decide(service, address, Duty::Drain, Some(deadline), now)
    }

    fn decide(
        &mut self,
        service: &str,
        address: SocketAddr,
        duty: Duty,
        drain_by: Option<Instant>,
        now: Instant,
    ) -> bool {
        let Some(entry) = self
            .services
            .iter_mut()
            .find(|it| &*it.service.name == service && !it.is_leaving)
        else {
            return false;
        };
        let is_meant = |member: &&mut Member| member.address() == address && !member.is_leaving();
        let Some(member) = entry.members.iter_mut().find(is_meant) else {
            return false;
        };
        if duty == Duty::Ready && member.duty == Duty::Maint {
            // What was known before is old: it has to pass a probe first.
            member.machine = HealthMachine::new(&entry.service.check);
            member.probe_at = Some(now);
        }
        (member.duty, member.drain_by) = (duty, drain_by);
        entry.publish(now);
        true
    }

    /// Takes over what another process knew of a backend.
    pub fn inherit(&mut self, service: &str, address: SocketAddr, health: Health, duty: Duty, now: Instant) {
        let Some(entry) = self.services.iter_mut().find(|it| &*it.service.name == service) else {
            return;
        };
        if let Some(member) = entry.members.iter_mut().find(|member| member.address() == address) {
            if entry.service.check.kind != CheckKind::None {
                member.has_been_up |= health == Health::Up;
                member.machine = HealthMachine::with(health);
            }
            member.duty = duty;
            entry.publish(now);
        }
    }

    fn find(&mut self, target: &Target) -> Option<(&mut Entry, usize)> {
        let entry = self
            .services
            .iter_mut()
            .find(|entry| entry.service.name == target.service)?;
        let index = entry.members.iter().position(|member| member.ticket == target.ticket)?;
        Some((entry, index))
    }
}

/// How a backend is asked that speaks TLS.
fn secured(tls: &Material, service: &Service, spec: &Backend) -> Option<Secured> {
    Some(Secured {
        connector: Arc::clone(tls.client.as_ref()?),
        host: name_of(spec, service.backend_tls.as_ref()),
        client_ip: spec.client_ip.unwrap_or(service.client_ip),
    })
}

/// The name that a backend's certificate has to be for, unless there is one for all of them: the one that is configured.
///
/// A service record is only as good as the name server that gives it (RFC 6125, section 1.8): whoever lies there could
/// name a machine of his own, with a certificate that any authority gave him. So a target's name counts if it is below
/// the domain that is configured, or if it takes an authority of ours to certify it; else the domain itself has to be.
fn name_of(spec: &Backend, tls: Option<&BackendTls>) -> Option<Arc<str>> {
    match &spec.endpoint {
        Endpoint::Name(host, _) => Some(Arc::from(&**host)),
        Endpoint::Address(_) => None,
        Endpoint::Srv(record) => {
            let labels = record.trim_end_matches('.').split('.');
            let domain: Vec<&str> = labels.skip_while(|label| label.starts_with('_')).collect();
            let domain = domain.join(".").to_ascii_lowercase();
            let is_ours = tls.is_some_and(|tls| tls.ca.is_some() || tls.insecure);
            let is_below = |host: &str| {
                host.strip_suffix(&*domain)
                    .is_some_and(|it| it.is_empty() || it.ends_with('.'))
            };
            let target = spec.host.clone();
            let target = target.filter(|host| is_ours || (!domain.is_empty() && is_below(host)));
            target.or_else(|| (!domain.is_empty()).then(|| domain.into()))
        }
    }
}

impl Entry {
    fn new(service: &Arc<Service>, reports: Reports) -> Self {
        let snapshot = Snapshot {
            version: 0,
            service: Arc::clone(service),
            tls: Material::default(),
            primary: Pool::new(service.schedule, Vec::new()),
            backup: Pool::new(service.schedule, Vec::new()),
            is_pending: true,
        };
        Self {
            service: Arc::clone(service),
            shared: Arc::new(ServiceState::new(snapshot, reports)),
            members: Vec::new(),
            tls: Material::default(),
            names: Vec::new(),
            is_panicking: false,
            is_leaving: false,
            remembered: Vec::new(),
            version: 0,
            slow_step: None,
        }
    }

    fn change_policies(&mut self, service: Arc<Service>, tls: Material, now: Instant) {
        let is_tls_new = self.service.backend_tls != service.backend_tls;
        self.tls = tls;
        if self.service.check != service.check || is_tls_new {
            for member in &mut self.members {
                if service.check.kind == CheckKind::None {
                    member.machine = HealthMachine::new(&service.check);
                }
                member.probe_at = Some(now);
            }
        }
        if self.service != service {
            self.service = service;
        }
    }

    /// Adds, changes and removes backends until they are as wished.
    fn update_members(
        &mut self,
        wished: &[(SocketAddr, Backend)],
        names: Vec<Endpoint>,
        now: Instant,
        next_ticket: &mut u64,
    ) {
        let is_first = self.members.is_empty() && self.version == 0;
        self.names = names;
        let mut old = std::mem::take(&mut self.members);
        for (address, spec) in wished {
            let member = match old.iter().position(|member| member.address() == *address) {
                Some(index) => {
                    let mut member = old.remove(index);
                    member.spec = spec.clone();
                    if member.leaves_by.take().is_some() {
                        tracing::info!(service = %self.service.name, backend = %address, "Backend {address} is back");
                    }
                    member
                }
                None => {
                    *next_ticket += 1;
                    self.new_member(*address, spec, *next_ticket, is_first, now)
                }
            };
            self.members.push(member);
        }
        for mut member in old {
            let is_renamed = self.names.contains(&member.spec.endpoint);
            let deadline = if is_renamed {
                now + UNHURRIED
            } else {
                now + self.service.timeouts.drain
            };
            if !member.is_leaving() {
                tracing::info!(service = %self.service.name, backend = %member.address(), "Backend {} removed", member.address());
            }
            // Taken out of the configuration later, it drains from then on.
            member.leaves_by = Some(member.leaves_by.map_or(deadline, |before| before.min(deadline)));
            self.members.push(member);
        }
    }

    fn new_member(&mut self, address: SocketAddr, spec: &Backend, ticket: u64, is_first: bool, now: Instant) -> Member {
        let known = self.remembered.iter().position(|state| state.address == address);
        let state = match known {
            Some(index) => self.remembered.remove(index),
            None => Arc::new(BackendState::new(address, Arc::clone(&self.shared.waiting))),
        };
        if !is_first {
            tracing::info!(service = %self.service.name, backend = %address, "Backend {address} added");
        }
        let is_checked = self.service.check.kind != CheckKind::None;
        Member {
            spec: spec.clone(),
            state,
            machine: HealthMachine::new(&self.service.check),
            ejection: Ejection::default(),
            duty: Duty::Ready,
            drain_by: None,
            since: now,
            changes: 0,
            probes: (0, 0),
            last_probe: None,
            leaves_by: None,
            has_been_up: !is_checked,
            // At the start of the service nobody is warmer than another.
            fresh_since: (!is_first).then_some(now),
            ticket,
            probe_at: Some(now),
            is_probing: false,
            probe_began: None,
            is_trying: false,
        }
    }

    fn poll(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let service = Arc::clone(&self.service);
        for member in &mut self.members {
            let target = || Target {
                service: Arc::clone(&service.name),
                address: member.state.address,
                ticket: member.ticket,
            };
            let end = || Effect::End {
                service: Arc::clone(&service.name),
                address: member.state.address,
                why: Why::Drained,
            };
            if let Some(deadline) = member.leaves_by {
                if deadline <= now && member.state.active() > 0 {
                    effects.push(end());
                }
                continue;
            }
            if member.drain_by.is_some_and(|deadline| deadline <= now) {
                effects.push(end());
                member.drain_by = None;
            }
            if member.probe_is_due(&service.check, now) {
                effects.push(Effect::Probe {
                    target: target(),
                    check: service.check.clone(),
                    tls: secured(&self.tls, &service, &member.spec),
                });
                (member.is_probing, member.probe_began) = (true, Some(now));
                member.probe_at = None;
            }
            if member.ejection.try_at().is_some_and(|at| at <= now) && !member.is_trying {
                effects.push(Effect::Try {
                    target: target(),
                    limit: service.timeouts.connect,
                    tls: secured(&self.tls, &service, &member.spec),
                });
                member.is_trying = true;
            }
        }
        self.forget_the_gone(now);
        if self.slow_step.is_some_and(|at| at <= now) {
            self.publish(now);
        }
    }

    /// Lets those go who were removed and have nothing under way, or no time left.
    fn forget_the_gone(&mut self, now: Instant) {
        let (gone, staying) = std::mem::take(&mut self.members)
            .into_iter()
            .partition::<Vec<_>, _>(|member| {
                member
                    .leaves_by
                    .is_some_and(|deadline| member.state.active() == 0 || deadline + Duration::from_secs(1) <= now)
            });
        self.members = staying;
        self.remembered.extend(gone.into_iter().map(|member| member.state));
        let surplus = self.remembered.len().saturating_sub(REMEMBERED);
        self.remembered.drain(..surplus);
    }

    fn next_poll(&self, now: Instant) -> Option<Instant> {
        let members = self.members.iter().filter_map(|member| {
            if let Some(deadline) = member.leaves_by {
                // Nobody tells when the last connection of a leaving backend ends.
                return Some(
                    deadline
                        .max(now + Duration::from_millis(50))
                        .min(now + Duration::from_millis(200)),
                );
            }
            let is_checked = self.service.check.kind != CheckKind::None && member.duty != Duty::Maint;
            let probe = member.probe_at.filter(|_| is_checked && !member.is_probing);
            let trial = member.ejection.try_at().filter(|_| !member.is_trying);
            probe.into_iter().chain(trial).chain(member.drain_by).min()
        });
        members.chain(self.slow_step).min()
    }

    fn probed(&mut self, index: usize, result: Result<(), Failure>, now: Instant, chance: f64) -> Option<Effect> {
        let service = Arc::clone(&self.service);
        let check = &service.check;
        let member = &mut self.members[index];
        let began = member.probe_began.take().unwrap_or(now);
        member.is_probing = false;
        member.last_probe = Some(now.saturating_duration_since(began));
        match &result {
            Ok(()) => member.probes.0 += 1,
            Err(_) => member.probes.1 += 1,
        }
        let asked_traffic = check.asks_traffic_port(member.address().port());
        // Whoever was reached by the check on the port of the traffic can be reached by clients. What failed after the
        // question was asked counts more than the answer.
        let readmits = result.is_ok() && asked_traffic && member.ejection.ejected_at().is_some_and(|at| at < began);
        let change = member.machine.observe(check, result);
        member.probe_at = Some(now + member.machine.next_in(check, chance));
        if readmits {
            self.readmit(index, now);
        }
        match change? {
            Change::Up => {
                self.came_up(index, now);
                None
            }
            Change::Down => self.went_down(index, now),
        }
    }

    fn came_up(&mut self, index: usize, now: Instant) {
        let member = &mut self.members[index];
        tracing::info!(service = %self.service.name, backend = %member.address(), "Backend {} is up", member.address());
        if member.has_been_up || member.fresh_since.is_some() {
            member.fresh_since = Some(now);
        }
        (member.since, member.has_been_up) = (now, true);
        member.changes += 1;
    }

    fn went_down(&mut self, index: usize, now: Instant) -> Option<Effect> {
        let member = &mut self.members[index];
        if let Health::Down(why) = member.machine.health() {
            tracing::warn!(service = %self.service.name, backend = %member.address(), "Backend {} is down: {why}", member.address());
        }
        member.since = now;
        member.changes += 1;
        (self.service.on_down == OnDown::Close && member.state.active() > 0).then(|| Effect::End {
            service: Arc::clone(&self.service.name),
            address: member.address(),
            why: Why::BackendDown,
        })
    }

    fn connect_failed(&mut self, index: usize, reason: String, now: Instant) {
        let may_eject = self.may_eject(index);
        let member = &mut self.members[index];
        if member.is_leaving() {
            return;
        }
        // The check shall have its say soon.
        let soon = now + Duration::from_millis(50);
        if member.probe_at.is_none_or(|at| at > soon) && !member.is_probing {
            member.probe_at = Some(soon);
        }
        if member.ejection.reason().is_none() && may_eject {
            tracing::warn!(service = %self.service.name, backend = %member.address(), "Backend {} put out: {reason}", member.address());
            member.ejection.eject(now, reason);
        }
    }

    /// At most half of the backends may be out by failed connects alone: more at once looks like a fault on this side.
    /// One whose check fails too is not protected by that.
    fn may_eject(&self, index: usize) -> bool {
        let is_staying = |member: &&Member| !member.is_leaving() && member.duty == Duty::Ready;
        let is_up = |member: &Member| *member.machine.health() == Health::Up;
        let count = self.members.iter().filter(is_staying).count();
        let out = self
            .members
            .iter()
            .filter(is_staying)
            .filter(|it| it.ejection.reason().is_some() && is_up(it))
            .count();
        !is_up(&self.members[index]) || out < count / 2
    }

    fn readmit(&mut self, index: usize, now: Instant) {
        let member = &mut self.members[index];
        if member.ejection.reason().is_some() {
            tracing::info!(service = %self.service.name, backend = %member.address(), "Backend {} can be reached again", member.address());
            member.ejection.readmit(now);
            member.fresh_since = Some(now);
        }
    }
}

impl Member {
    fn probe_is_due(&self, check: &Check, now: Instant) -> bool {
        check.kind != CheckKind::None
            && self.duty != Duty::Maint
            && !self.is_probing
            && self.probe_at.is_none_or(|at| at <= now)
    }
}
