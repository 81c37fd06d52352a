//! `man [DIR]`: the manual, generated from the command line's own descriptions.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::cli;
use crate::failure::Failure;

/// Prints one page about everything, or writes a page for each command into `folder`.
pub(super) fn run(folder: Option<&Path>) -> Result<(), Failure> {
    match folder {
        Some(folder) => Ok(write_pages(folder)?),
        None => super::print(&whole_manual()?),
    }
}

fn write_pages(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    clap_mangen::generate_to(cli::command(), folder)
        .with_context(|| format!("cannot write manual pages to {}", folder.display()))
}

/// The top page, with the options of every command after it.
fn whole_manual() -> anyhow::Result<Vec<u8>> {
    let mut command = cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    render_options(&command, &mut page)?;
    Ok(page)
}

fn render_options(command: &clap::Command, page: &mut Vec<u8>) -> anyhow::Result<()> {
    for inner in command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help" && !inner.is_hide_set())
    {
        let name = inner.get_bin_name().unwrap_or(inner.get_name());
        page.extend_from_slice(format!(".SH \"{}\"\n", name.to_uppercase()).as_bytes());
        let man = clap_mangen::Man::new(inner.clone());
        man.render_synopsis_section(page)?;
        man.render_description_section(page)?;
        man.render_options_section(page)?;
        render_options(inner, page)?;
    }
    Ok(())
}
