//! The API's own description: OpenAPI 3.1 and a page to read, both made from the table of routes.

use http::Method;
use serde_json::{Map, Value, json};

use super::context::Call;
use super::reply::Reply;
use super::router::{Answer, Handler, Route};

/// Query parameters that routes read: pattern, then names.
const QUERIES: [(&str, &[&str]); 16] = [
    (
        "/transactions",
        &["filterLimit", "filterPage", "filterRepresentation", "filters"],
    ),
    ("/transactions/:transactionId", &["filterRepresentation"]),
    ("/transactions/clients/:clientId", &["filterRepresentation"]),
    ("/tasks", &["filterLimit", "filterPage", "filters"]),
    ("/tasks/:taskId", &["filterLimit", "filterPage", "filters"]),
    (
        "/audits",
        &["filterLimit", "filterPage", "filterRepresentation", "filters"],
    ),
    ("/logs", &["from", "until", "start", "limit", "level"]),
    ("/clients/:clientId", &["byNamedClientID"]),
    ("/clients/:clientId/:property", &["byNamedClientID"]),
    ("/metrics", &["startDate", "endDate"]),
    ("/metrics/channels", &["startDate", "endDate"]),
    ("/metrics/channels/:channelID", &["startDate", "endDate"]),
    ("/metrics/timeseries/:timeSeries", &["startDate", "endDate"]),
    ("/metrics/timeseries/:timeSeries/channels", &["startDate", "endDate"]),
    (
        "/metrics/timeseries/:timeSeries/channels/:channelID",
        &["startDate", "endDate"],
    ),
    ("/authenticate/local", &["username", "password"]),
];

/// `GET /openapi.json`
pub(super) async fn document(_call: Call) -> Answer {
    Ok(Reply::ok(&describe(&super::routes())))
}

/// `GET /openapi`: the same, to read.
pub(super) async fn page(_call: Call) -> Answer {
    Ok(Reply::ok_text(html(&super::routes())))
}

fn describe(routes: &[Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let path = paths.entry(braces(route.pattern)).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OpenHIM management API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Compatible with OpenHIM core 8.5.0. Paths match in any case. Errors are plain text.",
        },
        "paths": paths,
        "security": [{"session": []}, {"basic": []}],
        "components": {"securitySchemes": {
            "session": {"type": "apiKey", "in": "cookie", "name": "koa.sess",
                "description": "Begun by POST /authenticate/local; goes with the cookie koa.sess.sig."},
            "basic": {"type": "http", "scheme": "basic"},
        }},
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "tags": [tag(route.pattern)],
        "responses": responses(route),
    });
    let parameters = parameters(route.pattern);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if route.method == Method::POST || route.method == Method::PUT {
        operation["requestBody"] = json!({"content": {"application/json": {"schema": {"type": ["object", "array"]}}}});
    }
    if matches!(route.handler, Handler::Public(_)) {
        operation["security"] = json!([]);
    }
    operation
}

fn responses(route: &Route) -> Value {
    let text = json!({"text/plain": {"schema": {"type": "string"}}});
    let success = if route.method == Method::GET {
        json!({"description": "Done", "content": {"application/json": {}}})
    } else {
        json!({"description": "Done"})
    };
    let mut responses = json!({"2XX": success, "4XX": {"description": "Refused; the text says why", "content": text}});
    responses["500"] = json!({"description": "Failed; the text says why", "content": text});
    if matches!(route.handler, Handler::Gated(_)) {
        responses["401"] = json!({"description": "Not logged in", "content": text});
        responses["403"] = json!({"description": "The caller's roles do not allow it", "content": text});
    }
    responses
}

fn parameters(pattern: &str) -> Vec<Value> {
    let in_path = pattern.split('/').filter_map(|segment| segment.strip_prefix(':'));
    let in_path =
        in_path.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let in_query = queries(pattern).map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}}));
    in_path.chain(in_query).collect()
}

fn queries(pattern: &str) -> impl Iterator<Item = &'static str> {
    let found = QUERIES.iter().find(|(known, _)| *known == pattern);
    found.map_or(&[][..], |(_, names)| names).iter().copied()
}

fn tag(pattern: &str) -> &str {
    pattern.split('/').nth(1).unwrap_or_default()
}

fn braces(pattern: &str) -> String {
    let segments = pattern.split('/').map(|segment| match segment.strip_prefix(':') {
        Some(name) => format!("{{{name}}}"),
        None => segment.to_owned(),
    });
    segments.collect::<Vec<_>>().join("/")
}

/// Patterns and summaries are our own words: nothing here needs escaping.
fn html(routes: &[Route]) -> String {
    let mut rows = String::new();
    let mut last = "";
    for route in routes {
        let tag = tag(route.pattern);
        if tag != last {
            rows.push_str(&format!("<tr><th colspan=\"4\">{tag}</th></tr>\n"));
            last = tag;
        }
        let access = match route.handler {
            Handler::Public(_) => "open",
            Handler::Gated(_) => "login",
        };
        let queries: Vec<&str> = queries(route.pattern).collect();
        let query = if queries.is_empty() {
            String::new()
        } else {
            format!(" <small>?{}</small>", queries.join(" &amp; "))
        };
        rows.push_str(&format!(
            "<tr><td>{}</td><td><code>{}</code>{query}</td><td>{}</td><td>{access}</td></tr>\n",
            route.method,
            braces(route.pattern),
            route.summary
        ));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>OpenHIM management API</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color-scheme:light dark}}\
         table{{border-collapse:collapse;width:100%}}td{{padding:.3em .6em;vertical-align:top;border-top:1px solid #8884}}\
         th{{text-align:left;padding:1.2em .6em .3em;font-size:1.2em}}td:first-child{{font-weight:600}}</style></head>\n\
         <body><h1>OpenHIM management API</h1>\n\
         <p>For programs: <a href=\"openapi.json\">openapi.json</a>. Log in with <code>POST /authenticate/local</code> \
         or send a Basic header.</p>\n<table>\n{rows}</table></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_with_its_parameters() {
        let routes = super::super::routes();
        let described = describe(&routes);
        for route in &routes {
            let operation = &described["paths"][braces(route.pattern)][route.method.as_str().to_ascii_lowercase()];
            assert!(operation["summary"].is_string(), "{} {}", route.method, route.pattern);
        }
        let one = &described["paths"]["/metrics/channels/{channelID}"]["get"];
        assert_eq!(one["parameters"][0]["name"], "channelID");
        assert_eq!(one["parameters"][1]["name"], "startDate");
        assert_eq!(described["paths"]["/heartbeat"]["get"]["security"], json!([]));
    }

    #[test]
    fn the_page_lists_every_route() {
        let routes = super::super::routes();
        let page = html(&routes);
        assert!(routes.iter().all(|route| page.contains(&braces(route.pattern))));
    }
}
