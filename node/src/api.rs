//! The management API: every route on two screens.
