//! What the routes take: parameters of the path and the query, and bodies.
//!
//! Bodies that become documents are described by the schemas that check them ([`tables`]), so that the description and
//! the check cannot drift apart; the few others are written out here.

use http::Method;
use serde_json::{Value, json};

use crate::model::schema::Schema;
use crate::model::schema::tables;

/// An id: 24 hexadecimal digits.
const ID: &str = "^[0-9a-f]{24}$";

/// A route's query parameters with their schemas.
pub(super) fn query(pattern: &str, method: &Method) -> Vec<(&'static str, Value)> {
    let text = || json!({"type": "string"});
    let date = || json!({"type": "string", "format": "date-time"});
    let count = || json!({"type": "integer", "minimum": 0, "maximum": 1_000_000});
    let one_of = |names: &[&str]| json!({"type": "string", "enum": names});
    let page = || vec![("filterLimit", count()), ("filterPage", count())];
    let representation = || {
        (
            "filterRepresentation",
            one_of(&["simple", "simpledetails", "full", "fulltruncate", "bulkrerun"]),
        )
    };
    let is_reading = *method == Method::GET;
    match pattern {
        "/transactions" if is_reading => [page(), vec![representation()]].concat(),
        "/transactions/:transactionId" if is_reading => vec![representation()],
        "/transactions/clients/:clientId" => vec![representation()],
        "/tasks" | "/tasks/:taskId" if is_reading => page(),
        "/audits" if is_reading => [page(), vec![representation()]].concat(),
        "/logs" => vec![
            ("from", date()),
            ("until", date()),
            ("start", count()),
            ("limit", count()),
            ("level", one_of(&["debug", "info", "warn", "error"])),
        ],
        "/clients/:clientId" if is_reading => vec![("byNamedClientID", one_of(&["true"]))],
        "/clients/:clientId/:property" => vec![("byNamedClientID", one_of(&["true"]))],
        _ if pattern.starts_with("/metrics") && pattern != "/metrics/prometheus" => {
            vec![("startDate", date()), ("endDate", date())]
        }
        "/authenticate/local" => vec![("username", text()), ("password", text())],
        _ => Vec::new(),
    }
}

/// How the route takes `filters`, an object as JSON text; `None` if it does not.
pub(super) fn filters(pattern: &str, method: &Method) -> Option<Filters> {
    if *method != Method::GET {
        return None;
    }
    match pattern {
        "/transactions" | "/audits" => Some(Filters { required: false }),
        "/tasks" | "/tasks/:taskId" => Some(Filters { required: true }),
        _ => None,
    }
}

/// A route's query parameter `filters`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filters {
    pub(super) required: bool,
}

/// The schema of a parameter of the path.
pub(super) fn in_path(pattern: &str, name: &str) -> Value {
    match name {
        // Consoles ask for clients by their names too.
        "clientId" if pattern != "/transactions/clients/:clientId" => json!({"type": "string", "minLength": 1}),
        "appId" | "channelId" | "taskId" | "transactionId" | "contactGroupId" | "visualizerId" | "auditId"
        | "certId" | "clientId" | "channelID" => json!({"type": "string", "pattern": ID}),
        "receivedTime" => {
            json!({"type": "integer", "minimum": 0, "maximum": 4_102_444_800_000_u64, "description": "Milliseconds since 1970"})
        }
        "timeSeries" => json!({"type": "string", "enum": ["minute", "hour", "day", "week", "month", "year"]}),
        "property" => json!({"type": "string", "enum": ["clientName"]}),
        _ => json!({"type": "string", "minLength": 1}),
    }
}

/// What a route takes as its body; `None` if it takes none.
pub(super) fn body(pattern: &str, method: &Method) -> Option<Value> {
    if let Some(schema) = collection(pattern) {
        return match *method {
            Method::POST => Some(more(schema.describe_new(), pattern)),
            Method::PUT => Some(more(schema.describe_change(), pattern)),
            _ => None,
        };
    }
    if *method != Method::POST && *method != Method::PUT {
        return None;
    }
    written_out(pattern)
}

/// The collection that a route's body becomes a document of.
fn collection(pattern: &str) -> Option<&'static Schema> {
    Some(match pattern {
        "/apps" | "/apps/:appId" => &tables::APP,
        "/users" | "/users/:email" => &tables::USER,
        "/clients" | "/clients/:clientId" => &tables::CLIENT,
        "/roles" | "/roles/:name" => &tables::ROLE,
        "/transactions" | "/transactions/:transactionId" => &tables::TRANSACTION,
        "/groups" | "/groups/:contactGroupId" => &tables::CONTACT_GROUP,
        "/channels" | "/channels/:channelId" => &tables::CHANNEL,
        "/tasks/:taskId" => &tables::TASK,
        "/mediators" => &tables::MEDIATOR,
        "/audits" => &tables::AUDIT,
        "/visualizers" | "/visualizers/:visualizerId" => &tables::VISUALIZER,
        _ => return None,
    })
}

/// What a body has besides the fields of its document.
fn more(mut described: Value, pattern: &str) -> Value {
    match pattern {
        "/users" | "/users/:email" => described["properties"]["password"] = json!({"type": "string", "minLength": 1}),
        "/clients" => described["required"] = json!(["clientID", "name", "roles"]),
        "/roles" | "/roles/:name" => {
            for members in ["channels", "clients"] {
                described["properties"][members] = json!({"type": "array", "items": {
                    "type": "object", "required": ["_id"],
                    "properties": {"_id": {"type": "string", "pattern": ID}, "name": {"type": "string"}},
                }});
            }
        }
        "/mediators" => {
            described["properties"]["version"] = json!({"type": "string", "pattern": "^(0|[1-9][0-9]{0,4})\\.(0|[1-9][0-9]{0,4})\\.(0|[1-9][0-9]{0,4})$"});
        }
        _ => {}
    }
    described
}

fn written_out(pattern: &str) -> Option<Value> {
    let text = || json!({"type": "string", "minLength": 1});
    let object = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required});
    Some(match pattern {
        "/authenticate/local" => object(
            json!({"username": text(), "password": text()}),
            &["username", "password"],
        ),
        "/authenticate/openid" => object(
            json!({"code": text(), "state": text(), "nonce": text(), "sessionState": text()}),
            &["code"],
        ),
        "/token/:token" => object(
            json!({"password": text(), "firstname": text(), "surname": text(), "msisdn": text()}),
            &["password"],
        ),
        "/bulkrerun" => object(
            json!({
                "filters": {"type": "object"},
                "batchSize": {"type": "integer", "minimum": 1, "maximum": 64},
                "pauseQueue": {"type": "boolean"},
            }),
            &["filters"],
        ),
        "/tasks" => object(
            json!({
                "tids": {"type": "array", "items": {"type": "string", "pattern": ID}},
                "batchSize": {"type": "integer", "minimum": 1, "maximum": 64},
                "paused": {"type": "boolean"},
            }),
            &["tids"],
        ),
        "/keystore/cert" => object(json!({"cert": text(), "passphrase": {"type": "string"}}), &["cert"]),
        "/keystore/key" => object(json!({"key": text(), "passphrase": {"type": "string"}}), &["key"]),
        "/keystore/ca/cert" => object(json!({"cert": text()}), &["cert"]),
        "/keystore/passphrase" => object(json!({"passphrase": {"type": "string"}}), &["passphrase"]),
        "/certificates" => certificate(),
        "/mediators/:urn/heartbeat" => object(
            json!({"uptime": {"type": "number"}, "config": {"type": "boolean"}}),
            &["uptime"],
        ),
        "/mediators/:urn/config" => json!({"type": "object", "description": "A value for each parameter"}),
        "/mediators/:urn/channels" => {
            json!({"type": "array", "items": {"type": "string"}, "description": "Names; none: all"})
        }
        "/metadata" | "/metadata/validate" => metadata(),
        _ => return None,
    })
}

fn certificate() -> Value {
    let text = || json!({"type": "string", "pattern": "^[A-Za-z0-9 .-]*$", "maxLength": 60});
    let mut properties = json!({
        "type": {"enum": ["server", "client"]},
        "country": {"type": "string", "pattern": "^[A-Z]{2}$"},
        "emailAddress": {"type": "string", "pattern": "^[a-z]{1,20}@[a-z]{1,20}\\.org$"},
        "days": {"type": "integer", "minimum": 1, "maximum": 3650},
        "keyBitsize": {"enum": [2048, 3072, 4096]},
    });
    for name in ["commonName", "state", "locality", "organization", "organizationUnit"] {
        properties[name] = text();
    }
    json!({"type": "object", "properties": properties, "required": ["type", "commonName"]})
}

fn metadata() -> Value {
    let of = |schema: &Schema| json!({"type": "array", "items": schema.describe_new()});
    let mut properties = json!({
        "Channels": of(&tables::CHANNEL),
        "Clients": of(&tables::CLIENT),
        "Mediators": of(&tables::MEDIATOR),
        "Users": of(&tables::USER),
        "Passports": of(&tables::PASSPORT),
        "ContactGroups": of(&tables::CONTACT_GROUP),
    });
    for name in ["Keystore", "KeystoreModelAPI"] {
        properties[name] = json!({"type": "array", "items": {"type": "object"}, "description": "At most one"});
    }
    json!({"type": "object", "properties": properties, "additionalProperties": {"type": "array"}})
}
