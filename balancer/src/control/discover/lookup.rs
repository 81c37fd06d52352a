//! Asks the name servers of the system, or those that are configured, by way of hickory.
//!
//! `/etc/hosts` is looked at first, as everywhere on the machine; names with few dots are completed by the search list
//! of `/etc/resolv.conf`. Both files are read anew when they change. A truncated answer is asked for again over TCP.
//! Nothing is cached here: when to ask is decided by [`Names`](super::Names).

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};

use super::{Answer, LookupError, Missing, Outcome, Resolver, Target};
use crate::plan::Endpoint;

/// One question to one name server.
const ONE_QUESTION: Duration = Duration::from_secs(2);
/// Everything about one name.
const WHOLE: Duration = Duration::from_secs(5);
/// Targets of one service record that are taken; who has more is not served by one balancer.
const MOST_TARGETS: usize = 1024;
/// Targets that are looked up at the same time.
const AT_ONCE: usize = 16;
/// What the resolver is made of.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// The name servers.
#[derive(Debug)]
pub struct NameServers {
    /// Those that are configured; none is those of the system.
    configured: Vec<SocketAddr>,
    made: Mutex<Option<(Stamp, Arc<Made>)>>,
}

/// When the files were last changed, and how long they were.
type Stamp = [Option<(SystemTime, u64)>; 2];

struct Made {
    resolver: TokioResolver,
    hosts: Hosts,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").finish_non_exhaustive()
    }
}

impl Resolver for NameServers {
    fn ask(&self, endpoint: &Endpoint) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        let (made, endpoint) = (self.current(), endpoint.clone());
        Box::pin(async move {
            let made = made?;
            let asking = made.ask(&endpoint);
            tokio::time::timeout(WHOLE, asking)
                .await
                .unwrap_or(Err(LookupError::Silent))
        })
    }
}

impl NameServers {
    /// These name servers; the system's if there are none. One is for one runtime: it keeps connections there.
    #[must_use]
    pub fn new(configured: Vec<SocketAddr>) -> Self {
        Self {
            configured,
            made: Mutex::default(),
        }
    }

    fn current(&self) -> Result<Arc<Made>, LookupError> {
        let stamp = FILES.map(|file| stamp(Path::new(file)));
        let mut current = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, made)) = current.as_ref().filter(|(of, _)| *of == stamp) {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(Made::new(&self.configured).map_err(|error| LookupError::Failed(error.to_string()))?);
        *current = Some((stamp, Arc::clone(&made)));
        Ok(made)
    }
}

fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

impl Made {
    fn new(configured: &[SocketAddr]) -> Result<Self, NetError> {
        let system = hickory_resolver::system_conf::read_system_conf();
        let (config, mut options) = match (configured, system) {
            ([], Ok(system)) => system,
            // As the C library does without that file.
            ([], Err(_)) => (
                servers(&[SocketAddr::from(([127, 0, 0, 1], 53))]),
                ResolverOpts::default(),
            ),
            (configured, Ok((system, options))) => {
                let mut config = servers(configured);
                system
                    .search()
                    .iter()
                    .for_each(|domain| config.add_search(domain.clone()));
                (config, options)
            }
            (configured, Err(_)) => (servers(configured), ResolverOpts::default()),
        };
        options.cache_size = 0;
        options.edns0 = true;
        options.timeout = options.timeout.min(ONE_QUESTION);
        options.attempts = options.attempts.min(1);
        options.use_hosts_file = ResolveHosts::Never;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self {
            resolver: builder.build()?,
            hosts: Hosts::from_system().unwrap_or_default(),
        })
    }

    async fn ask(&self, endpoint: &Endpoint) -> Outcome {
        match endpoint {
            Endpoint::Address(address) => Ok(Answer {
                targets: vec![Target::new(*address)],
                time_to_live: Duration::MAX,
                missing: Missing::Nothing,
            }),
            Endpoint::Name(name, port) => {
                let found = self.addresses(name).await?;
                Ok(Answer {
                    targets: found.targets(*port, false, None),
                    time_to_live: found.time_to_live,
                    missing: found.missing,
                })
            }
            Endpoint::Srv(name) => self.services(name).await,
        }
    }

    /// The targets of a service record, each with all its addresses.
    async fn services(&self, name: &str) -> Outcome {
        let (records, mut time_to_live) = self.records(name, RecordType::SRV).await?;
        let mut records: Vec<SRV> = records
            .into_iter()
            .filter_map(|data| match data {
                RData::SRV(record) if record.port != 0 && !record.target.is_root() => Some(record),
                _ => None,
            })
            .collect();
        records.sort_by(|a, b| (a.priority, &a.target, a.port).cmp(&(b.priority, &b.target, b.port)));
        records.truncate(MOST_TARGETS);
        let Some(best) = records.first().map(|record| record.priority) else {
            return Err(LookupError::Empty("no service record"));
        };
        let lookups = records.into_iter().map(|record| async move {
            // It ends with a dot: the search list is for what people write.
            let found = self.addresses(&record.target.to_utf8()).await;
            (record, found)
        });
        let found: Vec<_> = futures_util::stream::iter(lookups).buffered(AT_ONCE).collect().await;
        let (mut targets, mut missing, mut failure) = (Vec::<Target>::new(), Missing::Nothing, None);
        for (record, result) in found {
            match result {
                Ok(found) => {
                    time_to_live = time_to_live.min(found.time_to_live);
                    if found.missing != Missing::Nothing {
                        missing = Missing::Some;
                    }
                    let host: Arc<str> = record
                        .target
                        .to_utf8()
                        .trim_end_matches('.')
                        .to_ascii_lowercase()
                        .into();
                    let of_record = found.targets(record.port, record.priority > best, Some(record.weight));
                    targets.extend(of_record.into_iter().map(|target| Target {
                        host: Some(Arc::clone(&host)),
                        ..target
                    }));
                }
                Err(error) => {
                    if !error.is_denial() {
                        missing = Missing::Some;
                    }
                    failure = failure.or(Some(error));
                }
            }
        }
        give_shares(&mut targets);
        let mut seen = std::collections::HashSet::new();
        // The most preferred of a kind is first.
        targets.retain(|target| seen.insert(target.address));
        targets.sort_unstable();
        if targets.is_empty() {
            return Err(failure.unwrap_or(LookupError::Empty("no address")));
        }
        Ok(Answer {
            targets,
            time_to_live,
            missing,
        })
    }

    /// All addresses of a name, of both families.
    async fn addresses(&self, name: &str) -> Result<Found, LookupError> {
        if let Some(found) = self.in_hosts(name) {
            return Ok(found);
        }
        let (v4, v6) = tokio::join!(self.records(name, RecordType::A), self.records(name, RecordType::AAAA));
        let missing = match (&v4, &v6) {
            (Err(error), _) if !error.is_denial() => Missing::V4,
            (_, Err(error)) if !error.is_denial() => Missing::V6,
            _ => Missing::Nothing,
        };
        let mut found = Found {
            addresses: Vec::new(),
            time_to_live: Duration::MAX,
            missing,
        };
        let mut failures = Vec::new();
        for result in [v4, v6] {
            match result {
                Ok((records, time_to_live)) => {
                    found.time_to_live = found.time_to_live.min(time_to_live);
                    found.addresses.extend(records.iter().filter_map(RData::ip_addr));
                }
                Err(error) => failures.push(error),
            }
        }
        if !found.addresses.is_empty() {
            return Ok(found);
        }
        // What went wrong says more than what is not there, and that there is no such name says it all.
        let rank = |error: &LookupError| match error {
            LookupError::NoSuchName => 0,
            LookupError::Failed(_) | LookupError::Silent => 1,
            LookupError::Empty(_) => 2,
        };
        let worst = failures.into_iter().min_by_key(rank);
        Err(worst.unwrap_or(LookupError::Empty("no address")))
    }

    fn in_hosts(&self, name: &str) -> Option<Found> {
        let name = Name::from_utf8(name).ok()?;
        let kinds = [RecordType::A, RecordType::AAAA];
        let lookups = kinds.map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)));
        let records = lookups.iter().flatten().flat_map(|lookup| lookup.answers());
        let addresses: Vec<IpAddr> = records.filter_map(|record| record.data.ip_addr()).collect();
        (!addresses.is_empty()).then_some(Found {
            addresses,
            // A file has none: it is looked at again as often as a name server.
            time_to_live: Duration::from_secs(5),
            missing: Missing::Nothing,
        })
    }

    async fn records(&self, name: &str, kind: RecordType) -> Result<(Vec<RData>, Duration), LookupError> {
        let lookup = self
            .resolver
            .lookup(name, kind)
            .await
            .map_err(|error| failure(&error))?;
        let answers = lookup.answers();
        let seconds = answers.iter().map(|record| record.ttl).min().unwrap_or(0);
        let data = answers.iter().filter(|record| record.record_type() == kind);
        let data: Vec<RData> = data.map(|record| record.data.clone()).collect();
        if data.is_empty() {
            return Err(empty(kind));
        }
        Ok((data, Duration::from_secs(u64::from(seconds))))
    }
}

/// Addresses of one name.
struct Found {
    addresses: Vec<IpAddr>,
    time_to_live: Duration,
    missing: Missing,
}

impl Found {
    fn targets(&self, port: u16, backup: bool, weight: Option<u16>) -> Vec<Target> {
        let mut targets: Vec<Target> = self
            .addresses
            .iter()
            .map(|ip| Target {
                address: SocketAddr::new(*ip, port),
                backup,
                weight,
                host: None,
            })
            .collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}

/// A weight of 0 among others is a small share, not none; where all are 0 they are equal.
fn give_shares(targets: &mut [Target]) {
    for target in targets {
        target.weight = target.weight.map(|weight| weight.max(1));
    }
}

fn servers(addresses: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        server.connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
            .into_iter()
            .map(|mut connection| {
                connection.port = address.port();
                connection
            })
            .collect();
        server
    };
    ResolverConfig::from_parts(None, Vec::new(), addresses.iter().map(server).collect())
}

fn empty(kind: RecordType) -> LookupError {
    LookupError::Empty(match kind {
        RecordType::SRV => "no service record",
        _ => "no address",
    })
}

fn failure(error: &NetError) -> LookupError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            LookupError::NoSuchName
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NoError => {
            empty(none.query.query_type())
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) => LookupError::Failed(none.response_code.to_string()),
        NetError::Dns(DnsError::ResponseCode(code)) => LookupError::Failed(code.to_string()),
        NetError::Timeout => LookupError::Silent,
        other => LookupError::Failed(other.to_string()),
    }
}
