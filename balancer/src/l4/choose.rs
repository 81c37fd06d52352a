//! Which backend a connection tries next, on one thread.

use std::net::{IpAddr, SocketAddr};

use crate::backend::Pick;
use crate::plan::ClientIp;
use crate::snapshot::{Candidate, Snapshot};

/// A thread's own place in the turn of one service.
#[derive(Debug, Default)]
pub struct Chooser {
    next: usize,
}

/// What choosing came to.
#[derive(Debug)]
pub enum Choice {
    /// This one.
    Picked(Chosen),
    /// Everyone who might is at its limit.
    Full,
    /// There is nobody left to try.
    Nobody,
}

/// A backend that was chosen.
#[derive(Debug)]
pub struct Chosen {
    /// The permit to use it.
    pub pick: Pick,
    /// How it learns the client's address.
    pub client_ip: ClientIp,
}

impl Chooser {
    /// Chooses among those that were not tried; a backup only when no primary is left.
    pub fn choose(&mut self, snapshot: &Snapshot, client: IpAddr, tried: &[SocketAddr]) -> Choice {
        match self.choose_from(&snapshot.primary, client, tried) {
            Choice::Nobody => self.choose_from(&snapshot.backup, client, tried),
            choice => choice,
        }
    }

    fn choose_from(&mut self, candidates: &[Candidate], _client: IpAddr, tried: &[SocketAddr]) -> Choice {
        let mut is_full = false;
        for _ in 0..candidates.len() {
            self.next = (self.next + 1) % candidates.len();
            let candidate = &candidates[self.next];
            if tried.contains(&candidate.state.address) {
                continue;
            }
            match Pick::try_new(&candidate.state, candidate.limit) {
                Some(pick) => {
                    return Choice::Picked(Chosen {
                        pick,
                        client_ip: candidate.client_ip,
                    });
                }
                None => is_full = true,
            }
        }
        if is_full { Choice::Full } else { Choice::Nobody }
    }
}
