//! Maglev's consistent hash: a large table in which each member has its share of places, and keeps most of them when
//! another comes or goes. Balancers that know the same members have the same table, without talking.
//!
//! After "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4, with turns by weight.

use super::{DRAWS, Member, mix, weighted};

/// Places; a prime, so that every member's sequence of places visits all of them.
const PLACES: usize = 65_537;
/// Tells the two hashes of a member apart.
const STEP_SALT: u64 = 0x5851_f42d_4c95_7f2d;
/// A place nobody has.
const NOBODY: u16 = u16::MAX;

#[derive(Debug)]
pub(super) struct Maglev {
    /// Empty when there are no members.
    places: Box<[u16]>,
}

/// A member while the table is being filled.
struct Candidate {
    index: u16,
    weight: u64,
    /// Grows by `weight` each round; a turn costs the largest weight.
    credit: u64,
    place: usize,
    step: usize,
}

impl Maglev {
    pub(super) fn new(members: &[Member]) -> Self {
        let mut ordered: Vec<(u16, &Member)> = weighted(members).collect();
        // The table must not depend on the order in which the members were listed.
        ordered.sort_unstable_by_key(|(_, member)| member.key);
        let Some(largest) = ordered.iter().map(|(_, member)| u64::from(member.weight)).max() else {
            return Self { places: Box::default() };
        };
        let mut candidates: Vec<Candidate> = ordered
            .into_iter()
            .map(|(index, member)| Candidate {
                index,
                weight: u64::from(member.weight),
                credit: 0,
                place: (mix(member.key) % PLACES as u64) as usize,
                step: (mix(member.key ^ STEP_SALT) % (PLACES as u64 - 1) + 1) as usize,
            })
            .collect();
        let mut places = vec![NOBODY; PLACES].into_boxed_slice();
        let mut free = PLACES;
        while free > 0 {
            for candidate in &mut candidates {
                candidate.credit += candidate.weight;
                if candidate.credit < largest {
                    continue;
                }
                candidate.credit -= largest;
                while places[candidate.place] != NOBODY {
                    candidate.place = (candidate.place + candidate.step) % PLACES;
                }
                places[candidate.place] = candidate.index;
                free -= 1;
                if free == 0 {
                    break;
                }
            }
        }
        Self { places }
    }

    /// The member that has the client's place; if it has no room, the client's second place is looked up, and so on.
    pub(super) fn pick(&self, client: u64, room: impl Fn(usize) -> Option<u32>) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let mut hash = client;
        let place = |hash: u64| (hash % PLACES as u64) as usize;
        for _ in 0..DRAWS {
            let index = usize::from(self.places[place(hash)]);
            if room(index).is_some() {
                return Some(index);
            }
            hash = mix(hash);
        }
        let start = place(hash);
        let mut rest = self.places[start..]
            .iter()
            .chain(&self.places[..start])
            .map(|&index| usize::from(index));
        rest.find(|&index| room(index).is_some())
    }
}
