//! How a command ends that did not succeed: one exit code, one message for the operator.

use std::io::{self, Write};
use std::process::ExitCode;

/// Why a command ended early, by whom it concerns.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What clap has to say: an error, or help and version, which are none.
    Arguments(clap::Error),
    /// Options that were understood and make no sense.
    CommandLine(String),
    /// Settings, files or the machine's state do not allow a start. Nothing was bound, nothing was written.
    Configuration(String),
    /// It started, and then failed.
    Running(anyhow::Error),
}

impl Failure {
    /// Tells the operator, and the caller by the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let (code, text) = match self {
            Self::Arguments(error) => {
                // Help for a closed pipe is help for nobody.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            }
            Self::CommandLine(text) => (2, text),
            Self::Configuration(text) => (64, text),
            Self::Running(error) => (1, format!("{error:#}")),
        };
        let mut stderr = io::stderr().lock();
        for line in text.lines() {
            let _ = writeln!(stderr, "openhim-core: {line}");
        }
        ExitCode::from(code)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Running(error)
    }
}
