//! What the program says while it runs: one tracing subscriber, in the format of the job.
//!
//! A node writes OpenHIM's console lines, which its users' scripts read; a balancer writes text to a terminal and JSON
//! to everything else. The level can be changed while the program runs.

use std::fmt;
use std::io::{self, IsTerminal};

use chrono::DateTime;
use openhim_node::clock::{Clock, SystemClock};
use openhim_node::logs::{self, Line};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `<ISO time> [label] level: message`
    OpenHim,
    Text,
    Json,
}

impl Format {
    /// Text where a person reads along, JSON where a program does.
    pub(crate) fn by_terminal() -> Self {
        if io::stdout().is_terminal() {
            Self::Text
        } else {
            Self::Json
        }
    }
}

/// The running subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    filter: reload::Handle<Targets, Registry>,
}

impl Telemetry {
    /// Starts logging to standard output at OpenHIM's `level`.
    pub(crate) fn start(format: Format, level: &str) -> Self {
        let (filter, handle) = reload::Layer::new(targets(level));
        let lines = tracing_subscriber::fmt::layer().with_ansi(io::stdout().is_terminal());
        let lines = match format {
            Format::OpenHim => lines.event_format(ConsoleLine).boxed(),
            Format::Text => lines.boxed(),
            Format::Json => lines.json().flatten_event(true).boxed(),
        };
        // A subscriber that is there already stays: only tests could have set one.
        let _ = tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .with(Copy.with_filter(targets("debug")))
            .try_init();
        Self { filter: handle }
    }

    /// Changes the level from now on.
    pub(crate) fn set_level(&self, level: &str) {
        if let Err(error) = self.filter.reload(targets(level)) {
            tracing::warn!(%error, "The log level could not be changed");
        }
    }
}

/// Our own lines at the level asked for; of the libraries below, only what an operator can act on.
fn targets(level: &str) -> Targets {
    let level = filter(level);
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("openhim_core", level)
        .with_target("openhim_node", level)
        .with_target("openhim_balancer", level)
}

/// OpenHIM's levels are winston's.
fn filter(level: &str) -> LevelFilter {
    match level {
        "off" | "fatal" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "verbose" | "debug" => LevelFilter::DEBUG,
        "silly" | "trace" => LevelFilter::TRACE,
        _ => LevelFilter::INFO,
    }
}

/// OpenHIM's console format.
struct ConsoleLine;

impl<S, N> FormatEvent<S, N> for ConsoleLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = DateTime::from_timestamp_millis(SystemClock.now()).unwrap_or_default();
        let (level, colour) = level_name(event.metadata().level());
        write!(out, "{} [{}] ", now.format("%Y-%m-%dT%H:%M:%S%.3fZ"), label())?;
        if out.has_ansi_escapes() {
            write!(out, "\x1b[{colour}m{level}\x1b[39m: ")?;
        } else {
            write!(out, "{level}: ")?;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        // Messages are readable alone; what else is known helps when something is wrong or looked into.
        let with_rest = *event.metadata().level() != Level::INFO;
        writeln!(out, "{}", fields.line(with_rest))
    }
}

/// The copy of the log that a node keeps in its store: every level from debug up, whatever is shown.
struct Copy;

impl<S: Subscriber> Layer<S> for Copy {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !logs::is_open() {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        logs::keep(Line {
            at: SystemClock.now(),
            level: level_name(event.metadata().level()).0,
            message: fields.line(false),
            meta: fields.noted,
            label: label(),
        });
    }
}

/// Instances are threads called `worker1`, `worker2`, …; everything else speaks for the whole.
fn label() -> String {
    let thread = std::thread::current();
    let name = thread.name().filter(|name| name.starts_with("worker"));
    name.unwrap_or("master").to_owned()
}

fn level_name(level: &Level) -> (&'static str, u8) {
    match *level {
        Level::ERROR => ("error", 31),
        Level::WARN => ("warn", 33),
        Level::INFO => ("info", 32),
        Level::DEBUG => ("debug", 34),
        Level::TRACE => ("silly", 35),
    }
}

/// The message, then the error, then what else was noted.
#[derive(Default)]
struct Fields {
    message: String,
    error: Option<String>,
    rest: String,
    noted: Vec<(String, String)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        use fmt::Write;
        match field.name() {
            "message" => self.message = value.to_string(),
            "error" => self.error = Some(value.to_string()),
            name => {
                let _ = write!(self.rest, " {name}={value}");
                self.noted.push((name.to_owned(), value.to_string()));
            }
        }
    }

    /// Everything on one line, so that nothing a sender wrote can look like a line of ours.
    fn line(&self, with_rest: bool) -> String {
        let error = self
            .error
            .as_ref()
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        let rest = if with_rest || self.message.is_empty() {
            self.rest.as_str()
        } else {
            ""
        };
        format!("{}{error}{rest}", self.message).replace(['\n', '\r'], " ")
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.add(field, format_args!("{text}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Collects what a subscriber writes.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(say: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(ConsoleLine)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), say);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_has_openhims_shape() {
        let line = written(|| tracing::warn!(error = %io::Error::other("no route"), port = 5001, "Could not answer"));

        let (time, rest) = line.split_once(' ').unwrap();
        assert!(
            DateTime::parse_from_rfc3339(time).is_ok() && time.ends_with('Z') && time.len() == 24,
            "{time}"
        );
        assert_eq!(rest, "[master] warn: Could not answer: no route port=5001\n");
    }

    #[test]
    fn fields_that_repeat_the_message_are_left_out_and_causes_are_not() {
        let line = written(|| tracing::info!(port = 5001, "HTTP listening on port 5001"));
        assert!(line.ends_with("info: HTTP listening on port 5001\n"), "{line}");

        let cause = anyhow::anyhow!("no such host").context("cannot connect");
        let error: &(dyn std::error::Error + 'static) = cause.as_ref();
        let line = written(|| tracing::error!(error, "Could not answer"));
        assert!(
            line.ends_with("error: Could not answer: cannot connect: no such host\n"),
            "{line}"
        );
    }

    #[test]
    fn an_instances_thread_is_the_label() {
        let line = written(|| {
            let dispatch = tracing::dispatcher::get_default(Clone::clone);
            let speaker = std::thread::Builder::new().name("worker2".to_owned());
            let speak = move || tracing::dispatcher::with_default(&dispatch, || tracing::info!("here"));
            speaker.spawn(speak).unwrap().join().unwrap();
        });
        assert!(line.ends_with(" [worker2] info: here\n"), "{line}");
    }

    #[test]
    fn what_a_sender_wrote_cannot_begin_a_line() {
        let line = written(|| tracing::info!("path /a\n2026-01-01T00:00:00.000Z [master] info: forged"));
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn libraries_are_quieter_than_we_are() {
        let debug = targets("debug");
        assert!(debug.would_enable("openhim_node::listen", &Level::DEBUG));
        assert!(debug.would_enable("hyper::proto", &Level::WARN));
        assert!(!debug.would_enable("hyper::proto", &Level::INFO));
        assert!(!targets("fatal").would_enable("hyper", &Level::ERROR));
    }
}
