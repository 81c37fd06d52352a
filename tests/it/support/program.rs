//! The binary under test, as a child process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{SOON, eventually};

/// What a run that ended by itself left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command line of the program, in an environment without settings.
pub(crate) fn program<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_openhim-core"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Outcome {
    outcome(&mut program(arguments))
}

/// Runs to the end, with what was set on the command.
pub(crate) fn outcome(command: &mut Command) -> Outcome {
    let mut running = Running::start(command);
    let code = running.exit().code().expect("it was not ended by a signal");
    Outcome {
        code,
        stdout: running.stdout.all(),
        stderr: running.stderr.all(),
    }
}

/// A program that runs until the test ends it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = Lines::follow(child.stdout.take().expect("piped"));
        let stderr = Lines::follow(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    pub(crate) fn id(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it can be waited for")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.id()).expect("a process id");
        rustix::process::kill_process(id, signal).expect("the process is there");
    }

    /// Waits until it has ended and everything it said was read.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let status = eventually("the program ends", || {
            self.child.try_wait().expect("it can be waited for")
        });
        self.stdout.finish();
        self.stderr.finish();
        status
    }

    /// Waits for a line of standard output that contains `text`.
    ///
    /// # Panics
    /// When it does not come in time, or the program ends first.
    pub(crate) fn says(&mut self, text: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let has_ended = self.ended().is_some() || Instant::now() > deadline;
            let said = self.stdout.all();
            if let Some(line) = said.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(!has_ended, "no line with {text:?}, only:\n{said}{}", self.stderr.all());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A stream that is read as it comes.
#[derive(Debug)]
pub(crate) struct Lines {
    read: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn follow(stream: impl Read + Send + 'static) -> Self {
        let read = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&read);
        let reader = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self {
            read,
            reader: Some(reader),
        }
    }

    /// Everything read so far.
    pub(crate) fn all(&self) -> String {
        self.read.lock().unwrap().clone()
    }

    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader ends with the stream");
        }
    }
}
