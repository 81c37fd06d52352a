//! How a long piece of work is shown: a bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines where there is no terminal.
const PAUSE: Duration = Duration::from_secs(10);

/// A bar or lines on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    /// None on a terminal.
    lines: Option<Mutex<Lines>>,
    unit: &'static str,
}

#[derive(Debug)]
struct Lines {
    next: Instant,
    what: String,
}

impl Progress {
    /// For work that is counted in `unit`: `documents`, `pages`.
    pub(super) fn new(unit: &'static str) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            Some(0),
            if is_terminal {
                ProgressDrawTarget::stderr()
            } else {
                ProgressDrawTarget::hidden()
            },
        );
        let template =
            format!("{{prefix:>12}} {{bar:30}} {{human_pos}} of {{human_len}} {unit}, {{eta}} left  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        let lines = (!is_terminal).then(|| {
            Mutex::new(Lines {
                next: Instant::now() + PAUSE,
                what: String::new(),
            })
        });
        Self { bar, lines, unit }
    }

    /// A new part of the work begins.
    pub(super) fn begin(&self, what: &'static str, total: u64) {
        self.bar.reset();
        self.bar.set_length(total);
        self.bar.set_prefix(what);
        self.bar.set_message("");
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            what.clone_into(&mut lines.what);
            lines.next = Instant::now() + PAUSE;
            say(&format!("{what}: {total} {}", self.unit));
        }
    }

    /// Which piece it is about now.
    pub(super) fn piece(&self, name: &'static str) {
        self.bar.set_message(name);
    }

    /// So much more is done.
    pub(super) fn advance(&self, by: u64) {
        self.bar.inc(by);
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() >= lines.next {
                lines.next = Instant::now() + PAUSE;
                let (done, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
                say(&format!("{}: {done} of {total} {}", lines.what, self.unit));
            }
        }
    }

    /// A sentence among the progress.
    pub(super) fn note(&self, sentence: &str) {
        self.bar.suspend(|| say(sentence));
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn say(line: &str) {
    // Nobody reads it: nothing is lost.
    let _ = writeln!(io::stderr().lock(), "{line}");
}
