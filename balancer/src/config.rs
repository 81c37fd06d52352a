//! The file as written; the field docs are the manual.
