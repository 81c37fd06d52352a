//! Members in turn, each as often as its weight says and as evenly as that allows.
//!
//! The whole cycle is laid out beforehand, so that a pick is one step along it. It also serves to draw by weight: any
//! place of the cycle is as good as another.

use super::{DRAWS, Member, below, mix, weighted};

/// Longest cycle; weights whose sum is larger are scaled down to it.
const LONGEST: u64 = 65_536;

/// One round of turns.
#[derive(Debug)]
pub(super) struct Cycle {
    turns: Box<[u16]>,
}

impl Cycle {
    pub(super) fn new(members: &[Member]) -> Self {
        let members: Vec<(u16, u64)> = weighted(members)
            .map(|(index, member)| (index, u64::from(member.weight)))
            .collect();
        let divisor = members
            .iter()
            .fold(0, |divisor, &(_, weight)| greatest_common_divisor(divisor, weight))
            .max(1);
        let total = members.iter().map(|(_, weight)| weight / divisor).sum::<u64>();
        let scaled = |weight: u64| match weight / divisor {
            weight if total > LONGEST => (weight * LONGEST / total).max(1),
            weight => weight,
        };
        // A member of weight w is due w times in a round, at even distances; the first time early or late by its place
        // among the others, so that members of equal weight come in the order of the list.
        let count = members.len() as u64;
        let mut due: Vec<(u64, u16)> = Vec::with_capacity(usize::try_from(total.min(2 * LONGEST)).unwrap_or_default());
        for (place, &(index, weight)) in (0_u64..).zip(&members) {
            let weight = scaled(weight);
            let step = |turn: u64| (((2 * (turn * count + place) + 1) << 28) / (2 * count * weight), index);
            due.extend((0..weight).map(step));
        }
        due.sort_unstable();
        Self {
            turns: due.into_iter().map(|(_, index)| index).collect(),
        }
    }

    /// The next member that has room; moves `at` behind it.
    pub(super) fn next(&self, at: &mut usize, room: impl Fn(usize) -> Option<u32>) -> Option<usize> {
        let length = self.turns.len();
        let mut place = if *at < length { *at } else { 0 };
        for _ in 0..length {
            let index = usize::from(self.turns[place]);
            place = if place + 1 == length { 0 } else { place + 1 };
            if room(index).is_some() {
                *at = place;
                return Some(index);
            }
        }
        None
    }

    /// Where a turn that stood `at` a place of another cycle goes on: behind the member it picked last, if that is still
    /// there.
    pub(super) fn place_after(&self, at: usize, is_last: impl Fn(usize) -> bool) -> usize {
        let length = self.turns.len().max(1);
        // The last pick was the turn before `at`.
        let before = (at + length - 1) % length;
        let found = (0..self.turns.len())
            .map(|step| (before + step) % length)
            .find(|&place| is_last(usize::from(self.turns[place])));
        // If it is not, its successor has moved up into its place.
        found.map_or(at.saturating_sub(1) % length, |place| (place + 1) % length)
    }

    /// The member that `hash` falls on; if it has no room, the one that the hash of the hash falls on, and so on.
    pub(super) fn by_hash(&self, hash: u64, room: impl Fn(usize) -> Option<u32>) -> Option<usize> {
        let length = self.turns.len();
        let mut hash = hash;
        let mut place = 0;
        for _ in 0..DRAWS.min(u32::try_from(length).unwrap_or(DRAWS)) {
            place = below(length, hash);
            let index = usize::from(self.turns[place]);
            if room(index).is_some() {
                return Some(index);
            }
            hash = mix(hash);
        }
        self.next(&mut place, room)
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
