//! `balancer doctor`: what stands in the way of a service, and what to do about it.
//!
//! It looks and never changes anything; it may be run beside a serving balancer.

mod listeners;

use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use openhim_balancer::config::backends;
use openhim_balancer::control::discover::Resolver;
use openhim_balancer::control::discover::lookup::NameServers;
use openhim_balancer::plan::{Backend, CheckKind, ClientIp, Endpoint, Mode, Plan, Service};
use openhim_balancer::tls::Material;
use rustix::process::{Resource, getrlimit};
use tokio::runtime::Builder;

use crate::failure::Failure;

/// Files that one connection takes: the client's socket and the backend's.
const FILES_A_CONNECTION: u64 = 2;
/// How long a server may take to answer a question of the doctor's.
const ANSWER: Duration = Duration::from_secs(2);
/// What a server that expects TLS says first to one who does not speak it.
const TLS_ALERT: u8 = 0x15;
/// What a small service should be able to carry.
const CONNECTIONS_EXPECTED: u64 = 4096;

/// What was looked at, and what to do where it is not right.
#[derive(Debug, Default)]
struct Findings {
    text: String,
    wrong: usize,
}

impl Findings {
    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.text, "{text}");
    }

    fn fine(&mut self, what: &str) {
        let _ = writeln!(self.text, "  ok    {what}");
    }

    fn wrong(&mut self, what: &str, cure: &str) {
        self.wrong += 1;
        let _ = writeln!(self.text, "  WRONG {what}\n        {cure}");
    }
}

/// Prints the findings.
///
/// # Errors
/// Something is wrong; exit code 1.
pub(super) fn run(plan: &Plan) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let servers = NameServers::new(plan.process.resolver.clone());
    for service in &plan.services {
        findings.heading(&format!("service {}", service.name));
        for &address in &service.listen {
            listening(&mut findings, service.mode, address);
        }
        sending(&mut findings, &servers, service);
    }
    findings.heading("this machine");
    files(&mut findings, plan);
    kernel(&mut findings, plan);
    super::super::print(findings.text.as_bytes())?;
    match findings.wrong {
        0 => Ok(()),
        1 => Err(Failure::Running(anyhow::anyhow!("one thing is wrong"))),
        count => Err(Failure::Running(anyhow::anyhow!("{count} things are wrong"))),
    }
}

fn listening(findings: &mut Findings, mode: Mode, address: SocketAddr) {
    let bound = match mode {
        Mode::Udp => UdpSocket::bind(address).map(drop),
        _ => TcpListener::bind(address).map(drop),
    };
    let Err(error) = bound else {
        return findings.fine(&format!("{address} can be listened on"));
    };
    let port = address.port();
    match error.kind() {
        ErrorKind::AddrInUse => match listeners::owner(port) {
            Some(owner) if owner.name == "openhim-core" => {
                findings.fine(&format!(
                    "{address} is listened on by openhim-core, process {}",
                    owner.id
                ));
            }
            Some(owner) => findings.wrong(
                &format!("{address} is taken by {}, process {}", owner.name, owner.id),
                "stop that program, or listen on another address or port",
            ),
            None => findings.wrong(
                &format!("{address} is taken by a program of another user"),
                &format!("`ss -ltnp 'sport = :{port}'` as root names it"),
            ),
        },
        ErrorKind::PermissionDenied => findings.wrong(
            &format!("{address} may not be listened on by this user"),
            "listen on a port from 1024, or put AmbientCapabilities=CAP_NET_BIND_SERVICE into the unit",
        ),
        ErrorKind::AddrNotAvailable => findings.wrong(
            &format!("{address} is not an address of this machine"),
            "`ip address` lists those it has; 0.0.0.0 means all of them",
        ),
        _ => findings.wrong(
            &format!("{address} cannot be listened on: {error}"),
            "see the system's log",
        ),
    }
}

fn sending(findings: &mut Findings, servers: &NameServers, service: &Service) {
    let mut named = service.backends.clone();
    if let Some(file) = &service.backends_file {
        named.extend(listed(findings, file));
    }
    if named.is_empty() {
        findings.wrong("no backend", "name some in `backends` or `backends_file`");
    }
    certificates(findings, service);
    for backend in &named {
        for address in addresses(findings, servers, backend) {
            reach(findings, service, address);
        }
    }
}

fn certificates(findings: &mut Findings, service: &Service) {
    if service.tls.is_none() && service.backend_tls.is_none() {
        return;
    }
    match Material::load(service, None) {
        Ok(material) => {
            let shown = material.server.iter().flat_map(|it| &it.certificates);
            for certificate in shown {
                let (file, names) = (certificate.file.display(), certificate.names.join(", "));
                let ends = chrono::DateTime::from_timestamp(certificate.not_after, 0).unwrap_or_default();
                let text = format!("{file} is for {names}, until {}", ends.format("%Y-%m-%d"));
                if names.is_empty() {
                    findings.wrong(
                        &format!("{file} is for no name"),
                        "have one made with a subject alternative name",
                    );
                } else {
                    findings.fine(&text);
                }
            }
        }
        Err(error) => findings.wrong(
            &error.to_string(),
            "correct the file; until then TLS goes on with what it has",
        ),
    }
}

fn listed(findings: &mut Findings, file: &Path) -> Vec<Backend> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            findings.wrong(
                &format!("{} cannot be read: {error}", file.display()),
                "make it, one HOST:PORT a line",
            );
            return Vec::new();
        }
    };
    backends::parse(&text, file).unwrap_or_else(|problems| {
        for problem in problems.iter() {
            findings.wrong(
                &problem.to_string(),
                "correct the line; until then the list stays as it was",
            );
        }
        Vec::new()
    })
}

fn addresses(findings: &mut Findings, servers: &NameServers, backend: &Backend) -> Vec<SocketAddr> {
    if let Endpoint::Address(address) = &backend.endpoint {
        return vec![*address];
    }
    let name = &backend.endpoint;
    let runtime = Builder::new_current_thread().enable_all().build();
    let asked = runtime.map(|runtime| runtime.block_on(async { servers.ask(name).await }));
    match asked {
        Ok(Ok(answer)) => {
            let seconds = answer.time_to_live.as_secs();
            let count = answer.targets.len();
            findings.fine(&format!("{name} stands for {count} addresses, for {seconds} s"));
            answer.targets.iter().map(|target| target.address).collect()
        }
        Ok(Err(error)) if error.is_denial() => {
            findings.wrong(&format!("{name}: {error}"), "correct the name, or write the address");
            Vec::new()
        }
        Ok(Err(error)) => {
            let cure = "see /etc/resolv.conf, or name a server that answers in `resolver`";
            findings.wrong(&format!("{name}: {error}"), cure);
            Vec::new()
        }
        Err(error) => {
            findings.wrong(
                &format!("{name} could not be looked up: {error}"),
                "see the system's log",
            );
            Vec::new()
        }
    }
}

fn reach(findings: &mut Findings, service: &Service, backend: SocketAddr) {
    if service.mode == Mode::Udp {
        return findings.fine(&format!("{backend} takes datagrams; only its answers could tell more"));
    }
    let ports = match (service.check.kind, service.check.port) {
        (CheckKind::None, _) | (_, None) => vec![(backend, "traffic")],
        (_, Some(port)) => vec![(backend, "traffic"), (SocketAddr::new(backend.ip(), port), "checks")],
    };
    for (address, use_of) in ports {
        match TcpStream::connect_timeout(&address, service.timeouts.connect) {
            Ok(stream) => {
                findings.fine(&format!("{address} accepts connections ({use_of})"));
                let is_plain = matches!(service.client_ip, ClientIp::None | ClientIp::Transparent)
                    && service.backend_tls.is_none();
                if service.mode == Mode::Http && use_of == "traffic" && is_plain {
                    speaks_http(findings, stream, address);
                }
            }
            Err(error) => findings.wrong(&format!("{address} ({use_of}): {error}"), cure(error.kind())),
        }
    }
}

/// Asks for what costs a server nothing.
fn speaks_http(findings: &mut Findings, mut stream: TcpStream, address: SocketAddr) {
    let mut begin = [0; 7];
    let asked = stream
        .set_read_timeout(Some(ANSWER))
        .and_then(|()| {
            write!(
                stream,
                "OPTIONS * HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            )
        })
        .and_then(|()| stream.read_exact(&mut begin));
    match asked {
        Ok(()) if begin.starts_with(b"HTTP/1.") => findings.fine(&format!("{address} speaks HTTP")),
        Ok(()) if begin[0] == TLS_ALERT => findings.wrong(
            &format!("{address} speaks TLS"),
            "set `backend_tls`, name a port that speaks plain HTTP, or use `mode: tcp`",
        ),
        Ok(()) => findings.wrong(
            &format!("{address} does not speak HTTP"),
            "name another port, or use `mode: tcp`",
        ),
        Err(error) => findings.wrong(
            &format!("{address} does not answer an HTTP request: {error}"),
            "see the server's log; name another port if this one is not for HTTP",
        ),
    }
}

fn cure(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ConnectionRefused => "the machine is there and nothing listens: start the node, or correct the port",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            "no answer at all: is the machine up, does a firewall drop this?"
        }
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => "no way there: `ip route get ADDRESS` shows why",
        _ => "see `ip route get ADDRESS` and the firewall",
    }
}

fn files(findings: &mut Findings, plan: &Plan) {
    let limit = getrlimit(Resource::Nofile);
    // The balancer raises the soft limit to the hard one at its start.
    let files = limit.maximum.unwrap_or(u64::MAX);
    let connections = files / FILES_A_CONNECTION;
    let wanted = plan
        .process
        .maxconn
        .map_or(CONNECTIONS_EXPECTED, |wanted| wanted as u64);
    if connections >= wanted {
        findings.fine(&format!("{files} files may be open, enough for {wanted} connections"));
    } else {
        findings.wrong(
            &format!("{files} files may be open: {connections} connections at most"),
            &format!("put LimitNOFILE={} into the unit", wanted * FILES_A_CONNECTION + 100),
        );
    }
}

fn kernel(findings: &mut Findings, plan: &Plan) {
    if let Some((first, last)) = setting("net/ipv4/ip_local_port_range").as_deref().and_then(pair) {
        let ports = last.saturating_sub(first) + 1;
        if ports >= 10_000 {
            findings.fine(&format!("{ports} ports for connections to each backend"));
        } else {
            findings.wrong(
                &format!("{ports} ports for connections to each backend"),
                "sysctl net.ipv4.ip_local_port_range='10240 65535'",
            );
        }
    }
    if let Some(backlog) = setting("net/core/somaxconn").and_then(|text| text.trim().parse::<u64>().ok()) {
        if backlog >= 1024 {
            findings.fine(&format!("{backlog} connections may wait to be accepted"));
        } else {
            findings.wrong(
                &format!("{backlog} connections may wait to be accepted"),
                "sysctl net.core.somaxconn=4096",
            );
        }
    }
    pipes(findings);
    let is_transparent = plan
        .services
        .iter()
        .any(|service| service.client_ip == ClientIp::Transparent);
    if is_transparent && !may_administer_network() {
        findings.wrong(
            "client_ip: transparent needs the right to use foreign addresses",
            "put AmbientCapabilities=CAP_NET_ADMIN into the unit, or use proxy-v2",
        );
    }
}

/// Long transfers go through pipes in the kernel, of which one user may have so much and no more.
fn pipes(findings: &mut Findings) {
    let number = |name: &str| setting(name).and_then(|text| text.trim().parse::<u64>().ok());
    let (Some(largest), Some(pages)) = (number("fs/pipe-max-size"), number("fs/pipe-user-pages-soft")) else {
        return findings.wrong(
            "this kernel does not tell what it has for pipes",
            "long transfers may be copied, which costs more processor time and loses nothing",
        );
    };
    let needed = openhim_balancer::relay::PIPE_CAPACITY as u64;
    // Zero stands for no limit.
    let fit = if pages == 0 { u64::MAX } else { pages * 4096 / needed };
    if largest >= needed && fit >= 64 {
        findings.fine("long transfers stay in the kernel (splice)");
    } else {
        findings.wrong(
            "few long transfers at a time can stay in the kernel (splice); the others cost more processor time",
            "sysctl fs.pipe-max-size=1048576 fs.pipe-user-pages-soft=16384",
        );
    }
}

fn setting(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn may_administer_network() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & CAP_NET_ADMIN != 0)
}
