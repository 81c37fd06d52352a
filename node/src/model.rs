//! Records and pure rules with OpenHIM's names on the wire; no I/O, no async.
//!
//! Two ways to look at a stored document live here. The typed readers ([`channel`], [`client`], [`role`], …) are what
//! code decides by: lenient, because documents come from OpenHIM, from consoles and from scripts. The tables of
//! [`schema`] are what the management API casts, validates, updates and prints by, as OpenHIM's own schemas did.

pub mod body_budget;
pub mod channel;
pub mod client;
pub mod contact_group;
pub mod date;
mod fields;
pub mod id;
pub mod json;
pub mod keystore;
pub mod number;
pub mod passport;
pub mod patch;
pub mod raw;
pub mod role;
pub mod schema;
pub mod secret;
pub mod text;
pub mod transaction;
pub mod transaction_query;
pub mod user;
