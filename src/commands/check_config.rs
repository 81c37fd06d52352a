//! `check-config node|balancer FILE`.

use std::fmt::{Display, Write};
use std::path::Path;

use anyhow::Context;
use openhim_balancer::config::Config as BalancerConfig;
use openhim_balancer::plan::{Plan, Service};
use openhim_node::config::{self, Loaded, Refused, Sources};

use tokio::runtime::Builder;

use crate::cli::{CheckConfigArgs, Program};
use crate::failure::Failure;

/// Prints effective values and their origins.
///
/// # Errors
/// Every problem of the file, with its place; exit code 1.
pub(super) fn run(args: &CheckConfigArgs) -> Result<(), Failure> {
    match args.program {
        Program::Node => node(&args.file),
        Program::Balancer => balancer(&args.file),
    }
}

fn node(file: &Path) -> Result<(), Failure> {
    let sources = Sources {
        file: Some(file.to_owned()),
        environment: super::node::environment(),
        flags: Vec::new(),
    };
    match config::load(&sources) {
        Ok(loaded) => super::print(table(&loaded).as_bytes()),
        Err(refused) => Err(Failure::Running(anyhow::Error::msg(problems(&refused)))),
    }
}

fn balancer(file: &Path) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    // As a start would: with the files it names, and its names resolved.
    let checked = BalancerConfig::from_file(file);
    let checked = checked.and_then(|config| runtime.block_on(openhim_balancer::control::sources::examine(config)));
    match checked {
        Ok(checked) => super::print((warnings(checked.warnings.iter()) + &services(&checked.plan)).as_bytes()),
        Err(refused) => Err(Failure::Running(anyhow::Error::msg(format!(
            "{refused}\n{}",
            count(refused.0.len())
        )))),
    }
}

fn services(plan: &Plan) -> String {
    plan.services.iter().fold(String::new(), |mut text, service| {
        let listen: Vec<String> = service.listen.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "{}: listens on {}, sends to {}",
            service.name,
            listen.join(", "),
            backends(service)
        );
        text
    })
}

fn backends(service: &Service) -> String {
    let named = service.backends.iter().map(|backend| backend.endpoint.to_string());
    let file = service
        .backends_file
        .iter()
        .map(|file| format!("what {} lists", file.display()));
    named.chain(file).collect::<Vec<_>>().join(", ")
}

fn table(loaded: &Loaded) -> String {
    let widest = |length: fn(&config::Setting) -> usize, ceiling: usize| {
        loaded.settings.iter().map(length).max().unwrap_or(0).min(ceiling)
    };
    let keys = widest(|setting| setting.key.len(), 50);
    let values = widest(|setting| setting.value.len(), 50);
    let mut text = warnings(&loaded.warnings);
    for setting in &loaded.settings {
        let _ = writeln!(
            text,
            "{:keys$}  {:values$}  {}",
            setting.key, setting.value, setting.origin
        );
    }
    text
}

fn problems(refused: &Refused) -> String {
    format!(
        "{}{refused}\n{}",
        warnings(&refused.warnings),
        count(refused.problems.len())
    )
}

fn count(problems: usize) -> String {
    format!("{problems} {}", if problems == 1 { "problem" } else { "problems" })
}

fn warnings<T: Display>(warnings: impl IntoIterator<Item = T>) -> String {
    warnings.into_iter().fold(String::new(), |mut text, warning| {
        let _ = writeln!(text, "warning: {warning}");
        text
    })
}
