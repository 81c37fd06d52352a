//! `balancer ctl`: carries words to a running balancer, and its answer back.

use std::io::{self, Read};

use anyhow::Context;

use crate::cli::CtlArgs;
use crate::failure::Failure;

/// Prints the answer.
///
/// # Errors
/// Nobody answers, or the answer is that nothing was done; exit code 1.
pub(super) fn run(args: &CtlArgs) -> Result<(), Failure> {
    let mut input = String::new();
    if openhim_balancer::reads_input(&args.command) {
        io::stdin()
            .read_to_string(&mut input)
            .context("cannot read the rules from standard input")?;
    }
    let answer = openhim_balancer::call(args.socket.as_deref(), &args.command, &input).map_err(anyhow::Error::new)?;
    if answer.is_ok {
        crate::commands::print(answer.text.as_bytes())
    } else {
        Err(Failure::Running(anyhow::anyhow!(answer.text.trim_end().to_owned())))
    }
}
