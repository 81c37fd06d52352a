//! `balancer`: the load balancer, its control and its doctor.

mod ctl;
mod doctor;

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use openhim_balancer::config::{Place, Problems};
use openhim_balancer::plan::{LogFormat, Plan};
use openhim_balancer::{Balancer, Config, Shutdown, StartError};
use tokio::runtime;
use tracing::error;

use crate::cli::{BalancerArgs, BalancerCommand, ServeArgs};
use crate::failure::Failure;
use crate::lifecycle::{self, Lifecycle, Service, Start};
use crate::telemetry::{Format, Telemetry};

/// The balancer itself ends connections when their time to drain is over; this is how much longer the process waits.
const BEYOND_DRAIN: Duration = Duration::from_secs(5);

/// Serves until a signal ends it, talks to one that serves, or looks for what stands in the way.
pub(super) fn run(args: &BalancerArgs) -> Result<(), Failure> {
    match &args.command {
        None => serve(&args.serve),
        Some(BalancerCommand::Ctl(args)) => ctl::run(args),
        Some(BalancerCommand::Doctor(serve)) => doctor::run(&checked(serve)?.1),
    }
}

fn serve(args: &ServeArgs) -> Result<(), Failure> {
    lifecycle::follow_parent();
    let (config, plan) = checked(args)?;
    let format = match plan.process.log {
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text,
        LogFormat::Auto | LogFormat::Off | LogFormat::Combined | LogFormat::Haproxy => Format::by_terminal(),
    };
    let _telemetry = Telemetry::start(format, "info");
    let drain = plan
        .services
        .iter()
        .map(|service| service.timeouts.drain)
        .max()
        .unwrap_or_default();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(run_until_stopped(config, drain + BEYOND_DRAIN))
}

async fn run_until_stopped(config: Config, grace: Duration) -> Result<(), Failure> {
    let mut lifecycle = Lifecycle::new().context("cannot take over the process's signals")?;
    let program = env::current_exe()
        .context("cannot tell where this program lies")?
        .into();
    let shutdown = Shutdown {
        soft: lifecycle.soft.clone(),
        hard: lifecycle.hard.clone(),
    };
    let starting = async {
        let balancer = Balancer::start(config, shutdown).await?;
        balancer.ready().await;
        Ok(balancer)
    };
    match lifecycle.start(starting).await {
        Start::Up(Ok(balancer)) => {
            let balancer = Arc::new(balancer);
            Ok(lifecycle.supervise(Running { balancer, program }, grace).await?)
        }
        Start::Up(Err(error)) => Err(failure(error)),
        Start::Interrupted => Ok(()),
    }
}

/// The configuration and what it comes to. Its warnings are told when it is taken up.
fn checked(args: &ServeArgs) -> Result<(Config, Plan), Failure> {
    let options = args
        .options
        .iter()
        .map(|(name, value)| (name.replace('_', "-"), value.as_str()));
    let config = match &args.config {
        Some(file) => Config::from_file(file)
            .map_err(|problems| refused(&problems))?
            .with_options(options),
        None => Config::from_options(options),
    };
    let plan = config.check().map_err(|problems| refused(&problems))?.plan;
    Ok((config, plan))
}

/// What a file has is the configuration's fault, everything else the command line's.
fn refused(problems: &Problems) -> Failure {
    let is_in_a_file = problems
        .iter()
        .any(|problem| matches!(problem.place, Place::File { .. }));
    let text = problems.to_string();
    if is_in_a_file {
        Failure::Configuration(text)
    } else {
        Failure::CommandLine(text)
    }
}

fn failure(error: StartError) -> Failure {
    match error {
        StartError::Config(problems) => refused(&problems),
        StartError::System(_) => Failure::Running(error.into()),
        StartError::Bind(_) | StartError::Admin(_) | StartError::Metrics { .. } => {
            Failure::Configuration(format!("{:#}", anyhow::Error::new(error)))
        }
    }
}

#[derive(Clone)]
struct Running {
    balancer: Arc<Balancer>,
    /// Where the program was when it started: by the time of an upgrade another one lies there.
    program: Arc<Path>,
}

impl Running {
    /// The command line of this process, for whatever program lies in its place now.
    fn successor(&self) -> Command {
        let mut command = Command::new(&*self.program);
        command.args(env::args_os().skip(1));
        // Both name this very process: the new one has another parent, and pings the service manager itself.
        command
            .env_remove(lifecycle::PARENT_VARIABLE)
            .env_remove("WATCHDOG_PID");
        command
    }
}

impl Service for Running {
    async fn reload(&self) {
        if let Err(problems) = self.balancer.reload().await {
            for problem in problems.iter() {
                error!("Nothing was changed: {problem}");
            }
        }
    }

    async fn upgrade(&self) -> Option<u32> {
        match self.balancer.upgrade(self.successor()).await {
            Ok(id) => Some(id),
            Err(failed) => {
                error!("Nothing was changed: {:#}", anyhow::Error::new(failed));
                None
            }
        }
    }

    async fn wait(&self) -> anyhow::Result<()> {
        self.balancer.wait().await;
        Ok(())
    }
}
