//! The command line: what can be typed, and what upstream's users are used to type.

mod balancer;
mod upstream;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use openhim_node::config::Flag;

pub(crate) use balancer::{BalancerArgs, BalancerCommand, CtlArgs, ServeArgs};

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
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Without a command, `openhim-core [OPTIONS]` is `openhim-core node [OPTIONS]`.\n\
                  Exit codes: 0 done, 1 failed while running, 2 bad command line, 64 bad configuration."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Print the version of OpenHIM that this is compatible with, and its own
    #[arg(short = 'v', long, visible_short_alias = 'V')]
    pub(crate) version: bool,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the mediator: router, management API, jobs
    Node(NodeArgs),
    /// Run the load balancer, or talk to a running one
    Balancer(BalancerArgs),
    /// Check a settings file: every problem with its place, or the effective values with their origins
    CheckConfig(CheckConfigArgs),
    /// Copy an OpenHIM's documents into another database, check the copy, and bring old documents up to date
    ///
    /// May be interrupted anywhere and run again: it goes on where it stopped. While the old core still runs, a later run
    /// brings what is new; run it a last time when that core has stopped. The source is only read.
    Migrate(MigrateArgs),
    /// Copy the embedded store into a file, also while a node works on it
    Backup(BackupArgs),
    /// Put a backup in the place of the embedded store; no node may be working on it
    Restore(RestoreArgs),
    /// Write channels, clients, mediators, users and keys as JSON, as `GET /metadata` answers them
    Export(ExportArgs),
    /// Bring exported channels, clients, mediators, users and keys into a store; what is the same already stays
    ///
    /// A node that works on the store follows within `caching.refreshMillis`.
    Import(ImportArgs),
    /// Run two nodes, a balancer and an example mediator on this machine, and send traffic
    Demo(DemoArgs),
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

/// Options of `node`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct NodeArgs {
    /// Instances that share the ports: a number, or `auto` for one for each processor
    #[arg(long, value_name = "N|auto", num_args = 0..=1, default_missing_value = "true", allow_negative_numbers = true)]
    pub(crate) cluster: Option<String>,
    /// Settings file, JSON or YAML, with the keys of OpenHIM's config/default.json
    #[arg(long, value_name = "FILE")]
    pub(crate) conf: Option<PathBuf>,
    /// Override one setting: `--set router.httpPort=5001`; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<Flag>,
}

/// Options of `check-config`.
#[derive(Args, Debug)]
pub(crate) struct CheckConfigArgs {
    /// Which program the file is for
    pub(crate) program: Program,
    /// The file; environment variables are taken into account as at a start
    pub(crate) file: PathBuf,
}

/// Options of `migrate`.
#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    /// Where the documents are: `mongodb://host/openhim` or `sqlite://PATH`
    #[arg(long, value_name = "URL")]
    pub(crate) from: String,
    /// Where the audits are, if `mongo.atnaUrl` names another database
    #[arg(long, value_name = "URL")]
    pub(crate) from_atna: Option<String>,
    /// Where they go: `sqlite://PATH` or `mongodb://host/name`
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,
    /// Put the copy in the place of whatever the target holds
    #[arg(long, conflicts_with = "check")]
    pub(crate) force: bool,
    /// Write nothing: count and digest both sides, and say where they differ
    #[arg(long)]
    pub(crate) check: bool,
}

/// Which store a command works on.
#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// The store; without it the one that the settings name
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Settings file of the node
    #[arg(long, value_name = "FILE")]
    pub(crate) conf: Option<PathBuf>,
}

/// Options of `backup`.
#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// The file to write
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

/// Options of `restore`.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The backup
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Replace the store if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

/// Options of `export`.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The file to write, readable by its owner only, as it holds keys; without it standard output
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Options of `import`.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The export; `-` is standard input
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Write nothing: show what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The two jobs of the binary.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Program {
    Node,
    Balancer,
}

/// Options of `demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// End after the first round of traffic; exit code 0 only if all of it was delivered and recorded
    #[arg(long)]
    pub(crate) exit: bool,
}

/// Reads the arguments, the program's name first.
///
/// # Errors
/// What clap refuses, a `--cluster` that is no number of instances, and requests for help or version.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, Failure> {
    let arguments = upstream::translate(arguments.collect());
    let matches = command().try_get_matches_from(arguments).map_err(Failure::Arguments)?;
    Cli::from_arg_matches(&matches).map_err(Failure::Arguments)
}

/// The whole command line, for completions and manual pages too.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

fn setting(text: &str) -> Result<Flag, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(Flag {
            key: key.to_owned(),
            value: value.to_owned(),
            typed: format!("--set {key}"),
        }),
        _ => Err("expected KEY=VALUE, such as router.httpPort=5001".to_owned()),
    }
}
