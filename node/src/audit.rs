//! Audit records of the node's own doings.
