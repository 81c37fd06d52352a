//! A tree of written values, each with its place.

use std::path::Path;
use std::sync::Arc;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::{Place, Problem, Problems};
use crate::ipvsadm;

/// Deepest nesting that makes sense here; what is deeper is refused before it can exhaust the stack.
const DEEPEST: usize = 8;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What can be written.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    /// A number, a boolean or a text, as it was typed.
    Scalar(String),
    List(Vec<Written>),
    /// In the order of the text; keys have `_` for `-`.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Written,
}

impl Written {
    pub(super) fn scalar(place: Place, text: impl Into<String>) -> Self {
        Self {
            place,
            value: Value::Scalar(text.into()),
        }
    }

    /// Place and path of the first value that has `text` as one of its words.
    pub(super) fn find(&self, text: &str, path: String) -> Option<(Place, String)> {
        match &self.value {
            Value::Null => None,
            Value::Scalar(value) => {
                let mut words = value.split([',', '@', ' ']);
                words.any(|word| word == text).then(|| (self.place.clone(), path))
            }
            Value::List(list) => {
                let mut items = list.iter().enumerate();
                items.find_map(|(index, item)| item.find(text, format!("{path}[{index}]")))
            }
            Value::Map(entries) => entries.iter().find_map(|entry| {
                let separator = if path.is_empty() { "" } else { "." };
                entry.value.find(text, format!("{path}{separator}{}", entry.key))
            }),
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Puts the entries of `over` on top of those of this map.
    pub(super) fn overlay(&mut self, over: Self) {
        let Value::Map(new) = over.value else { return };
        if !matches!(self.value, Value::Map(_)) {
            self.value = Value::Map(Vec::new());
        }
        if let Value::Map(entries) = &mut self.value {
            entries.retain(|old| new.iter().all(|it| it.key != old.key));
            entries.extend(new);
        }
    }
}

/// How keys are compared: the command line's `-` is the file's `_`.
fn key_name(text: &str) -> String {
    text.replace('-', "_")
}

/// Options of the command line.
pub(super) fn from_options<K: AsRef<str>, V: Into<String>>(options: impl IntoIterator<Item = (K, V)>) -> Written {
    let mut entries: Vec<Entry> = Vec::new();
    for (name, value) in options {
        let name = name.as_ref().trim_start_matches('-');
        let place = Place::Option(Arc::from(name));
        let value = Written::scalar(place.clone(), value);
        let key = key_name(name);
        match entries.iter_mut().find(|it| it.key == key) {
            Some(Entry {
                value: Written {
                    value: Value::List(list),
                    ..
                },
                ..
            }) => list.push(value),
            Some(entry) => {
                let first = std::mem::replace(&mut entry.value.value, Value::Null);
                entry.value.value = Value::List(vec![
                    Written {
                        place: place.clone(),
                        value: first,
                    },
                    value,
                ]);
            }
            None => entries.push(Entry { key, place, value }),
        }
    }
    Written {
        place: Place::Default,
        value: Value::Map(entries),
    }
}

/// YAML, of which JSON is a part.
pub(super) fn from_yaml(text: &str, path: &Path) -> Result<Written, Problems> {
    let file: Arc<Path> = path.into();
    let at = |marker: &saphyr::Marker| Place::File {
        file: Arc::clone(&file),
        line: marker.line(),
        column: marker.col() + 1,
    };
    let fault = |place: Place, text: String| {
        Problems::one(Problem {
            place,
            path: String::new(),
            text,
        })
    };
    let documents = MarkedYaml::load_from_str(text)
        .map_err(|error| fault(at(error.marker()), format!("is not valid YAML: {}", error.info())))?;
    let whole = Place::File {
        file: Arc::clone(&file),
        line: 0,
        column: 0,
    };
    match documents.as_slice() {
        [] => Err(fault(whole, "is empty; write at least `backends:`".into())),
        [document] => convert(document, &at, DEEPEST).map_err(|(place, text)| fault(place, text)),
        [_, second, ..] => Err(fault(at(&second.span.start), "has a second document; write one".into())),
    }
}

fn convert(
    node: &MarkedYaml<'_>,
    at: &impl Fn(&saphyr::Marker) -> Place,
    depth: usize,
) -> Result<Written, (Place, String)> {
    let place = at(&node.span.start);
    if depth == 0 {
        return Err((place, "is nested too deeply".into()));
    }
    let value = match &node.data {
        YamlData::Value(scalar) => match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(it) => Value::Scalar(it.to_string()),
            Scalar::Integer(it) => Value::Scalar(it.to_string()),
            Scalar::FloatingPoint(it) => Value::Scalar(it.to_string()),
            Scalar::String(it) => Value::Scalar(it.to_string()),
        },
        YamlData::Representation(text, ..) => Value::Scalar(text.to_string()),
        YamlData::Sequence(items) => Value::List(
            items
                .iter()
                .map(|it| convert(it, at, depth - 1))
                .collect::<Result<_, _>>()?,
        ),
        YamlData::Mapping(map) => {
            let mut entries = Vec::with_capacity(map.len());
            for (key, value) in map {
                let place = at(&key.span.start);
                let Value::Scalar(name) = convert(key, at, depth - 1)?.value else {
                    return Err((place, "is not a key; write a word".into()));
                };
                entries.push(Entry {
                    key: key_name(&name),
                    place,
                    value: convert(value, at, depth - 1)?,
                });
            }
            Value::Map(entries)
        }
        YamlData::Tagged(_, inner) => return convert(inner, at, depth - 1),
        YamlData::Alias(_) | YamlData::BadValue => return Err((place, "is not a value".into())),
    };
    Ok(Written { place, value })
}

/// True for a text that begins with a rule of ipvsadm's.
pub(super) fn is_ipvsadm(text: &str) -> bool {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .next()
        .is_some_and(|line| line.starts_with("-A") || line.starts_with("--add-service"))
}

/// What `ipvsadm -S -n` printed, as the services it stands for.
pub(super) fn from_ipvsadm(text: &str, path: &Path) -> Result<Written, Problems> {
    let file: Arc<Path> = path.into();
    let at = |line: usize, column: usize| Place::File {
        file: Arc::clone(&file),
        line,
        column,
    };
    let services = ipvsadm::parse_saved(text).map_err(|errors| {
        let problem = |error: ipvsadm::RuleError| Problem {
            place: at(error.line, error.column),
            path: String::new(),
            text: error.reason.to_string(),
        };
        Problems(errors.into_iter().map(problem).collect())
    })?;
    let services = services
        .iter()
        .map(|saved| of_saved(saved, &at(saved.line, 1)))
        .collect();
    let whole = at(0, 0);
    let services = Written {
        place: whole.clone(),
        value: Value::List(services),
    };
    Ok(map(&whole, vec![("services", services)]))
}

fn of_saved(saved: &ipvsadm::SavedService, place: &Place) -> Written {
    let scalar = |text: String| Written::scalar(place.clone(), text);
    let schedule = saved.options.schedule.unwrap_or(ipvsadm::DEFAULT_SCHEDULE);
    let mut entries = vec![
        ("listen", scalar(saved.service.address.to_string())),
        ("mode", scalar(saved.service.protocol.to_string().to_lowercase())),
        ("schedule", scalar(schedule.to_string())),
    ];
    if let Some(time) = saved.options.persistence {
        entries.push(("sticky", scalar("source".into())));
        entries.push(("sticky_timeout", scalar(format!("{}s", time.as_secs()))));
    }
    let backend = |(endpoint, options): &(crate::plan::Endpoint, ipvsadm::ServerOptions)| {
        let mut entries = vec![("address", scalar(endpoint.to_string()))];
        entries.extend(options.weight.map(|weight| ("weight", scalar(weight.to_string()))));
        entries.extend(
            options
                .upper
                .filter(|it| *it > 0)
                .map(|upper| ("maxconn", scalar(upper.to_string()))),
        );
        map(place, entries)
    };
    let backends = Value::List(saved.servers.iter().map(backend).collect());
    entries.push((
        "backends",
        Written {
            place: place.clone(),
            value: backends,
        },
    ));
    map(place, entries)
}

fn map(place: &Place, entries: Vec<(&str, Written)>) -> Written {
    let entry = |(key, value): (&str, Written)| Entry {
        key: key.to_owned(),
        place: place.clone(),
        value,
    };
    Written {
        place: place.clone(),
        value: Value::Map(entries.into_iter().map(entry).collect()),
    }
}
