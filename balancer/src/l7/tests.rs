//! Raw bytes on both sides of a whole balancer. What counts is the number and content of the requests that the backend
//! reads, by a parser of its own.

mod bodies;
mod frames;
mod peers;
mod refusals;
mod repeats;
mod smuggling;
mod ways;
