//! From text to commands.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::plan::{Endpoint, EndpointError, Schedule, WEIGHT_MAX};

use super::lex::{self, Given, Word, id};
use super::{
    Command, DEFAULT_PERSISTENCE, Listing, Protocol, Reason, Rule, RuleError, SavedService, ServerOptions,
    ServiceOptions, Table, Virtual,
};

/// Longest line that is read.
const LONGEST_LINE: usize = 4096;
/// Most lines of a text.
const MOST_LINES: usize = 100_000;
/// Longest persistence, as in ipvsadm: 31 days in seconds.
const LONGEST_PERSISTENCE: u32 = 31 * 24 * 60 * 60;

/// Options that each command may have, beside itself.
const ALLOWED: [(char, &str); 13] = [
    ('A', "tufspMbo6q"),
    ('E', "tufspMbo6q"),
    ('D', "tuf6"),
    ('C', ""),
    ('R', ""),
    ('S', "n"),
    ('a', "tufrgimwxy6"),
    ('e', "tufrgimwxy6"),
    ('d', "tufr6"),
    ('L', "tufcnX6j4578*90_"),
    ('l', "tufcnX6j4578*90_"),
    ('Z', "tuf6"),
    (id::SET, ""),
];

/// The service names that `ipvsadm -S` prints without `-n` for ports that an OpenHIM or the like is on.
const PORT_NAMES: [(&str, u16); 22] = [
    ("ftp", 21),
    ("ssh", 22),
    ("smtp", 25),
    ("domain", 53),
    ("http", 80),
    ("ntp", 123),
    ("snmp", 161),
    ("ldap", 389),
    ("https", 443),
    ("syslog", 514),
    ("ldaps", 636),
    ("hl7", 2575),
    ("mysql", 3306),
    ("commplex-main", 5000),
    ("commplex-link", 5001),
    ("mmcc", 5050),
    ("ida-agent", 5051),
    ("ita-manager", 5052),
    ("postgresql", 5432),
    ("http-alt", 8080),
    ("webcache", 8080),
    ("cslistener", 9000),
];

type At = (usize, Reason);

/// Parses one command, as the words after `ipvsadm` on a command line.
///
/// # Errors
/// Says what is wrong, with the column in the words joined by spaces.
pub fn parse_command<S: AsRef<str>>(words: &[S]) -> Result<Command, RuleError> {
    let line = words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
    let error = |(column, reason)| RuleError {
        line: 1,
        column,
        reason,
    };
    parse_line(&line).map_err(error)?.ok_or(error((1, Reason::NoCommand)))
}

/// Parses commands, one a line: what `ipvsadm -S` prints, or a script that calls `ipvsadm`. Empty lines and what follows
/// a `#` are passed over.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn parse_rules(text: &str) -> Result<Vec<Rule>, Vec<RuleError>> {
    let mut rules = Vec::new();
    let mut errors = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        if line > MOST_LINES {
            errors.push(RuleError {
                line,
                column: 1,
                reason: Reason::TooMany(MOST_LINES),
            });
            break;
        }
        match parse_line(content) {
            Ok(Some(command)) => rules.push(Rule { line, command }),
            Ok(None) => {}
            Err((column, reason)) => errors.push(RuleError { line, column, reason }),
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

/// Parses a saved set of rules into services with their servers.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn parse_saved(text: &str) -> Result<Vec<SavedService>, Vec<RuleError>> {
    let mut services: Vec<SavedService> = Vec::new();
    let mut places: HashMap<Virtual, usize> = HashMap::new();
    let mut errors = Vec::new();
    for Rule { line, command } in parse_rules(text)? {
        let mut wrong = |reason| {
            errors.push(RuleError {
                line,
                column: 1,
                reason,
            })
        };
        match command {
            Command::AddService(service, options) => match places.get(&service) {
                Some(&place) => wrong(Reason::SecondService(
                    services.get(place).map_or(0, |first: &SavedService| first.line),
                )),
                None => {
                    places.insert(service, services.len());
                    services.push(SavedService {
                        line,
                        service,
                        options,
                        servers: Vec::new(),
                    });
                }
            },
            Command::AddServer(service, server, options) => {
                match places.get(&service).and_then(|&place| services.get_mut(place)) {
                    None => wrong(Reason::UnknownService),
                    Some(service) if service.servers.iter().any(|(known, _)| *known == server) => {
                        wrong(Reason::SecondServer);
                    }
                    Some(service) => service.servers.push((server, options)),
                }
            }
            _ => wrong(Reason::NotSaved),
        }
    }
    if errors.is_empty() { Ok(services) } else { Err(errors) }
}

/// The command of a line, if it holds any.
fn parse_line(line: &str) -> Result<Option<Command>, At> {
    if line.len() > LONGEST_LINE {
        return Err((1, Reason::LineLength(LONGEST_LINE)));
    }
    let words = lex::words(line);
    let Some(first) = words.first() else { return Ok(None) };
    let (given, bare) = lex::options(&words)?;
    let line = Line::checked(&given, &bare, first.column)?;
    line.command().map(Some)
}

/// The options of one line, known to go with its command.
struct Line<'a> {
    command: char,
    /// Where to point at what is missing.
    column: usize,
    given: &'a [Given<'a>],
    bare: &'a [Word<'a>],
}

impl<'a> Line<'a> {
    fn checked(given: &'a [Given<'a>], bare: &'a [Word<'a>], column: usize) -> Result<Self, At> {
        let is_command = |given: &&Given<'_>| ALLOWED.iter().any(|(command, _)| *command == given.option.id);
        let mut commands = given.iter().filter(is_command);
        if let Some(daemon) = given
            .iter()
            .find(|given| [id::START_DAEMON, id::STOP_DAEMON].contains(&given.option.id))
        {
            return Err((daemon.column, Reason::SyncDaemon));
        }
        let command = commands.next().ok_or((column, Reason::NoCommand))?;
        if let Some(second) = commands.next() {
            return Err((second.column, Reason::SecondCommand(second.shown())));
        }
        let allowed = ALLOWED
            .iter()
            .find(|(known, _)| *known == command.option.id)
            .map_or("", |(_, allowed)| allowed);
        for (place, one) in given.iter().enumerate() {
            if one.option != command.option && !allowed.contains(one.option.id) {
                return Err((one.column, Reason::Misplaced(one.shown())));
            }
            if given[..place].iter().any(|before| before.option == one.option) {
                return Err((one.column, Reason::Twice(one.shown())));
            }
            if one.needs_value() && one.value.is_none() {
                return Err((one.column, Reason::NoValue(one.shown())));
            }
        }
        let line = Self {
            command: command.option.id,
            column,
            given,
            bare,
        };
        match bare.first() {
            Some(word) if line.command != id::SET => Err((word.column, Reason::NoOption(word.text.to_owned()))),
            _ => line.refuse_what_a_proxy_cannot().map(|()| line),
        }
    }

    fn refuse_what_a_proxy_cannot(&self) -> Result<(), At> {
        for given in self.given {
            let reason = match (given.option.id, given.value) {
                ('f', _) => Reason::FirewallMark,
                ('g', _) => Reason::DirectRouting,
                ('i', _) => Reason::Tunnelling,
                ('M', Some(mask)) if !["255.255.255.255", "128"].contains(&mask.text) => Reason::Netmask,
                ('o' | id::PE, _) => Reason::PacketOption(given.shown()),
                // Looking for another server when the hashed one is down is what we always do.
                ('b', Some(flags)) if !flags.text.split(',').all(|flag| flag.ends_with("-fallback")) => {
                    Reason::PacketOption(given.shown())
                }
                (id::DAEMON, _) => Reason::SyncDaemon,
                _ => continue,
            };
            return Err((given.column, reason));
        }
        Ok(())
    }

    fn command(&self) -> Result<Command, At> {
        Ok(match self.command {
            'A' => Command::AddService(self.service()?, self.service_options()?),
            'E' => Command::EditService(self.service()?, self.service_options()?),
            'D' => Command::DeleteService(self.service()?),
            'C' => Command::Clear,
            'R' => Command::Restore,
            'S' => Command::Save,
            'a' => Command::AddServer(self.service()?, self.server()?, self.server_options()?),
            'e' => Command::EditServer(self.service()?, self.server()?, self.server_options()?),
            'd' => Command::DeleteServer(self.service()?, self.server()?),
            'Z' => Command::Zero(self.any_service()?),
            id::SET => self.timeouts()?,
            _ => Command::List(self.listing()?),
        })
    }

    fn get(&self, option: char) -> Option<&Given<'a>> {
        self.given.iter().find(|given| given.option.id == option)
    }

    fn has(&self, option: char) -> bool {
        self.get(option).is_some()
    }

    fn value(&self, option: char) -> Option<Word<'a>> {
        self.get(option)?.value
    }

    fn service(&self) -> Result<Virtual, At> {
        self.any_service()?.ok_or((self.column, Reason::NoService))
    }

    fn any_service(&self) -> Result<Option<Virtual>, At> {
        let (protocol, word) = match (self.value('t'), self.value('u')) {
            (None, None) => return Ok(None),
            (Some(word), None) => (Protocol::Tcp, word),
            (None, Some(word)) => (Protocol::Udp, word),
            (Some(_), Some(word)) => return Err((word.column, Reason::Misplaced("-u".to_owned()))),
        };
        let (host, port) = host_and_port(word)?;
        let ip = match host.parse::<IpAddr>() {
            Ok(ip) => ip,
            Err(_) if host == "localhost" => Ipv4Addr::LOCALHOST.into(),
            // As in `-t :5000`.
            Err(_) if host.is_empty() => Ipv4Addr::UNSPECIFIED.into(),
            Err(_) => return Err((word.column, Reason::ServiceName(host.to_owned()))),
        };
        Ok(Some(Virtual {
            protocol,
            address: SocketAddr::new(ip, port),
        }))
    }

    fn server(&self) -> Result<Endpoint, At> {
        let word = self.value('r').ok_or((self.column, Reason::NoServer))?;
        let (host, port) = host_and_port(word)?;
        let endpoint = match host.parse::<IpAddr>() {
            Ok(ip) => Ok(Endpoint::Address(SocketAddr::new(ip, port))),
            Err(_) => format!("{host}:{port}").parse(),
        };
        endpoint.map_err(|_: EndpointError| (word.column, Reason::Address(word.text.to_owned())))
    }

    fn service_options(&self) -> Result<ServiceOptions, At> {
        let schedule = self.value('s').map(schedule).transpose()?;
        let persistence = match self.get('p') {
            None => None,
            Some(Given { value: None, .. }) => Some(DEFAULT_PERSISTENCE),
            Some(Given { value: Some(word), .. }) => {
                Some(Duration::from_secs(u64::from(number(*word, 1, LONGEST_PERSISTENCE)?)))
            }
        };
        Ok(ServiceOptions { schedule, persistence })
    }

    fn server_options(&self) -> Result<ServerOptions, At> {
        let limit = |option| {
            self.value(option)
                .map(|word| number(word, 0, i32::MAX as u32))
                .transpose()
        };
        let weight = self
            .value('w')
            .map(|word| number(word, 0, u32::from(WEIGHT_MAX)))
            .transpose()?;
        Ok(ServerOptions {
            weight: weight.and_then(|weight| u16::try_from(weight).ok()),
            upper: limit('x')?,
            lower: limit('y')?,
        })
    }

    fn listing(&self) -> Result<Listing, At> {
        let tables = [
            (id::STATS, Table::Stats),
            (id::RATE, Table::Rate),
            (id::THRESHOLDS, Table::Thresholds),
            (id::PERSISTENT_CONN, Table::PersistentConnections),
            ('c', Table::Connections),
            (id::TIMEOUT, Table::Timeouts),
        ];
        // Of several, ipvsadm shows the first of its own order.
        let table = tables
            .iter()
            .find(|(option, _)| self.has(*option))
            .map(|(_, table)| *table)
            .unwrap_or_default();
        Ok(Listing {
            table,
            service: self.any_service()?,
            exact: self.has('X'),
            sort: self.has(id::SORT),
            json: self.has(id::JSON),
        })
    }

    fn timeouts(&self) -> Result<Command, At> {
        let [tcp, fin, udp] = *self.bare else {
            let column = self.bare.get(3).map_or(self.column, |word| word.column);
            return Err((column, Reason::NoValue("--set".to_owned())));
        };
        let seconds = |word| number(word, 0, LONGEST_PERSISTENCE);
        Ok(Command::SetTimeouts([seconds(tcp)?, seconds(fin)?, seconds(udp)?]))
    }
}

/// Splits at the last colon, and the brackets of an IPv6 address off.
fn host_and_port(word: Word<'_>) -> Result<(&str, u16), At> {
    let malformed = || (word.column, Reason::Address(word.text.to_owned()));
    let Some((host, port)) = word.text.rsplit_once(':') else {
        let is_host = word.text.parse::<IpAddr>().is_ok() || !word.text.contains(['[', ']']);
        return Err(if is_host {
            (word.column, Reason::AllPorts)
        } else {
            malformed()
        });
    };
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or_else(malformed)?,
        None if host.contains(':') => return Err(malformed()),
        None => host,
    };
    let port = match port.parse::<u16>() {
        Ok(0) => return Err((word.column, Reason::AllPorts)),
        Ok(number) if !port.starts_with('+') => number,
        Ok(_) => return Err(malformed()),
        Err(_) if port.starts_with(|first: char| first.is_ascii_alphabetic()) => PORT_NAMES
            .iter()
            .find(|(name, _)| *name == port)
            .map(|(_, port)| *port)
            .ok_or_else(|| (word.column, Reason::PortName(port.to_owned())))?,
        Err(_) => return Err(malformed()),
    };
    Ok((host, port))
}

fn schedule(word: Word<'_>) -> Result<Schedule, At> {
    let reason = match word.text {
        // The nearest of ours: these differ from `wlc` only in how they count a connection that is about to be.
        "sed" | "nq" => return Ok(Schedule::Wlc),
        "twos" => return Ok(Schedule::P2c),
        "ovf" => return Ok(Schedule::First),
        "dh" | "lblc" | "lblcr" => Reason::CacheSchedule(word.text.to_owned()),
        "fo" => Reason::FailoverSchedule,
        name => match Schedule::NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, schedule)) => return Ok(*schedule),
            None => Reason::Schedule(name.to_owned()),
        },
    };
    Err((word.column, reason))
}

fn number(word: Word<'_>, least: u32, most: u32) -> Result<u32, At> {
    let digits = word.text.bytes().all(|byte| byte.is_ascii_digit());
    match word.text.parse() {
        Ok(number) if digits && (least..=most).contains(&number) => Ok(number),
        _ => Err((
            word.column,
            Reason::Number {
                value: word.text.to_owned(),
                least,
                most,
            },
        )),
    }
}
