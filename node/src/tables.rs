//! Channels, clients, roles and keystore as the hot path reads them: one immutable snapshot behind an atomic pointer.
