//! Who gets traffic: from the state of a service's backends to the snapshot its data threads read.

use std::sync::Arc;
use std::time::Instant;

use super::{Duty, Entry, Member, SLOW_START_STEP};
use crate::health::Health;
use crate::snapshot::{Candidate, Snapshot};

/// Weights are multiplied by this while one of them is growing, so that a tenth of 1 is a whole number.
const FINE: u32 = 100;
/// A backend starts slowly with this share of its weight.
const FIRST_SHARE: f64 = 0.1;

/// Why a member may get traffic, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Its check passes and connects to it work.
    Healthy,
    /// Someone answers there, but not as the check expects.
    Failing,
    /// The check, on another port than the traffic's, reaches nobody.
    OtherPortSilent,
}

impl Entry {
    /// Publishes who gets traffic now.
    pub(super) fn publish(&mut self, now: Instant) {
        let worst = self.worst_standing();
        if worst > Standing::Healthy && !self.is_panicking {
            tracing::warn!(
                service = %self.service.name,
                "Too few healthy backends: using those whose check fails too, until more are healthy"
            );
        } else if worst == Standing::Healthy && self.is_panicking {
            tracing::info!(service = %self.service.name, "Enough healthy backends again");
        }
        self.is_panicking = worst > Standing::Healthy;
        let shares = self.shares(now);
        let candidates = |is_backup: bool| {
            let members = self.members.iter().zip(&shares);
            members
                .filter(|(member, _)| member.spec.backup == is_backup)
                .filter(|(member, _)| self.standing(member).is_some_and(|it| it <= worst))
                .map(|(member, share)| self.candidate(member, *share))
                .collect()
        };
        let (primary, backup): (Vec<_>, Vec<_>) = (candidates(false), candidates(true));
        let old = self.shared.live.load();
        // Pickers prepare anew for each version, so there is none without a change.
        if self.version == 0
            || !Arc::ptr_eq(&old.service, &self.service)
            || !are_same(&old.primary, &primary)
            || !are_same(&old.backup, &backup)
        {
            self.version += 1;
            let service = Arc::clone(&self.service);
            self.shared.publish(Snapshot {
                version: self.version,
                service,
                primary,
                backup,
            });
        }
    }

    /// How deep to go: to the healthy alone, unless they are too few.
    fn worst_standing(&self) -> Standing {
        let standings = || {
            self.members
                .iter()
                .map(|member| (member.spec.backup, self.standing(member)))
        };
        let healthy_backup = standings().any(|it| it == (true, Some(Standing::Healthy)));
        let known = self
            .members
            .iter()
            .filter(|member| !member.spec.backup && member.is_wanted() && member.has_been_up);
        let (known, healthy) = (
            known.count(),
            standings().filter(|it| *it == (false, Some(Standing::Healthy))).count(),
        );
        let threshold = usize::from(self.service.panic_threshold);
        if healthy_backup || healthy * 100 >= threshold * known.max(1) {
            return Standing::Healthy;
        }
        let has = |standing| standings().any(|(_, it)| it == Some(standing));
        match (has(Standing::Failing), healthy, has(Standing::OtherPortSilent)) {
            (true, ..) => Standing::Failing,
            (false, 0, true) => Standing::OtherPortSilent,
            _ => Standing::Healthy,
        }
    }

    /// Whether and why this member may get traffic at all. Never: before its first success, and while nobody can be
    /// reached on the port of the traffic.
    fn standing(&self, member: &Member) -> Option<Standing> {
        if !member.is_wanted() || !member.has_been_up || member.ejection.reason().is_some() {
            return None;
        }
        match member.machine.health() {
            Health::Up => Some(Standing::Healthy),
            Health::Unknown => None,
            Health::Down(failure) if !failure.is_unreachable => Some(Standing::Failing),
            Health::Down(_) if self.service.check.asks_traffic_port(member.address().port()) => None,
            Health::Down(_) => Some(Standing::OtherPortSilent),
        }
    }

    /// The weight of each member at this moment.
    fn shares(&mut self, now: Instant) -> Vec<u32> {
        let slow_start = self.service.slow_start;
        for member in &mut self.members {
            if member.has_been_up && member.fresh_since.is_some_and(|since| now >= since + slow_start) {
                member.fresh_since = None;
            }
        }
        let growing = |member: &&Member| member.has_been_up && member.fresh_since.is_some() && !slow_start.is_zero();
        if !self.members.iter().any(|member| growing(&member)) {
            self.slow_step = None;
            return self
                .members
                .iter()
                .map(|member| u32::from(member.spec.weight))
                .collect();
        }
        self.slow_step = Some(now + SLOW_START_STEP.min(slow_start));
        let share = |member: &Member| {
            let grown = match member.fresh_since {
                Some(since) if growing(&member) => (now - since).as_secs_f64() / slow_start.as_secs_f64(),
                _ => 1.0,
            };
            let weight = f64::from(u32::from(member.spec.weight) * FINE) * grown.clamp(FIRST_SHARE, 1.0);
            // In range: a weight has 16 bits.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and 6553500"
            )]
            let weight = weight.round() as u32;
            weight
        };
        self.members.iter().map(share).collect()
    }

    fn candidate(&self, member: &Member, weight: u32) -> Candidate {
        Candidate {
            state: Arc::clone(&member.state),
            weight: weight.max(1),
            limit: member.spec.maxconn.unwrap_or(u32::MAX),
            client_ip: member.spec.client_ip.unwrap_or(self.service.client_ip),
        }
    }
}

fn are_same(one: &[Candidate], other: &[Candidate]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(a, b)| {
            Arc::ptr_eq(&a.state, &b.state) && (a.weight, a.limit, a.client_ip) == (b.weight, b.limit, b.client_ip)
        })
}

impl Member {
    /// True if it should get traffic as far as configuration and operator are concerned.
    pub(super) fn is_wanted(&self) -> bool {
        !self.is_leaving() && self.duty == Duty::Ready && self.spec.weight > 0
    }
}
