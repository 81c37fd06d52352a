//! What this process uses, as Linux tells it. What cannot be read is left out.

use std::fmt::Write as _;
use std::fs;

/// Ticks of a second in `/proc`: the same on every Linux.
const TICKS: f64 = 100.0;

/// The figures in Prometheus' text format.
pub(super) fn render() -> String {
    let mut text = String::new();
    let mut add = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            super::header(&mut text, name, kind, help);
            let _ = writeln!(text, "{name} {value}");
        }
    };
    let cpu = cpu_seconds();
    let user = cpu.map(|(user, _)| user);
    let system = cpu.map(|(_, system)| system);
    add(
        "openhim_process_cpu_user_seconds_total",
        "counter",
        "Total user CPU time spent in seconds.",
        user,
    );
    add(
        "openhim_process_cpu_system_seconds_total",
        "counter",
        "Total system CPU time spent in seconds.",
        system,
    );
    add(
        "openhim_process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        cpu.map(|(user, system)| user + system),
    );
    add(
        "openhim_process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        start_seconds(),
    );
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    add(
        "openhim_process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        kilobytes(&status, "VmRSS:"),
    );
    add(
        "openhim_process_virtual_memory_bytes",
        "gauge",
        "Virtual memory size in bytes.",
        kilobytes(&status, "VmSize:"),
    );
    add(
        "openhim_process_heap_bytes",
        "gauge",
        "Process heap size in bytes.",
        kilobytes(&status, "VmData:"),
    );
    add(
        "openhim_process_open_fds",
        "gauge",
        "Number of open file descriptors.",
        fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64),
    );
    add(
        "openhim_process_max_fds",
        "gauge",
        "Maximum number of open file descriptors.",
        most_files(),
    );
    text
}

/// The fields of `/proc/self/stat` that follow the program's name, which may contain anything.
fn stat() -> Option<Vec<f64>> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(
        fields
            .split_whitespace()
            .map(|field| field.parse().unwrap_or_default())
            .collect(),
    )
}

fn cpu_seconds() -> Option<(f64, f64)> {
    let stat = stat()?;
    Some((stat.get(11)? / TICKS, stat.get(12)? / TICKS))
}

fn start_seconds() -> Option<f64> {
    let since_boot = stat()?.get(19)? / TICKS;
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let boot = machine.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + since_boot)
}

fn kilobytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number = line.split_whitespace().next()?;
    Some(number.parse::<f64>().ok()? * 1024.0)
}

fn most_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_all_of_it() {
        let text = render();
        for name in [
            "cpu_seconds_total",
            "start_time_seconds",
            "resident_memory_bytes",
            "open_fds",
            "max_fds",
        ] {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("openhim_process_{name} ")));
            let value: f64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value >= 0.0, "{name}");
        }
        let start = text
            .lines()
            .find(|line| line.starts_with("openhim_process_start_time_seconds "))
            .unwrap();
        assert!(start.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 1.5e9);
    }
}
