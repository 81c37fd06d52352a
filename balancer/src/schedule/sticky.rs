//! Which backend a client had last, for a while: source stickiness.
//!
//! Bounded: when the table is full, a newcomer takes the place of a client that has been away for long. Time is passed in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Entries looked at for the one to give up.
const LOOKED_AT: usize = 8;

/// Clients and the backends they had.
#[derive(Debug)]
pub struct Sticky {
    timeout: Duration,
    capacity: usize,
    places: HashMap<IpAddr, usize>,
    entries: Vec<Entry>,
    /// Where the search for an entry to give up goes on.
    hand: usize,
}

#[derive(Debug)]
struct Entry {
    client: IpAddr,
    member: u64,
    until: Instant,
}

impl Sticky {
    /// Remembers at most `capacity` clients (not zero), each for `timeout` after it was last seen.
    pub fn new(timeout: Duration, capacity: usize) -> Self {
        Self {
            timeout,
            capacity: capacity.max(1),
            places: HashMap::new(),
            entries: Vec::new(),
            hand: 0,
        }
    }

    /// The [key](super::member_key) of the backend that `client` had last.
    pub fn get(&self, client: IpAddr, now: Instant) -> Option<u64> {
        let entry = &self.entries[*self.places.get(&client.to_canonical())?];
        (now < entry.until).then_some(entry.member)
    }

    /// Notes that `client` has been sent to `member`.
    pub fn put(&mut self, client: IpAddr, member: u64, now: Instant) {
        let client = client.to_canonical();
        let entry = Entry {
            client,
            member,
            until: now + self.timeout,
        };
        if let Some(&place) = self.places.get(&client) {
            self.entries[place] = entry;
        } else if self.entries.len() < self.capacity {
            self.places.insert(client, self.entries.len());
            self.entries.push(entry);
        } else {
            let place = self.longest_away();
            self.places.remove(&self.entries[place].client);
            self.places.insert(client, place);
            self.entries[place] = entry;
        }
    }

    /// How many clients are remembered, those whose time is over included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Remembers for another time from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The entry with the least time left among the next few.
    fn longest_away(&mut self) -> usize {
        let count = self.entries.len();
        let looked_at = (0..LOOKED_AT.min(count)).map(|step| (self.hand + step) % count);
        let place = looked_at
            .min_by_key(|&place| self.entries[place].until)
            .unwrap_or_default();
        self.hand = (self.hand + LOOKED_AT) % count;
        place
    }
}
