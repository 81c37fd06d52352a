//! From files, environment and flags to a checked [`Config`].
//!
//! The layers, the weakest first: `config/default.json`, the profile that `NODE_ENV` names, the settings file, the
//! environment, flags. Nothing is bound and nothing is written here; every problem is found before the first is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::{self, Node};
use super::keys::{self, KEYS, Meaning};
use super::settings::{Settings, file_origin};
use super::{Config, Origin, Problem, Refused, Setting, check};

/// The defaults, as `config/default.json` has them.
pub const DEFAULTS: &str = include_str!("../../../config/default.json");

/// What `NODE_ENV` may name, and how it differs from the defaults.
const PROFILES: [(&str, &str); 3] = [
    ("development", include_str!("../../../config/development.json")),
    ("production", include_str!("../../../config/production.json")),
    ("test", include_str!("../../../config/test.json")),
];

/// Where documents live when nobody said anything.
const DEFAULT_STORE: &str = "sqlite://openhim-data/openhim.db";

/// Everything that settings are read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The settings file; when absent, the environment's `conf` may name one.
    pub file: Option<PathBuf>,
    /// Names and values. `NODE_ENV` chooses the profile.
    pub environment: Vec<(String, String)>,
    /// The strongest layer, in the order given.
    pub flags: Vec<Flag>,
}

/// A value given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// In dots or colons: `router.httpPort`.
    pub key: String,
    pub value: String,
    /// How it was typed, for messages: `--set router.httpPort`.
    pub typed: String,
}

/// Settings that can be used.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Unknown keys and values without effect.
    pub warnings: Vec<Problem>,
    /// Every effective value with its origin, secrets masked.
    pub settings: Vec<Setting>,
}

impl Config {
    /// The defaults alone: what an empty environment and no file give.
    ///
    /// # Panics
    /// Never: a test parses the embedded file.
    #[expect(
        clippy::expect_used,
        reason = "the embedded file is part of the binary and is parsed by a test"
    )]
    pub fn defaults() -> Self {
        load(&Sources::default()).expect("embedded defaults load").config
    }
}

/// Merges the layers and checks the outcome.
///
/// # Errors
/// All problems of all layers: files that cannot be read, values of a wrong type, values that do not fit together.
pub fn load(sources: &Sources) -> Result<Loaded, Refused> {
    let mut settings = Settings::default();
    lay_built_in(&mut settings, DEFAULTS, &Origin::Default);
    lay_profile(&mut settings, variable(sources, "NODE_ENV"));
    let file = sources
        .file
        .clone()
        .or_else(|| variable(sources, "conf").map(PathBuf::from));
    if let Some(file) = file {
        lay_file(&mut settings, &file);
    }
    lay_environment(&mut settings, &sources.environment);
    for flag in &sources.flags {
        let path: Vec<String> = flag.key.split(['.', ':']).map(str::to_owned).collect();
        settings.lay_text(&path, &flag.value, &Origin::Flag(flag.typed.as_str().into()));
    }
    derive_stores(&mut settings);
    finish(settings)
}

fn variable<'a>(sources: &'a Sources, name: &str) -> Option<&'a str> {
    let found = sources.environment.iter().find(|(variable, _)| variable == name);
    found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}

fn lay_built_in(settings: &mut Settings, text: &str, origin: &Origin) {
    match document::parse(Path::new("built-in.json"), text) {
        Ok(tree) => settings.lay_tree(&tree, &|_| origin.clone()),
        Err(error) => settings.refuse(origin, error.text),
    }
}

fn lay_profile(settings: &mut Settings, name: Option<&str>) {
    let Some(name) = name else { return };
    match PROFILES.iter().find(|(profile, _)| *profile == name) {
        Some((_, text)) => lay_built_in(settings, text, &Origin::Profile(name.into())),
        None => settings.warn(
            &Origin::Environment("NODE_ENV".into()),
            format!("there is no profile `{name}`, only development, production and test; the defaults are used"),
        ),
    }
}

fn lay_file(settings: &mut Settings, file: &Path) {
    let name: Arc<str> = file.display().to_string().into();
    let origin = file_origin(&name);
    match read_tree(file) {
        Ok(tree) => settings.lay_tree(&tree, &origin),
        Err(problem) => settings.problems.push(problem),
    }
}

fn read_tree(file: &Path) -> Result<Node, Problem> {
    let name: Arc<str> = file.display().to_string().into();
    let unreadable = |text: String| Problem {
        origin: Origin::File {
            name: Arc::clone(&name),
            place: None,
        },
        text,
    };
    let bytes = fs::read(file).map_err(|error| unreadable(format!("cannot read the settings file: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("the settings file is not UTF-8 text".to_owned()))?;
    document::parse(file, &text).map_err(|error| Problem {
        origin: file_origin(&name)(error.place),
        text: error.text,
    })
}

/// A variable counts when its name, split at underscores, begins with a known section or key.
fn lay_environment(settings: &mut Settings, environment: &[(String, String)]) {
    for (name, value) in environment {
        let path: Vec<String> = name.split('_').map(str::to_owned).collect();
        let origin = Origin::Environment(name.as_str().into());
        if !matches!(keys::meaning(&path[..1]), Meaning::Unknown) {
            settings.lay_text(&path, value, &origin);
        } else if let Some(meant) = misspelt_case(name) {
            settings.warn(
                &origin,
                format!("ignored, since names are case-sensitive; did you mean `{meant}`?"),
            );
        }
    }
}

fn misspelt_case(name: &str) -> Option<String> {
    let mut forms = KEYS
        .iter()
        .map(|key| keys::environment_form(key.path))
        .filter(|form| form.contains('_'));
    forms.find(|form| form.eq_ignore_ascii_case(name))
}

/// `mongo.url` names the store when a person gave it, and the audits' database when that was not given.
fn derive_stores(settings: &mut Settings) {
    let given = settings.get("mongo.url").filter(|(_, origin)| origin.is_given());
    let given = given.map(|(url, origin)| (url.clone(), origin.clone()));
    if let Some((url, origin)) = &given
        && !settings.origin("mongo.atnaUrl").is_given()
    {
        settings.derive("mongo.atnaUrl", url.clone(), origin);
    }
    if settings.get("store.url").is_none_or(|(url, _)| url.is_null()) {
        let (url, origin) = given.unwrap_or_else(|| (DEFAULT_STORE.into(), Origin::Default));
        settings.derive("store.url", url, &origin);
    }
}

fn finish(mut settings: Settings) -> Result<Loaded, Refused> {
    match serde_json::from_value::<Config>(settings.to_value()) {
        Ok(config) => {
            check::together(&config, &mut settings);
            if settings.problems.is_empty() {
                let listed = settings.listed();
                return Ok(Loaded {
                    config,
                    warnings: settings.warnings,
                    settings: listed,
                });
            }
        }
        Err(error) => settings.refuse(&Origin::Default, error.to_string()),
    }
    Err(Refused {
        problems: settings.problems,
        warnings: settings.warnings,
    })
}

#[cfg(test)]
mod tests;
