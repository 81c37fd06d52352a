//! The command line: what can be typed.

mod balancer;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub(crate) use balancer::{BalancerArgs, BalancerCommand, ServeArgs};

use crate::failure::Failure;

/// Printed by `--version`: the first line is what OpenHIM's own command prints.
pub(crate) const VERSION: &str = concat!(
    "OpenHIM Core version 8.5.0\nopenhim-core ",
    env!("CARGO_PKG_VERSION"),
    "\n"
);

/// OpenHIM-compatible mediator and the load balancer in front of it.
#[derive(Debug, Parser)]
#[command(
    name = "openhim-core",
    version,
    disable_version_flag = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed while running, 2 bad command line, 64 bad configuration."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Print the version of OpenHIM that this is compatible with, and its own
    #[arg(short = 'v', long, visible_short_alias = 'V')]
    pub(crate) version: bool,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the load balancer
    Balancer(BalancerArgs),
    /// Check a settings file: every problem with its place, or the effective values with their origins
    CheckConfig(CheckConfigArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one per command into a folder
    Man {
        /// The folder; made when it is missing
        folder: Option<PathBuf>,
    },
}

/// Options of `check-config`.
#[derive(Args, Debug)]
pub(crate) struct CheckConfigArgs {
    /// Which program the file is for
    pub(crate) program: Program,
    /// The file; environment variables are taken into account as at a start
    pub(crate) file: PathBuf,
}

/// The two jobs of the binary.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Program {
    Node,
    Balancer,
}

/// Reads the arguments, the program's name first.
///
/// # Errors
/// What clap refuses, and requests for help.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, Failure> {
    let matches = command().try_get_matches_from(arguments).map_err(Failure::Arguments)?;
    Cli::from_arg_matches(&matches).map_err(Failure::Arguments)
}

/// The whole command line, for completions and manual pages too.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}
