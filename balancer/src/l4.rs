//! The life of a TCP connection on one screen.
