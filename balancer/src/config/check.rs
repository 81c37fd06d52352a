//! Written tree → [`Plan`], collecting every problem.

mod groups;
mod http;
mod tls;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::keys::{self, Scope};
use super::written::{Value, Written};
use super::{Checked, Place, Problem, Problems, values};
use crate::plan::{
    Admin, AllDown, Backend, Check, CheckKind, ClientIp, LogFormat, Mode, OnDown, Plan, Process, Schedule, Service,
    Sticky, Timeouts, WEIGHT_MAX,
};

/// Words for [`ClientIp`].
pub(super) const CLIENT_IP: [(&str, ClientIp); 4] = [
    ("none", ClientIp::None),
    ("proxy-v1", ClientIp::ProxyV1),
    ("proxy-v2", ClientIp::ProxyV2),
    ("transparent", ClientIp::Transparent),
];
const CHECKS: [(&str, CheckKind); 4] = [
    ("tcp", CheckKind::Tcp),
    ("http", CheckKind::Http),
    ("https", CheckKind::Https),
    ("none", CheckKind::None),
];
const MODES: [(&str, Mode); 3] = [("tcp", Mode::Tcp), ("http", Mode::Http), ("udp", Mode::Udp)];
const ON_DOWN: [(&str, OnDown); 2] = [("keep", OnDown::Keep), ("close", OnDown::Close)];
const ALL_DOWN: [(&str, AllDown); 3] = [
    ("reset", AllDown::Reset),
    ("close", AllDown::Close),
    ("http-503", AllDown::Http503),
];

pub(super) fn check(root: &Written, file: Option<&Path>) -> Result<Checked, Problems> {
    let mut found = Found::default();
    if !matches!(root.value, Value::Map(_) | Value::Null) {
        found.problem(&root.place, "", "is not a map; write `key: value` lines".to_owned());
    }
    warn_about_unknown_keys(root, "", true, &mut found);
    let folder = file.and_then(Path::parent);
    let process = process(root, folder, &mut found);
    let services = services(root, folder, &mut found);
    find_clashes(&services, &mut found);
    if !found.problems.is_empty() {
        return Err(Problems(found.problems));
    }
    let services = services.into_iter().map(|(service, _)| service).collect();
    Ok(Checked {
        plan: Plan { process, services },
        warnings: Problems(found.warnings),
    })
}

/// What was found so far.
#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Found {
    fn problem(&mut self, place: &Place, path: &str, text: String) {
        self.problems.push(Problem {
            place: place.clone(),
            path: path.to_owned(),
            text,
        });
    }
}

fn warn_about_unknown_keys(map: &Written, path: &str, is_root: bool, found: &mut Found) {
    let known = || {
        keys::KEYS
            .iter()
            .filter(|it| is_root || it.scope == Scope::Service)
            .map(|it| it.name)
    };
    for entry in map.entries().iter().filter(|entry| known().all(|it| it != entry.key)) {
        let text = match keys::suggestion(&entry.key, known()) {
            Some(meant) => format!("unknown key `{}`; did you mean `{meant}`?", entry.key),
            None => format!("unknown key `{}`; it has no effect", entry.key),
        };
        found.warnings.push(Problem {
            place: entry.place.clone(),
            path: join(path, &entry.key),
            text,
        });
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn process(root: &Written, folder: Option<&Path>, found: &mut Found) -> Process {
    let mut it = Reader {
        layers: vec![(root, String::new())],
        found,
    };
    Process {
        threads: it.parsed("threads", None, |text| match text {
            "auto" => Ok(None),
            _ => values::number(text, 1..=1024).map(Some),
        }),
        admin: it.parsed("admin", Admin::Default, |text| {
            Ok(if is_off(text) {
                Admin::Off
            } else {
                Admin::Path(resolve(folder, text))
            })
        }),
        metrics: it.parsed("metrics", Some(SocketAddr::from(([127, 0, 0, 1], 9101))), |text| {
            if is_off(text) {
                Ok(None)
            } else {
                values::listen(text).map(Some)
            }
        }),
        log: it.parsed("log", LogFormat::Auto, |text| {
            let words = [
                ("auto", LogFormat::Auto),
                ("json", LogFormat::Json),
                ("text", LogFormat::Text),
                ("combined", LogFormat::Combined),
                ("haproxy", LogFormat::Haproxy),
                ("off", LogFormat::Off),
            ];
            if is_off(text) {
                Ok(LogFormat::Off)
            } else {
                values::word(text, &words)
            }
        }),
        maxconn: it.parsed("maxconn", None, |text| values::number(text, 1..=usize::MAX).map(Some)),
        resolver: it.list("resolver", values::name_server),
        resolver_hold: it.parsed("resolver_hold", Duration::from_secs(24 * 3600), values::duration),
    }
}

fn is_off(text: &str) -> bool {
    matches!(text, "off" | "false" | "none")
}

fn resolve(folder: Option<&Path>, text: &str) -> std::path::PathBuf {
    folder.map_or_else(|| text.into(), |folder| folder.join(text))
}

/// The services, each with the place it was written at; groups stand behind the service they belong to.
fn services(root: &Written, folder: Option<&Path>, found: &mut Found) -> Vec<(Service, Place)> {
    let Some(list) = root.entries().iter().find(|entry| entry.key == "services") else {
        let only = Reader {
            layers: vec![(root, String::new())],
            found,
        };
        let services = only.service_and_groups(folder, true);
        return services.into_iter().map(|it| (it, root.place.clone())).collect();
    };
    let items = match &list.value.value {
        Value::List(items) if !items.is_empty() => items,
        _ => {
            found.problem(
                &list.value.place,
                "services",
                "is not a list of services; write `- name: …` under it".into(),
            );
            return Vec::new();
        }
    };
    let mut services = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("services[{index}]");
        if !matches!(item.value, Value::Map(_)) {
            found.problem(
                &item.place,
                &path,
                "is not a service; write `name: …`, `listen: …`, `backends: …`".into(),
            );
            continue;
        }
        warn_about_unknown_keys(item, &path, false, found);
        let reader = Reader {
            layers: vec![(item, path), (root, String::new())],
            found,
        };
        let read = reader.service_and_groups(folder, false);
        services.extend(read.into_iter().map(|it| (it, item.place.clone())));
    }
    services
}

/// Two services cannot have one name or one address.
fn find_clashes(services: &[(Service, Place)], found: &mut Found) {
    let mut names: HashSet<&str> = HashSet::new();
    let mut addresses: HashMap<(Mode, SocketAddr), &str> = HashMap::new();
    let mut index = 0;
    for (service, place) in services {
        let path = format!("services[{index}]");
        index += usize::from(service.parent.is_none());
        if !names.insert(&service.name) {
            found.problem(
                place,
                &join(&path, "name"),
                format!("a second service is called `{}`", service.name),
            );
        }
        for address in service.listen.iter().filter(|it| it.port() != 0) {
            if let Some(other) = addresses.insert((service.mode.transport(), *address), &service.name) {
                let text = format!("`{address}` is already the address of service `{other}`");
                found.problem(place, &join(&path, "listen"), text);
            }
        }
    }
}

/// Reads keys from a service and, where it does not have them, from the top of the file.
struct Reader<'a> {
    layers: Vec<(&'a Written, String)>,
    found: &'a mut Found,
}

impl<'a> Reader<'a> {
    fn name(&mut self, listen: &[SocketAddr]) -> Arc<str> {
        let unsaid = || listen.first().map(ToString::to_string).unwrap_or_default();
        self.text("name")
            .map_or_else(unsaid, |(text, _, _)| text.to_owned())
            .into()
    }

    fn service(&mut self, folder: Option<&Path>, is_whole_file: bool) -> Service {
        let listen = self.listen();
        let name = self.name(&listen);
        let mode = self.parsed("mode", Mode::Tcp, |text| values::word(text, &MODES));
        let service = Service {
            http: self.http(mode),
            tls: self.tls(mode, folder),
            backend_tls: self.backend_tls(mode, folder),
            sni: Vec::new(),
            parent: None,
            name,
            listen,
            mode,
            schedule: self.parsed("schedule", Schedule::Rr, |text| values::word(text, &Schedule::NAMES)),
            check: self.check(mode),
            timeouts: self.timeouts(),
            // At the top of the file it is the ceiling of the process.
            maxconn: (!is_whole_file).then(|| self.own_maxconn()).flatten(),
            queue: self.parsed("queue", 1000, |text| values::number(text, 0..=1_000_000)),
            retries: self.parsed("retries", 3, |text| values::number(text, 0..=100)),
            client_ip: self.parsed("client_ip", ClientIp::None, |text| values::word(text, &CLIENT_IP)),
            accept_proxy: self.networks("accept_proxy"),
            allow: self.networks("allow"),
            deny: self.networks("deny"),
            rate: self.parsed("rate", None, |text| values::number(text, 1..=1_000_000).map(Some)),
            sticky: self.sticky(mode),
            slow_start: self.parsed("slow_start", Duration::ZERO, values::duration),
            on_down: self.parsed("on_down", OnDown::Keep, |text| values::word(text, &ON_DOWN)),
            all_down: self.parsed("all_down", AllDown::Reset, |text| values::word(text, &ALL_DOWN)),
            panic_threshold: self.parsed("panic_threshold", 50, |text| {
                values::number(text.strip_suffix('%').unwrap_or(text), 0..=100)
            }),
            backends: self.backends(),
            backends_file: self.text("backends_file").map(|(text, _, _)| resolve(folder, text)),
        };
        if service.backends.is_empty() && service.backends_file.is_none() && self.find("backends").is_none() {
            let (map, path) = &self.layers[0];
            let text = "has no backends; write `backends` or `backends_file`".to_owned();
            let (place, path) = (map.place.clone(), path.clone());
            self.found.problem(&place, &path, text);
        }
        if service.mode == Mode::Udp
            && matches!(service.client_ip, ClientIp::ProxyV1 | ClientIp::ProxyV2)
            && let Some((_, path, place)) = self.text("client_ip")
        {
            let text = "needs connections; for datagrams write none or transparent".to_owned();
            self.found.problem(place, &path, text);
        }
        service
    }

    /// The value of a key and its path: the service's own, then the file's default.
    fn find(&self, key: &str) -> Option<(&'a Written, String)> {
        let inner = keys::CHECK_KEYS
            .iter()
            .find(|(_, flat)| *flat == key)
            .map(|(inner, _)| *inner);
        for (map, path) in &self.layers {
            let entry = |map: &'a Written, key: &str| map.entries().iter().find(|it| it.key == key).map(|it| &it.value);
            let nested = entry(map, "check").filter(|it| matches!(it.value, Value::Map(_)));
            if let Some(value) = entry(map, key).filter(|_| key != "check" || nested.is_none()) {
                return Some((value, join(path, key)));
            }
            if let (Some(inner), Some(check)) = (inner, nested)
                && let Some(value) = entry(check, inner)
            {
                return Some((value, join(path, &format!("check.{inner}"))));
            }
        }
        None
    }

    /// The text of a key, its path and its place; `null` counts as not written.
    fn text(&mut self, key: &str) -> Option<(&'a str, String, &'a Place)> {
        let (written, path) = self.find(key)?;
        match &written.value {
            Value::Scalar(text) => Some((text, path, &written.place)),
            Value::Null => None,
            Value::List(list) if matches!(written.place, Place::Option(_)) => {
                let last = list.last()?;
                match &last.value {
                    Value::Scalar(text) => Some((text, path, &last.place)),
                    _ => None,
                }
            }
            Value::List(_) | Value::Map(_) => {
                self.found
                    .problem(&written.place, &path, "is not a single value".into());
                None
            }
        }
    }

    fn parsed<T>(&mut self, key: &str, default: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        let Some((text, path, place)) = self.text(key) else {
            return default;
        };
        match parse(text) {
            Ok(value) => value,
            Err(text) => {
                self.found.problem(place, &path, text);
                default
            }
        }
    }

    /// A list, or one text with commas: each item's value, path and place.
    fn items(&mut self, key: &str) -> Vec<(&'a Written, String)> {
        let Some((written, path)) = self.find(key) else {
            return Vec::new();
        };
        match &written.value {
            Value::List(list) => list
                .iter()
                .enumerate()
                .map(|(i, it)| (it, format!("{path}[{i}]")))
                .collect(),
            Value::Null => Vec::new(),
            _ => vec![(written, path)],
        }
    }

    /// The texts of a list, each split at commas.
    fn texts(&mut self, key: &str) -> Vec<(&'a str, String, &'a Place)> {
        let mut texts = Vec::new();
        for (written, path) in self.items(key) {
            match &written.value {
                Value::Scalar(text) => {
                    texts.extend(text.split(',').map(|part| (part.trim(), path.clone(), &written.place)));
                }
                _ => self.found.problem(&written.place, &path, "is not a text".into()),
            }
        }
        texts
    }

    fn list<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let mut list = Vec::new();
        for (text, path, place) in self.texts(key) {
            match parse(text) {
                Ok(value) => list.push(value),
                Err(text) => self.found.problem(place, &path, text),
            }
        }
        list
    }

    fn networks(&mut self, key: &str) -> Vec<IpNet> {
        self.list(key, values::network)
    }

    fn listen(&mut self) -> Vec<SocketAddr> {
        let list = self.list("listen", values::listen);
        if list.is_empty() {
            vec![SocketAddr::from(([0, 0, 0, 0], 5000))]
        } else {
            list
        }
    }

    fn own_maxconn(&mut self) -> Option<usize> {
        let own = self.layers[0].0.entries().iter().any(|entry| entry.key == "maxconn");
        if own {
            self.parsed("maxconn", None, |text| values::number(text, 1..=usize::MAX).map(Some))
        } else {
            None
        }
    }

    fn check(&mut self, mode: Mode) -> Check {
        self.warn_about_unknown_check_keys();
        // A datagram port has no connection to try; another port may be named to ask there.
        let has_port = self.find("check_port").is_some();
        let unsaid = if mode == Mode::Udp && !has_port {
            CheckKind::None
        } else {
            CheckKind::Tcp
        };
        Check {
            kind: self.parsed("check", unsaid, |text| values::word(text, &CHECKS)),
            port: self.parsed("check_port", None, |text| values::number(text, 1..=u16::MAX).map(Some)),
            path: self.parsed("check_path", "/heartbeat".to_owned(), |text| {
                let is_target = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
                if is_target {
                    Ok(text.to_owned())
                } else {
                    Err(format!("`{text}` is not a path; write /heartbeat"))
                }
            }),
            host: self.parsed("check_host", None, |text| {
                ::http::HeaderValue::from_str(text)
                    .map(|_| Some(text.to_owned()))
                    .map_err(|_| format!("`{text}` is not a host name"))
            }),
            expect: self.statuses(),
            insecure: self.parsed("check_insecure", false, values::boolean),
            interval: self.parsed("interval", Duration::from_secs(2), values::positive_duration),
            fast_interval: self.parsed("fast_interval", Duration::from_millis(500), values::positive_duration),
            rise: self.parsed("rise", 2, |text| values::number(text, 1..=1000)),
            fall: self.parsed("fall", 3, |text| values::number(text, 1..=1000)),
            timeout: self.parsed("check_timeout", Duration::from_secs(1), values::positive_duration),
        }
    }

    fn statuses(&mut self) -> Vec<std::ops::RangeInclusive<u16>> {
        let list: Vec<_> = self
            .list("check_expect", values::statuses)
            .into_iter()
            .flatten()
            .collect();
        if list.is_empty() { vec![200..=399] } else { list }
    }

    fn warn_about_unknown_check_keys(&mut self) {
        let (map, path) = &self.layers[0];
        let nested = map
            .entries()
            .iter()
            .filter(|it| it.key == "check")
            .flat_map(|it| it.value.entries());
        for entry in nested.filter(|entry| keys::CHECK_KEYS.iter().all(|(inner, _)| *inner != entry.key)) {
            let meant = keys::suggestion(&entry.key, keys::CHECK_KEYS.iter().map(|(inner, _)| *inner));
            let text = match meant {
                Some(meant) => format!("unknown key `{}`; did you mean `{meant}`?", entry.key),
                None => format!("unknown key `{}`; it has no effect", entry.key),
            };
            let path = join(path, &format!("check.{}", entry.key));
            self.found.warnings.push(Problem {
                place: entry.place.clone(),
                path,
                text,
            });
        }
    }

    fn timeouts(&mut self) -> Timeouts {
        Timeouts {
            connect: self.parsed("connect_timeout", Duration::from_secs(1), values::positive_duration),
            idle: self.parsed("idle_timeout", Duration::ZERO, values::duration),
            half_close: self.parsed("half_close_timeout", Duration::from_secs(60), values::positive_duration),
            drain: self.parsed("drain_timeout", Duration::from_secs(30), values::duration),
            handshake: self.parsed("handshake_timeout", Duration::from_secs(10), values::positive_duration),
            queue: self.parsed("queue_timeout", Duration::from_secs(10), values::positive_duration),
        }
    }

    fn sticky(&mut self, mode: Mode) -> Option<Sticky> {
        let timeout = self.parsed("sticky_timeout", Duration::from_secs(300), values::positive_duration);
        let on = self.parsed("sticky", false, |text| {
            match values::word(text, &[("source", "source"), ("cookie", "cookie"), ("off", "off")])? {
                "cookie" if mode != Mode::Http => Err("`cookie` needs mode http; write source".to_owned()),
                word => Ok(word == "source"),
            }
        });
        on.then_some(Sticky { timeout })
    }

    fn backends(&mut self) -> Vec<Backend> {
        let mut backends: Vec<Backend> = Vec::new();
        let mut seen = HashSet::new();
        for (written, path) in self.items("backends") {
            let read: Vec<Backend> = match &written.value {
                Value::Scalar(text) => self.backends_in_text(text, &path, &written.place),
                Value::Map(_) => self.backend_map(written, &path).into_iter().collect(),
                _ => {
                    self.found
                        .problem(&written.place, &path, "is not a backend; write HOST:PORT".into());
                    Vec::new()
                }
            };
            for backend in read {
                if !seen.insert(backend.endpoint.clone()) {
                    self.found.problem(
                        &written.place,
                        &path,
                        format!("backend `{}` is there twice", backend.endpoint),
                    );
                }
                backends.push(backend);
            }
        }
        backends
    }

    fn backends_in_text(&mut self, text: &str, path: &str, place: &Place) -> Vec<Backend> {
        let mut backends = Vec::new();
        for part in text.split(',').map(str::trim) {
            match values::backend(part) {
                Ok(backend) => backends.push(backend),
                Err(text) => self.found.problem(place, path, text),
            }
        }
        backends
    }

    fn backend_map(&mut self, map: &'a Written, path: &str) -> Option<Backend> {
        for entry in map
            .entries()
            .iter()
            .filter(|entry| !keys::BACKEND_KEYS.contains(&entry.key.as_str()))
        {
            let text = match keys::suggestion(&entry.key, keys::BACKEND_KEYS.iter().copied()) {
                Some(meant) => format!("unknown key `{}`; did you mean `{meant}`?", entry.key),
                None => format!("unknown key `{}`; it has no effect", entry.key),
            };
            self.found.warnings.push(Problem {
                place: entry.place.clone(),
                path: join(path, &entry.key),
                text,
            });
        }
        let mut it = Reader {
            layers: vec![(map, path.to_owned())],
            found: &mut *self.found,
        };
        let Some((address, path, place)) = it.text("address") else {
            it.found
                .problem(&map.place, path, "has no `address`; write HOST:PORT".into());
            return None;
        };
        let mut backend = match values::backend(address) {
            Ok(backend) => backend,
            Err(text) => {
                it.found.problem(place, &path, text);
                return None;
            }
        };
        backend.weight = it.parsed("weight", backend.weight, |text| values::number(text, 0..=WEIGHT_MAX));
        backend.backup = it.parsed("backup", false, values::boolean);
        backend.maxconn = it.parsed("maxconn", None, |text| values::number(text, 1..=u32::MAX).map(Some));
        backend.client_ip = it.parsed("client_ip", None, |text| values::word(text, &CLIENT_IP).map(Some));
        Some(backend)
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        values::word(text, &Self::NAMES)
    }
}
