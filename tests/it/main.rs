//! The one integration binary: the program as its users meet it, with real parts on the other side.

mod balancer;
mod layers;
