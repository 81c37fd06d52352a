//! Where the wish of what should be comes from: the configuration, backends files, name servers.
//!
//! [`load`] reads all of it anew and either has all of it, or every problem. [`Sources`] keeps the last good answers, so
//! that a file that is being written, or a name server that is away, changes nothing.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::edits::Edits;
use super::state::Wish;
use crate::config::{Config, Place, Problem, Problems, backends};
use crate::plan::{Backend, Endpoint, Plan, Service};

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
    pub names: HashMap<Endpoint, Vec<SocketAddr>>,
}

/// Reads and resolves everything. A name that cannot be resolved now stands for what it stood for in `known`.
///
/// # Errors
/// All problems of all files and names; nothing has changed then.
pub async fn load(config: Config, known: &HashMap<Endpoint, Vec<SocketAddr>>) -> Result<(Sources, Problems), Problems> {
    let checked = config.check()?;
    let mut sources = Sources {
        config,
        plan: checked.plan,
        files: HashMap::new(),
        edits: Edits::default(),
        names: HashMap::new(),
    };
    let mut problems = Vec::new();
    for service in &sources.plan.services {
        let Some(path) = &service.backends_file else { continue };
        match read_backends(path) {
            Ok(list) => {
                sources.files.insert(Arc::clone(&service.name), list);
            }
            Err(found) => problems.extend(found.0),
        }
    }
    for endpoint in sources.endpoints() {
        let resolved = resolve(&endpoint).await;
        match resolved.or_else(|error| known.get(&endpoint).cloned().ok_or(error)) {
            Ok(addresses) => {
                sources.names.insert(endpoint, addresses);
            }
            Err(text) => problems.push(Problem {
                place: Place::Default,
                path: "backends".into(),
                text: format!("`{endpoint}` cannot be resolved: {text}"),
            }),
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

/// Asks the system's resolver.
///
/// # Errors
/// No such name, or nobody who could say.
pub async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
    let addresses: HashSet<SocketAddr> = match endpoint {
        Endpoint::Address(address) => [*address].into(),
        Endpoint::Name(name, port) => tokio::net::lookup_host((&**name, *port))
            .await
            .map_err(|error| error.to_string())?
            .collect(),
        Endpoint::Srv(_) => return Err("service records are not available".into()),
    };
    let mut addresses: Vec<SocketAddr> = addresses.into_iter().collect();
    addresses.sort_unstable();
    Ok(addresses)
}

impl Sources {
    /// The names to be resolved.
    #[must_use]
    pub fn endpoints(&self) -> HashSet<Endpoint> {
        let written = self.services().into_iter().flat_map(|service| service.backends);
        written
            .map(|it| it.endpoint)
            .filter(|it| !matches!(it, Endpoint::Address(_)))
            .collect()
    }

    /// True if a name has not been resolved yet.
    #[must_use]
    pub fn has_unresolved(&self) -> bool {
        self.endpoints()
            .iter()
            .any(|endpoint| !self.names.contains_key(endpoint))
    }

    /// The files that say something: the configuration and the backends files.
    #[must_use]
    pub fn files(&self) -> HashSet<PathBuf> {
        let backends = self
            .plan
            .services
            .iter()
            .filter_map(|service| service.backends_file.clone());
        self.config
            .file()
            .map(Path::to_owned)
            .into_iter()
            .chain(backends)
            .collect()
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
    pub fn inherit(&mut self, mut edits: Edits, names: impl IntoIterator<Item = (Endpoint, Vec<SocketAddr>)>) {
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
            let mut list = Vec::new();
            for backend in std::mem::take(&mut service.backends) {
                let addresses = match &backend.endpoint {
                    Endpoint::Address(address) => std::slice::from_ref(address),
                    name => self.names.get(name).map_or(&[][..], Vec::as_slice),
                };
                list.extend(
                    addresses
                        .iter()
                        .filter(|it| seen.insert(**it))
                        .map(|it| (*it, backend.clone())),
                );
            }
            Wish {
                service: Arc::new(service),
                backends: list,
            }
        };
        self.services().into_iter().map(wish).collect()
    }
}
