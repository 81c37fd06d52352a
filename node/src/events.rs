//! What the visualizer sees, derived from a transaction.
