//! `completions SHELL`.

use clap_complete::Shell;

use crate::cli;
use crate::failure::Failure;

/// Prints the script.
pub(super) fn run(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "openhim-core", &mut script);
    super::print(&script)
}
