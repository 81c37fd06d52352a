//! `migrate`: an installation's documents move to another database.

use std::fmt::Write;

use anyhow::{Context, anyhow};
use openhim_node::app::moving::{self, Migrated, Migration, MigrationError};
use openhim_node::moving::{Checked, Phase, Report, Watch};
use tokio::runtime;

use super::progress::Progress;
use crate::cli::MigrateArgs;
use crate::failure::Failure;

/// Copies, checks, upgrades; then says what there is.
///
/// # Errors
/// A database that cannot be used, a target that is somebody else's, a copy that is not equal in the end.
pub(super) fn run(args: &MigrateArgs) -> Result<(), Failure> {
    let migration = Migration {
        from: args.from.clone(),
        from_atna: args.from_atna.clone(),
        to: args.to.clone(),
        overwrite: args.force,
        only_check: args.check,
    };
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let watch = Shown(Progress::new("documents"));
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = moving::migrate(&migration, &watch) => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    watch.0.end();
    match outcome {
        Some(Ok(migrated)) => conclude(&migrated, args.check),
        Some(Err(error)) => Err(failure(error)),
        None => Err(anyhow!("interrupted; the same command goes on where this one stopped").into()),
    }
}

fn failure(error: MigrationError) -> Failure {
    if error.is_refusal() {
        return Failure::Configuration(format!("{:#}", anyhow::Error::new(error)));
    }
    let error = anyhow::Error::new(error);
    Failure::Running(anyhow!(
        "{error:#}\nnothing is lost: the same command goes on where this one stopped"
    ))
}

fn conclude(migrated: &Migrated, only_check: bool) -> Result<(), Failure> {
    let report = &migrated.report;
    super::print((table(report) + &summary(migrated, only_check)).as_bytes())?;
    if report.is_complete() {
        return Ok(());
    }
    let mut told = String::new();
    for checked in report.checked.iter().filter(|checked| !checked.is_same()) {
        let (name, source, target) = (
            checked.collection.name(),
            checked.source.documents,
            checked.target.documents,
        );
        let _ = writeln!(
            told,
            "{name} differs: {source} documents in the source, {target} in the target"
        );
    }
    for trouble in &report.troubles {
        let _ = writeln!(told, "{trouble}");
    }
    told.push_str(if only_check {
        "the two are not the same"
    } else {
        "the copy is not complete: stop whatever still writes to the source, and run the same command again"
    });
    Err(anyhow!(told).into())
}

fn table(report: &Report) -> String {
    let mut table = format!("{:<16} {:>12}  {}\n", "collection", "documents", "digest");
    for Checked {
        collection,
        source,
        target,
    } in &report.checked
    {
        let (name, count) = (collection.name(), source.documents);
        let _ = writeln!(table, "{name:<16} {count:>12}  {source}");
        if source != target {
            let _ = writeln!(table, "{:<16} {:>12}  {target}", "  in the target", target.documents);
        }
    }
    table
}

fn summary(migrated: &Migrated, only_check: bool) -> String {
    let report = &migrated.report;
    let mut text = String::new();
    if !only_check {
        let _ = writeln!(
            text,
            "{} documents inserted, {} replaced, {} removed",
            report.inserted, report.replaced, report.removed
        );
    }
    for (name, documents) in &migrated.left {
        let _ = writeln!(
            text,
            "{name} is no collection of OpenHIM; its {documents} documents stay where they are"
        );
    }
    if report.is_complete() {
        let all: u64 = report.checked.iter().map(|checked| checked.source.documents).sum();
        let _ = writeln!(text, "all {all} documents are the same on both sides");
    }
    if migrated.upgraded > 0 {
        let _ = writeln!(text, "{} upgrade steps were done on the copy", migrated.upgraded);
    }
    text
}

struct Shown(Progress);

impl Watch for Shown {
    fn begin(&self, phase: Phase, documents: u64) {
        let what = match phase {
            Phase::Copying => "copying",
            Phase::Comparing => "comparing",
            Phase::Checking => "checking",
        };
        self.0.begin(what, documents);
    }

    fn collection(&self, name: &'static str) {
        self.0.piece(name);
    }

    fn advance(&self, documents: u64) {
        self.0.advance(documents);
    }

    fn note(&self, sentence: &str) {
        self.0.note(sentence);
    }
}
