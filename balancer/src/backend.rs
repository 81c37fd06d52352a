//! A backend's identity and limits, and the state that outlives snapshots.
