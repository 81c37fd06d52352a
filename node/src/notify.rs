//! Tells people: mail by SMTP.
//!
//! Jobs and the API hand over a message and learn whether it was taken; when and to whom is theirs to decide.

pub mod email;
