//! What an operator says, done: ipvsadm's letters and plain words.
//!
//! One order is carried out at a time and as a whole: it takes effect completely, or not at all and says why.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Control;
use super::discover::Target;
use super::report::Observed;
use super::sources::Sources;
use super::state::{Duty, Entry, Member};
use crate::config::{Config, values::duration};
use crate::ipvsadm::{self, Command, Protocol, SavedService, ServerOptions, ServiceOptions, Table, Virtual};
use crate::l4::sessions::Why;
use crate::metrics::Report;
use crate::plan::{Backend, Endpoint, Mode, Service, Sticky};

mod shown;

/// Something an operator wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// One of ipvsadm's commands; a server that is a name comes with what it stands for.
    Ipvs(Command, Vec<Target>),
    /// Rules that `ipvsadm -S -n` printed.
    Restore(Vec<SavedService>),
    /// Give backends something new, or not.
    Duty(Duty, Selector),
    /// Give backends nothing new, and end what is left after this time.
    Drain(Selector, Duration),
    /// Change the weight of backends.
    Weight(Selector, u16),
    /// End the live connections of backends, or of all.
    Kill(Option<Selector>),
    /// Tell how things are, for people or for programs.
    State {
        /// For programs.
        json: bool,
    },
    /// Read everything anew.
    Reload,
}

/// Which backends are meant: `10.0.0.3`, `10.0.0.3:5000`, `node3:5000`, and before it `SERVICE/` if not all services are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    service: Option<String>,
    backend: String,
}

impl Selector {
    fn parse(text: &str) -> Self {
        match text.split_once('/') {
            Some((service, backend)) => Self {
                service: Some(service.into()),
                backend: backend.into(),
            },
            None => Self {
                service: None,
                backend: text.into(),
            },
        }
    }

    fn is_meant(&self, service: &str, spec: &Backend, address: SocketAddr) -> bool {
        let host = match &spec.endpoint {
            Endpoint::Name(host, _) => host,
            _ => "",
        };
        self.service.as_ref().is_none_or(|it| it == service)
            && (self.backend == address.to_string()
                || self.backend == address.ip().to_string()
                || self.backend == spec.endpoint.to_string()
                || self.backend == host)
    }

    fn matches(&self, entry: &Entry, member: &Member) -> bool {
        !entry.is_leaving
            && member.leaves_by.is_none()
            && self.is_meant(&entry.service.name, &member.spec, member.address())
    }
}

impl Order {
    /// Reads the words of a command; `input` is what follows on standard input.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(words: &[String], input: &str) -> Result<Self, String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let selector = |text: &&str| Selector::parse(text);
        match words.as_slice() {
            [] => Err(format!("no command; there are {HELP}")),
            ["drain", backend] => Ok(Self::Duty(Duty::Drain, selector(backend))),
            ["drain", backend, time] => Ok(Self::Drain(selector(backend), duration(time)?)),
            ["maint", backend] => Ok(Self::Duty(Duty::Maint, selector(backend))),
            ["ready", backend] => Ok(Self::Duty(Duty::Ready, selector(backend))),
            ["weight", backend, weight] => {
                let weight = weight
                    .parse()
                    .map_err(|_| format!("`{weight}` is not a weight from 0 to 65535"))?;
                Ok(Self::Weight(selector(backend), weight))
            }
            ["kill-sessions"] => Ok(Self::Kill(None)),
            ["kill-sessions", backend] => Ok(Self::Kill(Some(selector(backend)))),
            ["state"] => Ok(Self::State { json: false }),
            ["state", "--json"] => Ok(Self::State { json: true }),
            ["reload"] => Ok(Self::Reload),
            [first, ..] if first.starts_with('-') => {
                match ipvsadm::parse_command(&words).map_err(|it| it.to_string())? {
                    Command::Restore => {
                        let services = ipvsadm::parse_saved(input)
                            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
                        Ok(Self::Restore(services))
                    }
                    command => Ok(Self::Ipvs(command, Vec::new())),
                }
            }
            ["drain", ..] => Err("usage: drain [SERVICE/]BACKEND [TIME]".into()),
            [word @ ("maint" | "ready"), ..] => Err(format!("usage: {word} [SERVICE/]BACKEND")),
            ["weight", ..] => Err("usage: weight [SERVICE/]BACKEND NUMBER".into()),
            ["kill-sessions", ..] => Err("usage: kill-sessions [[SERVICE/]BACKEND]".into()),
            ["state", ..] => Err("usage: state [--json]".into()),
            ["reload", ..] => Err("usage: reload".into()),
            [word, ..] => Err(format!("`{word}` is not a command; there are {HELP}")),
        }
    }

    /// The name that has to be resolved before this can be done.
    #[must_use]
    pub fn name(&self) -> Option<&Endpoint> {
        match self {
            Self::Ipvs(Command::AddServer(_, endpoint @ (Endpoint::Name(..) | Endpoint::Srv(_)), _), _) => {
                Some(endpoint)
            }
            _ => None,
        }
    }
}

const HELP: &str = "drain, maint, ready, weight, kill-sessions, reload, state, and ipvsadm's \
                    -A -E -D -C -a -e -d -L -S -R -Z --set";

impl Control {
    /// Carries out an order.
    ///
    /// # Errors
    /// Why nothing was done.
    pub(super) fn obey(&mut self, order: Order, observed: &mut Observed, now: Instant) -> Result<String, String> {
        match order {
            Order::Duty(duty, selector) => self.set_duty(duty, &selector, now),
            Order::Drain(selector, time) => self.drain(&selector, time, now),
            Order::Weight(selector, weight) => self.set_weight(&selector, weight),
            Order::Kill(selector) => self.kill(selector.as_ref()),
            Order::State { json } => {
                self.settle();
                let report = observed.report(self, now);
                Ok(if json { to_json(&report)? } else { shown::state(&report) })
            }
            Order::Ipvs(command, targets) => self.obey_ipvs(command, targets, observed, now),
            Order::Restore(services) => self.restore(&services),
            // It takes time and is done by the task that speaks with the operator.
            Order::Reload => Err("a reload has to be asked for by itself".into()),
        }
    }

    fn set_duty(&mut self, duty: Duty, selector: &Selector, now: Instant) -> Result<String, String> {
        let chosen = self.chosen(selector)?;
        for (service, address) in &chosen {
            self.state.set_duty(service, *address, duty, now);
        }
        Ok(each(
            &chosen,
            match duty {
                Duty::Ready => "ready",
                Duty::Drain => "draining",
                Duty::Maint => "in maintenance",
            },
        ))
    }

    fn drain(&mut self, selector: &Selector, time: Duration, now: Instant) -> Result<String, String> {
        let chosen = self.chosen(selector)?;
        for (service, address) in &chosen {
            self.state.drain_by(service, *address, now + time, now);
        }
        Ok(each(&chosen, &format!("draining, {time:?} at most")))
    }

    fn kill(&self, selector: Option<&Selector>) -> Result<String, String> {
        let ended: usize = match selector {
            Some(selector) => {
                let chosen = self.chosen(selector)?;
                chosen
                    .iter()
                    .map(|(service, address)| self.end_sessions(service, *address, Why::Operator))
                    .sum()
            }
            None => self
                .threads
                .iter()
                .map(|thread| thread.sessions.end(Why::Operator, |_| true))
                .sum(),
        };
        Ok(format!("{ended} connections ended\n"))
    }

    fn chosen(&self, selector: &Selector) -> Result<Vec<(Arc<str>, SocketAddr)>, String> {
        let pairs = self
            .state
            .services()
            .iter()
            .flat_map(|entry| entry.members.iter().map(move |member| (entry, member)));
        let chosen: Vec<_> = pairs
            .filter(|(entry, member)| selector.matches(entry, member))
            .map(|(entry, member)| (Arc::clone(&entry.service.name), member.address()))
            .collect();
        if chosen.is_empty() {
            Err(format!("there is no backend `{}`", selector.backend))
        } else {
            Ok(chosen)
        }
    }

    fn set_weight(&mut self, selector: &Selector, weight: u16) -> Result<String, String> {
        let chosen = self.chosen(selector)?;
        let mut sources = self.sources.clone();
        for (service, address) in &chosen {
            let Some(entry) = self.state.service(service) else {
                continue;
            };
            let Some(member) = entry.members.iter().find(|member| member.address() == *address) else {
                continue;
            };
            // As it was written: what a service record says of its tier is not the operator's word.
            let written = sources.services().into_iter().find(|it| it.name == *service);
            let written = written.and_then(|it| it.backends.into_iter().find(|it| it.endpoint == member.spec.endpoint));
            let edited = Backend {
                weight,
                ..written.unwrap_or_else(|| member.spec.clone())
            };
            sources.edit_backend(service, &member.spec.endpoint, Some(edited));
        }
        self.adopt(sources).map_err(|problems| problems.to_string())?;
        Ok(each(&chosen, &format!("has weight {weight}")))
    }

    fn obey_ipvs(
        &mut self,
        command: Command,
        targets: Vec<Target>,
        observed: &mut Observed,
        now: Instant,
    ) -> Result<String, String> {
        let mut sources = self.sources.clone();
        match command {
            Command::List(listing) => return self.list(&listing, observed, now),
            Command::Save => return Ok(ipvsadm::save(&self.shown(observed))),
            Command::Zero(service) => {
                let name = service
                    .map(|service| self.named(&sources, service))
                    .transpose()?
                    .map(|it| it.name);
                self.settle();
                observed.zero(self, name.as_deref());
                return Ok(String::new());
            }
            Command::Restore => return Err("rules are expected on standard input".into()),
            Command::AddService(service, options) => {
                if self.named(&sources, service).is_ok() {
                    return Err(format!("{service} is there already", service = service.address));
                }
                let made = made(service, &options)?;
                sources.edit_service(&made.name.clone(), Some(made));
            }
            Command::EditService(service, options) => {
                let edited = with_options(self.named(&sources, service)?, &options);
                sources.edit_service(&edited.name.clone(), Some(edited));
            }
            Command::DeleteService(service) => {
                let name = self.named(&sources, service)?.name;
                sources.edit_service(&name, None);
            }
            Command::Clear => sources
                .services()
                .iter()
                .for_each(|service| sources.edit_service(&service.name, None)),
            Command::AddServer(service, endpoint, options) => {
                let service = self.named(&sources, service)?;
                if service.backends.iter().any(|it| it.endpoint == endpoint) {
                    return Err(format!("{endpoint} is there already"));
                }
                if !targets.is_empty() {
                    sources.names.insert(endpoint.clone(), targets);
                }
                sources.edit_backend(
                    &service.name,
                    &endpoint,
                    Some(server(Backend::new(endpoint.clone()), options)),
                );
            }
            Command::EditServer(service, endpoint, options) => {
                let (service, backend) = self.backend(&sources, service, &endpoint)?;
                sources.edit_backend(&service, &endpoint, Some(server(backend, options)));
            }
            Command::DeleteServer(service, endpoint) => {
                let (service, _) = self.backend(&sources, service, &endpoint)?;
                sources.edit_backend(&service, &endpoint, None);
            }
            Command::SetTimeouts(seconds) => set_timeouts(&mut sources, seconds),
        }
        self.adopt(sources).map_err(|problems| problems.to_string())?;
        Ok(String::new())
    }

    /// Makes services and their servers what the rules say; others stay.
    fn restore(&mut self, saved: &[SavedService]) -> Result<String, String> {
        let mut sources = self.sources.clone();
        for rules in saved {
            let service = match self.named(&sources, rules.service) {
                Ok(service) => with_options(service, &rules.options),
                Err(_) => made(rules.service, &rules.options)?,
            };
            let name = Arc::clone(&service.name);
            let before = service.backends.clone();
            sources.edit_service(&name, Some(service));
            for old in before
                .iter()
                .filter(|old| rules.servers.iter().all(|(endpoint, _)| *endpoint != old.endpoint))
            {
                sources.edit_backend(&name, &old.endpoint, None);
            }
            for (endpoint, options) in &rules.servers {
                if !matches!(endpoint, Endpoint::Address(_)) && !sources.names.contains_key(endpoint) {
                    return Err(format!(
                        "{endpoint}: names cannot be restored; save with -n, or add it with -a"
                    ));
                }
                let old = before.iter().find(|old| old.endpoint == *endpoint).cloned();
                let backend = server(old.unwrap_or_else(|| Backend::new(endpoint.clone())), *options);
                sources.edit_backend(&name, endpoint, Some(backend));
            }
        }
        self.adopt(sources).map_err(|problems| problems.to_string())?;
        Ok(format!("{} services restored\n", saved.len()))
    }

    /// The service that is meant by what clients connect to.
    fn named(&self, sources: &Sources, meant: Virtual) -> Result<Service, String> {
        let mode = match meant.protocol {
            Protocol::Tcp => Mode::Tcp,
            Protocol::Udp => Mode::Udp,
        };
        let bound = self.ports.bound();
        let is_meant = |service: &Service| {
            let mut given = bound
                .iter()
                .filter(|it| it.service == service.name)
                .map(|it| it.address);
            service.mode.transport() == mode
                && (service.listen.contains(&meant.address) || given.any(|it| it == meant.address))
        };
        sources
            .services()
            .into_iter()
            .find(is_meant)
            .ok_or_else(|| format!("there is no service {}", meant.address))
    }

    fn backend(&self, sources: &Sources, meant: Virtual, endpoint: &Endpoint) -> Result<(Arc<str>, Backend), String> {
        let service = self.named(sources, meant)?;
        let found = service.backends.iter().find(|it| it.endpoint == *endpoint).cloned();
        let missing = || format!("{endpoint} is not a server of {}", meant.address);
        Ok((service.name, found.ok_or_else(missing)?))
    }

    fn list(&self, listing: &ipvsadm::Listing, observed: &mut Observed, now: Instant) -> Result<String, String> {
        self.settle();
        if listing.json {
            return to_json(&observed.report(self, now));
        }
        Ok(match listing.table {
            Table::Connections => ipvsadm::list_connections(&self.shown_connections()),
            Table::Timeouts => ipvsadm::list_timeouts(self.shown_timeouts()),
            _ => ipvsadm::list(&self.shown(observed), listing),
        })
    }
}

impl Sources {
    /// Changes, adds or removes a service by an operator's word.
    fn edit_service(&mut self, name: &str, edited: Option<Service>) {
        let configured = self.plan.services.iter().find(|service| *service.name == *name);
        self.edits.set_service(name, configured, edited);
    }

    /// The same for a backend.
    fn edit_backend(&mut self, service: &str, endpoint: &Endpoint, edited: Option<Backend>) {
        let configured = self
            .plan
            .services
            .iter()
            .find(|it| *it.name == *service)
            .map(|it| self.configured(it));
        let configured = configured
            .unwrap_or_default()
            .into_iter()
            .find(|it| it.endpoint == *endpoint);
        self.edits.set_backend(service, endpoint, configured.as_ref(), edited);
    }
}

/// A service as `-A` makes it: everything it does not say is as if it were not written.
fn made(service: Virtual, options: &ServiceOptions) -> Result<Service, String> {
    let mode = match service.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let text = format!("{{listen: '{}', mode: {mode}, backends: []}}", service.address);
    let checked = Config::from_text(&text, Path::new("command")).and_then(|config| config.check());
    let mut services = checked.map_err(|problems| problems.to_string())?.plan.services;
    let made = services.pop().ok_or("no service came of it")?;
    let schedule = options.schedule.unwrap_or(ipvsadm::DEFAULT_SCHEDULE);
    Ok(with_options(
        made,
        &ServiceOptions {
            schedule: Some(schedule),
            ..*options
        },
    ))
}

fn with_options(mut service: Service, options: &ServiceOptions) -> Service {
    service.schedule = options.schedule.unwrap_or(service.schedule);
    service.sticky = options.persistence.map(|timeout| Sticky { timeout }).or(service.sticky);
    service
}

fn server(mut backend: Backend, options: ServerOptions) -> Backend {
    backend.weight = options.weight.unwrap_or(backend.weight);
    if let Some(upper) = options.upper {
        backend.maxconn = (upper > 0).then_some(upper);
    }
    backend
}

/// Zero leaves a time as it is.
fn set_timeouts(sources: &mut Sources, [tcp, end, udp]: [u32; 3]) {
    let set = |time: &mut Duration, seconds: u32| {
        if seconds > 0 {
            *time = Duration::from_secs(seconds.into());
        }
    };
    for mut service in sources.services() {
        match service.mode {
            Mode::Tcp | Mode::Http => {
                set(&mut service.timeouts.idle, tcp);
                set(&mut service.timeouts.half_close, end);
            }
            Mode::Udp => set(&mut service.timeouts.idle, udp),
        }
        sources.edit_service(&service.name.clone(), Some(service));
    }
}

fn each(chosen: &[(Arc<str>, SocketAddr)], what: &str) -> String {
    let mut text = String::new();
    for (service, address) in chosen {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{service}/{address} {what}");
    }
    text
}

fn to_json(report: &Report) -> Result<String, String> {
    serde_json::to_string_pretty(report)
        .map(|text| text + "\n")
        .map_err(|error| error.to_string())
}
