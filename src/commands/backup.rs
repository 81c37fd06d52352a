//! `backup` and `restore`: the embedded store as a file of its own, and back.

use openhim_node::app::moving::{self, BackupError, Copied};

use super::progress::Progress;
use crate::cli::{BackupArgs, RestoreArgs};
use crate::failure::Failure;

/// Copies the store into a file.
///
/// # Errors
/// There is no such store, the file exists, or the copy is not whole.
pub(super) fn run(args: &BackupArgs) -> Result<(), Failure> {
    let store = super::store_of(&args.store)?;
    let copied = shown("copying", |watch| moving::backup(&store, &args.file, args.force, watch))?;
    told(copied, &format!("were copied from {store} to {}", args.file.display()))
}

/// Puts a file in the place of the store.
///
/// # Errors
/// The file is no backup or damaged, the store exists or is in use.
pub(super) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let store = super::store_of(&args.store)?;
    let copied = shown("restoring", |watch| {
        moving::restore(&args.file, &store, args.force, watch)
    })?;
    told(copied, &format!("were put from {} into {store}", args.file.display()))
}

fn shown(
    what: &'static str,
    work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<Copied, BackupError>,
) -> Result<Copied, Failure> {
    let progress = Progress::new("pages");
    let mut last = None;
    let outcome = work(&mut |done, all| {
        let before = last.replace(done);
        if before.is_none() {
            progress.begin(what, all);
        }
        progress.advance(done.saturating_sub(before.unwrap_or(0)));
    });
    progress.end();
    outcome.map_err(|error| {
        let is_refusal = error.is_refusal();
        let error = anyhow::Error::new(error);
        if is_refusal {
            Failure::Configuration(format!("{error:#}"))
        } else {
            Failure::Running(error)
        }
    })
}

fn told(copied: Copied, how: &str) -> Result<(), Failure> {
    let Copied { documents, bytes } = copied;
    let size = indicatif::HumanBytes(bytes);
    super::print(format!("{documents} documents ({size}) {how}; every page was checked\n").as_bytes())
}
