//! `ipvsadm`'s language: its rules and commands as text and as data, its tables as text.
//!
//! `balancer ctl` speaks it, and what `ipvsadm -S -n` printed is a configuration: the way over from LVS. What is printed
//! here is for scripts that read ipvsadm's output, to the column; saved rules are such that a real `ipvsadm -R` takes
//! them.
//!
//! This module knows nothing of running services and does no I/O, name look-ups included.

mod lex;
mod parse;
mod print;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::plan::{Endpoint, Schedule};

pub use parse::{parse_command, parse_rules, parse_saved};
pub use print::{Connection, Numbers, Server, Service, list, list_connections, list_timeouts, save};

/// What `-s` means when it is absent.
pub const DEFAULT_SCHEDULE: Schedule = Schedule::Wlc;
/// What `-p` means without a number.
pub const DEFAULT_PERSISTENCE: Duration = Duration::from_secs(300);

/// `-t` or `-u`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// What clients connect to: a virtual service's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Virtual {
    pub protocol: Protocol,
    pub address: SocketAddr,
}

/// What `-A` and `-E` may say about a service; `None`: not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceOptions {
    /// `-s`; see [`DEFAULT_SCHEDULE`].
    pub schedule: Option<Schedule>,
    /// `-p`.
    pub persistence: Option<Duration>,
}

/// What `-a` and `-e` may say about a server; `None`: not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerOptions {
    /// `-w`; 1 if not said.
    pub weight: Option<u16>,
    /// `-x`: most concurrent connections; zero: no limit.
    pub upper: Option<u32>,
    /// `-y`: once at its most, a server gets new connections when it is down to these.
    pub lower: Option<u32>,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `-A`
    AddService(Virtual, ServiceOptions),
    /// `-E`
    EditService(Virtual, ServiceOptions),
    /// `-D`
    DeleteService(Virtual),
    /// `-C`: every service goes.
    Clear,
    /// `-a`
    AddServer(Virtual, Endpoint, ServerOptions),
    /// `-e`
    EditServer(Virtual, Endpoint, ServerOptions),
    /// `-d`
    DeleteServer(Virtual, Endpoint),
    /// `-L`
    List(Listing),
    /// `-S`
    Save,
    /// `-R`: rules follow on standard input.
    Restore,
    /// `-Z`: of all services, or of one.
    Zero(Option<Virtual>),
    /// `--set`: seconds for established TCP, TCP after the end of one side, and UDP; zero: as before.
    SetTimeouts([u32; 3]),
}

/// Which table `-L` shows, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listing {
    pub table: Table,
    /// Only this service.
    pub service: Option<Virtual>,
    /// `--exact`: numbers are never shortened.
    pub exact: bool,
    /// `--sort`; ours are always sorted as they were configured, unless this is set: then by address.
    pub sort: bool,
    /// `--json`, which ipvsadm does not have.
    pub json: bool,
}

/// The tables of `-L`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Table {
    /// Services, servers, weights, connections.
    #[default]
    Servers,
    /// `--stats`
    Stats,
    /// `--rate`
    Rate,
    /// `--thresholds`
    Thresholds,
    /// `--persistent-conn`
    PersistentConnections,
    /// `-c`
    Connections,
    /// `--timeout`
    Timeouts,
}

/// A command and the line it stood on, counted from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub line: usize,
    pub command: Command,
}

/// A service of a saved set of rules, with its servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedService {
    /// Where its `-A` stood, counted from one.
    pub line: usize,
    pub service: Virtual,
    pub options: ServiceOptions,
    pub servers: Vec<(Endpoint, ServerOptions)>,
}

/// Something in a text that is not a rule, and where; both counted from one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct RuleError {
    pub line: usize,
    pub column: usize,
    pub reason: Reason,
}

/// Why a text is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("a line of more than {0} bytes")]
    LineLength(usize),
    #[error("more than {0} lines")]
    TooMany(usize),
    #[error("no command; one of -A -E -D -C -a -e -d -L -S -R -Z --set is needed")]
    NoCommand,
    #[error("`{0}` is a second command")]
    SecondCommand(String),
    #[error("option `{0}` is not known")]
    UnknownOption(String),
    #[error("`{0}` is no option")]
    NoOption(String),
    #[error("option `{0}` does not go with this command")]
    Misplaced(String),
    #[error("option `{0}` is given twice")]
    Twice(String),
    #[error("option `{0}` needs a value")]
    NoValue(String),
    #[error("option `{0}` takes no value")]
    NeedlessValue(String),
    #[error("a service is needed: -t or -u with its address and port")]
    NoService,
    #[error("a server is needed: -r with its address and port")]
    NoServer,
    #[error("`{0}` is not an address with a port, as in 192.0.2.1:5000 or [2001:db8::1]:5000")]
    Address(String),
    #[error("the name `{0}` cannot be looked up here; write the address as a number, as `ipvsadm -S -n` does")]
    ServiceName(String),
    #[error("the port name `{0}` is not known; write the number, as `ipvsadm -S -n` does")]
    PortName(String),
    #[error("a service on all ports is not possible: a proxy listens on one port; give each its own service")]
    AllPorts,
    #[error("`{value}` is not a number from {least} to {most}")]
    Number { value: String, least: u32, most: u32 },
    #[error("scheduler `{0}` is not known; there are rr wrr lc wlc sh mh twos ovf sed nq and p2c random first")]
    Schedule(String),
    #[error("scheduler `{0}` is for caches; `sh` or `mh` send a client to the same server")]
    CacheSchedule(String),
    #[error("scheduler `fo` is written differently here: mark the others as `backup` in the configuration")]
    FailoverSchedule,
    #[error("firewall marks cannot be seen by a proxy; give the service its address with -t or -u")]
    FirewallMark,
    #[error("direct routing (-g) hands packets on as they are, which a proxy cannot; use -m")]
    DirectRouting,
    #[error("tunnelling (-i) hands packets on as they are, which a proxy cannot; use -m")]
    Tunnelling,
    #[error("persistence of a whole network (-M) is not supported; each client is persistent by itself")]
    Netmask,
    #[error("connection synchronisation is not needed: two balancers with scheduler `mh` agree without it")]
    SyncDaemon,
    #[error("`{0}` is about packets; a proxy schedules connections and flows")]
    PacketOption(String),
    #[error("a saved set of rules has only -A and -a lines")]
    NotSaved,
    #[error("the service of this server was not added by a line before it")]
    UnknownService,
    #[error("this service was added before, on line {0}")]
    SecondService(usize),
    #[error("this server was added before")]
    SecondServer,
}
