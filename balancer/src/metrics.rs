//! What an operator can see: the report, and the forms it is given in.
//!
//! The control task fills a [`Report`]; here it becomes Prometheus' text and HAProxy's columns. The same report as JSON is
//! what the status page and `ctl` show. Nothing here reads a counter itself.

use std::net::SocketAddr;

use serde::Serialize;

pub mod haproxy;
pub mod prometheus;
pub mod rate;

use crate::backend::requests::RequestCounts;

pub use rate::Rates;

/// Everything, at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Data threads.
    pub threads: usize,
    /// Connections under way.
    pub active: usize,
    /// How many may be.
    pub limit: usize,
    /// Log lines that were dropped because nobody read them fast enough.
    pub log_dropped: u64,
    /// Reloads.
    pub reloads: Reloads,
    /// Names that backends are configured by, sorted.
    pub names: Vec<NameReport>,
    /// Services in the order of the configuration.
    pub services: Vec<ServiceReport>,
}

/// One name that backends are configured by.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NameReport {
    /// As it is written, with its port.
    pub name: String,
    /// Addresses it stands for now.
    pub addresses: usize,
    /// Seconds since which no name server gives an answer, if none does.
    pub failing_seconds: Option<u64>,
    /// Why; empty if all is well.
    pub why: String,
    /// Questions that were answered.
    pub lookups_good: u64,
    /// Questions that were not.
    pub lookups_failed: u64,
}

/// How reloads went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reloads {
    /// Good ones.
    pub good: u64,
    /// Refused ones.
    pub bad: u64,
    /// What is wrong with what is written now; empty when what is written is what runs.
    pub problems: Vec<String>,
}

/// One service.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ServiceReport {
    /// Name.
    pub name: String,
    /// Addresses it listens on.
    pub listen: Vec<SocketAddr>,
    /// `tcp`, `http` or `udp`.
    pub mode: &'static str,
    /// How backends are chosen.
    pub schedule: String,
    /// Seconds that a client stays with its backend, if it does.
    pub sticky_seconds: Option<u64>,
    /// What checks ask.
    pub check: String,
    /// True while failing backends get traffic because too few are healthy.
    pub panicking: bool,
    /// Connections under way.
    pub active: usize,
    /// How many may be; 0 is no limit of its own.
    pub limit: usize,
    /// Clients waiting for a backend with room.
    pub waiting: usize,
    /// Accepted connections.
    pub accepted: u64,
    /// Turned away by `allow` and `deny`.
    pub denied: u64,
    /// Turned away by `rate`.
    pub rate_limited: u64,
    /// Ended for their PROXY header.
    pub bad_proxy_header: u64,
    /// TLS handshakes with clients.
    pub tls_handshakes: u64,
    /// Those of them that went on from an earlier connection.
    pub tls_resumed: u64,
    /// Failed ones, and first messages that are none.
    pub tls_failed: u64,
    /// Certificates that clients are shown.
    pub certificates: Vec<CertificateReport>,
    /// Turned away for want of a backend.
    pub no_backend: u64,
    /// Turned away because the line was full or did not move.
    pub queue_overflow: u64,
    /// Had to wait.
    pub queued: u64,
    /// Carried by another backend than the first chosen.
    pub redispatched: u64,
    /// Failed accepts.
    pub accept_errors: u64,
    /// Datagrams that no flow could take.
    pub dropped_datagrams: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// What became of requests, in http mode.
    pub requests: Option<RequestCounts>,
    /// Recent rates.
    pub rates: Rates,
    /// Backends.
    pub backends: Vec<BackendReport>,
}

/// A certificate that clients are shown.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CertificateReport {
    /// Its file.
    pub file: String,
    /// Names it is for.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

/// One backend of one service.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BackendReport {
    /// Address.
    pub address: String,
    /// What was written, if that is a name.
    pub name: Option<String>,
    /// One word: `up`, `down`, `unknown`, `ejected`, `drain`, `maint`, `removed`; `unresolved` for a name that stands
    /// for no address.
    pub state: &'static str,
    /// Why, if it is not simply up.
    pub why: String,
    /// True if it may get new clients now.
    pub usable: bool,
    /// Seconds since checks last changed their mind.
    pub since_seconds: u64,
    /// How often they did.
    pub changes: u64,
    /// Weight as configured.
    pub weight: u16,
    /// True if it is used only when no other can.
    pub backup: bool,
    /// Connections under way.
    pub active: u32,
    /// How many may be; 0 is no limit.
    pub limit: u32,
    /// Connections made.
    pub connections: u64,
    /// Connects that failed.
    pub connect_errors: u64,
    /// Connects not answered in time.
    pub connect_timeouts: u64,
    /// Clients that went to another one.
    pub redispatched: u64,
    /// Connections it broke.
    pub aborted: u64,
    /// Time all connects took, in seconds.
    pub connect_seconds: f64,
    /// Bytes sent to it.
    pub bytes_in: u64,
    /// Bytes it sent.
    pub bytes_out: u64,
    /// What became of the requests it was sent, in http mode.
    pub requests: Option<RequestCounts>,
    /// Probes that passed.
    pub probes_passed: u64,
    /// Probes that failed.
    pub probes_failed: u64,
    /// How long the last one took, in milliseconds.
    pub last_probe_ms: Option<f64>,
    /// Recent rates.
    pub rates: Rates,
}
