//! From data to ipvsadm's tables and rules, to the column.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use crate::plan::Schedule;

use super::{Listing, Protocol, Table, Virtual};

/// A service to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub service: Virtual,
    pub schedule: Schedule,
    pub persistence: Option<Duration>,
    /// Since start or `-Z`.
    pub totals: Numbers,
    /// A second, of late.
    pub rates: Numbers,
    pub servers: Vec<Server>,
    /// Servers that are names which stand for nothing.
    pub unresolved: Vec<String>,
}

/// A server to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub address: SocketAddr,
    pub weight: u16,
    /// Most concurrent connections; zero: no limit.
    pub upper: u32,
    pub lower: u32,
    pub active: u32,
    /// Connections of which one side has ended.
    pub inactive: u32,
    /// Clients that are persistent to it.
    pub persistent: u32,
    pub totals: Numbers,
    pub rates: Numbers,
}

/// What ipvsadm counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    pub connections: u64,
    /// A proxy sees no packets; what it knows about its sockets' segments, or zero.
    pub packets_in: u64,
    pub packets_out: u64,
    /// From clients.
    pub bytes_in: u64,
    /// To clients.
    pub bytes_out: u64,
}

/// A live connection to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub protocol: Protocol,
    /// Time left before silence ends it.
    pub expires: Duration,
    /// As in `ESTABLISHED`, `FIN_WAIT`, `UDP`.
    pub state: &'static str,
    pub client: SocketAddr,
    pub service: SocketAddr,
    pub server: SocketAddr,
}

/// The table that `listing` asks for, of those that show services.
pub fn list(services: &[Service], listing: &Listing) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut out = String::new();
    // ipvsadm leaves this line out when asked for one service.
    if listing.service.is_none() {
        let _ = writeln!(out, "IP Virtual Server version {version} (size=0)");
    }
    out.push_str(&title(listing.table));
    let mut shown: Vec<&Service> = services
        .iter()
        .filter(|shown| listing.service.is_none_or(|service| service == shown.service))
        .collect();
    if listing.sort {
        shown.sort_by_key(|service| service.service);
    }
    for service in shown {
        // Writing to a string does not fail.
        let _ = write_service(service, listing, &mut out);
    }
    out
}

fn title(table: Table) -> String {
    let local = "Prot LocalAddress:Port";
    let columns = match table {
        Table::Stats => {
            format!(
                "{local:<33} {:>8} {:>8} {:>8} {:>8} {:>8}",
                "Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"
            )
        }
        Table::Rate => format!(
            "{local:<33} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"
        ),
        Table::Thresholds => {
            format!(
                "{local:<33} {:<10} {:<10} {:<10} {:<10}",
                "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
            )
        }
        Table::PersistentConnections => {
            format!(
                "{local:<33} {:<9} {:<11} {:<10} {:<10}",
                "Weight", "PersistConn", "ActiveConn", "InActConn"
            )
        }
        Table::Servers | Table::Connections | Table::Timeouts => {
            return "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn \
                    InActConn\n"
                .to_owned();
        }
    };
    format!("{columns}\n  -> RemoteAddress:Port\n")
}

fn write_service(shown: &Service, listing: &Listing, out: &mut String) -> fmt::Result {
    let Virtual { protocol, address } = shown.service;
    let name = format!("{protocol}  {address}");
    match listing.table {
        Table::Stats => writeln!(out, "{name:<33}{}", Columns(&shown.totals, listing.exact))?,
        Table::Rate => writeln!(out, "{name:<33}{}", Columns(&shown.rates, listing.exact))?,
        _ => {
            write!(out, "{name} {}", ipvs_name(shown.schedule))?;
            if let Some(persistence) = shown.persistence {
                write!(out, " persistent {}", persistence.as_secs())?;
            }
            out.push('\n');
        }
    }
    let mut servers: Vec<&Server> = shown.servers.iter().collect();
    if listing.sort {
        servers.sort_by_key(|server| server.address);
    }
    for server in servers {
        let Server {
            address,
            weight,
            upper,
            lower,
            active,
            inactive,
            persistent,
            ..
        } = server;
        let name = address.to_string();
        match listing.table {
            Table::Stats => writeln!(out, "  -> {name:<28}{}", Columns(&server.totals, listing.exact))?,
            Table::Rate => writeln!(out, "  -> {name:<28}{}", Columns(&server.rates, listing.exact))?,
            Table::Thresholds => writeln!(
                out,
                "  -> {name:<28} {upper:<10} {lower:<10} {active:<10} {inactive:<10}"
            )?,
            Table::PersistentConnections => {
                writeln!(
                    out,
                    "  -> {name:<28} {weight:<9} {persistent:<11} {active:<10} {inactive:<10}"
                )?;
            }
            Table::Servers | Table::Connections | Table::Timeouts => {
                writeln!(
                    out,
                    "  -> {name:<28} {:<7} {weight:<6} {active:<10} {inactive:<10}",
                    "Proxy"
                )?;
            }
        }
    }
    if listing.table == Table::Servers {
        for name in &shown.unresolved {
            writeln!(out, "  -> {name:<28} {:<7} {:<6} {:<10} {:<10}", "Unknown", 0, 0, 0)?;
        }
    }
    Ok(())
}

/// The five numbers of a line; the flag: never shortened.
struct Columns<'a>(&'a Numbers, bool);

impl fmt::Display for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Numbers {
            connections,
            packets_in,
            packets_out,
            bytes_in,
            bytes_out,
        } = *self.0;
        for number in [connections, packets_in, packets_out, bytes_in, bytes_out] {
            match number {
                number if self.1 => {
                    let width = number.to_string().len().max(8) + 1;
                    write!(f, "{number:>width$}")?;
                }
                0..100_000_000 => write!(f, "{number:>9}")?,
                100_000_000..1_000_000_000 => write!(f, "{:>8}K", number / 1000)?,
                1_000_000_000..100_000_000_000 => write!(f, "{:>8}M", number / 1_000_000)?,
                100_000_000_000..100_000_000_000_000 => write!(f, "{:>8}G", number / 1_000_000_000)?,
                _ => write!(f, "{:>8}T", number / 1_000_000_000_000)?,
            }
        }
        Ok(())
    }
}

/// The table of `-L -c`.
pub fn list_connections(connections: &[Connection]) -> String {
    let mut out = "IPVS connection entries\n".to_owned();
    let mut line = |protocol: &str, expires: &str, state: &str, addresses: [String; 3]| {
        let [client, service, server] = addresses;
        let _ = writeln!(
            out,
            "{protocol:<3} {expires:<6} {state:<11} {client:<18} {service:<18} {server}"
        );
    };
    line(
        "pro",
        "expire",
        "state",
        ["source", "virtual", "destination"].map(str::to_owned),
    );
    for connection in connections {
        let Connection {
            protocol,
            expires,
            state,
            client,
            service,
            server,
        } = connection;
        let expires = format!("{:02}:{:02}", expires.as_secs() / 60, expires.as_secs() % 60);
        line(
            &protocol.to_string(),
            &expires,
            state,
            [client, service, server].map(SocketAddr::to_string),
        );
    }
    out
}

/// The line of `-L --timeout`: seconds for established TCP, TCP after the end of one side, and UDP.
pub fn list_timeouts([tcp, fin, udp]: [u64; 3]) -> String {
    format!("Timeout (tcp tcpfin udp): {tcp} {fin} {udp}\n")
}

/// Rules that make these services, in the form of `ipvsadm -S -n`, which a real `ipvsadm -R` takes.
pub fn save(services: &[Service]) -> String {
    let mut out = String::new();
    for shown in services {
        let letter = match shown.service.protocol {
            Protocol::Tcp => "-t",
            Protocol::Udp => "-u",
        };
        let address = shown.service.address;
        let _ = write!(out, "-A {letter} {address} -s {}", ipvs_name(shown.schedule));
        if let Some(persistence) = shown.persistence {
            let _ = write!(out, " -p {}", persistence.as_secs());
        }
        out.push('\n');
        for Server {
            address: server,
            weight,
            upper,
            lower,
            ..
        } in &shown.servers
        {
            let _ = write!(out, "-a {letter} {address} -r {server} -m -w {weight}");
            for (option, limit) in [("-x", *upper), ("-y", *lower)] {
                if limit > 0 {
                    let _ = write!(out, " {option} {limit}");
                }
            }
            out.push('\n');
        }
    }
    out
}

/// What IPVS calls a schedule; of those it does not have, the nearest.
fn ipvs_name(schedule: Schedule) -> &'static str {
    match schedule {
        Schedule::Rr => "rr",
        // Chance by weight has the shares of turns by weight.
        Schedule::Wrr | Schedule::Random => "wrr",
        Schedule::Lc => "lc",
        Schedule::Wlc => "wlc",
        Schedule::P2c => "twos",
        Schedule::Sh => "sh",
        Schedule::Mh => "mh",
        Schedule::First => "ovf",
    }
}
