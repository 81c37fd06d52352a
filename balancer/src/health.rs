//! Who is alive: thresholds as a pure machine, probes as tasks.
