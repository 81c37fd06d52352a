//! What an operator changed while it runs, laid over what is configured.
//!
//! An edit remembers what the configuration said when it was made. It holds through reloads until the configuration says
//! something else about the same thing: then the configuration counts again.

use serde::{Deserialize, Serialize};

use crate::plan::{Backend, Endpoint, Service};

/// All edits.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Edits {
    services: Vec<Edit<Service>>,
    backends: Vec<(Box<str>, Edit<Backend>)>,
}

/// One edit; `None` is a thing that is not there.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Edit<T> {
    configured: Option<T>,
    edited: Option<T>,
}

impl Edits {
    /// The services as they should be, with `configured` below; their backends are not touched.
    #[must_use]
    pub fn services(&self, configured: &[Service]) -> Vec<Service> {
        let mut services: Vec<Service> = configured
            .iter()
            .filter_map(|service| match self.service_edit(service) {
                Some(edit) => edit.edited.as_ref().map(|it| Service {
                    backends: service.backends.clone(),
                    backends_file: service.backends_file.clone(),
                    ..it.clone()
                }),
                None => Some(service.clone()),
            })
            .collect();
        let added = self
            .services
            .iter()
            .filter(|edit| edit.configured.is_none())
            .filter_map(|it| it.edited.clone());
        services.extend(added);
        services
    }

    /// The backends of a service as they should be, with `configured` below.
    #[must_use]
    pub fn backends(&self, service: &str, configured: Vec<Backend>) -> Vec<Backend> {
        let mut backends: Vec<Backend> = configured
            .into_iter()
            .filter_map(|backend| match self.backend_edit(service, &backend) {
                Some(edit) => edit.edited.clone(),
                None => Some(backend),
            })
            .collect();
        let of_service = self.backends.iter().filter(|(name, _)| **name == *service);
        let added = of_service
            .filter(|(_, edit)| edit.configured.is_none())
            .filter_map(|(_, it)| it.edited.clone());
        backends.extend(added);
        backends
    }

    /// Makes a service what `edited` says; `configured` is what the configuration says about it.
    pub fn set_service(&mut self, name: &str, configured: Option<&Service>, edited: Option<Service>) {
        let configured = configured.map(policies);
        self.services.retain(|edit| edit.name() != Some(name));
        if edited.is_none() {
            self.backends.retain(|(service, _)| **service != *name);
        }
        let edited = edited.as_ref().map(policies);
        if configured != edited {
            self.services.push(Edit { configured, edited });
        }
    }

    /// Makes a backend of a service what `edited` says; `configured` is what the configuration says about it.
    pub fn set_backend(
        &mut self,
        service: &str,
        endpoint: &Endpoint,
        configured: Option<&Backend>,
        edited: Option<Backend>,
    ) {
        self.backends
            .retain(|(name, edit)| **name != *service || edit.endpoint() != Some(endpoint));
        if configured != edited.as_ref() {
            let edit = Edit {
                configured: configured.cloned(),
                edited,
            };
            self.backends.push((service.into(), edit));
        }
    }

    /// Forgets edits of what the configuration now says otherwise.
    pub fn prune(&mut self, services: &[Service], backends_of: impl Fn(&Service) -> Vec<Backend>) {
        self.services.retain(|edit| {
            let configured = services.iter().find(|it| Some(&*it.name) == edit.name()).map(policies);
            configured == edit.configured
        });
        let effective = self.services(services);
        self.backends.retain(|(name, edit)| {
            let Some(service) = effective.iter().find(|it| *it.name == **name) else {
                return false;
            };
            let listed = services
                .iter()
                .find(|it| it.name == service.name)
                .map(&backends_of)
                .unwrap_or_default();
            listed.iter().find(|it| Some(&it.endpoint) == edit.endpoint()) == edit.configured.as_ref()
        });
    }

    fn service_edit(&self, configured: &Service) -> Option<&Edit<Service>> {
        let configured = policies(configured);
        self.services
            .iter()
            .find(|edit| edit.configured.as_ref() == Some(&configured))
    }

    fn backend_edit(&self, service: &str, configured: &Backend) -> Option<&Edit<Backend>> {
        let of_service = self.backends.iter().filter(|(name, _)| **name == *service);
        of_service
            .map(|(_, edit)| edit)
            .find(|edit| edit.configured.as_ref() == Some(configured))
    }
}

impl Edit<Service> {
    fn name(&self) -> Option<&str> {
        self.configured.as_ref().or(self.edited.as_ref()).map(|it| &*it.name)
    }
}

impl Edit<Backend> {
    fn endpoint(&self) -> Option<&Endpoint> {
        self.configured.as_ref().or(self.edited.as_ref()).map(|it| &it.endpoint)
    }
}

/// A service without its backends, which have edits of their own.
fn policies(service: &Service) -> Service {
    Service {
        backends: Vec::new(),
        backends_file: None,
        ..service.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn service(options: &[(&str, &str)]) -> Service {
        let all = [("name", "s"), ("backends", "10.0.0.1:80,10.0.0.2:80")]
            .into_iter()
            .chain(options.iter().copied());
        Config::from_options(all)
            .check()
            .expect("good options")
            .plan
            .services
            .remove(0)
    }

    fn weights(edits: &Edits, service: &Service) -> Vec<u16> {
        edits
            .backends("s", service.backends.clone())
            .iter()
            .map(|it| it.weight)
            .collect()
    }

    #[test]
    fn an_edited_weight_holds_until_the_configuration_says_something_else_about_that_backend() {
        let (before, mut edits) = (service(&[]), Edits::default());
        let first = &before.backends[0];
        edits.set_backend(
            "s",
            &first.endpoint,
            Some(first),
            Some(Backend {
                weight: 0,
                ..first.clone()
            }),
        );
        assert_eq!(weights(&edits, &before), [0, 1]);

        let mut other_changed = before.clone();
        other_changed.backends[1].weight = 7;
        edits.prune(&[other_changed.clone()], |it| it.backends.clone());
        assert_eq!(weights(&edits, &other_changed), [0, 7]);

        let mut this_changed = before.clone();
        this_changed.backends[0].weight = 5;
        edits.prune(&[this_changed.clone()], |it| it.backends.clone());
        assert_eq!(weights(&edits, &this_changed), [5, 1]);
        assert_eq!(weights(&edits, &before), [1, 1], "the edit is forgotten");
    }

    #[test]
    fn what_was_added_stays_and_what_was_removed_stays_away_through_reloads() {
        let (configured, mut edits) = (service(&[]), Edits::default());
        let nine: Endpoint = "10.0.0.9:80".parse().expect("valid");
        edits.set_backend("s", &nine, None, Some(Backend::new(nine.clone())));
        edits.set_backend(
            "s",
            &configured.backends[0].endpoint,
            Some(&configured.backends[0]),
            None,
        );

        edits.prune(std::slice::from_ref(&configured), |it| it.backends.clone());

        let shown: Vec<_> = edits
            .backends("s", configured.backends.clone())
            .iter()
            .map(|it| it.endpoint.to_string())
            .collect();
        assert_eq!(shown, ["10.0.0.2:80", "10.0.0.9:80"]);
    }

    #[test]
    fn an_edit_taken_back_is_no_edit() {
        let (configured, mut edits) = (service(&[]), Edits::default());
        let first = &configured.backends[0];
        edits.set_backend(
            "s",
            &first.endpoint,
            Some(first),
            Some(Backend {
                weight: 3,
                ..first.clone()
            }),
        );
        edits.set_backend("s", &first.endpoint, Some(first), Some(first.clone()));

        assert!(edits.backends.is_empty());
    }

    #[test]
    fn a_service_can_be_added_edited_and_removed() {
        let (configured, mut edits) = (service(&[]), Edits::default());
        let mut slower = configured.clone();
        slower.timeouts.connect *= 2;
        edits.set_service("s", Some(&configured), Some(slower.clone()));
        assert_eq!(edits.services(std::slice::from_ref(&configured)), [slower]);

        let more_backends = service(&[("retries", "3")]);
        edits.prune(std::slice::from_ref(&more_backends), |it| it.backends.clone());
        assert_eq!(edits.services(&[more_backends])[0].timeouts.connect.as_secs(), 2);

        edits.set_service("s", Some(&configured), None);
        assert!(edits.services(std::slice::from_ref(&configured)).is_empty());
        edits.set_service("s", Some(&configured), Some(configured.clone()));
        let added = Service {
            name: "t".into(),
            ..configured.clone()
        };
        edits.set_service("t", None, Some(added));
        let names: Vec<_> = edits
            .services(&[configured])
            .iter()
            .map(|it| it.name.to_string())
            .collect();
        assert_eq!(names, ["s", "t"]);
    }
}
