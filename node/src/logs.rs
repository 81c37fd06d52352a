//! The `tracing` layer behind the `logs` collection.
