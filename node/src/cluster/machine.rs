//! Whether a process that once ran somewhere still runs.
//!
//! A process is told apart by its machine, the machine's present uptime, its id and the moment it started. On the same
//! machine the kernel knows whether it is still there; about other machines nothing is known here.

use std::fs;

use bson::{Document, doc};

/// This process on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    name: String,
    /// Lasts as long as the installation.
    machine: String,
    /// New at each start of the machine.
    boot: String,
    /// The process ids of a container are its own.
    pids: String,
    pid: i64,
    /// Clock ticks from the machine's start to the process'.
    since: i64,
}

impl Machine {
    /// Reads who and where we are. What cannot be read is empty and equals nothing.
    pub(super) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let pid = i64::from(std::process::id());
        Self {
            name: gethostname::gethostname().to_string_lossy().into_owned(),
            machine: read("/etc/machine-id"),
            boot: read("/proc/sys/kernel/random/boot_id"),
            pids: fs::read_link("/proc/self/ns/pid")
                .map(|link| link.to_string_lossy().into_owned())
                .unwrap_or_default(),
            pid,
            since: started(pid).unwrap_or_default(),
        }
    }

    /// What the others need to know.
    pub(super) fn describe(&self) -> Document {
        doc! {
            "host": &self.name,
            "machine": &self.machine,
            "boot": &self.boot,
            "pids": &self.pids,
            "pid": self.pid,
            "since": self.since,
            "version": env!("CARGO_PKG_VERSION"),
        }
    }

    /// True if the described process ran here and is gone. False if it lives or if nothing can be known.
    pub(super) fn is_surely_dead(&self, other: &Document) -> bool {
        let is_same = |key: &str, own: &str| !own.is_empty() && other.get_str(key).is_ok_and(|theirs| theirs == own);
        if !is_same("boot", &self.boot) {
            // The same machine after a restart; machines that were copied from one image share their id, though.
            return is_same("machine", &self.machine) && is_same("host", &self.name) && other.get_str("boot").is_ok();
        }
        if !is_same("pids", &self.pids) {
            return false;
        }
        let Ok(pid) = other.get_i64("pid") else { return false };
        started(pid) != other.get_i64("since").ok()
    }
}

/// When a process of this machine started, in clock ticks; `None` if there is no such process.
fn started(pid: i64) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may contain anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_alive() {
        let machine = Machine::this();

        assert!(!machine.is_surely_dead(&machine.describe()));
    }

    #[test]
    fn a_process_that_is_gone_is_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let machine = Machine::this();
        let pid = i64::from(child.id());
        let mut described = machine.describe();
        described.insert("pid", pid);
        described.insert("since", started(pid).unwrap());
        assert!(!machine.is_surely_dead(&described));

        child.kill().unwrap();
        child.wait().unwrap();

        assert!(machine.is_surely_dead(&described));
    }

    #[test]
    fn a_process_that_took_over_the_id_is_not_the_one_we_knew() {
        let machine = Machine::this();
        let mut described = machine.describe();
        described.insert("since", machine.since - 1);

        assert!(machine.is_surely_dead(&described));
    }

    #[test]
    fn nothing_is_known_about_other_machines_and_containers() {
        let machine = Machine::this();
        let with = |key: &str| {
            let mut described = machine.describe();
            described.insert("pid", i64::MAX);
            described.insert(key, "another");
            machine.is_surely_dead(&described)
        };

        assert!(!with("pids"));
        let mut elsewhere = machine.describe();
        elsewhere.extend(doc! {"boot": "another", "host": "another"});
        assert!(!machine.is_surely_dead(&elsewhere));
    }

    #[test]
    fn a_machine_that_was_started_anew_has_lost_its_processes() {
        let machine = Machine {
            machine: "m".into(),
            ..Machine::this()
        };
        let mut described = machine.describe();
        described.insert("boot", "before");

        assert!(machine.is_surely_dead(&described));
    }
}
