//! Memory for bodies, shared by all requests, so that many large ones at once cannot exhaust it.
//!
//! Bytes that have arrived take room as they arrive: a slow sender holds no more than it sent, and when there is no room
//! the request is refused. What a body becomes once parsed takes several times its length: there requests wait for each
//! other, as they are answered soon.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::error::Refusal;

/// Bodies up to this many bytes count for nothing.
const SMALL: usize = 64 * 1024;
const UNIT: usize = 1024;
/// Units for bytes that have arrived.
const ARRIVED: usize = 256 * 1024;
/// Units for what is parsed.
const PARSED: usize = 1024 * 1024;
/// Bytes that a byte of text takes once it is parsed.
const GROWTH: usize = 8;

/// The room there is.
#[derive(Clone, Debug)]
pub(in crate::api) struct Room {
    arrived: Arc<Semaphore>,
    parsed: Arc<Semaphore>,
}

/// Room that a body takes until this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            arrived: Arc::new(Semaphore::new(ARRIVED)),
            parsed: Arc::new(Semaphore::new(PARSED)),
        }
    }
}

impl Room {
    /// Takes room for bytes that have arrived, on top of what `taken` holds for a body of `before` bytes.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn arrive(&self, taken: &mut Taken, before: usize, bytes: usize) -> Result<(), Refusal> {
        let units = |length: usize| length.saturating_sub(SMALL).div_ceil(UNIT);
        let more = units(before + bytes) - units(before);
        if more == 0 {
            return Ok(());
        }
        let permit = Arc::clone(&self.arrived)
            .try_acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX))
            .map_err(|_| Refusal::Busy)?;
        match &mut taken._permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }

    /// Waits for room to parse a text of so many bytes.
    pub(super) async fn parse(&self, bytes: usize) -> Taken {
        if bytes <= SMALL {
            return Taken::nothing();
        }
        let units = (bytes.saturating_mul(GROWTH) / UNIT).min(PARSED);
        let permit = Arc::clone(&self.parsed)
            .acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX))
            .await;
        Taken { _permit: permit.ok() }
    }
}

impl Taken {
    pub(super) fn nothing() -> Self {
        Self { _permit: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_taken_as_bytes_arrive_and_given_back() {
        let room = Room::default();
        let mut taken = Taken::nothing();
        room.arrive(&mut taken, 0, SMALL).unwrap();
        assert_eq!(room.arrived.available_permits(), ARRIVED);
        room.arrive(&mut taken, SMALL, 10 * UNIT).unwrap();
        assert_eq!(room.arrived.available_permits(), ARRIVED - 10);
        let too_much = room.arrive(&mut taken, SMALL + 10 * UNIT, ARRIVED * UNIT);
        assert!(matches!(too_much, Err(Refusal::Busy)));
        drop(taken);
        assert_eq!(room.arrived.available_permits(), ARRIVED);
    }

    #[tokio::test]
    async fn the_largest_body_can_always_be_parsed() {
        let room = Room::default();
        drop(room.parse(usize::MAX).await);
        assert_eq!(room.parsed.available_permits(), PARSED);
    }
}
