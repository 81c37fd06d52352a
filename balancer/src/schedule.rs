//! Which backend: pure pickers, no clock, no I/O, chance seeded by the caller.
//!
//! The control task builds a [`Table`] from the backends that may be used, whenever these or their weights change; all
//! threads share it. Each thread keeps a [`Turn`] of its own, so that picking takes no lock and a thread's sequential
//! connections follow the cycle exactly. What changes with every connection (how busy a backend is, whether it has room,
//! whether this client has tried it) is asked through `room` at the moment of the pick.
//!
//! This module never counts connections and never learns how a pick turned out.

mod cycle;
mod least;
mod maglev;
pub mod sticky;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use crate::plan::Schedule;
use cycle::Cycle;
use least::{Least, Scores};
use maglev::Maglev;

/// Draws before a schedule that picks by chance looks through all members for one with room.
const DRAWS: u32 = 8;

/// A backend as a picker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who it is; see [`member_key`]. Keeps its place across tables, and places it alike in every balancer.
    pub key: u64,
    /// Its share; zero: never picked.
    pub weight: u32,
}

/// The weight that counts under `schedule`: those that IPVS defines without weights take everybody as one, except that
/// zero is zero everywhere.
pub fn counted_weight(schedule: Schedule, weight: u16) -> u16 {
    match schedule {
        Schedule::Rr | Schedule::Lc | Schedule::First => weight.min(1),
        Schedule::Wrr | Schedule::Wlc | Schedule::P2c | Schedule::Sh | Schedule::Mh | Schedule::Random => weight,
    }
}

/// What can be worked out once about a set of backends.
#[derive(Debug)]
pub struct Table {
    /// The same for the same members and schedule, so that a turn goes on undisturbed.
    fingerprint: u64,
    keys: Box<[u64]>,
    picker: Picker,
}

#[derive(Debug)]
enum Picker {
    /// `rr`, `wrr`.
    InTurn(Cycle),
    /// `lc`, `wlc`.
    Least(Scores),
    /// `p2c`.
    TwoChoices(Scores),
    /// `sh`.
    SourceHash(Cycle),
    /// `mh`.
    Maglev(Maglev),
    /// `random`.
    Random(Cycle),
    /// `first`.
    First(Box<[u16]>),
}

/// One thread's place in the turn.
#[derive(Debug)]
pub struct Turn {
    /// Of the table that the rest is about.
    fingerprint: u64,
    /// Next place in a cycle.
    at: usize,
    /// Key of the last member picked.
    last: u64,
    least: Least,
    dice: Dice,
}

impl Turn {
    /// A thread's start; `seed` should differ between threads and processes.
    pub fn new(seed: u64) -> Self {
        Self {
            fingerprint: 0,
            at: 0,
            last: 0,
            least: Least::default(),
            dice: Dice(seed),
        }
    }
}

impl Table {
    /// Works out what `schedule` needs to pick among `members`. More than 65535 members are cut off.
    pub fn new(schedule: Schedule, members: &[Member]) -> Self {
        let members = &members[..members.len().min(usize::from(u16::MAX))];
        let mut fingerprint = mix(schedule as u64 + 1);
        for member in members {
            fingerprint = mix(fingerprint ^ member.key).wrapping_add(u64::from(member.weight));
        }
        let picker = match schedule {
            Schedule::Rr | Schedule::Wrr => Picker::InTurn(Cycle::new(members)),
            Schedule::Lc | Schedule::Wlc => Picker::Least(Scores::new(members)),
            Schedule::P2c => Picker::TwoChoices(Scores::new(members)),
            Schedule::Sh => Picker::SourceHash(Cycle::new(members)),
            Schedule::Mh => Picker::Maglev(Maglev::new(members)),
            Schedule::Random => Picker::Random(Cycle::new(members)),
            Schedule::First => Picker::First(weighted(members).map(|(index, _)| index).collect()),
        };
        Self {
            fingerprint: fingerprint | 1,
            keys: members.iter().map(|member| member.key).collect(),
            picker,
        }
    }

    /// Picks for a client the place of a member in the list that the table was made of.
    ///
    /// `client` is its [`client_key`]; `room` says how many connections a member has, or `None` if it may not be picked
    /// now. `None` when that holds for all of them.
    pub fn pick(&self, turn: &mut Turn, client: u64, room: impl Fn(usize) -> Option<u32>) -> Option<usize> {
        let is_new = turn.fingerprint != self.fingerprint;
        turn.fingerprint = self.fingerprint;
        let picked = match &self.picker {
            Picker::InTurn(cycle) => {
                if is_new {
                    turn.at = cycle.place_after(turn.at, |index| self.keys[index] == turn.last);
                }
                cycle.next(&mut turn.at, &room)
            }
            Picker::Least(scores) => turn.least.pick(scores, is_new, &room),
            Picker::TwoChoices(scores) => scores.better_of_two(&mut turn.dice, &room),
            Picker::SourceHash(cycle) => cycle.by_hash(client, &room),
            Picker::Maglev(maglev) => maglev.pick(client, &room),
            Picker::Random(cycle) => cycle.by_hash(turn.dice.roll(), &room),
            Picker::First(order) => order
                .iter()
                .map(|&index| usize::from(index))
                .find(|&index| room(index).is_some()),
        };
        if let Some(index) = picked {
            turn.last = self.keys[index];
        }
        picked
    }
}

/// The members that take part, with their places.
fn weighted(members: &[Member]) -> impl Iterator<Item = (u16, &Member)> + Clone {
    (0_u16..).zip(members).filter(|(_, member)| member.weight > 0)
}

/// A client's key for the schedules that hash: the same for an IPv4 address in either form.
pub fn client_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let [high, low] = [v6.to_bits() >> 64, v6.to_bits()].map(|half| half as u64);
            mix(mix(high) ^ low)
        }
    }
}

/// A backend's key: derived from its address alone, so that all balancers know it by the same.
pub fn member_key(backend: SocketAddr) -> u64 {
    mix(client_key(backend.ip()) ^ u64::from(backend.port()))
}

/// Spreads a number over all 64 bits. Part of what two balancers must agree on: never to be changed.
fn mix(number: u64) -> u64 {
    // The finaliser of SplitMix64.
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A number below `bound` (not zero) from 64 random bits.
fn below(bound: usize, bits: u64) -> usize {
    ((u128::from(bits) * bound as u128) >> 64) as usize
}

/// A thread's own chance.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}
