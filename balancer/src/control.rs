//! The one task that may change anything: plan in, difference, snapshot out.
