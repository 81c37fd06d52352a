//! The management API as programs of other people use it.

mod fuzz;
mod mediators;
mod openid;
