//! Moving an OpenHIM to another database and back, with a real MongoDB as OpenHIM 5 to 8 leave it.

mod backup;
mod metadata;
mod migrate;
mod old;
