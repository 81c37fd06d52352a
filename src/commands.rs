//! One file for each subcommand: load settings, build, run.

mod backup;
mod balancer;
mod check_config;
mod completions;
mod demo;
mod man;
mod metadata;
mod migrate;
mod node;
mod progress;

use std::io::{self, Write};

use openhim_node::app::moving;
use openhim_node::config::{self, Sources};

use crate::cli::{self, Cli, Command, StoreArgs};
use crate::failure::Failure;

/// Does what the command line asks for.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    if cli.version {
        return print(cli::VERSION.as_bytes());
    }
    match cli.command {
        None => node::run(&cli.node),
        Some(Command::Node(args)) => node::run(&args),
        Some(Command::CheckConfig(args)) => check_config::run(&args),
        Some(Command::Migrate(args)) => migrate::run(&args),
        Some(Command::Backup(args)) => backup::run(&args),
        Some(Command::Restore(args)) => backup::restore(&args),
        Some(Command::Export(args)) => metadata::export(&args),
        Some(Command::Import(args)) => metadata::import(&args),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Balancer(args)) => balancer::run(&args),
        Some(Command::Completions { shell }) => completions::run(shell),
        Some(Command::Man { folder }) => man::run(folder.as_deref()),
    }
}

/// The connection string of the store that a command is to work on.
fn store_of(args: &StoreArgs) -> Result<String, Failure> {
    if let Some(url) = &args.store {
        return Ok(url.clone());
    }
    let sources = Sources {
        file: args.conf.clone(),
        environment: node::environment(),
        flags: Vec::new(),
    };
    match config::load(&sources) {
        Ok(loaded) => Ok(moving::store_url(&loaded.config).to_owned()),
        Err(refused) => Err(Failure::Configuration(refused.to_string())),
    }
}

/// Writes what was asked for; a reader that went away early (`| head`) is no failure.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(anyhow::Error::new(error)
            .context("cannot write to standard output")
            .into()),
        _ => Ok(()),
    }
}
