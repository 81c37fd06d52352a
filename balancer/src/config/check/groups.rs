//! Groups of backends, and which requests they serve.
//!
//! A group is a service without a listener: it has checks, a schedule and counters of its own, and takes from the service
//! it belongs to whatever is not written in it.

use std::path::Path;
use std::sync::Arc;

use super::{Reader, join};
use crate::config::Place;
use crate::config::written::{Entry, Value, Written};
use crate::plan::{Mode, Route, Service};

/// Keys that a group does not take from its service.
const OWN: [&str; 7] = ["backends", "backends_file", "name", "listen", "routes", "groups", "sni"];

impl Reader<'_> {
    /// The service, and behind it its groups.
    pub(super) fn service_and_groups(mut self, folder: Option<&Path>, is_whole_file: bool) -> Vec<Service> {
        let mut service = self.service(folder, is_whole_file);
        let groups = self.groups(&service, folder);
        service.http.routes = self.routes(&service, &groups);
        service.sni = self.sni(&service, &groups);
        let mut all = vec![service];
        all.extend(groups);
        all
    }

    fn groups(&mut self, service: &Service, folder: Option<&Path>) -> Vec<Service> {
        let mut groups: Vec<Service> = Vec::new();
        for (name, map, path) in self.written_groups() {
            if service.mode == Mode::Udp {
                let text = "groups are for connections and requests, not for datagrams".to_owned();
                self.found.problem(&map.place, &path, text);
                continue;
            }
            super::warn_about_unknown_keys(&map, &path, false, self.found);
            let mut layers = vec![(&map, path.clone())];
            let outer: Vec<Written> = self.layers.iter().map(|(map, _)| without_own(map)).collect();
            layers.extend(
                outer
                    .iter()
                    .zip(&self.layers)
                    .map(|(map, (_, path))| (map, path.clone())),
            );
            let mut reader = Reader {
                layers,
                found: &mut *self.found,
            };
            let mut group = reader.service(folder, false);
            group.name = group_name(&service.name, &name);
            group.parent = Some(Arc::clone(&service.name));
            group.listen = Vec::new();
            if groups.iter().any(|it| it.name == group.name) {
                let text = format!("a second group is called `{name}`");
                self.found.problem(&map.place, &path, text);
            }
            groups.push(group);
        }
        groups
    }

    /// Each group's name, its keys, and its path.
    fn written_groups(&mut self) -> Vec<(String, Written, String)> {
        let Some((written, path)) = self.find("groups") else {
            return Vec::new();
        };
        let items: Vec<(&Written, String)> = match &written.value {
            Value::Null => Vec::new(),
            Value::Map(entries) => {
                let group = |entry: &Entry| {
                    let map = match &entry.value.value {
                        Value::Map(_) => entry.value.clone(),
                        _ => backends_alone(entry.value.clone()),
                    };
                    (entry.key.clone(), map, join(&path, &entry.key))
                };
                return entries.iter().map(group).collect();
            }
            _ => self.items("groups"),
        };
        let mut groups = Vec::new();
        for (item, path) in items {
            match &item.value {
                Value::Scalar(text) if text.split_once('=').is_some_and(|(name, _)| !name.is_empty()) => {
                    let (name, list) = text.split_once('=').unwrap_or_default();
                    let list = Written::scalar(item.place.clone(), list);
                    groups.push((name.to_owned(), backends_alone(list), path));
                }
                _ => {
                    let text = "is not a group; write NAME=HOST:PORT,HOST:PORT".to_owned();
                    self.found.problem(&item.place, &path, text);
                }
            }
        }
        groups
    }

    fn routes(&mut self, service: &Service, groups: &[Service]) -> Vec<Route> {
        let mut routes = Vec::new();
        for (item, path) in self.items("routes") {
            let read = match &item.value {
                Value::Scalar(text) => text
                    .split(',')
                    .map(|part| route_of_text(part.trim()))
                    .collect::<Result<Vec<_>, _>>(),
                Value::Map(_) => self.route_of_map(item, &path).map(|it| vec![it]),
                _ => Err("is not a route; write [HOST]/PATH=GROUP".to_owned()),
            };
            let place = &item.place;
            match read {
                Ok(_) if service.mode != Mode::Http => {
                    self.found.problem(place, &path, "routes need mode http".into());
                }
                Ok(read) => {
                    for (host, prefix, group) in read {
                        match checked(&service.name, groups, host, prefix, &group) {
                            Ok(route) => routes.push(route),
                            Err(text) => self.found.problem(place, &path, text),
                        }
                    }
                }
                Err(text) => self.found.problem(place, &path, text),
            }
        }
        routes
    }

    fn route_of_map(&mut self, map: &Written, path: &str) -> Result<Raw, String> {
        let mut it = Reader {
            layers: vec![(map, path.to_owned())],
            found: &mut *self.found,
        };
        let mut text = |key: &str| it.text(key).map(|(text, _, _)| text.to_owned());
        let (host, prefix, group) = (text("host"), text("path"), text("group"));
        if let Some(entry) = map
            .entries()
            .iter()
            .find(|entry| !["host", "path", "group"].contains(&entry.key.as_str()))
        {
            return Err(format!("unknown key `{}`; write host, path and group", entry.key));
        }
        let group = group.ok_or("has no `group`")?;
        Ok((host, prefix.unwrap_or_else(|| "/".to_owned()), group))
    }
}

/// Host, path and group, as they were written.
type Raw = (Option<String>, String, String);

fn route_of_text(text: &str) -> Result<Raw, String> {
    let (from, group) = text
        .rsplit_once('=')
        .ok_or_else(|| format!("`{text}` names no group; write [HOST]/PATH=GROUP"))?;
    let (host, path) = from.split_at(from.find('/').unwrap_or(from.len()));
    let host = (!host.is_empty()).then(|| host.to_owned());
    let path = if path.is_empty() { "/" } else { path };
    Ok((host, path.to_owned(), group.to_owned()))
}

fn checked(
    service: &str,
    groups: &[Service],
    host: Option<String>,
    path: String,
    group: &str,
) -> Result<Route, String> {
    let name = group_name(service, group);
    if groups.iter().all(|it| it.name != name) {
        return Err(format!("there is no group `{group}`"));
    }
    let is_host = |text: &String| {
        text.bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"-._*[]".contains(&it))
            && !text.is_empty()
    };
    if let Some(host) = host.as_ref().filter(|host| !is_host(host)) {
        return Err(format!(
            "`{host}` is not a host; write a name without port, or *.DOMAIN"
        ));
    }
    if !path.starts_with('/') || !path.bytes().all(|it| it.is_ascii_graphic() && it != b'?') {
        return Err(format!("`{path}` is not the start of a path; write for example /fhir"));
    }
    Ok(Route {
        host: host.map(|it| it.to_ascii_lowercase()),
        path,
        group: name,
    })
}

/// What a group is called everywhere but in its own service.
pub(super) fn group_name(service: &str, group: &str) -> Arc<str> {
    // Keys of a file have `_` for `-`.
    format!("{service}/{}", group.replace('-', "_")).into()
}

fn backends_alone(list: Written) -> Written {
    let place: Place = list.place.clone();
    Written {
        place: place.clone(),
        value: Value::Map(vec![Entry {
            key: "backends".to_owned(),
            place,
            value: list,
        }]),
    }
}

fn without_own(map: &Written) -> Written {
    let mut map = map.clone();
    if let Value::Map(entries) = &mut map.value {
        entries.retain(|entry| !OWN.contains(&entry.key.as_str()));
    }
    map
}
