//! What a filter, an update, a sort order and a projection mean: MongoDB's documents over BSON, in memory.
//!
//! Each is compiled once and applied many times. Filters, orders and projections read stored bytes in place, so that a
//! scan does not decode what it passes by. What is not understood (`$where`, `$expr`, `$text`, …) is refused when it is
//! compiled, never ignored. Nothing here does I/O.

mod compare;
mod filter;
mod path;
mod pattern;
mod projection;
mod sort;
mod sums;
mod update;

pub use compare::compare;
pub use filter::Filter;
pub(in crate::store) use filter::{Node, Op, Test};
pub(in crate::store) use path::Path;
pub(in crate::store) use pattern::Pattern;
pub use projection::Projection;
pub(in crate::store) use sort::Direction;
pub use sort::SortOrder;
pub use sums::Sums;
pub(in crate::store) use sums::Tally;
pub use update::{Moment, Update};
pub(in crate::store) use update::{asked_id, replacement, splice, with_id};

#[cfg(test)]
pub(in crate::store) mod tests;

use super::StoreError;

/// A query that makes no sense, in words for the caller.
fn bad(text: impl Into<String>) -> StoreError {
    StoreError::BadQuery(text.into())
}
