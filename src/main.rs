//! `openhim-core`: one binary with two jobs, `node` (the mediator) and `balancer` (in front of several nodes).
//!
//! Nothing here but parse, dispatch and the exit code; what is worth testing lives in the two crates.

mod cli;
mod commands;
mod failure;
mod lifecycle;
mod telemetry;

use std::process::ExitCode;

use failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = cli::parse(std::env::args_os()).and_then(commands::run);
    outcome.map_or_else(Failure::report, |()| ExitCode::SUCCESS)
}
