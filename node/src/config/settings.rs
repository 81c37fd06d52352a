//! The layers, laid one over the other.
//!
//! Values live under their whole path, each with the layer that gave it: a later layer replaces single values, so
//! objects merge and lists are replaced whole. Types are checked on the way in, by [`super::keys`]; what is wrong is
//! noted and left out, so that one run finds every problem.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Cluster;
use super::document::{self, Content, Member, Node, Place};
use super::keys::{self, KEYS, Key, Kind, Meaning};
use super::origin::{Origin, Problem};

/// A path of names: `["router", "httpPort"]`.
type Path = Vec<String>;

/// One effective value, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// In dots.
    pub key: String,
    /// As JSON; secrets masked.
    pub value: String,
    pub origin: Origin,
}

#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    origin: Origin,
}

/// What the layers given so far add up to.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// INVARIANT: no path with a value that is not an object has another path below it.
    entries: BTreeMap<Path, Entry>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

impl Settings {
    /// Lays a whole tree over what is there; `origin` turns a place into the layer's name for it.
    pub(super) fn lay_tree(&mut self, tree: &Node, origin: &dyn Fn(Place) -> Origin) {
        self.lay_node(&mut Vec::new(), tree, tree.place, origin);
    }

    /// Lays one value, given as text, over what is there.
    pub(super) fn lay_text(&mut self, path: &[String], text: &str, origin: &Origin) {
        match keys::meaning(path) {
            Meaning::Key(Key { kind: Kind::Open, .. }) | Meaning::Section => self.lay_object(path, text, origin),
            Meaning::Key(key) => self.lay_value(path, key, &Value::from(text), origin),
            Meaning::Inside => self.insert(path, loosely_typed(text), origin),
            Meaning::Unknown => self.warn_unknown(path, origin),
        }
    }

    /// Lays the JSON object that `text` holds. A variable that only happens to be called like a section is let be.
    fn lay_object(&mut self, path: &[String], text: &str, origin: &Origin) {
        let dotted = path.join(".");
        match document::parse(std::path::Path::new("value.json"), text) {
            Ok(node) => self.lay_node(&mut path.to_vec(), &node, node.place, &|_| origin.clone()),
            Err(_) if path.len() == 1 && matches!(origin, Origin::Environment(_)) => {
                self.warn(
                    origin,
                    format!("ignored: `{dotted}` is a section, set the keys below it"),
                );
            }
            Err(_) => self.refuse(origin, format!("`{dotted}`: expected a JSON object, found text")),
        }
    }

    fn lay_node(&mut self, path: &mut Path, node: &Node, named_at: Place, origin: &dyn Fn(Place) -> Origin) {
        let meaning = if path.is_empty() {
            Meaning::Section
        } else {
            keys::meaning(path)
        };
        match (&meaning, &node.content) {
            (Meaning::Unknown, _) => self.warn_unknown(path, &origin(named_at)),
            (Meaning::Section, Content::Scalar(Value::Null)) => {}
            (
                Meaning::Section | Meaning::Inside | Meaning::Key(Key { kind: Kind::Open, .. }),
                Content::Object(members),
            ) => {
                if members.is_empty() && !path.is_empty() {
                    self.insert_empty(path, &origin(node.place));
                }
                let depth = path.len();
                for Member { name, place, node } in members {
                    match meaning {
                        // `router.httpPort: 5001` means what the nested form means.
                        Meaning::Section => path.extend(name.split('.').map(str::to_owned)),
                        _ => path.push(name.clone()),
                    }
                    self.lay_node(path, node, *place, origin);
                    path.truncate(depth);
                }
            }
            (Meaning::Section, _) => {
                let text = format!(
                    "`{}`: expected an object, found {}",
                    path.join("."),
                    found(&node.to_value())
                );
                self.refuse(&origin(node.place), text);
            }
            (Meaning::Key(key), _) => self.lay_value(path, key, &node.to_value(), &origin(node.place)),
            (Meaning::Inside, _) => self.insert(path, node.to_value(), &origin(node.place)),
        }
    }

    fn lay_value(&mut self, path: &[String], key: &Key, value: &Value, origin: &Origin) {
        if value.is_null() && key.optional {
            return self.insert(path, Value::Null, origin);
        }
        match key.kind.read(value) {
            Some(read) => self.insert(path, read, origin),
            None => self.refuse(origin, mismatch(key, value)),
        }
    }

    fn insert(&mut self, path: &[String], value: Value, origin: &Origin) {
        for length in 1..path.len() {
            if self
                .entries
                .get(&path[..length])
                .is_some_and(|entry| !entry.value.is_object())
            {
                self.entries.remove(&path[..length]);
            }
        }
        self.entries
            .retain(|other, _| !(other.len() > path.len() && other.starts_with(path)));
        self.entries.insert(
            path.to_vec(),
            Entry {
                value,
                origin: origin.clone(),
            },
        );
    }

    /// An empty object changes nothing but makes the object be there.
    fn insert_empty(&mut self, path: &[String], origin: &Origin) {
        if !self.entries.keys().any(|other| other.starts_with(path)) && !matches!(keys::meaning(path), Meaning::Section)
        {
            self.insert(path, Value::Object(Map::new()), origin);
        }
    }

    /// Notes a problem.
    pub(super) fn refuse(&mut self, origin: &Origin, text: String) {
        self.problems.push(Problem {
            origin: origin.clone(),
            text,
        });
    }

    /// Notes a warning.
    pub(super) fn warn(&mut self, origin: &Origin, text: String) {
        self.warnings.push(Problem {
            origin: origin.clone(),
            text,
        });
    }

    fn warn_unknown(&mut self, path: &[String], origin: &Origin) {
        let unknown = path.join(".");
        let hint = match keys::suggestion(&unknown) {
            Some(known) => format!("; did you mean `{known}`?"),
            None => String::new(),
        };
        self.warn(origin, format!("unknown key `{unknown}` is ignored{hint}"));
    }

    /// The value of a key, in dots, and where it came from.
    pub(super) fn get(&self, key: &str) -> Option<(&Value, &Origin)> {
        let path: Path = key.split('.').map(str::to_owned).collect();
        self.entries.get(&path).map(|entry| (&entry.value, &entry.origin))
    }

    /// Where the value of a key came from.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.get(key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    /// Sets a key that follows from another one.
    pub(super) fn derive(&mut self, key: &str, value: Value, origin: &Origin) {
        let path: Path = key.split('.').map(str::to_owned).collect();
        self.insert(&path, value, origin);
    }

    /// Everything as one JSON object.
    pub(super) fn to_value(&self) -> Value {
        let mut root = Map::new();
        'entries: for (path, entry) in &self.entries {
            let Some((last, above)) = path.split_last() else {
                continue;
            };
            let mut inner = &mut root;
            for name in above {
                let next = inner.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(members) = next else {
                    continue 'entries;
                };
                inner = members;
            }
            inner.insert(last.clone(), entry.value.clone());
        }
        Value::Object(root)
    }

    /// Every effective value in the order of the table, secrets masked.
    pub(super) fn listed(&self) -> Vec<Setting> {
        let position = |path: &Path| {
            let dotted = path.join(".");
            KEYS.iter()
                .position(|key| key.path == dotted || keys::is_below(&dotted, key.path))
        };
        let mut entries: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.value.is_null())
            .collect();
        entries.sort_by_key(|(path, _)| position(path));
        entries
            .into_iter()
            .map(|(path, entry)| Setting {
                key: path.join("."),
                value: shown(path, &entry.value),
                origin: entry.origin.clone(),
            })
            .collect()
    }
}

fn mismatch(key: &Key, value: &Value) -> String {
    if let Err(text) = Cluster::try_from(value.clone())
        && matches!(key.kind, Kind::Cluster)
    {
        return text;
    }
    let found = if key.kind.is_secret() {
        kind_of(value).to_owned()
    } else {
        found(&masked(key, value))
    };
    let path = key.path;
    let environment = keys::environment_form(path);
    format!(
        "`{path}` (environment `{environment}`): expected {}, found {found}",
        key.kind.expected()
    )
}

/// A value in an error, cut to a readable length.
fn found(value: &Value) -> String {
    const LONGEST: usize = 40;
    match value {
        Value::String(text) if text.chars().count() > LONGEST => {
            format!("\"{}…\"", text.chars().take(LONGEST).collect::<String>())
        }
        Value::Array(_) | Value::Object(_) => kind_of(value).to_owned(),
        _ => value.to_string(),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn shown(path: &[String], value: &Value) -> String {
    const MASK: &str = "***";
    let secret = match keys::meaning(path) {
        Meaning::Key(key) if key.kind.is_secret() => true,
        Meaning::Key(key) => return masked(key, value).to_string(),
        _ => path.last().is_some_and(|name| is_secret_name(name)),
    };
    let empty = value.as_str().is_some_and(str::is_empty);
    if secret && !empty {
        MASK.to_owned()
    } else {
        value.to_string()
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "secret", "token", "key"]
        .iter()
        .any(|word| name.contains(word))
}

/// A database's address without its password.
fn masked(key: &Key, value: &Value) -> Value {
    let (Kind::DatabaseUrl(_), Some(url)) = (&key.kind, value.as_str()) else {
        return value.clone();
    };
    let masked = || {
        let (scheme, rest) = url.split_once("://")?;
        let (user_info, host) = rest.rsplit_once('@')?;
        let (user, _) = user_info.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{host}"))
    };
    masked().map_or_else(|| value.clone(), Value::from)
}

/// Values inside open objects have no declared type: booleans are recognised, lists and objects too, the rest is text.
fn loosely_typed(text: &str) -> Value {
    match text.trim() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        structured if structured.starts_with(['{', '[']) => {
            serde_json::from_str(structured).unwrap_or_else(|_| Value::from(text))
        }
        _ => Value::from(text),
    }
}

/// The name of a layer's file, shared by the origins of its values.
pub(super) fn file_origin(name: &Arc<str>) -> impl Fn(Place) -> Origin + use<> {
    let name = Arc::clone(name);
    move |place| Origin::File {
        name: Arc::clone(&name),
        place: Some(place),
    }
}
