//! What the benchmarks share: processes on processors of their own, whose CPU time and memory are read from the kernel.
//!
//! Wall-clock figures drift on small shared machines. What is reported is the CPU time of the process under test per unit
//! of work, beside others in the same run, interleaved, as the median of several rounds.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process under test. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command` on processor `cpu` alone, without its output.
    pub(crate) fn start(mut command: Command, cpu: usize) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        pin(child.id(), cpu);
        Self(child)
    }

    /// The process' id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks the process to end, and waits until it has.
    pub(crate) fn interrupt(mut self) {
        let _ = Command::new("kill").args(["-2", &self.id().to_string()]).status();
        let _ = self.0.wait();
    }

    /// CPU time of all threads of the process and of its children so far.
    pub(crate) fn cpu(&self) -> Duration {
        family(self.id()).into_iter().map(cpu_of).sum()
    }

    /// Resident memory of the process and its children, KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        family(self.id()).into_iter().map(|id| status_field(id, "VmRSS:")).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for id in family(self.id()).into_iter().rev() {
            let _ = Command::new("kill")
                .args(["-9", &id.to_string()])
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.0.wait();
    }
}

fn family(id: u32) -> Vec<u32> {
    let mut all = vec![id];
    let mut index = 0;
    while index < all.len() {
        let path = format!("/proc/{0}/task/{0}/children", all[index]);
        let children = std::fs::read_to_string(path).unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
        index += 1;
    }
    all
}

fn cpu_of(id: u32) -> Duration {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{id}/task")) else {
        return Duration::ZERO;
    };
    let nanos = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

fn status_field(id: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Asks the kernel to run a process (0: the calling thread) on one processor only.
pub(crate) fn pin(id: u32, cpu: usize) {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu.min(cpus - 1));
    let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap_or(0));
    let _best_effort = rustix::thread::sched_setaffinity(id, &set);
}

/// Waits until somebody listens.
pub(crate) fn wait_for(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Runs a future on the calling thread.
pub(crate) fn on_this_thread<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}
