//! Accept loops, connection permits, socket options.
