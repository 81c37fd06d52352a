//! The API's own description: OpenAPI 3.1 and a page to read, both made from the table of routes and what they take
//! ([`input`]).

mod input;

use http::Method;
use serde_json::{Map, Value, json};

use super::context::Call;
use super::reply::Reply;
use super::router::{Answer, Handler, Route};

const DESCRIPTION: &str = "Compatible with OpenHIM core 8.5.0. Paths match in any case. Errors are plain text. As in \
    OpenHIM, many mistakes of the caller (an id that is none, a missing field) are answered with 500; send \
    `Prefer: handling=strict` to get a 4xx for each.";

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
            "description": DESCRIPTION,
        },
        "paths": paths,
        "security": [{"session": []}, {"basic": []}],
        "components": {
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": "koa.sess",
                    "description": "Begun by POST /authenticate/local; goes with the cookie koa.sess.sig."},
                "basic": {"type": "http", "scheme": "basic"},
            },
            "parameters": {"prefer": {
                "name": "Prefer", "in": "header", "schema": {"const": "handling=strict"},
                "description": "Answers each mistake of the caller with a 4xx, where OpenHIM answers many with 500.",
            }},
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "tags": [tag(route.pattern)],
        "responses": responses(route),
    });
    operation["parameters"] = parameters(route).into();
    if let Some(schema) = input::body(route.pattern, &route.method) {
        operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
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

fn parameters(route: &Route) -> Vec<Value> {
    let in_path = route.pattern.split('/').filter_map(|segment| segment.strip_prefix(':'));
    let in_path = in_path.map(
        |name| json!({"name": name, "in": "path", "required": true, "schema": input::in_path(route.pattern, name)}),
    );
    let in_query = input::query(route.pattern, &route.method);
    let in_query = in_query
        .into_iter()
        .map(|(name, schema)| json!({"name": name, "in": "query", "schema": schema}));
    let filters = input::filters(route.pattern, &route.method).map(|filters| {
        json!({"name": "filters", "in": "query", "required": filters.required,
            "content": {"application/json": {"schema": {"type": "object"}}}})
    });
    let prefer = json!({"$ref": "#/components/parameters/prefer"});
    in_path.chain(in_query).chain(filters).chain([prefer]).collect()
}

/// The names of a route's query parameters.
fn queries(route: &Route) -> Vec<&'static str> {
    let named = input::query(route.pattern, &route.method);
    let filters = input::filters(route.pattern, &route.method).map(|_| "filters");
    named.into_iter().map(|(name, _)| name).chain(filters).collect()
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
        let queries = queries(route);
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

    /// Where the whole description is kept to be compared with.
    const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/openapi/openapi.json");

    #[test]
    fn the_description_is_the_one_that_was_agreed_on() {
        let described = serde_json::to_string_pretty(&describe(&super::super::routes())).unwrap() + "\n";
        if std::env::var_os("OPENHIM_UPDATE_OPENAPI").is_some() {
            std::fs::write(KEPT, &described).unwrap();
        }
        let kept = std::fs::read_to_string(KEPT).unwrap();
        assert!(
            described == kept,
            "the API's description has changed: look at the difference after OPENHIM_UPDATE_OPENAPI=1 cargo test openapi"
        );
    }

    #[test]
    fn every_route_is_described_with_what_it_takes() {
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
        let channel = &described["paths"]["/channels"]["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(channel["required"], json!(["name", "urlPattern"]));
        assert_eq!(
            channel["properties"]["routes"]["items"]["properties"]["port"]["maximum"],
            65_536
        );
    }

    #[test]
    fn the_page_lists_every_route() {
        let routes = super::super::routes();
        let page = html(&routes);
        assert!(routes.iter().all(|route| page.contains(&braces(route.pattern))));
    }
}
