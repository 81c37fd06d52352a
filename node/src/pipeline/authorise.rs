//! Whether a request may use its channel.

use super::limits::Slot;
use super::{Admitted, Entrance, Matched, Refused, Rejection};

/// Lets a request through if its address may use the channel and either the channel is public or the client, or one of
/// its roles, is allowed.
///
/// # Errors
/// It may not.
pub(super) fn authorise(it: Matched, offers_basic: bool) -> Result<Admitted, Box<Refused>> {
    let Matched { identified, channel } = it;
    let address = identified.received.address;
    let is_allowed = channel.admits(address)
        && (channel.is_public() || identified.client.as_ref().is_some_and(|client| channel.allows(client)));
    if !is_allowed {
        return Err(identified
            .received
            .refused(Rejection::NotAllowed { address, offers_basic }));
    }
    Ok(Admitted {
        received: identified.received,
        client: identified.client.map(|entry| entry.client.id),
        channel,
        entrance: Entrance::Public,
        slot: Slot::default(),
    })
}
