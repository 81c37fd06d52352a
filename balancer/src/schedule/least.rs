//! The least busy member, for its weight.
//!
//! Up to [`EXACT`] members are simply looked at, one after the other. Of more, a thread remembers how busy each was when
//! last looked at, as a [`Tournament`], and looks again only at the winner and at a few others in rotation: so that a
//! member that has become less busy is noticed after at most an eighth as many picks as there are members, and a pick
//! stays cheap with thousands.

use super::{DRAWS, Dice, Member, below};

/// Sets of up to this size are searched completely.
const EXACT: usize = 32;
/// Members of a larger set that each pick looks at in rotation.
const REFRESHED: usize = 8;
/// How busy a member is, is a number of this many bits; all ones: it may not be picked.
const SCORE_BITS: u32 = 40;
const UNUSABLE: u64 = (1 << SCORE_BITS) - 1;
/// What a connection costs the member of the largest weight.
const ONE: u64 = 1 << 12;
/// Weights are told apart down to this part of the largest.
const SMALLEST_PART: u64 = 1 << 16;

/// What one connection more costs each member: the more, the less its weight. Zero marks a member that takes no part.
#[derive(Debug)]
pub(super) struct Scores {
    per_connection: Box<[u32]>,
}

impl Scores {
    pub(super) fn new(members: &[Member]) -> Self {
        let largest = members
            .iter()
            .map(|member| u64::from(member.weight))
            .max()
            .unwrap_or_default();
        let cost = |member: &Member| {
            let cost = (ONE * largest)
                .checked_div(u64::from(member.weight))
                .unwrap_or_default();
            u32::try_from(cost.min(ONE * SMALLEST_PART)).unwrap_or(u32::MAX)
        };
        Self {
            per_connection: members.iter().map(cost).collect(),
        }
    }

    fn count(&self) -> usize {
        self.per_connection.len()
    }

    /// How busy a member would be with so many connections more than it has.
    fn of(&self, index: usize, more: u64, room: &impl Fn(usize) -> Option<u32>) -> u64 {
        match (self.per_connection[index], room(index)) {
            (0, _) | (_, None) => UNUSABLE,
            (cost, Some(connections)) => u64::from(cost)
                .saturating_mul(u64::from(connections) + more)
                .min(UNUSABLE - 1),
        }
    }

    /// The less busy of two members drawn at random.
    pub(super) fn better_of_two(&self, dice: &mut Dice, room: &impl Fn(usize) -> Option<u32>) -> Option<usize> {
        let count = self.count();
        let is_usable = |index: &usize| self.of(*index, 1, room) != UNUSABLE;
        if count < 2 {
            return (0..count).find(is_usable);
        }
        for _ in 0..DRAWS {
            let bits = dice.roll();
            let one = below(count, bits);
            let other = (one + 1 + below(count - 1, bits << 32)) % count;
            let (one, other) = ((self.of(one, 1, room), one), (self.of(other, 1, room), other));
            let (score, index) = if other.0 < one.0 { other } else { one };
            if score != UNUSABLE {
                return Some(index);
            }
        }
        // Hardly anybody has room: find whoever does.
        let start = below(count, dice.roll());
        (start..count).chain(0..start).find(is_usable)
    }
}

/// What a thread remembers between picks.
#[derive(Debug, Default)]
pub(super) struct Least {
    /// Where the search of a small set begins: behind the last pick, so that equals take turns.
    start: usize,
    tournament: Tournament,
}

impl Least {
    pub(super) fn pick(
        &mut self,
        scores: &Scores,
        is_new: bool,
        room: &impl Fn(usize) -> Option<u32>,
    ) -> Option<usize> {
        let count = scores.count();
        if count > EXACT {
            if is_new {
                self.tournament.begin(scores, room);
            }
            return self.tournament.pick(scores, room);
        }
        let start = if self.start < count { self.start } else { 0 };
        let (mut best, mut least) = (0, UNUSABLE);
        for index in (start..count).chain(0..start) {
            let score = scores.of(index, 1, room);
            if score < least {
                (best, least) = (index, score);
            }
        }
        self.start = best + 1;
        (least != UNUSABLE).then_some(best)
    }
}

/// A binary tree of the least: each node holds the lesser of its two children's keys, the leaves the members' own.
///
/// A key is a score, and below it a stamp of when the member was picked last: among equals the one that waited longest
/// wins.
#[derive(Debug, Default)]
struct Tournament {
    /// The root is at 1, the children of `n` at `2n` and `2n + 1`.
    nodes: Vec<u64>,
    /// Place of the first leaf.
    leaves: usize,
    /// The member that is looked at next in rotation.
    sweep: usize,
    stamp: u64,
}

const STAMP_BITS: u32 = u64::BITS - SCORE_BITS;
const STAMP: u64 = (1 << STAMP_BITS) - 1;

impl Tournament {
    fn begin(&mut self, scores: &Scores, room: &impl Fn(usize) -> Option<u32>) {
        let count = scores.count();
        self.leaves = count.next_power_of_two();
        self.sweep = 0;
        self.nodes.clear();
        self.nodes.resize(2 * self.leaves, u64::MAX);
        for index in 0..count {
            self.nodes[self.leaves + index] = scores.of(index, 1, room) << STAMP_BITS;
        }
        for node in (1..self.leaves).rev() {
            self.nodes[node] = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
        }
    }

    fn pick(&mut self, scores: &Scores, room: &impl Fn(usize) -> Option<u32>) -> Option<usize> {
        self.refresh_some(scores, room);
        // Each round but the last finds the winner busier than was remembered.
        for _ in 0..=scores.count() {
            let believed = self.nodes[1] >> STAMP_BITS;
            if believed == UNUSABLE {
                break;
            }
            let winner = self.winner();
            let score = scores.of(winner, 1, room);
            if score <= believed {
                self.stamp = (self.stamp + 1) & STAMP;
                self.set(winner, (scores.of(winner, 2, room) << STAMP_BITS) | self.stamp);
                return Some(winner);
            }
            self.set(
                winner,
                (score << STAMP_BITS) | (self.nodes[self.leaves + winner] & STAMP),
            );
        }
        // Nobody is known to have room: the only way to be sure is to look at all.
        (0..scores.count()).find(|&index| scores.of(index, 1, room) != UNUSABLE)
    }

    /// Looks again at the next few members. They are neighbours, so that most of their way to the root is the same.
    fn refresh_some(&mut self, scores: &Scores, room: &impl Fn(usize) -> Option<u32>) {
        let first = self.sweep;
        let end = (first + REFRESHED).min(scores.count());
        self.sweep = if end == scores.count() { 0 } else { end };
        for index in first..end {
            let leaf = &mut self.nodes[self.leaves + index];
            *leaf = (scores.of(index, 1, room) << STAMP_BITS) | (*leaf & STAMP);
        }
        let (mut low, mut high) = ((self.leaves + first) / 2, (self.leaves + end - 1) / 2);
        while low > 0 {
            for node in low..=high {
                self.nodes[node] = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
            }
            (low, high) = (low / 2, high / 2);
        }
    }

    fn set(&mut self, index: usize, key: u64) {
        let mut node = self.leaves + index;
        self.nodes[node] = key;
        while node > 1 {
            node /= 2;
            self.nodes[node] = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
        }
    }

    /// The member whose key has come up to the root.
    fn winner(&self) -> usize {
        let key = self.nodes[1];
        let mut node = 1;
        while node < self.leaves {
            node = 2 * node + usize::from(self.nodes[2 * node] != key);
        }
        node - self.leaves
    }
}
