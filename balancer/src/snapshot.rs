//! What the data path reads: immutable tables behind an atomic pointer.
