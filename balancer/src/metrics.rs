//! Names as constants; counters and their exposition.
