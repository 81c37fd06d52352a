//! Where the wish of what should be comes from: the configuration, backends files, name servers.
//!
//! [`load`] reads all of it anew and either has all of it, or every problem. [`Sources`] keeps the last good answers, so
//! that a file that is being written, or a name server that is away, changes nothing.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::discover::lookup::NameServers;
use super::discover::{LookupError, Outcome, Resolver, Target};
use super::edits::Edits;
use super::state::Wish;
use crate::config::{Checked, Config, Place, Problem, Problems, backends};
use crate::plan::{Backend, Endpoint, Plan, Service};
use crate::tls::Material;

/// Everything that says what should be.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The configuration as written.
    pub config: Config,
    /// The same, checked.
    pub plan: Plan,
    /// What the backends file of each service said last, when it was good.
    pub files: HashMap<Arc<str>, Vec<Backend>>,
    /// What an operator changed.
    pub edits: Edits,
    /// What names stood for last, when they could be resolved.
    pub names: Known,
    /// What was made of certificates and keys, when they were good.
    pub tls: Tls,
}

/// What names stand for, as far as that is known.
pub type Known = HashMap<Endpoint, Vec<Target>>;

/// Reads and resolves everything, as a start would, and says what it found.
///
/// # Errors
/// All problems of all files and names.
pub async fn examine(config: Config) -> Result<Checked, Problems> {
    let servers = NameServers::new(config.check()?.plan.process.resolver);
    let (sources, warnings) = load(config, &Known::new(), &HashMap::new(), &servers).await?;
    Ok(Checked {
        plan: sources.plan,
        warnings,
    })
}

/// What each service has of TLS.
pub type Tls = HashMap<Arc<str>, Material>;

/// Reads and resolves everything. A name that cannot be resolved now stands for what it stood for in `known`; a name of
/// which nothing is known and nobody can say now is a warning, and one that does not exist a problem.
///
/// # Errors
/// All problems of all files and names; nothing has changed then.
pub async fn load(
    config: Config,
    known: &Known,
    tls: &Tls,
    resolver: &dyn Resolver,
) -> Result<(Sources, Problems), Problems> {
    let mut checked = config.check()?;
    let mut sources = Sources {
        config,
        plan: checked.plan,
        files: HashMap::new(),
        edits: Edits::default(),
        names: HashMap::new(),
        tls: HashMap::new(),
    };
    let mut problems = Vec::new();
    for service in sources.plan.services.clone() {
        match sources.load_tls(&service, tls.get(&service.name)) {
            Ok(material) => drop(sources.tls.insert(service.name, material)),
            Err(problem) => problems.push(problem),
        }
    }
    for service in &sources.plan.services {
        let Some(path) = &service.backends_file else { continue };
        match read_backends(path) {
            Ok(list) => {
                sources.files.insert(Arc::clone(&service.name), list);
            }
            Err(found) => problems.extend(found.0),
        }
    }
    for (endpoint, outcome) in resolve(sources.endpoints(), resolver).await {
        let error = match (outcome, known.get(&endpoint)) {
            (Ok(answer), _) => {
                sources.names.insert(endpoint, answer.targets);
                continue;
            }
            (Err(_), Some(targets)) => {
                sources.names.insert(endpoint, targets.clone());
                continue;
            }
            (Err(error), None) => error,
        };
        if error.is_denial() {
            problems.push(sources.unresolvable(&endpoint, &error));
        } else {
            checked.warnings.0.push(sources.unresolved(&endpoint, &error));
        }
    }
    if problems.is_empty() {
        Ok((sources, checked.warnings))
    } else {
        Err(Problems(problems))
    }
}

/// Reads a backends file.
///
/// # Errors
/// It cannot be read, or holds something else than backends.
pub fn read_backends(path: &Path) -> Result<Vec<Backend>, Problems> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let place = Place::File {
            file: path.into(),
            line: 0,
            column: 0,
        };
        Problems::one(Problem {
            place,
            path: String::new(),
            text: format!("cannot be read: {error}"),
        })
    })?;
    backends::parse(&text, path)
}

/// Asks for all of them at the same time.
async fn resolve(endpoints: HashSet<Endpoint>, resolver: &dyn Resolver) -> Vec<(Endpoint, Outcome)> {
    let asking = endpoints.into_iter().map(|endpoint| async move {
        let outcome = resolver.ask(&endpoint).await;
        (endpoint, outcome)
    });
    futures_util::future::join_all(asking).await
}

impl Sources {
    fn unresolvable(&self, endpoint: &Endpoint, error: &LookupError) -> Problem {
        let (place, path) = self.place_of(endpoint);
        Problem {
            place,
            path,
            text: format!("`{endpoint}` cannot be resolved: {error}; correct the name, or write the address"),
        }
    }

    fn unresolved(&self, endpoint: &Endpoint, error: &LookupError) -> Problem {
        let (place, path) = self.place_of(endpoint);
        Problem {
            place,
            path,
            text: format!(
                "`{endpoint}` cannot be resolved now: {error}; its service does without it until a name server answers"
            ),
        }
    }

    /// Where a backend is written.
    fn place_of(&self, endpoint: &Endpoint) -> (Place, String) {
        if let Some(found) = self.config.place_of(&endpoint.to_string()) {
            return found;
        }
        let files = self.plan.services.iter().filter_map(|it| it.backends_file.as_ref());
        let mut found = files.filter_map(|file| {
            let line = backends::line_of(&std::fs::read_to_string(file).ok()?, endpoint)?;
            Some(Place::File {
                file: file.as_path().into(),
                line,
                column: 1,
            })
        });
        (found.next().unwrap_or(Place::Default), String::new())
    }

    /// The names to be resolved.
    #[must_use]
    pub fn endpoints(&self) -> HashSet<Endpoint> {
        let written = self.services().into_iter().flat_map(|service| service.backends);
        written
            .map(|it| it.endpoint)
            .filter(|it| !matches!(it, Endpoint::Address(_)))
            .collect()
    }

    /// The files that say something: the configuration and the backends files.
    #[must_use]
    pub fn files(&self) -> HashSet<PathBuf> {
        let certificates = self.plan.services.iter().flat_map(Service::tls_files).cloned();
        let config = self.config.file().map(Path::to_owned);
        let backends = self.backends_files();
        config.into_iter().chain(backends).chain(certificates).collect()
    }

    /// Those of them that list backends.
    #[must_use]
    pub fn backends_files(&self) -> HashSet<PathBuf> {
        let services = self.plan.services.iter();
        services.filter_map(|service| service.backends_file.clone()).collect()
    }

    /// Reads the certificates anew of those services that have one of these files. Says for whom that went well; who is
    /// among the problems keeps what it had.
    pub fn reread_certificates(&mut self, changed: &[PathBuf]) -> (Vec<String>, Problems) {
        let (mut good, mut problems) = (Vec::new(), Vec::new());
        for service in self.plan.services.clone() {
            if !service.tls_files().any(|file| changed.contains(file)) {
                continue;
            }
            match self.load_tls(&service, self.tls.get(&service.name)) {
                Ok(material) => {
                    good.push(service.name.to_string());
                    self.tls.insert(service.name, material);
                }
                Err(mut problem) => {
                    problem.text.push_str("; the certificates before stay in use");
                    problems.push(problem);
                }
            }
        }
        (good, Problems(problems))
    }

    fn load_tls(&self, service: &Service, before: Option<&Material>) -> Result<Material, Problem> {
        Material::load(service, before).map_err(|error| {
            let file = error.file().map(|file| file.display().to_string());
            let name = error
                .file()
                .and_then(Path::file_name)
                .map(|name| name.to_string_lossy());
            let written = file.as_deref().into_iter().chain(name.as_deref());
            let place = written.filter_map(|text| self.config.place_of(text)).next();
            let (place, path) = place.unwrap_or((Place::Default, String::new()));
            Problem {
                place,
                path,
                text: error.to_string(),
            }
        })
    }

    /// Takes over what a backends file says now.
    pub fn set_file(&mut self, path: &Path, list: &[Backend]) {
        let services = self
            .plan
            .services
            .iter()
            .filter(|service| service.backends_file.as_deref() == Some(path));
        for service in services {
            self.files.insert(Arc::clone(&service.name), list.to_vec());
        }
    }

    /// The backends of a service as they were written, in the configuration and in its file; the first of a kind counts.
    #[must_use]
    pub fn configured(&self, service: &Service) -> Vec<Backend> {
        let mut seen = HashSet::new();
        let all = service
            .backends
            .iter()
            .chain(self.files.get(&service.name).into_iter().flatten());
        all.filter(|backend| seen.insert(&backend.endpoint)).cloned().collect()
    }

    /// The services as they should be, each with all its backends.
    #[must_use]
    pub fn services(&self) -> Vec<Service> {
        let mut services = self.edits.services(&self.plan.services);
        for service in &mut services {
            service.backends = self.edits.backends(&service.name, self.configured(service));
        }
        services
    }

    /// Takes over the edits of the sources that counted before.
    pub fn inherit_edits(&mut self, before: &Self) {
        self.inherit(before.edits.clone(), before.names.clone());
    }

    /// Takes over edits that were made before, and what names stood for.
    pub fn inherit(&mut self, mut edits: Edits, names: impl IntoIterator<Item = (Endpoint, Vec<Target>)>) {
        edits.prune(&self.plan.services, |service| self.configured(service));
        self.edits = edits;
        // Names that an operator added are still known by what they stood for.
        let wanted = self.endpoints();
        for (endpoint, addresses) in names {
            if wanted.contains(&endpoint) {
                self.names.entry(endpoint).or_insert(addresses);
            }
        }
    }

    /// What should be.
    #[must_use]
    pub fn wishes(&self) -> Vec<Wish> {
        let wish = |mut service: Service| {
            let mut seen = HashSet::new();
            let (mut list, mut names) = (Vec::new(), Vec::new());
            for backend in std::mem::take(&mut service.backends) {
                let targets = match &backend.endpoint {
                    Endpoint::Address(address) => vec![Target::new(*address)],
                    name => {
                        names.push(name.clone());
                        self.names.get(name).cloned().unwrap_or_default()
                    }
                };
                let new = targets.into_iter().filter(|it| seen.insert(it.address));
                list.extend(new.map(|it| (it.address, it.backend(&backend))));
            }
            Wish {
                tls: self.tls.get(&service.name).cloned().unwrap_or_default(),
                service: Arc::new(service),
                backends: list,
                names,
            }
        };
        self.services().into_iter().map(wish).collect()
    }
}
