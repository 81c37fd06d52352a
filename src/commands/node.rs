//! `node`: the mediator.

use std::env;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use openhim_node::app::{Node, Shutdown, StartError};
use openhim_node::config::{self, Cluster, Flag, Loaded, Sources};
use tokio::runtime;
use tracing::{info, warn};

use crate::cli::NodeArgs;
use crate::failure::Failure;
use crate::lifecycle::{self, Lifecycle, Service, Start};
use crate::telemetry::{Format, Telemetry};

/// The node itself gives messages under way their time; this is how much longer the process waits for it.
const BEYOND_GRACE: Duration = Duration::from_secs(70);

/// Runs until a signal ends it.
///
/// # Errors
/// Settings that cannot be used, a store or a port that cannot be had.
pub(super) fn run(args: &NodeArgs) -> Result<(), Failure> {
    lifecycle::follow_parent();
    let loaded = settings(args)?;
    let telemetry = Telemetry::start(Format::OpenHim, &loaded.config.logger.level);
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    info!(
        "Running OpenHIM Core version 8.5.0 (openhim-core {})",
        env!("CARGO_PKG_VERSION")
    );
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(serve(loaded, args.clone(), telemetry))
}

async fn serve(loaded: Loaded, args: NodeArgs, telemetry: Telemetry) -> Result<(), Failure> {
    let mut lifecycle = Lifecycle::new().context("cannot take over the process's signals")?;
    let shutdown = Shutdown {
        soft: lifecycle.soft.clone(),
        hard: lifecycle.hard.clone(),
    };
    match lifecycle.start(Node::start(Arc::new(loaded.config), shutdown)).await {
        Start::Up(Ok(node)) => {
            let mediator = Mediator { node, args, telemetry };
            Ok(lifecycle.supervise(mediator, BEYOND_GRACE).await?)
        }
        Start::Up(Err(error)) => Err(failure(error)),
        Start::Interrupted => Ok(()),
    }
}

/// Nothing was bound and nothing was written, unless an instance failed after that.
fn failure(error: StartError) -> Failure {
    match error {
        StartError::Instance(_) => Failure::Running(error.into()),
        StartError::Bind(_) => Failure::Configuration(format!(
            "{:#}; `ss -ltnp` shows who listens where, and `check-config node FILE` where the port is set",
            anyhow::Error::new(error)
        )),
        other => Failure::Configuration(format!("{:#}", anyhow::Error::new(other))),
    }
}

#[derive(Clone)]
struct Mediator {
    node: Node,
    args: NodeArgs,
    telemetry: Telemetry,
}

impl Service for Mediator {
    /// Renews the instances. Of the settings, the log level is taken up; all others are for a new process.
    async fn reload(&self) {
        match settings(&self.args) {
            Ok(loaded) => self.telemetry.set_level(&loaded.config.logger.level),
            Err(_) => warn!("The settings have problems now, which `check-config` shows; the log level stays"),
        }
        self.node.restart().await;
    }

    async fn upgrade(&self) -> Option<u32> {
        warn!("SIGUSR2 is for the balancer; a node is renewed by a restart of its process, one node at a time");
        None
    }

    async fn wait(&self) -> anyhow::Result<()> {
        self.node.stopped().await;
        Ok(())
    }
}

/// Every variable that is text; others cannot be settings.
pub(super) fn environment() -> Vec<(String, String)> {
    let as_text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    let mut variables: Vec<_> = env::vars_os().filter_map(as_text).collect();
    variables.sort();
    variables
}

fn settings(args: &NodeArgs) -> Result<Loaded, Failure> {
    let mut flags = args.settings.clone();
    if let Some(cluster) = &args.cluster {
        Cluster::parse(cluster).map_err(Failure::CommandLine)?;
        flags.push(Flag {
            key: "cluster".to_owned(),
            value: cluster.clone(),
            typed: "--cluster".to_owned(),
        });
    }
    let sources = Sources {
        file: args.conf.clone(),
        environment: environment(),
        flags,
    };
    config::load(&sources).map_err(|refused| Failure::Configuration(refused.to_string()))
}
