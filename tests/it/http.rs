//! The router over HTTP: requests in, backends behind, and what is recorded.

mod auth;
mod bodies;
mod life;
mod outcome;
mod rules;
mod trouble;
