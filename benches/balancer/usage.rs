//! What a process uses, as Linux tells it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::thread::CpuSet;

/// Binds the calling thread to one processor.
pub(crate) fn pin_to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot use processor {cpu}"))
}

/// Time its threads have spent on a processor, to the nanosecond.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the proxy is gone")? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Memory it holds, shared pages included, in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Memory that is its alone, in bytes.
pub(crate) fn private_memory(pid: u32) -> Result<u64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Private_Dirty:")
}

fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).context("the proxy is gone")?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .with_context(|| format!("no {name} in {path}"))?;
    let kibibytes: u64 = value.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}
