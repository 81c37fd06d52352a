//! Carries an admitted message to its routes and brings the answer back.

pub mod encoding;
pub mod response;
