//! When a request may be sent once more. A message must not arrive twice.

use super::exchange::{Fault, Told, Upload};

/// True for methods that may be carried out twice to the same effect (RFC 9110, section 9.2.2).
pub(super) fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

/// True if an attempt came to nothing in such a way that another backend may be asked: provably nothing was sent, or the
/// request may be repeated and all of it is still there, and the client has heard nothing.
pub(super) fn may_send_again(fault: Fault, told: &Told, upload: &Upload) -> bool {
    if told.status != 0 {
        return false;
    }
    match fault {
        Fault::Unsent => upload.replay.is_some(),
        Fault::NoAnswer => upload.replay.is_some() && upload.is_repeatable,
        _ => false,
    }
}
