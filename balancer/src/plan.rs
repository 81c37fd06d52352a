//! What should be: services, backends, policies. Pure data, already checked.
//!
//! A [`Plan`] comes out of [`crate::config::Config::check`] and goes into the control task, which makes it so. It is also
//! what two configurations are compared by. It never names a socket, a task or a counter.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Everything one balancer process should do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Settings of the process; a change takes a restart, unless the field says otherwise.
    pub process: Process,
    /// The services, in the order they were written.
    pub services: Vec<Service>,
}

impl Plan {
    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| &*service.name == name)
    }
}

/// What belongs to the process and not to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Data threads, each with its own listeners; `None` means one for each processor.
    pub threads: Option<usize>,
    /// Where the control socket is.
    pub admin: Admin,
    /// Where metrics and the status page are served; `None` is off.
    pub metrics: Option<SocketAddr>,
    /// Form of the log.
    pub log: LogFormat,
    /// Ceiling of concurrent connections over all services; `None` derives it from the file limit. Applied on reload.
    pub maxconn: Option<usize>,
    /// Name servers that are asked for backends' names; none is those of the system. Applied on reload.
    pub resolver: Vec<SocketAddr>,
    /// How long the last good answer for a name holds while no name server gives another. Applied on reload.
    pub resolver_hold: Duration,
}

impl Process {
    /// The keys of which another value than `before` takes a restart.
    pub fn fixed_until_restart(&self, before: &Self) -> impl Iterator<Item = &'static str> + use<> {
        [
            ("threads", self.threads == before.threads),
            ("admin", self.admin == before.admin),
            ("metrics", self.metrics == before.metrics),
            ("log", self.log == before.log),
        ]
        .into_iter()
        .filter_map(|(key, is_same)| (!is_same).then_some(key))
    }
}

/// Where the control socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// `/run/openhim/balancer.sock` if that folder can be written, else the state folder of the user.
    Default,
    /// This path.
    Path(PathBuf),
    /// No control socket.
    Off,
}

/// Form of the log of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// One readable line.
    Text,
    /// NCSA's combined log for requests.
    Combined,
    /// HAProxy's `httplog` and `tcplog`.
    Haproxy,
    /// Nothing.
    Off,
}

/// One service: where clients come in, who serves them, and the rules in between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Unique; keeps a service's counters together across reloads.
    pub name: Arc<str>,
    /// Addresses that clients connect to.
    pub listen: Vec<SocketAddr>,
    /// What is balanced: connections, HTTP requests, datagram flows.
    pub mode: Mode,
    /// Rules for requests in [`Mode::Http`].
    pub http: Http,
    /// TLS of clients that is ended here; without it bytes pass as they are.
    pub tls: Option<Tls>,
    /// TLS that is begun to backends.
    pub backend_tls: Option<BackendTls>,
    /// Where connections go by the server name that their client asks for, first match first; what matches none stays
    /// with the service's own backends.
    pub sni: Vec<Sni>,
    /// The service whose group this is; it has no listener of its own then.
    pub parent: Option<Arc<str>>,
    /// How a backend is chosen.
    pub schedule: Schedule,
    /// How backends are found alive.
    pub check: Check,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Ceiling of concurrent connections of this service.
    pub maxconn: Option<usize>,
    /// How many clients may wait while every backend is at its own `maxconn`.
    pub queue: usize,
    /// Other backends tried when a connect fails, before the client is turned away.
    pub retries: usize,
    /// How backends learn the client's address.
    pub client_ip: ClientIp,
    /// Peers that must send a PROXY header, and are believed.
    pub accept_proxy: Vec<IpNet>,
    /// If not empty, only these clients are served.
    pub allow: Vec<IpNet>,
    /// These clients are not served.
    pub deny: Vec<IpNet>,
    /// New connections a second that one source may open; in [`Mode::Http`]: requests.
    pub rate: Option<u32>,
    /// Clients stay with the backend they had.
    pub sticky: Option<Sticky>,
    /// How long the share of a backend that came up grows from a tenth to the whole.
    pub slow_start: Duration,
    /// What happens to live connections of a backend that goes down.
    pub on_down: OnDown,
    /// What a client gets when no backend can take it.
    pub all_down: AllDown,
    /// When fewer than this per cent of the backends are healthy, those whose check fails but who still answer are used
    /// too: then more likely the check is at fault than most of the backends.
    pub panic_threshold: u8,
    /// Backends named in the configuration.
    pub backends: Vec<Backend>,
    /// A watched file with more of them.
    pub backends_file: Option<PathBuf>,
}

/// What is balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// TCP connections, byte transparent.
    Tcp,
    /// HTTP requests, each on its own.
    Http,
    /// UDP datagrams, by source.
    Udp,
}

impl Mode {
    /// The mode of the same kind of socket that knows nothing of what is carried.
    #[must_use]
    pub fn transport(self) -> Self {
        match self {
            Self::Tcp | Self::Http => Self::Tcp,
            Self::Udp => Self::Udp,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Udp => "udp",
        })
    }
}

/// TLS of clients that is ended here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Files of certificates, each with that of its key; the first is shown to who asks for no name of them.
    pub pairs: Vec<(PathBuf, PathBuf)>,
    /// File of the authorities that clients' certificates have to come from.
    pub client_ca: Option<PathBuf>,
    /// Whether a client has to show one.
    pub client: ClientCertificate,
    /// Protocols that are offered, best first.
    pub alpn: Vec<String>,
    /// Oldest version that is spoken.
    pub least: TlsVersion,
}

/// Whether a client has to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientCertificate {
    /// Who has none is turned away.
    Required,
    /// Who has none is served; who shows a wrong one is turned away.
    Optional,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// 1.2
    V1_2,
    /// 1.3
    V1_3,
}

/// TLS that is begun to backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendTls {
    /// File of the authorities that their certificates have to come from; `None` is those that the machine trusts.
    pub ca: Option<PathBuf>,
    /// Any certificate will do.
    pub insecure: bool,
    /// The name that is asked for, and that certificates have to be for; `None` is the backend's own.
    pub name: Option<String>,
}

/// Some connections, and the group of backends that serves them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sni {
    /// Server name in lower case; one that begins with `*.` is any below that domain.
    pub name: String,
    /// Name of the service that is the group; see [`Service::parent`].
    pub group: Arc<str>,
}

impl Sni {
    /// True if it is for this name, given in lower case.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        match self.name.strip_prefix('*') {
            Some(domain) => name.len() > domain.len() && name.ends_with(domain),
            None => name == self.name,
        }
    }
}

impl Service {
    /// Files with certificates and keys.
    pub fn tls_files(&self) -> impl Iterator<Item = &PathBuf> {
        let pairs = self.tls.iter().flat_map(|tls| &tls.pairs);
        let pairs = pairs.flat_map(|(certificate, key)| [certificate, key]);
        let authorities = self.tls.iter().filter_map(|tls| tls.client_ca.as_ref());
        let of_backends = self.backend_tls.iter().filter_map(|tls| tls.ca.as_ref());
        pairs.chain(authorities).chain(of_backends)
    }
}

/// Rules for requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// A client's connection between two requests.
    pub keep_alive_timeout: Duration,
    /// The whole head of a request, from its first byte.
    pub header_timeout: Duration,
    /// The next part of a request's body, and the client's taking of the next part of an answer.
    pub body_timeout: Duration,
    /// A backend's answer, and each next part of it; zero is never.
    pub response_timeout: Duration,
    /// A connection to a backend that nobody uses; zero keeps none.
    pub backend_idle_timeout: Duration,
    /// Bytes of a head.
    pub max_header_bytes: usize,
    /// Lines of a head.
    pub max_headers: usize,
    /// Bytes of a request's target.
    pub max_target_bytes: usize,
    /// Requests of one client under way.
    pub client_maxconn: Option<u32>,
    /// Peers whose `X-Forwarded-…` and `Forwarded` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Clients stay with the backend that a cookie of this name says.
    pub cookie: Option<String>,
    /// Where requests go, first match first; what matches none stays with the service's own backends.
    pub routes: Vec<Route>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            keep_alive_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            response_timeout: Duration::from_secs(300),
            backend_idle_timeout: Duration::from_secs(4),
            max_header_bytes: 64 * 1024,
            max_headers: 128,
            max_target_bytes: 16 * 1024,
            client_maxconn: None,
            trusted_proxies: Vec::new(),
            cookie: None,
            routes: Vec::new(),
        }
    }
}

/// Some requests, and the group of backends that serves them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Host without port, in lower case; one that begins with `*.` is any below that domain; `None` is any.
    pub host: Option<String>,
    /// Start of the path, whole segments.
    pub path: String,
    /// Name of the service that is the group; see [`Service::parent`].
    pub group: Arc<str>,
}

/// How a backend is chosen. IPVS' names where IPVS has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Schedule {
    /// In turn.
    Rr,
    /// In turn, by weight, smoothly.
    Wrr,
    /// Fewest connections.
    Lc,
    /// Fewest connections for its weight.
    Wlc,
    /// The less loaded of two drawn at random.
    P2c,
    /// Hash of the client's address.
    Sh,
    /// Maglev hash of the client's address: two balancers agree, and few clients move when a backend comes or goes.
    Mh,
    /// At random, by weight.
    Random,
    /// The first in the list that has room.
    First,
}

impl Schedule {
    /// All of them, with the names they are written by.
    pub const NAMES: [(&'static str, Self); 9] = [
        ("rr", Self::Rr),
        ("wrr", Self::Wrr),
        ("lc", Self::Lc),
        ("wlc", Self::Wlc),
        ("p2c", Self::P2c),
        ("sh", Self::Sh),
        ("mh", Self::Mh),
        ("random", Self::Random),
        ("first", Self::First),
    ];
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            Self::NAMES
                .iter()
                .find(|(_, it)| it == self)
                .map_or("", |(name, _)| name),
        )
    }
}

/// How backends are found alive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Port asked, if it is not the traffic's.
    pub port: Option<u16>,
    /// Path of `http` and `https` checks.
    pub path: String,
    /// `Host` header and TLS name of those checks; the backend's address if absent.
    pub host: Option<String>,
    /// Statuses that mean healthy.
    pub expect: Vec<RangeInclusive<u16>>,
    /// Accept any certificate.
    pub insecure: bool,
    /// Time between two checks of one backend.
    pub interval: Duration,
    /// The same while its state is changing.
    pub fast_interval: Duration,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
    /// After this a check has failed.
    pub timeout: Duration,
}

impl Check {
    /// True if a check asks the very address that traffic goes to.
    #[must_use]
    pub fn asks_traffic_port(&self, traffic: u16) -> bool {
        self.kind != CheckKind::None && self.port.is_none_or(|port| port == traffic)
    }
}

/// What a check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckKind {
    /// Nothing: a backend counts as healthy until a connect to it fails.
    None,
    /// Does it accept a connection?
    Tcp,
    /// Does it answer a GET with an expected status?
    Http,
    /// The same over TLS.
    Https,
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// One connect to one backend.
    pub connect: Duration,
    /// A connection on which nothing moves; zero is never.
    pub idle: Duration,
    /// A connection of which one direction has ended.
    pub half_close: Duration,
    /// What is under way on a removed backend, or at the end of the process.
    pub drain: Duration,
    /// A client waiting for a backend with room.
    pub queue: Duration,
    /// A client's TLS handshake, or the first message of it that is looked at.
    pub handshake: Duration,
}

/// How backends learn the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientIp {
    /// They do not.
    None,
    /// PROXY protocol, text form.
    ProxyV1,
    /// PROXY protocol, binary form.
    ProxyV2,
    /// The connection to the backend has the client's own source address.
    Transparent,
}

/// Clients stay with the backend they had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sticky {
    /// How long after its last connection a client's backend is remembered.
    pub timeout: Duration,
}

/// What happens to live connections of a backend that goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDown {
    /// They go on until they end by themselves.
    Keep,
    /// They are reset, so that clients notice at once.
    Close,
}

/// What a client gets when no backend can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllDown {
    /// The connection is reset.
    Reset,
    /// The connection is closed.
    Close,
    /// An HTTP answer with status 503, for services that carry plain HTTP.
    Http503,
}

/// One backend as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its share; 0 means that nothing new is sent there.
    pub weight: u16,
    /// Used only when no other can take the client.
    pub backup: bool,
    /// Ceiling of its concurrent connections.
    pub maxconn: Option<u32>,
    /// Its own way to learn the client's address.
    pub client_ip: Option<ClientIp>,
    /// What a service record calls it. Nobody writes this.
    #[serde(default)]
    pub host: Option<Arc<str>>,
}

impl Backend {
    /// A backend of weight 1 with no limits.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            weight: 1,
            backup: false,
            maxconn: None,
            client_ip: None,
            host: None,
        }
    }
}

/// Highest weight; IPVS allows the same.
pub const WEIGHT_MAX: u16 = u16::MAX;

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Endpoint {
    /// At an address.
    Address(SocketAddr),
    /// At all addresses of a name.
    Name(Box<str>, u16),
    /// At the targets of an SRV record.
    Srv(Box<str>),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Srv(name) => write!(f, "srv:{name}"),
        }
    }
}

/// Why a text is not an [`Endpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No port.
    #[error("has no port; write HOST:PORT")]
    NoPort,
    /// A port that is none.
    #[error("has no valid port (1 to 65535)")]
    Port,
    /// Neither an address nor a name.
    #[error("has neither an address nor a host name before its port")]
    Host,
    /// An IPv6 address whose colons cannot be told from the port's.
    #[error("is ambiguous; write an IPv6 address as [ADDRESS]:PORT")]
    Brackets,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(name) = text.strip_prefix("srv:") {
            return if is_host_name(name) {
                Ok(Self::Srv(name.into()))
            } else {
                Err(EndpointError::Host)
            };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(EndpointError::Port)
            } else {
                Ok(Self::Address(address))
            };
        }
        if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
            return Err(EndpointError::Brackets);
        }
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::NoPort)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(EndpointError::Port)?;
        if host.contains(':') {
            return Err(EndpointError::Brackets);
        }
        if !is_host_name(host) {
            return Err(EndpointError::Host);
        }
        Ok(Self::Name(host.into(), port))
    }
}

/// RFC 1123 host names, and the underscores of service records. A name of digits only would be a mistyped address.
fn is_host_name(text: &str) -> bool {
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or("");
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Result<String, EndpointError> {
        text.parse::<Endpoint>().map(|it| it.to_string())
    }

    #[test]
    fn endpoints_are_addresses_names_or_service_records() {
        for text in [
            "10.0.0.2:5000",
            "[::1]:80",
            "node-1.local:5000",
            "srv:_openhim._tcp.example.org",
        ] {
            assert_eq!(endpoint(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn an_endpoint_that_is_none_says_why() {
        assert_eq!(endpoint("10.0.0.2"), Err(EndpointError::NoPort));
        assert_eq!(endpoint("10.0.0.2:"), Err(EndpointError::Port));
        assert_eq!(endpoint("10.0.0.2:0"), Err(EndpointError::Port));
        assert_eq!(endpoint("10.0.0.2:70000"), Err(EndpointError::Port));
        assert_eq!(endpoint("10.0.0.256:80"), Err(EndpointError::Host));
        assert_eq!(endpoint(":80"), Err(EndpointError::Host));
        assert_eq!(endpoint("a b:80"), Err(EndpointError::Host));
        assert_eq!(endpoint("fe80::1"), Err(EndpointError::Brackets));
        assert_eq!(endpoint("fe80::1:zz:80"), Err(EndpointError::Brackets));
    }
}
