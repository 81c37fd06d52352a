//! The router over HTTP: requests in, backends behind, and what is recorded.

mod auth;
mod bodies;
mod encodings;
mod hostile;
mod life;
mod mediators;
mod outcome;
mod rules;
mod tokens;
mod trouble;
