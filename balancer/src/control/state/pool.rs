//! Who gets traffic: from the state of a service's backends to the snapshot its data threads read.

use std::sync::Arc;
use std::time::Instant;

use super::{Duty, Entry, Member, SLOW_START_STEP};
use crate::health::Health;
use crate::snapshot::{Candidate, Pool, Snapshot};

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
        let candidates = |is_backup: bool| -> Vec<Candidate> {
            let members = self.members.iter().zip(&shares);
            members
                .filter(|(member, _)| member.spec.backup == is_backup)
                .filter(|(member, _)| self.standing(member).is_some_and(|it| it <= worst))
                .map(|(member, share)| self.candidate(member, *share))
                .collect()
        };
        let (primary, backup) = (candidates(false), candidates(true));
        let is_pending = self
            .members
            .iter()
            .any(|it| it.is_wanted() && *it.machine.health() == Health::Unknown);
        let old = self.shared.live.load();
        // Without a change nobody shall have to prepare anew.
        if self.version == 0
            || !Arc::ptr_eq(&old.service, &self.service)
            || !are_same(&old.primary, &primary)
            || !are_same(&old.backup, &backup)
            || old.is_pending != is_pending
            || !old.tls.is_same(&self.tls)
        {
            self.version += 1;
            let schedule = self.service.schedule;
            self.shared.publish(Snapshot {
                version: self.version,
                service: Arc::clone(&self.service),
                tls: self.tls.clone(),
                primary: Pool::new(schedule, primary),
                backup: Pool::new(schedule, backup),
                is_pending,
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
        let limit = member.spec.maxconn.unwrap_or(u32::MAX);
        let client_ip = member.spec.client_ip.unwrap_or(self.service.client_ip);
        let named = || super::name_of(&member.spec, self.service.backend_tls.as_ref());
        let host = self.tls.client.as_ref().and_then(|_| named());
        Candidate::new(Arc::clone(&member.state), weight.max(1), limit, client_ip).called(host)
    }
}

fn are_same(pool: &Pool, candidates: &[Candidate]) -> bool {
    pool.candidates.len() == candidates.len() && pool.candidates.iter().zip(candidates).all(|(a, b)| a.is_same(b))
}

impl Member {
    /// True if it should get traffic as far as configuration and operator are concerned.
    pub(super) fn is_wanted(&self) -> bool {
        !self.is_leaving() && self.duty == Duty::Ready && self.spec.weight > 0
    }
}
