//! Which group of backends serves a request.

use crate::plan::Route;

/// The first route that a request's host (with or without port) and target (path and query) match.
pub(super) fn find<'r>(routes: &'r [Route], host: &str, target: &str) -> Option<&'r Route> {
    if routes.is_empty() {
        return None;
    }
    let host = without_port(host).to_ascii_lowercase();
    let path = target.split('?').next().unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    routes
        .iter()
        .find(|route| route.host.as_ref().is_none_or(|it| is_host(it, &host)) && is_below(&route.path, path))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_host(wanted: &str, host: &str) -> bool {
    match wanted.strip_prefix('*') {
        Some(domain) => host.len() > domain.len() && host.ends_with(domain),
        None => wanted == host,
    }
}

/// True if `path` begins with all segments of `prefix`.
fn is_below(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
        None => prefix.strip_suffix('/') == Some(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_route_with_host_and_whole_segments_wins() {
        let route = |host: Option<&str>, path: &str, group: &str| Route {
            host: host.map(str::to_owned),
            path: path.to_owned(),
            group: group.into(),
        };
        let routes = [
            route(Some("a.org"), "/fhir", "fhir"),
            route(Some("*.a.org"), "/", "below"),
            route(None, "/static/", "static"),
        ];
        let group = |host: &str, target: &str| find(&routes, host, target).map(|it| it.group.to_string());

        assert_eq!(group("A.org:8080", "/fhir?x=/y"), Some("fhir".into()));
        assert_eq!(group("a.org", "/fhir/Patient"), Some("fhir".into()));
        assert_eq!(group("a.org", "/fhirx"), None);
        assert_eq!(group("x.a.org", "/any"), Some("below".into()));
        assert_eq!(group("xa.org", "/any"), None);
        assert_eq!(group("[::1]:80", "/static/a.css"), Some("static".into()));
        assert_eq!(group("b", "/static"), Some("static".into()));
        assert_eq!(group("b", "/statics"), None);
        assert_eq!(group("x.a.org", ""), Some("below".into()));
    }
}
