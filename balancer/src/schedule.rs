//! Which backend: pure pickers, no clock, no I/O, chance passed in.
