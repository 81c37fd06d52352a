//! Records and pure rules with OpenHIM's names on the wire; no I/O, no async.
