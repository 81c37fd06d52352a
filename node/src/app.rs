//! Composition root: the only file that names a concrete store; builds everything and starts it in order.
