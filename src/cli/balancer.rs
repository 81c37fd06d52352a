//! Options of `balancer`: each is a key of its configuration file, with `-` for `_`.
//!
//! They are made from the balancer's own table of keys, so that file, options and manual cannot drift apart. Values
//! stay as they were typed: the balancer reads and checks them by the rules of its file.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use openhim_balancer::config::keys::{KEYS, Key, Scope};

/// `balancer` and its own commands.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BalancerArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BalancerCommand>,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// Commands below `balancer`.
#[derive(Debug, Subcommand)]
pub(crate) enum BalancerCommand {
    /// Talk to a running balancer: ipvsadm's letters and plain words
    Ctl(CtlArgs),
    /// Tell what stands in the way: listeners, backends, limits, the kernel
    Doctor(ServeArgs),
}

/// Options of `balancer ctl`.
#[derive(Args, Debug)]
pub(crate) struct CtlArgs {
    /// Control socket of the balancer [default: /run/openhim/balancer.sock, else the user's state folder]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// For example `-L -n`, `drain 10.0.0.2:5000`, `-S`
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true
    )]
    pub(crate) command: Vec<String>,
}

/// What a balancer serves: one service by options, or any number by file.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServeArgs {
    /// Configuration file; options win over its top level.
    pub(crate) config: Option<PathBuf>,
    /// Long names without the dashes, in the order of the table.
    pub(crate) options: Vec<(&'static str, String)>,
}

/// Keys that are options too; several services need a file.
fn option_keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| key.name != "services")
}

fn option(key: &'static Key) -> Arg {
    let long = key.name.replace('_', "-");
    let default = if key.default.is_empty() {
        String::new()
    } else {
        format!(" [default: {}]", key.default)
    };
    let arg = Arg::new(key.name)
        .long(long)
        .value_name(key.value)
        .help(format!("{}{default}", sentence(key.help)))
        .action(ArgAction::Append);
    let arg = match key.scope {
        Scope::Process => arg,
        Scope::Service => arg.help_heading("Service"),
    };
    if key.value == "true|false" {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        arg
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file with any number of services; options win over its top level");
        command.arg(config).args(option_keys().map(option))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<PathBuf>("config").cloned();
        self.options = option_keys()
            .flat_map(|key| {
                let values = matches.get_many::<String>(key.name).into_iter().flatten();
                values.map(|value| (key.name, value.clone()))
            })
            .collect();
        Ok(())
    }
}
